"""What the files of a commit say of its package before anybody is asked, and how far that may be believed.

Here belongs the order in which pyproject.toml, setup.cfg and setup.py count. How each is read stands in
`declarations.py`, `tool_tables.py` and `static_setup.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from formulamine.build.declarations import (
    DeclarationError,
    Fields,
    Metadata,
    build_system,
    conditioned,
    for_extra,
    parse_pyproject,
    requirements,
    series,
    specifier,
    static_metadata,
)
from formulamine.build.static_setup import setup_fields
from formulamine.build.tool_tables import flit_fields, poetry_fields

FILES = ("pyproject.toml", "setup.cfg", "setup.py")
_TOOLS = {"poetry": poetry_fields, "flit": flit_fields}


@dataclass(frozen=True)
class Standing:
    """What stands in files. What is unknown is empty in `metadata`."""

    metadata: Metadata
    unknown: frozenset[str]
    """Fields that only the build backend knows."""
    source: str
    """The files that say it."""
    is_final: bool
    """Whether PEP 621 guarantees that the build backend would say the same."""

    @property
    def is_whole(self) -> bool:
        """Whether it may stand in for a backend that does not answer."""
        return bool(self.metadata.name) and not self.unknown - {"classifiers"}


def standing(files: Mapping[str, bytes]) -> Standing:
    """What the build files of a package say.

    Args:
        files: contents by name, of `FILES` those that are there.

    Raises:
        DeclarationError: pyproject.toml is malformed.
    """
    pyproject = parse_pyproject(files.get("pyproject.toml"))
    final = static_metadata(pyproject)
    if final is not None:
        return Standing(final, frozenset(), "pyproject.toml", is_final=True)
    legacy = [name for name in FILES[1:] if name in files]
    backend = build_system(pyproject).backend
    asked = [read for tool, read in _TOOLS.items() if tool in backend or not legacy]
    own = next((found for found in (read(pyproject) for read in asked) if found is not None), None)
    if own is not None:
        fields, source = own, "pyproject.toml"
    elif legacy:
        fields, source = setup_fields(files.get("setup.cfg"), files.get("setup.py")), " and ".join(legacy)
    else:
        fields, source = Fields(None, None, None, None, None), "pyproject.toml"
    project = pyproject.get("project")
    if isinstance(project, dict) and "name" in project:
        fields = _over(project, fields)
        source = source if source.startswith("pyproject.toml") else f"pyproject.toml, {source}"
    return _read(fields, source)


def _over(project: Mapping[str, Any], others: Fields) -> Fields:
    """A `[project]` table with others' fields where it says that one is dynamic.

    Raises:
        DeclarationError: never, since `static_metadata` has checked it.
    """
    dynamic = set(project.get("dynamic", []))

    def take(key: str, mine: Any, other: Any) -> Any:
        return other or None if key in dynamic else mine

    return Fields(
        name=str(project["name"]),
        requires_python=take("requires-python", project.get("requires-python", ""), others.requires_python),
        classifiers=take("classifiers", tuple(project.get("classifiers", [])), others.classifiers),
        requirements=take("dependencies", tuple(project.get("dependencies", [])), others.requirements),
        extras=take("optional-dependencies", project.get("optional-dependencies", {}), others.extras),
    )


def _read(fields: Fields, source: str) -> Standing:
    """Fields as metadata; what cannot be parsed is the backend's to explain."""
    unknown = {name for name in ("name", "classifiers") if getattr(fields, name) is None}
    try:
        requires_python = specifier(fields.requires_python or "")
    except DeclarationError:
        requires_python = SpecifierSet()
        unknown.add("requires_python")
    if fields.requires_python is None:
        unknown.add("requires_python")
    found: list[Requirement] = []
    for name, read in (("requirements", _plain), ("extras", _extras)):
        try:
            several = read(fields)
        except DeclarationError:
            several = None
        if several is None:
            unknown.add(name)
        found += several or []
    metadata = Metadata(
        name=str(canonicalize_name(fields.name or "")),
        requires_python=requires_python,
        classifiers=series(fields.classifiers or ()),
        requirements=tuple(found),
    )
    return Standing(metadata, frozenset(unknown), source, is_final=False)


def _plain(fields: Fields) -> list[Requirement] | None:
    return None if fields.requirements is None else requirements(fields.requirements)


def _extras(fields: Fields) -> list[Requirement] | None:
    """Requirements of all extras; setuptools' `name:marker` is an extra with a condition, `:marker` only that."""
    if fields.extras is None:
        return None
    found: list[Requirement] = []
    for key, lines in fields.extras.items():
        extra, _, marker = key.partition(":")
        for line in lines:
            (one,) = requirements([line])
            one = conditioned(one, marker) if marker else one
            found.append(for_extra(one, extra) if extra else one)
    return found
