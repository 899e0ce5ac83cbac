"""The machine that measures: what it is, and whether it is quiet enough to begin.

Here belongs what is asked of the machine once for a measurement. What its load does to single samples is the protocol's
matter, which measures both sides at the same time.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
import time
from pathlib import Path

from formulamine.settings import LoadSettings

LOOK_EVERY_S = 1.0
SAY_EVERY_S = 20.0

_log = logging.getLogger(__name__)


def machine_class() -> str:
    """CPU model and cores: what a measurement depends on and does not travel with."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def kernel() -> str:
    """Name and release of the kernel."""
    return f"{platform.system()} {platform.release()}"


class Quiet:
    """Waits for a machine that others keep busy, for so many seconds in a run altogether."""

    def __init__(self, settings: LoadSettings, cancelled: threading.Event) -> None:
        self._most = settings.max_load * (os.cpu_count() or 1)
        self._left = float(settings.load_max_wait_s)
        self._cancelled = cancelled

    def wait(self, what: str) -> str:
        """Wait until a measurement may begin.

        Returns:
            Why it may not, where the time to wait is used up or the run was told to end; empty where it may.
        """
        last_said = -math.inf
        while (load := os.getloadavg()[0]) > self._most:
            if self._left <= 0 or self._cancelled.is_set():
                return (
                    f"load {load:.1f} on {os.cpu_count()} cores, and a measurement begins at {self._most:.1f} or less"
                )
            if time.monotonic() - last_said > SAY_EVERY_S:
                last_said = time.monotonic()
                _log.info(
                    "%s waits for a quieter machine: load %.1f, wanted %.1f, %.0f s left", what, load, self._most,
                    self._left,
                )  # fmt: skip
            pause = min(LOOK_EVERY_S, self._left)
            self._cancelled.wait(pause)
            self._left -= pause
        return ""
