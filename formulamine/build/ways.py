"""What a backend does in its own way: the part of `backend.Backend` that `local.py` and `docker.py` fill in.

Here belong names and meanings alone. What all backends do alike stands in `backend.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

from formulamine.build.pair import Digests, Pair
from formulamine.services.resolver import Interpreter
from formulamine.services.sandbox import Sandbox


class Ways(ABC):
    """What differs from one backend to another."""

    name: Literal["local", "docker"]
    installs_packages: bool
    """Whether a recipe's system packages are installed where they are missing."""

    @abstractmethod
    def interpreter(self, series: str) -> Interpreter:
        """The interpreter of a series that builds here.

        Raises:
            BuildFailed: there is none.
        """

    @abstractmethod
    def offers(self, series: str) -> bool:
        """Whether there is an interpreter of a series, without making or fetching one."""

    @abstractmethod
    def identity(self, series: str) -> str:
        """What names an interpreter in the key of what is built with it."""

    @abstractmethod
    def digests(self, pair: Pair) -> Digests:
        """What identifies a pair whose facts are fine; it is pushed where it can be.

        Raises:
            PushFailed: it does not stand where it should.
        """

    @abstractmethod
    def unlike(self, pair: Pair, digests: Digests) -> str:
        """In what a standing pair is another than what was recorded; empty where it is the same."""

    @abstractmethod
    def holding(self, pairs: Sequence[tuple[Pair, Collection[str]]]) -> list[list[str]]:
        """For each pair, the paths in what ships whose content has one of the SHA-256 beside it."""

    @abstractmethod
    def _require(self, packages: Sequence[str]) -> None:
        """See to it that system packages are there.

        Raises:
            BuildFailed: they are not, and cannot be had.
        """

    @abstractmethod
    def _install(
        self, pins: Sequence[str], series: str, folder: Path, sandbox: Callable[[], Sandbox], packages: Sequence[str]
    ) -> None:
        """Make a virtual environment with pins and nothing else, on a system with these packages.

        It is compiled by `bytecode.py` once nobody else can write there.

        Raises:
            InstallFailed: a pin could not be installed.
        """

    @abstractmethod
    def _seen(self, sandbox: Sandbox, **places: Path) -> dict[Path, str]:
        """Where a command sees host paths, each named by its part in a build."""

    @abstractmethod
    def _needed(self, series: str, environment: Path) -> tuple[Path, ...]:
        """Host paths that a command must be given to run an environment."""

    @abstractmethod
    def _image(self, environment: Path, series: str, packages: Sequence[str], *, ccache: bool = False) -> str:
        """The image in which a build environment's commands run, with ccache or not; empty where there are none."""

    @abstractmethod
    def _has_ccache(self, series: str, packages: Sequence[str]) -> bool:
        """Whether a build can run ccache, installed for that where the backend installs packages."""

    @abstractmethod
    def _finished(self, pair: Pair, pr_id: str) -> Pair:
        """A pair whose folders are made, with what else the backend makes of them."""
