"""Which core a measurement is kept on."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

IDLE_S = 0.2  # in which the quietest core is looked for; ticks are 0.01 s


def quietest_core() -> int | None:
    """The core of ours that was idle for longest in a short moment; None where nobody can be kept on one.

    Of equal ones the last, since the first serves most interrupts.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    before = _idle()
    time.sleep(IDLE_S)
    after = _idle()
    return max(os.sched_getaffinity(0), key=lambda core: (after.get(core, 0) - before.get(core, 0), core))


def _idle() -> dict[int, int]:
    """Ticks for which each core has been idle."""
    lines = Path("/proc/stat").read_text().splitlines()
    cores = [line.split() for line in lines if re.match(r"cpu\d", line)]
    return {int(fields[0][3:]): int(fields[4]) for fields in cores}
