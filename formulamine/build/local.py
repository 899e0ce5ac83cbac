"""The local backend: folders made and run under bubblewrap, with the interpreters of this machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from formulamine.build import digests as digests_of
from formulamine.build.backend import COMPILE, WORK, Backend
from formulamine.build.compiler_cache import SHIMS
from formulamine.build.failures import MissingSystemPackage
from formulamine.build.pair import Digests, Pair
from formulamine.services.resolver import TIMEOUT_S, InstallFailed, Interpreter
from formulamine.services.sandbox import Command, Sandbox


class LocalBackend(Backend):
    """Builds on this machine; every command sees the host's paths."""

    name = "local"
    installs_packages = False

    def interpreter(self, series: str) -> Interpreter:
        """The interpreter of a series that uv finds."""
        return self._resolver.interpreters[series]

    def offers(self, series: str) -> bool:
        """Whether uv finds one."""
        return series in self._resolver.interpreters

    def identity(self, series: str) -> str:
        """Its version."""
        return self.interpreter(series).version

    def digests(self, pair: Pair) -> Digests:
        """Digests of the folders: they identify, and nothing can be pulled by them."""
        base, size = digests_of.base_digest(pair)
        return Digests(base, digests_of.measure_digest(pair)[0], size)

    def unlike(self, pair: Pair, digests: Digests) -> str:
        """Which of its sides is another."""
        if digests_of.base_digest(pair) != (digests.base, digests.bytes):
            return "the base side is no longer what was built"
        if digests_of.measure_digest(pair)[0] != digests.measure:
            return "the head side or the suite is no longer what was built"
        return ""

    def holding(self, pairs: Sequence[tuple[Pair, Collection[str]]]) -> list[list[str]]:
        """Paths in the base side's package and tree."""
        return [digests_of.head_in_base(pair, list(contents)) for pair, contents in pairs]

    def _require(self, packages: Sequence[str]) -> None:
        missing = [name for name in packages if not _is_installed(name)]
        if missing:
            raise MissingSystemPackage(tuple(missing), "the recipe needs them", "")

    def _install(
        self, pins: Sequence[str], series: str, folder: Path, sandbox: Callable[[], Sandbox], packages: Sequence[str]
    ) -> None:
        self._resolver.make_environment(pins, series, folder, sandbox)
        python = self.interpreter(series)
        result = sandbox().run(
            Command(
                [str(python.path), "-s", "-S", "-B", "-c", COMPILE.read_text(), str(folder / "lib")],
                readable=(python.prefix,),
                writable=(folder / "lib",),
                cwd=Path("/"),
                timeout_s=TIMEOUT_S,
            )
        )
        if not result.ok:
            raise InstallFailed(result.output[-4000:])

    def _seen(self, sandbox: Sandbox, **places: Path) -> dict[Path, str]:
        # At one place in every build, so that what compilers say of paths is the same whoever builds.
        fixed = {part: f"{WORK}/{part}" for part in ("tree", "wheels")} if sandbox.isolated else {}
        return {path: fixed.get(part, str(path)) for part, path in places.items()}

    def _needed(self, series: str, environment: Path) -> tuple[Path, ...]:
        return (self.interpreter(series).prefix, environment)

    def _image(self, environment: Path, series: str, packages: Sequence[str], *, ccache: bool = False) -> str:
        return ""

    def _has_ccache(self, series: str, packages: Sequence[str]) -> bool:
        return SHIMS.is_dir()  # of this machine, which a sandbox sees

    def _finished(self, pair: Pair, pr_id: str) -> Pair:
        return pair


def _is_installed(package: str) -> bool:
    """Whether Debian's package manager knows a package as installed; nobody else can say."""
    if shutil.which("dpkg-query") is None:
        return False
    asked = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", "--", package]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout == "installed"
