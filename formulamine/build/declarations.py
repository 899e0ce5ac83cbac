"""What a commit declares: its interpreter bounds, requirements, build requirements and ASV matrix.

Here belongs reading declarations that stand still in files, parsed by `packaging`. What only the build backend knows
is asked for in the sandbox by `metadata.py`.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, ValidationError

from formulamine.discover.asv_config import Matrix

BUILD_FILES = ("pyproject.toml", "setup.py")
# PEP 517: what a source tree without [build-system] means.
LEGACY_BACKEND = "setuptools.build_meta:__legacy__"
LEGACY_REQUIRES = ("setuptools", "wheel")
_EXTRAS = re.compile(r"(?:\{wheel_file\}|\{build_dir\}|\.)\[([A-Za-z0-9_.,\- ]+)\]")
_SERIES = re.compile(r"Programming Language :: Python :: (3\.\d+)$")
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


def package_root(paths: Sequence[str], hint: str | None) -> str | None:
    """Folder of the build files: ASV's hint if it has some, else the shallowest that does. "." is the root."""
    folders = {path.rpartition("/")[0] or "." for path in paths if path.rpartition("/")[2] in BUILD_FILES}
    hinted = posixpath.normpath((hint or "").strip("/"))
    if hint and hinted in folders:
        return hinted
    return min(folders, key=lambda folder: (folder != ".", folder.count("/"), folder), default=None)


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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
        found += [_for_extra(one, extra) for one in requirements(lines)]
    return Metadata(
        name=str(canonicalize_name(table.name)),
        requires_python=specifier(table.requires_python),
        classifiers=series(table.classifiers),
        requirements=tuple(found),
    )


def requirements(lines: Sequence[str]) -> list[Requirement]:
    """Parsed requirement lines.

    Raises:
        DeclarationError: one is malformed.
    """
    try:
        return [Requirement(line) for line in lines]
    except InvalidRequirement as error:
        raise DeclarationError(f"requirement: {' '.join(str(error).split())}") from error


def specifier(text: str) -> SpecifierSet:
    """A requires-python specifier.

    Raises:
        DeclarationError: it is malformed.
    """
    try:
        return SpecifierSet(text)
    except InvalidSpecifier as error:
        raise DeclarationError(f"requires-python: {error}") from error


def series(classifiers: Sequence[str]) -> tuple[str, ...]:
    """Python series that trove classifiers name."""
    return tuple(match[1] for one in classifiers if (match := _SERIES.match(one.strip())))


def applying(metadata: Metadata, extras: Sequence[str], python: str) -> list[Requirement]:
    """Requirements whose markers hold on an interpreter series with these extras, without the extra's marker."""
    environment = {key: str(value) for key, value in default_environment().items()}
    environment |= {"python_version": python, "python_full_version": f"{python}.0"}
    wanted = {str(canonicalize_name(extra)) for extra in extras}
    found: list[Requirement] = []
    for one in metadata.requirements:
        itself = canonicalize_name(one.name) == metadata.name
        named = {str(canonicalize_name(extra)) for extra in one.extras} if itself else set()
        if named - wanted and _holds(one, environment, wanted):
            return applying(metadata, sorted(wanted | named), python)  # "all = [package[fast,io]]"
        if not itself and _holds(one, environment, wanted):
            plain = Requirement(str(one))
            plain.marker = None
            found.append(plain)
    return found


def asv_extras(install_command: Sequence[str]) -> tuple[str, ...]:
    """Extras of the package that the suite's install command names, as in `{wheel_file}[pydantic]`."""
    found = [match[1] for command in install_command if (match := _EXTRAS.search(command))]
    return tuple(extra.strip() for group in found for extra in group.split(","))


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


def _for_extra(requirement: Requirement, extra: str) -> Requirement:
    """The same requirement, asked for by an extra only."""
    text = str(requirement)
    name, _, marker = text.partition(";")
    condition = f"extra == '{canonicalize_name(extra)}'"
    return Requirement(f"{name} ; ({marker.strip()}) and {condition}" if marker else f"{name} ; {condition}")


def _holds(requirement: Requirement, environment: Mapping[str, str], extras: set[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({**environment, "extra": extra}) for extra in sorted({"", *extras}))
