"""The cascade: which recipes are tried for a pull request, cheapest first.

Here belong what was learned from pull requests that were built (an adaptation: what their recipe has otherwise than the
one their payload gives) and the order of what is tried. Building is the caller's matter, and what a model proposes is
in `repair.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from packaging.utils import canonicalize_name
from pydantic import Field

from formulamine.build.recipe import Recipe
from formulamine.records import Record

NEAREST = 10  # built neighbours that are looked at
SIBLINGS_WITHIN = timedelta(days=60)
"""A failed pull request is tried again with what helped another that was merged so near to it."""


class Adaptation(Record):
    """What a recipe that built has otherwise than the one that its payload gives. None stands for removed."""

    pins: dict[str, str | None] = Field(default={})
    build_pins: dict[str, str | None] = Field(default={})
    environment_variables: dict[str, str | None] = Field(default={})
    config_settings: dict[str, str | None] = Field(default={})
    system_packages: list[str] = Field(default=[])

    @property
    def is_empty(self) -> bool:
        """Whether the recipe built as it was."""
        return self == Adaptation()


@dataclass(frozen=True)
class Neighbour:
    """A pull request that was built, and when that became known."""

    repo: str
    merged_at: datetime
    known_at: datetime
    adaptation: Adaptation


@dataclass
class Neighbours:
    """Built pull requests of all months, and those of this run. For several threads."""

    recorded: Callable[[str], Iterable[Neighbour]]
    """Those of a repository in the tables."""
    _found: dict[str, list[Neighbour]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, repo: str) -> list[Neighbour]:
        """All that are known of a repository."""
        with self._lock:
            if repo not in self._found:
                self._found[repo] = list(self.recorded(repo))
            return list(self._found[repo])

    def add(self, neighbour: Neighbour) -> None:
        """Remember one that was built just now."""
        known = self.of(neighbour.repo)
        with self._lock:
            self._found[neighbour.repo] = [*known, neighbour]

    def adaptations(self, repo: str, merged_at: datetime) -> list[Adaptation]:
        """What helped the nearest by date, each once, the nearest first."""
        nearest = sorted(self.of(repo), key=lambda one: (abs(one.merged_at - merged_at), one.merged_at))[:NEAREST]
        distinct: list[Adaptation] = []
        for one in nearest:
            if one.adaptation not in distinct:
                distinct.append(one.adaptation)
        return distinct

    def learned_since(self, repo: str, merged_at: datetime, when: datetime) -> bool:
        """Whether something helped a sibling near by date that was not known at some time."""
        return any(
            one.known_at > when and not one.adaptation.is_empty and abs(one.merged_at - merged_at) <= SIBLINGS_WITHIN
            for one in self.of(repo)
        )


def adaptation(default: Recipe, built: Recipe) -> Adaptation:
    """What one recipe of a pull request has otherwise than another."""
    return Adaptation(
        pins=_otherwise(_by_name(default.pins), _by_name(built.pins)),
        build_pins=_otherwise(_by_name(default.build_pins), _by_name(built.build_pins)),
        environment_variables=_otherwise(default.environment_variables, built.environment_variables),
        config_settings=_otherwise(default.config_settings, built.config_settings),
        system_packages=sorted(set(built.system_packages) - set(default.system_packages)),
    )


def adapted(default: Recipe, change: Adaptation) -> Recipe:
    """A recipe with what helped another."""
    return default.model_copy(
        update={
            "pins": sorted(_with(_by_name(default.pins), change.pins).values()),
            "pins_base": sorted(_with(_by_name(default.pins_base), change.pins).values()) if default.pins_base else [],
            "build_pins": sorted(_with(_by_name(default.build_pins), change.build_pins).values()),
            "environment_variables": _with(default.environment_variables, change.environment_variables),
            "config_settings": _with(default.config_settings, change.config_settings),
            "system_packages": sorted({*default.system_packages, *change.system_packages}),
        }
    )


def candidates(default: Recipe, helped: Iterable[Adaptation]) -> list[tuple[str, Recipe]]:
    """Route and recipe of each that is tried without a model, in order; the default one is among them once."""
    found: list[tuple[str, Recipe]] = []
    for change in helped:
        recipe = adapted(default, change)
        if all(recipe != other for _, other in found):
            found.append(("default" if recipe == default else "neighbour", recipe))
    if all(recipe != default for _, recipe in found):
        found.append(("default", default))
    return found


def _by_name(pins: Iterable[str]) -> dict[str, str]:
    return {str(canonicalize_name(pin.partition("==")[0])): pin for pin in pins}


def _otherwise(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    names = sorted(before.keys() | after.keys())
    return {name: after.get(name) for name in names if before.get(name) != after.get(name)}


def _with(before: Mapping[str, str], change: Mapping[str, str | None]) -> dict[str, str]:
    after = {**before, **change}
    return {name: value for name, value in sorted(after.items()) if value is not None}
