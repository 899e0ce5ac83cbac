"""What compilers made of a repository's sources, kept for its next build: ccache in front of them.

One folder a repository, interpreter and system, below the cache of a home, as big as FORMULAMINE_COMPILER_CACHE_MB says
and among what goes when there is too little room. No build works on it: each is given a copy. What the build of a base
side adds to its copy is kept, what a head side adds is thrown away, so that no code of a pull request that is under
test puts an object into what ships. No recipe names it and no fingerprint holds it: with it a build is the same.

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

import logging
import os
import re
import shutil
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from formulamine.build.cache import discard, key_of, marker_of, open_up, size_of, used
from formulamine.build.folders import entries_of
from formulamine.build.room import MB, Room
from formulamine.services.sandbox import Command
from formulamine.services.store import waiting, write_atomically

SHIMS = Path("/usr/lib/ccache")
"""Where Debian's ccache stands in for each compiler, by its name."""
# Sources that a C or C++ compiler sees, or what Cython makes of them. A hint: it decides who is offered a cache.
COMPILED = frozenset({".c", ".cc", ".cpp", ".cxx", ".pyx"})
_KEPT = re.compile(r"[0-9a-f](/[0-9a-f])*/(stats|[0-9a-z]+[RM])")  # counters, results, manifests

_log = logging.getLogger(__name__)


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

    def folder(self, repo: str, identity: str, packages: Iterable[str]) -> Path:
        """Where a repository's objects are kept, made with one interpreter on one system."""
        return self._root / "compilers" / key_of("compilers", repo, identity, list(packages))

    def lend(self, folder: Path, copy: Path) -> None:
        """Make a copy for one build, empty where nothing is kept yet."""
        copy.mkdir()
        self._room.uses.hold(folder)
        try:
            with waiting(_lock_of(folder), self._cancelled):
                if used(folder):
                    _take(folder, copy)
        finally:
            self._room.uses.let_go(folder)

    def keep(self, folder: Path, copy: Path) -> None:
        """Keep what a base side's build left in its copy, in place of what was kept before."""
        open_up(copy)
        size = sum(entry.size for entry in entries_of(copy))
        if size > 2 * self._limit_mb * MB:  # ccache goes over its limit for a moment, and not so far
            _log.warning("what a build left in its compiler cache is not kept: %d MB", size // MB)
            return
        self._room.uses.hold(folder)
        try:
            with waiting(_lock_of(folder), self._cancelled):
                discard(folder)
                folder.mkdir(parents=True)
                _take(copy, folder)
                write_atomically(marker_of(folder), str(size_of(folder)).encode())
        finally:
            self._room.uses.let_go(folder)

    def given(self, build: Command, copy: Path, seen: str, tree: str, *, is_kept: bool) -> Command:
        """A build's command with ccache in front of the compilers that it finds on its path.

        Args:
            build: the command.
            copy: of the cache, the build's own.
            seen: where the build sees that.
            tree: where it sees its sources.
            is_kept: whether what it adds is kept.
        """
        first, _, others = build.environment["PATH"].partition(":")
        variables = {
            "PATH": f"{first}:{SHIMS}:{others}",
            "CCACHE_DIR": seen,
            "CCACHE_CONFIGPATH": "/dev/null",  # what a cache holds does not configure who reads it
            "CCACHE_TEMPDIR": "/tmp/ccache",
            "CCACHE_MAXSIZE": f"{self._limit_mb}M",
            "CCACHE_BASEDIR": tree,
            "CCACHE_COMPILERCHECK": "content",
            **({} if is_kept else {"CCACHE_READONLY": "1"}),
        }
        return replace(
            build,
            environment={**build.environment, **variables},
            inside={**build.inside, copy: seen},
            writable=(*build.writable, copy) if is_kept else build.writable,
            scratch=build.scratch if is_kept else (*build.scratch, copy),
        )


def _take(source: Path, destination: Path) -> None:
    """Copy what ccache makes, and nothing else that a build may have put beside it."""
    for entry in entries_of(source):
        if entry.is_file and entry.mode & 0o400 and _KEPT.fullmatch(entry.relative):
            to = destination / entry.relative
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(entry.path, to, follow_symlinks=False)
            os.utime(to, ns=(entry.path.stat().st_atime_ns, entry.path.stat().st_mtime_ns))  # its order of use


def _lock_of(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"
