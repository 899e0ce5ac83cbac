"""The evidence ladder: which interpreters a pull request accepts, in which order.

Here belongs weighing what a repository says about Python versions. What it says is read in `declarations.py`; which
interpreters this machine has is the resolver's matter.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

INTERPRETERS_FILE = Path(__file__).with_name("interpreters.toml")


@dataclass(frozen=True)
class Evidence:
    """What a repository says about Python versions, from the hardest evidence to the softest."""

    requires_python: Sequence[SpecifierSet]
    """Of head and, where it differs, of base: each must hold."""
    classifiers: Sequence[str]
    """Series, as "3.11"."""
    asv_pythons: Sequence[str]
    """Series that the suite names."""
    merged_on: date


@dataclass(frozen=True)
class Ladder:
    """Acceptable series in order of preference, and the rung of each."""

    series: list[str]
    source: dict[str, str]


def acceptable(evidence: Evidence, min_python: str, max_python: str = "") -> Ladder:
    """Series that satisfy requires-python, best evidence first.

    The suite's own `pythons` come first, since a suite may need a newer Python than its package declares; then
    classifiers and what was released by the merge date, newest first; then younger series, oldest first.

    Args:
        evidence: what the repository says.
        min_python: the oldest series that is acceptable.
        max_python: the youngest; empty for any.
    """
    released = release_dates()
    fits = [
        series
        for series in released
        if _within(series, min_python, max_python) and all(_fits(series, spec) for spec in evidence.requires_python)
    ]
    known = [series for series in reversed(fits) if released[series] <= evidence.merged_on]
    rungs = [
        ("asv_pythons", [series for series in known if series in evidence.asv_pythons]),
        ("classifiers", [series for series in known if series in evidence.classifiers]),
        ("requires_python" if any(evidence.requires_python) else "date", known),
        ("younger", [series for series in fits if series not in known]),
    ]
    source: dict[str, str] = {}
    for name, found in rungs:
        for series in found:
            source.setdefault(series, name)
    return Ladder(list(source), source)


@cache
def release_dates() -> dict[str, date]:
    """Day of first release by series, oldest first."""
    released: dict[str, date] = tomllib.loads(INTERPRETERS_FILE.read_text())["released"]
    return released


def _within(series: str, min_python: str, max_python: str) -> bool:
    return Version(min_python) <= Version(series) <= Version(max_python or series)


def _fits(series: str, specifier: SpecifierSet) -> bool:
    """Whether some patch level of a series satisfies a specifier: ">=3.8.1" must not rule out 3.8."""
    return any(specifier.contains(f"{series}.{patch}") for patch in (0, 1, 2, 5, 10, 20, 99))
