"""Room on the disk: enough before a build starts, and a ceiling for what is kept to be found again.

What is cached can be made again by whoever needs it, so the least recently used goes first, and nothing that somebody
works with (`cache.Uses`). Here belong the order in which things go, what counts, and clearing away what killed runs
left. Blobs, ledger, tables, mirrors, uv's own cache and models' answers are no part of it and are never touched.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from formulamine.build.cache import Uses, discard, made, marker_of, ready, size_of, unused, used
from formulamine.services.store import waiting, write_atomically
from formulamine.settings import DiskSettings

# Where cached folders stand, below the cache of a home. Whatever else is there is not ours to remove.
KINDS = ("environments", "sides", "suites", "compilers")
GROUPS = tuple(f"{place}{kind}" for place in ("", "docker/") for kind in KINDS)
LEFT_S = 60.0  # a file that is being written aside is younger than this, and one that a kill left gets older
MB = 2**20

_log = logging.getLogger(__name__)


class NoRoom(OSError):
    """Too little free space to start a build: the run ends, as it does on a full disk, and no item has failed."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ENOSPC, message)

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True)
class Cached:
    """Something that can be made again."""

    path: Path
    """What its uses are recorded under."""
    bytes: int
    used_at: float
    identity: str = ""
    """What others name that stand on it."""
    stands_on: str = ""
    """What it stands on: that frees nothing as long as this is there."""


class Shelf(Protocol):
    """A place for cached things of one kind."""

    def cached(self) -> Sequence[Cached]:
        """What stands there, whole."""

    def remove(self, one: Cached) -> bool:
        """Remove one that nobody works with; whether it is gone."""

    def tidy(self) -> None:
        """Clear away what killed runs left."""


class Folders:
    """Environments, built sides, suites and what compilers made, of every backend."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def cached(self) -> list[Cached]:
        """Every whole folder."""
        found = []
        for group in self._groups():
            for marker in group.glob(".*.ready"):
                folder = group / marker.name.removeprefix(".").removesuffix(".ready")
                try:
                    told, used_at = marker.read_text(), marker.stat().st_mtime
                except FileNotFoundError:  # another process has just removed it
                    continue
                found.append(Cached(folder, int(told) if told else self._measured(folder, used_at), used_at))
        return found

    def remove(self, one: Cached) -> bool:
        """Remove a folder, unless somebody works with it."""
        with unused(self._root, one.path) as is_free:
            if is_free:
                discard(one.path)
        return is_free

    def tidy(self) -> None:
        """Remove half-made folders, and what stands beside folders that are gone."""
        for group in self._groups():
            for entry in list(group.iterdir()):
                if entry.name.startswith(".writing-"):
                    remove_if_old(entry)
                    continue
                # ".KEY.ready", ".KEY.pins", or the folder KEY itself. Locks stay: somebody may be about to take one.
                folder = group / entry.name.removeprefix(".").partition(".")[0]
                if entry.suffix == ".lock" or ready(folder):
                    continue
                with unused(self._root, folder) as is_free:
                    if is_free and not ready(folder):
                        entry.unlink(missing_ok=True) if entry.name.startswith(".") else discard(folder)

    def _measured(self, folder: Path, used_at: float) -> int:
        """Size of a folder whose marker does not say it, which it does from now on."""
        with unused(self._root, folder) as is_free:
            if not ready(folder):
                return 0
            size = size_of(folder)
            if is_free:  # else another could remove it and begin anew just before the marker is written
                write_atomically(marker_of(folder), str(size).encode())
                os.utime(marker_of(folder), (used_at, used_at))
        return size

    def _groups(self) -> Iterator[Path]:
        return (self._root / name for name in GROUPS if (self._root / name).is_dir())


class Room:
    """Room for one cache: what one backend makes, and the ceiling over what all have made."""

    def __init__(
        self,
        root: Path,
        settings: DiskSettings,
        cancelled: threading.Event,
        *,
        shelves: Sequence[Shelf] = (),
        disks: Callable[[], Sequence[Path]] = tuple,
    ) -> None:
        """Make nothing yet.

        Args:
            root: the cache of a home.
            settings: how much must be free, and how much may be kept.
            cancelled: set to end early.
            shelves: of cached things that are no folders.
            disks: folders on further disks that a build fills.
        """
        self._root = root
        self._settings = settings
        self._cancelled = cancelled
        self._shelves: tuple[Shelf, ...] = (Folders(root), *shelves)
        self._further = disks
        self._local = threading.local()
        self._tidied = threading.Lock()
        self._is_tidy = False

    @cached_property
    def _disks(self) -> Sequence[Path]:
        return self._further()

    @property
    def uses(self) -> Uses:
        """What the calling thread works with."""
        found: Uses | None = getattr(self._local, "uses", None)
        if found is None:
            found = self._local.uses = Uses(self._root, self._cancelled)
        return found

    def made(self, folder: Path, make: Callable[[Path], None]) -> Path:
        """A cached folder, made if it is missing; the calling thread works with it from then on.

        Raises:
            NoRoom: there is too little free space to make it.
            Cancelled: the run was told to end.
            Exception: whatever `make` raises.
        """
        self.tidy()

        def checked(empty: Path) -> None:
            self.check()
            make(empty)

        if made(folder, checked, self.uses):
            self.keep_below_ceiling()
        return folder

    def standing(self, folder: Path) -> bool:
        """Whether a folder is whole; if so, the calling thread works with it from then on."""
        self.uses.hold(folder)
        if used(folder):
            return True
        self.uses.let_go(folder)
        return False

    def check(self) -> None:
        """Look whether there is room for a build.

        Raises:
            NoRoom: there is too little.
        """
        for folder in (self._root, *self._disks):
            free = shutil.disk_usage(folder).free // MB
            if free < self._settings.min_free_mb:
                raise NoRoom(
                    f"the disk of {folder} has {free} MB free, and a build needs FORMULAMINE_MIN_FREE_MB="
                    f"{self._settings.min_free_mb}: free some space, or set that lower, and run the same command again"
                )

    def keep_below_ceiling(self) -> int:
        """Remove what was least recently used until the rest is within the ceiling; bytes removed."""
        ceiling = self._settings.cache_ceiling_mb * MB
        if not ceiling:
            return 0
        with waiting(self._root / ".room.lock", self._cancelled):
            standing = [(one, shelf) for shelf in self._shelves for one in shelf.cached()]
            shelf_of = {one.path: shelf for one, shelf in standing}
            over = sum(one.bytes for one, _ in standing) - ceiling
            gone = freed(over, [one for one, _ in standing], lambda one: shelf_of[one.path].remove(one))
        total = sum(one.bytes for one in gone)
        if gone:
            _log.info("cache: %d least recently used removed, %d MB", len(gone), total // MB)
        if total < over:
            _log.warning("cache: %d MB over FORMULAMINE_CACHE_CEILING_MB, all of it in use", -((total - over) // MB))
        return total

    def tidy(self) -> None:
        """Clear away what killed runs left, once."""
        with self._tidied:
            if not self._is_tidy:
                for shelf in self._shelves:
                    shelf.tidy()
                self._is_tidy = True


def freed(excess: int, cached: Sequence[Cached], remove: Callable[[Cached], bool]) -> list[Cached]:
    """Remove what was least recently used until so many bytes are gone; what was removed.

    What others stand on was used when they were, and goes after them; where one of them stays, so does it.
    """
    gone: list[Cached] = []
    needed: set[str] = set()
    for one in least_recently_used(cached):
        if excess <= 0:
            break
        if one.identity not in needed and remove(one):
            gone.append(one)
            excess -= one.bytes
        elif one.stands_on:
            needed.add(one.stands_on)
    return gone


def least_recently_used(cached: Sequence[Cached]) -> list[Cached]:
    """Cached things in the order in which they go."""
    upon: dict[str, list[Cached]] = {}
    for one in cached:
        if one.stands_on:
            upon.setdefault(one.stands_on, []).append(one)

    def rank(one: Cached) -> tuple[float, int]:
        """Latest use of it or anything upon it, and how many storeys that has."""
        above = [rank(other) for other in upon.get(one.identity, ())] if one.identity else []
        return max([one.used_at, *(used_at for used_at, _ in above)]), 1 + max((n for _, n in above), default=0)

    return sorted(cached, key=lambda one: (*rank(one), str(one.path)))


def remove_if_old(path: Path) -> None:
    """Remove a file that was written aside and never renamed."""
    try:
        if time.time() - path.stat().st_mtime > LEFT_S:
            path.unlink()
    except FileNotFoundError:
        return  # renamed by now
