"""What a commit declares: its interpreter bounds, requirements, build requirements and ASV matrix.

Here belongs reading declarations that stand still in files, parsed by `packaging`. What only the build backend knows
is asked for in the sandbox by `metadata.py`.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

from packaging.markers import InvalidMarker, Marker, default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, ValidationError

from formulamine.discover.asv_config import Matrix

# PEP 517: what a source tree without [build-system] means. The backend is there since this release of setuptools.
LEGACY_BACKEND = "setuptools.build_meta:__legacy__"
LEGACY_REQUIRES = ("setuptools>=40.8.0", "wheel")
_EXTRAS = re.compile(
    r"(?:\{wheel_file\}|\{build_dir\}(?:/[\w./-]*)?|(?<![\w.])\.{1,2}(?:/[\w./-]*)?|(?P<name>\b[A-Za-z0-9][\w.-]*))"
    r"\[(?P<extras>[A-Za-z0-9_.,\- ]+)\]"
)
_EXTRA = re.compile(r"\bextra\s*==\s*[\"']([^\"']+)[\"']")
_SERIES = re.compile(r"Programming Language :: Python :: (3\.\d+)$")
_ORDERED_WILDCARD = re.compile(r"((?:<=?|>=?)\s*\d+(?:\.\d+)*)\.\*")
_QUOTED = re.compile(r"([<>=!~]=?\s*)(['\"])([\w.*+!-]+)\2")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # no process can be started with another


class DeclarationError(Exception):
    """A declaration cannot be read; the message says which and why."""


class _Table(BaseModel):
    """A table of pyproject.toml, as its PEP wants it."""

    model_config = ConfigDict(alias_generator=lambda name: name.replace("_", "-"))


class _BuildSystemTable(_Table):
    requires: list[str] = list(LEGACY_REQUIRES)
    build_backend: str = LEGACY_BACKEND
    backend_path: list[str] = []


class _ProjectTable(_Table):
    name: str
    dynamic: list[str] = []
    requires_python: str = ""
    classifiers: list[str] = []
    dependencies: list[str] = []
    optional_dependencies: dict[str, list[str]] = {}


_AnyTable = TypeVar("_AnyTable", bound=_Table)
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class BuildSystem:
    """How a package is built (PEP 517)."""

    backend: str
    requires: tuple[Requirement, ...]
    backend_path: tuple[str, ...]


@dataclass(frozen=True)
class Metadata:
    """Core metadata of the package under test."""

    name: str
    requires_python: SpecifierSet
    classifiers: tuple[str, ...]
    """Python series named by classifiers."""
    requirements: tuple[Requirement, ...]
    """Run-time requirements; those of an extra carry it in their marker."""


@dataclass(frozen=True)
class Fields:
    """What files tell of a package, as they write it. Empty is not given; None is known to code only."""

    name: str | None = ""
    requires_python: str | None = ""
    classifiers: tuple[str, ...] | None = ()
    requirements: tuple[str, ...] | None = ()
    extras: Mapping[str, tuple[str, ...]] | None = field(default_factory=dict)
    """Requirement lines by extra; setuptools allows `name:marker` and `:marker` for a name."""

    def filled(self, other: Fields) -> Fields:
        """The same, with another's fields where this does not give one."""

        def first(mine: _Value | None, others: _Value | None) -> _Value | None:
            return mine if mine is None or mine else others

        return Fields(
            first(self.name, other.name),
            first(self.requires_python, other.requires_python),
            first(self.classifiers, other.classifiers),
            first(self.requirements, other.requirements),
            first(self.extras, other.extras),
        )


def build_system(pyproject: Mapping[str, Any]) -> BuildSystem:
    """The `[build-system]` table, or what its absence means.

    Raises:
        DeclarationError: it is malformed.
    """
    table = _checked(_BuildSystemTable, pyproject.get("build-system", {}))
    return BuildSystem(table.build_backend, tuple(requirements(table.requires)), tuple(table.backend_path))


def parse_pyproject(content: bytes | None) -> dict[str, Any]:
    """A pyproject.toml as a dictionary; empty where there is none.

    Raises:
        DeclarationError: it is not TOML.
    """
    try:
        return tomllib.loads((content or b"").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeclarationError(f"pyproject.toml: {error}") from error


def static_metadata(pyproject: Mapping[str, Any]) -> Metadata | None:
    """Metadata that PEP 621 guarantees to be what the file says, or None where the backend decides.

    Raises:
        DeclarationError: it is malformed.
    """
    project = pyproject.get("project")
    if not isinstance(project, dict) or "name" not in project:
        return None
    table = _checked(_ProjectTable, project)
    if {"dependencies", "optional-dependencies", "requires-python"} & set(table.dynamic):
        return None
    found = requirements(table.dependencies)
    for extra, lines in table.optional_dependencies.items():
        found += [for_extra(one, extra) for one in requirements(lines)]
    return Metadata(
        name=str(canonicalize_name(table.name)),
        requires_python=specifier(table.requires_python),
        classifiers=series(table.classifiers),
        requirements=tuple(found),
    )


def conditioned(requirement: Requirement, condition: str) -> Requirement:
    """The same requirement, asked for only where a marker holds too.

    Raises:
        DeclarationError: the condition is no marker.
    """
    found = Requirement(str(requirement))
    try:
        found.marker = Marker(f"({requirement.marker}) and ({condition})" if requirement.marker else condition)
    except InvalidMarker as error:
        raise DeclarationError(f"marker: {' '.join(str(error).split())}") from error
    return found


def for_extra(requirement: Requirement, extra: str) -> Requirement:
    """The same requirement, asked for by an extra only.

    Raises:
        DeclarationError: nothing can be called so.
    """
    return conditioned(requirement, f"extra == '{canonicalize_name(extra)}'")


def requirements(lines: Sequence[str]) -> list[Requirement]:
    """Parsed requirement lines. What the tools of its day took and today's refuse is mended.

    Raises:
        DeclarationError: one is malformed.
    """
    return [_requirement(line) for line in lines]


def specifier(text: str) -> SpecifierSet:
    """A requires-python specifier, mended as a requirement is.

    Raises:
        DeclarationError: it is malformed.
    """
    try:
        return SpecifierSet(_mended(text))
    except InvalidSpecifier as error:
        raise DeclarationError(f"requires-python: {error}") from error


def series(classifiers: Sequence[str]) -> tuple[str, ...]:
    """Python series that trove classifiers name."""
    return tuple(match[1] for one in classifiers if (match := _SERIES.match(one.strip())))


def applying(metadata: Metadata, extras: Sequence[str], python: str) -> list[Requirement]:
    """Requirements whose markers hold on an interpreter series with these extras, without their markers."""
    environment = _environment(python)
    wanted = {str(canonicalize_name(extra)) for extra in extras}
    found: list[Requirement] = []
    for one in metadata.requirements:
        itself = canonicalize_name(one.name) == metadata.name
        named = {str(canonicalize_name(extra)) for extra in one.extras} if itself else set()
        if named - wanted and _holds(one, environment, wanted):
            return applying(metadata, sorted(wanted | named), python)  # "all = [package[fast,io]]"
        if not itself and _holds(one, environment, wanted):
            found.append(_unmarked(one))
    return found


def holding(several: Sequence[Requirement], python: str) -> list[Requirement]:
    """Requirements whose markers hold on an interpreter series without any extra, without their markers."""
    environment = _environment(python)
    return [_unmarked(one) for one in several if _holds(one, environment, set())]


def ruled_out(metadata: Metadata, python: str) -> list[Requirement]:
    """Requirements of no extra whose markers are false on an interpreter series."""
    environment = _environment(python)
    plain = [one for one in metadata.requirements if one.marker is not None and not _EXTRA.search(str(one.marker))]
    return [one for one in plain if not _holds(one, environment, set())]


def offered(metadata: Metadata, python: str) -> list[tuple[str, Requirement]]:
    """Extras of a package, each with a requirement that it adds on an interpreter series, in the order of their names.

    What an extra asks of the package itself (`all = [package[fast]]`) stands under the extra that has it.
    """
    environment = _environment(python)
    extras = sorted({name for one in metadata.requirements for name in _EXTRA.findall(str(one.marker or ""))})
    return [
        (extra, _unmarked(one))
        for extra in extras
        for one in metadata.requirements
        if canonicalize_name(one.name) != metadata.name
        and _holds(one, environment, {extra})
        and not _holds(one, environment, set())
    ]


def asv_extras(commands: Sequence[str], name: str = "") -> tuple[str, ...]:
    """Extras of the package that the suite's commands name, as in `{wheel_file}[pydantic]` or `package[pydantic]`."""
    found = [match for command in commands for match in _EXTRAS.finditer(command)]
    named = [match["extras"] for match in found if match["name"] is None or canonicalize_name(match["name"]) == name]
    named += _options(commands, ("--extra", "--extras", "-E"))
    return tuple(extra for listing in named for extra in re.split(r"[\s,]+", listing.strip()) if extra)


def asv_groups(commands: Sequence[str]) -> tuple[str, ...]:
    """Dependency groups that the suite's commands name, as in `pip install --group bench`."""
    listings = _options(commands, ("--group", "--only-group", "--with"))
    names = [name.rpartition(":")[2].strip() for listing in listings for name in listing.split(",")]  # pip: path:group
    return tuple(name for name in names if name)


def words(command: str) -> list[str]:
    """A command's words as a shell parts them; by blanks where its quotes do not match."""
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def asv_requirements(matrix: Matrix) -> list[Requirement]:
    """Requirements of the ASV matrix: the newest version where it lists some, any where it leaves one open.

    Raises:
        DeclarationError: a name or version is no requirement.
    """
    found: list[str] = []
    for name, versions in matrix.requirements.items():
        present = [version for version in versions if version is not None]
        if versions and not present:
            continue  # ASV: null is an environment without it
        version = _newest(present) if present and all(present) else ""
        compared = version if not version or version[0] in "<>=!~" else f"=={version}"
        found.append(f"{name.removeprefix('pip+')}{compared}")
    return requirements(found)


def asv_environment(matrix: Matrix) -> dict[str, str]:
    """Environment variables of the ASV matrix, the first value of each; null is an environment without it."""
    both = {**matrix.env, **matrix.env_nobuild}
    first = {name: values[0] for name, values in both.items() if values and _VARIABLE.fullmatch(name)}
    return {name: value for name, value in first.items() if value is not None and "\0" not in value}


def _options(commands: Sequence[str], names: Sequence[str]) -> list[str]:
    """What options of commands are given, as `--name value` or `--name=value`."""
    found: list[str] = []
    for command in commands:
        parts = words(command)
        found += [value for option, value in pairwise(parts) if option in names]
        found += [part.partition("=")[2] for part in parts if part.partition("=")[0] in names and "=" in part]
    return found


def _requirement(line: str) -> Requirement:
    try:
        return Requirement(line)
    except InvalidRequirement as error:
        wanted, semicolon, marker = line.partition(";")
        mended = _mended(wanted)
        if mended != wanted:
            return _requirement(mended + semicolon + marker)
        raise DeclarationError(f"requirement: {' '.join(str(error).split())}") from error


def _mended(specifiers: str) -> str:
    """Specifiers without two habits that packaging took until its release 22: `>=3.6.*`, and `>='1.20'`."""
    return _ORDERED_WILDCARD.sub(r"\1", _QUOTED.sub(r"\1\3", specifiers))


def _environment(python: str) -> dict[str, str]:
    """What markers are evaluated against on an interpreter series."""
    environment = {key: str(value) for key, value in default_environment().items()}
    return environment | {"python_version": python, "python_full_version": f"{python}.0"}


def _unmarked(requirement: Requirement) -> Requirement:
    plain = Requirement(str(requirement))
    plain.marker = None
    return plain


def _checked(kind: type[_AnyTable], table: object) -> _AnyTable:
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DeclarationError(f"pyproject.toml: {place}: {first['msg']}") from error


def _newest(versions: Sequence[str]) -> str:
    """The newest of some versions; the last where they are no versions (`>=1.2`, `1.2.*`)."""
    try:
        return max(versions, key=Version)
    except InvalidVersion:
        return versions[-1]


def _holds(requirement: Requirement, environment: Mapping[str, str], extras: set[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({**environment, "extra": extra}) for extra in sorted({"", *extras}))
