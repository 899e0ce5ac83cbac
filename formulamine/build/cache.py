"""Folders that are made once and found again: environments, trees, suites.

They are a cache under a key that names everything in them: whoever needs a missing one makes it. A folder counts only
with its marker, which is written last, so that one left half-made by a kill is made anew. The marker stands beside the
folder: what builds inside must not be able to write it. It says how many bytes the folder takes, and its time says
when the folder was last used. Which folders go when there are too many is decided in `room.py`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from formulamine.items import Cancelled
from formulamine.services.store import LOCK_POLL_S, waiting, write_atomically

USES = ".uses"
_FLOCK = "hhqqi0q"  # struct flock: type, whence, start, length, process (0 where the open file holds the lock)
_BLOCK = 512  # bytes of what `stat` counts as one


class Uses:
    """What one thread works with: nobody removes it before the thread lets go of it, or ends.

    Locks on single bytes of one file, a byte for each thing in the cache, so that a thread needs one open file for all
    of them. They belong to that open file: threads of one process hold apart, and the kernel lets go after a kill.
    """

    def __init__(self, root: Path, cancelled: threading.Event) -> None:
        self._root = root
        self.cancelled = cancelled
        self._file = _opened(root)
        weakref.finalize(self, os.close, self._file)
        self._latest: dict[str, Path] = {}

    def hold(self, path: Path) -> None:
        """Work with something; one who is just removing it is waited for.

        Raises:
            Cancelled: the run was told to end.
        """
        while not _lock(self._file, fcntl.F_RDLCK, _byte(self._root, path)):
            if self.cancelled.wait(LOCK_POLL_S):
                raise Cancelled(f"waiting for {path}")

    def let_go(self, path: Path) -> None:
        """Be done with one thing."""
        _lock(self._file, fcntl.F_UNLCK, _byte(self._root, path))

    def let_go_of_all(self) -> None:
        """Be done with everything."""
        _lock(self._file, fcntl.F_UNLCK, 0, length=0)
        self._latest.clear()

    def only_latest(self, kind: str, path: Path) -> None:
        """Say that of a kind the thread works with one thing at a time, and that this is it now."""
        before = self._latest.get(kind)
        if before is not None and before != path:
            self.let_go(before)
        self._latest[kind] = path


@contextmanager
def unused(root: Path, path: Path) -> Iterator[bool]:
    """Whether nobody works with something; where so, nobody begins to before the block ends."""
    file = _opened(root)
    try:
        yield _lock(file, fcntl.F_WRLCK, _byte(root, path))
    finally:
        os.close(file)


def ready(folder: Path) -> bool:
    """Whether a folder is there and whole."""
    return marker_of(folder).exists() and folder.is_dir()


def used(folder: Path) -> bool:
    """Whether a folder is there and whole, which is remembered as its latest use."""
    if not ready(folder):
        return False
    with suppress(FileNotFoundError):
        os.utime(marker_of(folder))
        return True
    return False


def key_of(*parts: object) -> str:
    """Key of a folder whose content these parts decide."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def made(folder: Path, make: Callable[[Path], None], uses: Uses) -> bool:
    """Have a cached folder, made in place if it is not whole, and held in `uses` from then on.

    One maker at a time, across threads and processes. What a failed one leaves is removed.

    Returns:
        Whether it had to be made.

    Raises:
        Cancelled: the run was told to end.
        Exception: whatever `make` raises; the folder then does not count.
    """
    uses.hold(folder)
    if used(folder):
        return False
    with waiting(folder.parent / f".{folder.name}.lock", uses.cancelled):
        if used(folder):
            return False
        discard(folder)
        folder.mkdir(parents=True)
        try:
            make(folder)
            write_atomically(marker_of(folder), str(size_of(folder)).encode())
        except BaseException:
            with suppress(OSError):  # the next run does it again
                discard(folder)
            raise
    return True


def discard(folder: Path) -> None:
    """Remove a folder so that a kill in the midst leaves none that counts: its marker first."""
    marker_of(folder).unlink(missing_ok=True)
    if folder.exists():
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a folder, whatever permissions a build left in it."""
    open_up(folder)
    shutil.rmtree(folder)


def open_up(folder: Path) -> None:
    """Let ourselves into all folders below one that a build may have closed."""
    for parent, names, _ in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o700)


def size_of(folder: Path) -> int:
    """Bytes that a folder takes on disk. Of a file with several names, each name has its share."""
    total = 0
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            status = os.lstat(os.path.join(parent, name))
            shared_by = 1 if os.path.isdir(os.path.join(parent, name)) else status.st_nlink
            total += status.st_blocks * _BLOCK // shared_by
    return total


def marker_of(folder: Path) -> Path:
    """Where the marker of a folder stands."""
    return folder.parent / f".{folder.name}.ready"


def _opened(root: Path) -> int:
    root.mkdir(parents=True, exist_ok=True)
    return os.open(root / USES, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _byte(root: Path, path: Path) -> int:
    """The byte that stands for something in the cache; two of one byte would only be held together."""
    name = str(path.relative_to(root)).encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:7], "big")


def _lock(file: int, kind: int, start: int, length: int = 1) -> bool:
    """Take or give back a lock of an open file, without waiting; whether that worked."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))
    except (BlockingIOError, PermissionError):  # the kernel may say either of a lock that another has
        return False
    return True
