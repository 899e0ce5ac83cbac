"""Patches that git printed for this process, so that the steps of a run have each printed once.

Here belongs keeping them: one file without a name, gone with the process, and where in it each patch is. Memory holds
none of them. What git is asked is in `git.py`.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path


class KeptPatches:
    """Patches by commit id, which alone decides them. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        """Name the folder whose disk has the room; it must exist by the first `put`."""
        self._folder = folder
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}

    def missing(self, shas: Iterable[str]) -> list[str]:
        """Those that are not kept yet, in their order."""
        return [sha for sha in shas if sha not in self._places]

    def put(self, sha: str, patch: bytes) -> None:
        """Keep one."""
        with self._lock:
            if not self._places:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it lives as long as this does
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(patch)
            self._file.flush()
            self._places[sha] = start, len(patch)

    def get(self, sha: str) -> bytes:
        """One that is kept."""
        start, size = self._places[sha]
        return os.pread(self._file.fileno(), size, start)
