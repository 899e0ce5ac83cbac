"""Folders that are made once and found again: environments, trees, suites.

They are a cache under a key that names everything in them: whoever needs a missing one makes it. A folder counts only
with its marker, which is written last, so that one left half-made by a kill is made anew. The marker stands beside the
folder: what builds inside must not be able to write it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from formulamine.services.store import waiting, write_atomically


def ready(folder: Path) -> bool:
    """Whether a folder is there and whole."""
    return _marker(folder).exists() and folder.is_dir()


def key_of(*parts: object) -> str:
    """Key of a folder whose content these parts decide."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def made(folder: Path, make: Callable[[Path], None], cancelled: threading.Event) -> Path:
    """A cached folder, made in place if it is not whole. One maker at a time, across threads and processes.

    Raises:
        Cancelled: the run was told to end.
        Exception: whatever `make` raises; the folder then does not count.
    """
    if ready(folder):
        return folder
    with waiting(folder.parent / f".{folder.name}.lock", cancelled):
        if not ready(folder):
            _marker(folder).unlink(missing_ok=True)
            if folder.exists():
                remove(folder)
            folder.mkdir(parents=True)
            make(folder)
            write_atomically(_marker(folder), b"")
    return folder


def remove(folder: Path) -> None:
    """Remove a folder, whatever permissions a build left in it."""
    for parent, names, _ in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder)


def _marker(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.ready"
