"""What compilers made of a repository's sources, kept for its next build: ccache in front of them.

One folder a repository, interpreter and system, below the cache of a home, as big as FORMULAMINE_COMPILER_CACHE_MB says
and among what goes when there is too little room. No build works on it: each is given a copy. What the build of a base
side adds to its copy is kept. What a head side adds waits in a folder of its own, which no build is given, until that
commit is the base of another pull request, as merged history is: so no code of a pull request that is under test puts
an object into what ships. No recipe names the cache and no fingerprint holds it: with it a build is the same.

The build of a base side is foreign code as well, and free to write a false object under the key of honest sources; that
object would then be linked into later builds of the same repository. Its reach is what bounds it: that code is history
which the same repository merged (and which could as well have put the false code into its tree), the folder is of no
other repository, and what is built is seen from outside as ever (`facts.py`), where a wheel's objects were never
believed for what their sources say. Whoever does without: FORMULAMINE_COMPILER_CACHE_MB=0, or delete the folder.

What is kept are plain files with the names that ccache gives, never a link or a configuration. Its checksums make a
broken one a miss. Sources stand at one place in every build, paths below it are told to compilers as relative ones, and
compilers are known by their content; nothing is taken on less evidence than that (ccache's sloppiness is off). What is
no call of a C or C++ compiler is done anew: Cython's translation, linking, configuring, Rust and Fortran.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from formulamine.build.cache import discard, key_of, marker_of, open_up, ready, size_of, used
from formulamine.build.folders import entries_of
from formulamine.build.room import MB, Room
from formulamine.services.sandbox import Command
from formulamine.services.store import waiting, write_atomically

SHIMS = Path("/usr/lib/ccache")
"""Where Debian's ccache stands in for each compiler, by its name."""
# Sources that a C or C++ compiler sees, or what Cython makes of them. A hint: it decides who is offered a cache.
COMPILED = frozenset({".c", ".cc", ".cpp", ".cxx", ".pyx"})
_KEPT = re.compile(r"[0-9a-f](/[0-9a-f])*/[0-9a-z]+[RM]")  # results and manifests


def compiles(paths: Iterable[str]) -> bool:
    """Whether files of a tree look as if building them calls a compiler."""
    return any(PurePosixPath(path).suffix in COMPILED for path in paths)


class CompilerCache:
    """What compilers made, of every repository in one cache. For several threads and processes."""

    def __init__(self, root: Path, room: Room, limit_mb: int, cancelled: threading.Event) -> None:
        self._root = root
        self._room = room
        self._limit_mb = limit_mb
        self._cancelled = cancelled

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._limit_mb > 0

    def folder(self, repo: str, identity: str, packages: Iterable[str], commit: str = "") -> Path:
        """Where a repository's objects are kept, made with one interpreter on one system; or those of a head side."""
        return self._root / "compilers" / key_of("compilers", repo, identity, list(packages), commit)

    def lend(self, folder: Path, copy: Path) -> None:
        """Make a copy for one build, empty where nothing is kept yet."""
        copy.mkdir()
        with self._alone(folder):
            if used(folder):
                for name, one in _entries(folder).items():
                    _copy(one, copy / name)

    def keep(self, folder: Path, copy: Path, known: Path | None = None) -> None:
        """Keep what a build left in its copy beside what is kept already; the latest used of that, up to the limit.

        Args:
            folder: where it is kept.
            copy: the build's own.
            known: a folder whose files need not be kept again.
        """
        open_up(copy)
        new = _entries(copy)
        if known is not None:
            new = {name: one for name, one in new.items() if not _same(one.path, known / name)}
        with self._alone(folder):
            found = {**(_entries(folder) if used(folder) else {}), **new}
            room = self._limit_mb * MB
            for name in sorted(found, key=lambda name: found[name].used_at, reverse=True):
                room -= found[name].bytes
                if room < 0:
                    del found[name]
            marker_of(folder).unlink(missing_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
            for name, one in _entries(folder).items():
                if name not in found:
                    one.path.unlink()
            for name in new.keys() & found.keys():
                _copy(new[name], folder / name)
            write_atomically(marker_of(folder), str(size_of(folder)).encode())

    def merge(self, folder: Path, waiting_one: Path) -> None:
        """Keep what a head side left, now that its commit is a base side; nothing where there is nothing."""
        if not ready(waiting_one):
            return
        with self._alone(waiting_one):
            if ready(waiting_one):
                self.keep(folder, waiting_one)
                discard(waiting_one)

    @contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        """Nobody else reads or writes a folder meanwhile, or removes it."""
        self._room.uses.hold(folder)
        try:
            with waiting(folder.parent / f".{folder.name}.lock", self._cancelled):
                yield
        finally:
            self._room.uses.let_go(folder)

    def given(self, build: Command, copy: Path, seen: str, tree: str) -> Command:
        """A build's command with ccache in front of the compilers that it finds on its path.

        Args:
            build: the command.
            copy: of the cache, the build's own.
            seen: where the build sees that.
            tree: where it sees its sources.
        """
        first, _, others = build.environment["PATH"].partition(":")
        variables = {
            "PATH": f"{first}:{SHIMS}:{others}",
            "CCACHE_DIR": seen,
            "CCACHE_CONFIGPATH": "/dev/null",  # what a cache holds does not configure who reads it
            "CCACHE_TEMPDIR": "/tmp/ccache",
            "CCACHE_MAXSIZE": f"{2 * self._limit_mb}M",  # `keep` has the last word
            "CCACHE_BASEDIR": tree,
            "CCACHE_COMPILERCHECK": "content",
        }
        return replace(
            build,
            environment={**build.environment, **variables},
            inside={**build.inside, copy: seen},
            writable=(*build.writable, copy),
        )


@dataclass(frozen=True)
class _Entry:
    """A file that ccache made."""

    path: Path
    bytes: int
    used_at: float


def _entries(folder: Path) -> dict[str, _Entry]:
    """What ccache made, by its name in a folder, and nothing else that a build may have put beside it."""
    found = {}
    for entry in entries_of(folder):
        if entry.is_file and entry.mode & 0o400 and _KEPT.fullmatch(entry.relative):
            found[entry.relative] = _Entry(entry.path, entry.size, entry.path.lstat().st_mtime)
    return found


def _copy(one: _Entry, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(one.path, to, follow_symlinks=False)
    os.utime(to, (one.used_at, one.used_at))  # when ccache used it last


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)
