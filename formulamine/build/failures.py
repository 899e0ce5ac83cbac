"""Why a build came to nothing, read from its log.

Here belong the signs that tell one kind of failure from another, and the system packages that a log asks for. What is
done about them is the caller's matter.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine.services.sandbox import Result

SYSTEM_PACKAGES_FILE = Path(__file__).with_name("system_packages.toml")
COMPILE_SIGNS = ("error: command", "compilation terminated", "fatal error:", "CompileError", "ninja: build stopped")
# setuptools and meson each say it in their own words when what they build with cannot be imported.
_MISSING_MODULE = re.compile(r"No module named '(?P<module>[\w.]+)'")


class MissingSystemPackage(BuildFailed):
    """A build needs what the system lacks. `packages` are Debian's names."""

    def __init__(self, packages: tuple[str, ...], sign: str, log: str) -> None:
        names = " ".join(packages)
        super().__init__(ImageReason.SYSTEM_PACKAGE, f"the system lacks {names} ({sign}): apt-get install {names}", log)
        self.packages = packages


@dataclass(frozen=True)
class _Table:
    packages: dict[str, dict[str, str]]
    signs: list[tuple[str, re.Pattern[str]]]


@cache
def _table() -> _Table:
    loaded = tomllib.loads(SYSTEM_PACKAGES_FILE.read_text())
    signs = [(one["kind"], re.compile(one["pattern"], re.MULTILINE)) for one in loaded.pop("signs")]
    return _Table(loaded, signs)


def build_failure(hook: str, backend: str, result: Result) -> BuildFailed:
    """What a failed hook of a build backend means.

    Args:
        hook: the PEP 517 hook.
        backend: as `build-backend` names it.
        result: how the command ended.
    """
    log = result.output
    if result.timed_out:
        return BuildFailed(ImageReason.TIMEOUT, f"{hook} did not end within {result.seconds:.0f} s", log)
    if result.out_of_memory:
        return BuildFailed(ImageReason.OUT_OF_MEMORY, f"{hook} was killed for memory", log)
    module = backend.partition(":")[0].partition(".")[0]
    if any(found["module"].partition(".")[0] == module for found in _MISSING_MODULE.finditer(log)):
        return BuildFailed(ImageReason.MISSING_BUILD_BACKEND, f"{hook}: {last_line(log)}", log)
    if missing := system_packages(log):
        return MissingSystemPackage(*missing, log)
    compiled = any(sign in log for sign in COMPILE_SIGNS)
    reason = ImageReason.COMPILE_ERROR if compiled else ImageReason.BUILD_FAILED
    return BuildFailed(reason, f"{hook}: {last_line(log)}", log)


def system_packages(log: str) -> tuple[tuple[str, ...], str] | None:
    """Debian packages that have what a log misses, and the words that say so; None where it misses nothing known."""
    table = _table()
    for kind, pattern in table.signs:
        for found in pattern.finditer(log):
            name = next(value for value in found.groups() if value)
            known = table.packages[kind]
            package = known.get(name) or known.get(name.partition("/")[0] + "/") or known.get(name.lower())
            if package:
                return tuple(package.split()), " ".join(found[0].split())
    return None


def last_line(text: str) -> str:
    """The last line that says something, at most 500 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "no output"
