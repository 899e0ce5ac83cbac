"""Which requirements an environment gets, and where each comes from.

Here belongs weighing what one side declares against what its benchmarks import. Which releases satisfy them is asked in
`pinning.py`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from formulamine.build.declarations import (
    DeclarationError,
    Metadata,
    applying,
    asv_extras,
    asv_groups,
    asv_requirements,
    holding,
    offered,
)
from formulamine.build.dependency_groups import group, group_names
from formulamine.build.suite_needs import Import, needed
from formulamine.discover.asv_config import AsvConfig

_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+(\w+)|(?:import|cimport)[ \t]+([\w., \t]+))", re.MULTILINE)


@dataclass(frozen=True)
class Declared:
    """What one side declares."""

    metadata: Metadata
    build_requires: tuple[Requirement, ...]
    pyproject: Mapping[str, Any]
    instead: str
    """The files that were read because the build backend failed; empty where it did not."""
    unsaid: Sequence[Requirement]
    """What its setup.py imports without a word; among the build requirements."""


@dataclass(frozen=True)
class Place:
    """Where a requirement comes from."""

    text: str
    is_optional: bool = False
    """Whether what needs it goes on without it."""


def wanted_by(side: Declared, imports: Mapping[str, Import], python: str, config: AsvConfig) -> dict[str, Place]:
    """Requirement lines of a side with the place each comes from."""
    own = side.metadata.name
    commands = (*(config.build_command or ()), *(config.install_command or ()))
    wanted = {line_of(one): Place("asv matrix") for one in asv_requirements(config.matrix)}
    for name in asv_groups(commands):
        place = Place(f"dependency group {canonicalize_name(name)}, which ASV's commands name")
        wanted |= {line_of(one): place for one in holding(group(side.pyproject, name), python)}
    for one in applying(side.metadata, asv_extras(commands, own), python):
        wanted[line_of(one)] = Place(
            (side.instead or "package metadata") + (" (its URL is not followed)" if one.url else "")
        )
    wanted = {line: place for line, place in wanted.items() if name_of(line) != own}
    offers = _offers(side, python)
    for module, name in needed(imports, {own, *map(name_of, wanted)}, offers).items():
        line, listed = offers[name]
        found = imports[module]
        wanted[line] = Place(f"{listed}, for {found.path} imports {module}", found.is_optional)
    return wanted


def _offers(side: Declared, python: str) -> dict[str, tuple[str, str]]:
    """What a side names for some only, by distribution: line and place. Extras come before groups."""
    found: dict[str, tuple[str, str]] = {}
    for extra, one in offered(side.metadata, python):
        found.setdefault(str(canonicalize_name(one.name)), (line_of(one), f"extra {extra}"))
    for name in group_names(side.pyproject):
        with contextlib.suppress(DeclarationError):  # nobody has asked for this group
            for one in holding(group(side.pyproject, name), python):
                found.setdefault(str(canonicalize_name(one.name)), (line_of(one), f"dependency group {name}"))
    return {name: offer for name, offer in found.items() if name != side.metadata.name}


def imports_of(content: bytes) -> set[str]:
    """Top-level modules that Python or Cython imports, in small letters; also where no parser would read it."""
    imported: set[str] = set()
    for package, several in _IMPORT.findall(content):
        names = [package] if package else several.split(b",")
        first = (re.match(rb"\w+", name.strip()) for name in names)
        imported |= {found[0].decode().lower() for found in first if found}
    return imported


def line_of(requirement: Requirement) -> str:
    """A requirement as uv reads it. A URL is not followed: only the index says what existed on a day."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{canonicalize_name(requirement.name)}{extras}{requirement.specifier}"


def name_of(line: str) -> str:
    """The distribution that a requirement line names."""
    return str(canonicalize_name(Requirement(line).name))
