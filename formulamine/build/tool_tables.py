"""Tables of pyproject.toml that are a build tool's own: poetry's and flit's, from before there was `[project]`.

Here belongs turning them into what core metadata would say. Their tools have the last word: this is evidence before
they can be asked, and the answer where they cannot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from formulamine.build.declarations import DeclarationError, Fields

_ONE = re.compile(r"(?P<operator>[\^~=<>!]*)\s*(?P<version>(?:\d+!)?[^\s,^~=<>!|]+)")
_WILDCARD = re.compile(r"v?(?P<release>\d+(?:\.\d+)*)(?:\.[xX*])+")


def poetry_fields(pyproject: Mapping[str, Any]) -> Fields | None:
    """What `[tool.poetry]` says, or None where there is none.

    A dependency that an extra lists is asked for by that extra only, be it called optional or not, as by poetry itself.
    """
    table = _table(pyproject, "tool", "poetry")
    if not table:
        return None
    dependencies = _table(table, "dependencies")
    lines = {name: _attempted(name, value) for name, value in dependencies.items() if name.lower() != "python"}
    extras = _table(table, "extras")
    listed = {_plain(name) for names in extras.values() for name in _texts(names) or ()}
    optional = {name for name, value in dependencies.items() if isinstance(value, dict) and value.get("optional")}
    plain = [lines[name] for name in lines if name not in optional and _plain(name) not in listed]
    python = dependencies.get("python", "")
    try:
        requires_python = str(poetry_specifier(python)) if isinstance(python, str) else None
    except DeclarationError:
        requires_python = None
    return Fields(
        name=_text(table.get("name", "")),
        requires_python=requires_python,
        classifiers=_texts(table.get("classifiers", [])),
        requirements=None if None in plain else tuple(line for several in plain for line in several or ()),
        extras=_poetry_extras(extras, lines),
    )


def poetry_groups(pyproject: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Requirement lines of poetry's dependency groups, without what cannot be read; `dev-dependencies` is `dev`."""
    table = _table(pyproject, "tool", "poetry")
    tables = {"dev": _table(table, "dev-dependencies")} if "dev-dependencies" in table else {}
    for name in _table(table, "group"):
        tables[name] = {**tables.get(name, {}), **_table(table, "group", name, "dependencies")}
    return {
        group: tuple(line for name, value in entries.items() for line in _attempted(name, value) or ())
        for group, entries in tables.items()
    }


def poetry_requirements(name: str, value: object) -> tuple[str, ...]:
    """Requirement lines (PEP 508) of one entry of a table of dependencies.

    Args:
        name: the distribution.
        value: a constraint, a table with one, or a list of such tables. A path or repository becomes the bare name.

    Raises:
        DeclarationError: it is none of these.
    """
    if isinstance(value, str):
        return (f"{name}{poetry_specifier(value)}",)
    if isinstance(value, list):
        return tuple(line for one in value for line in poetry_requirements(name, one))
    if not isinstance(value, dict):
        raise DeclarationError(f"poetry: {name} is neither a constraint nor a table")
    version, extras, markers = value.get("version", "*"), value.get("extras", []), []
    if not isinstance(version, str) or _texts(extras) is None:
        raise DeclarationError(f"poetry: {name} has a version or extras of the wrong kind")
    for key in ("python", "platform", "markers"):
        if not isinstance(value.get(key, ""), str):
            raise DeclarationError(f"poetry: {name}.{key} is no text")
    if value.get("markers"):
        markers.append(f"({value['markers']})")
    markers += [f"python_full_version {_compared(str(one))}" for one in _sorted(value.get("python", "*"))]
    if value.get("platform"):
        markers.append(f"sys_platform == '{value['platform']}'")
    bracket = f"[{','.join(extras)}]" if extras else ""
    marker = f" ; {' and '.join(markers)}" if markers else ""
    return (f"{name}{bracket}{poetry_specifier(version)}{marker}",)


def poetry_specifier(text: str) -> SpecifierSet:
    """A constraint of poetry's as a specifier: `^1.2`, `~1.2`, `1.*`, `>=1,<2`, `1.2`.

    Of alternatives (`~2.7 || ^3.6`) it is the span from the lowest to the highest, which a specifier can say.

    Raises:
        DeclarationError: it is no constraint.
    """
    try:
        parts = [_conjunction(part) for part in re.split(r"\|\|?", text)]
    except (InvalidSpecifier, InvalidVersion) as error:
        raise DeclarationError(f"poetry: {text!r} is no constraint: {error}") from error
    return parts[0] if len(parts) == 1 else _span(parts)


def flit_fields(pyproject: Mapping[str, Any]) -> Fields | None:
    """What `[tool.flit.metadata]` says, or None where there is none."""
    table = _table(pyproject, "tool", "flit", "metadata")
    if not table:
        return None
    extras = {name: _texts(lines) for name, lines in _table(table, "requires-extra").items()}
    known = {name: lines for name, lines in extras.items() if lines is not None}
    return Fields(
        name=_text(table.get("dist-name", table.get("module", ""))),
        requires_python=_text(table.get("requires-python", "")),
        classifiers=_texts(table.get("classifiers", [])),
        requirements=_texts(table.get("requires", [])),
        extras=known if len(known) == len(extras) else None,
    )


def _conjunction(text: str) -> SpecifierSet:
    """Constraints that all must hold, parted by commas or blanks."""
    if _ONE.sub("", text).strip(" ,\t\n"):
        raise InvalidSpecifier(text)
    return SpecifierSet(",".join(_translated(one["operator"], one["version"]) for one in _ONE.finditer(text)))


def _translated(operator: str, version: str) -> str:
    """One constraint as PEP 440 writes it; empty for any version."""
    if version == "*" and operator in ("", "=", "=="):
        return ""
    if wildcard := _WILDCARD.fullmatch(version):
        equal = {"": "==", "=": "==", "==": "==", "!=": "!="}.get(operator)
        if equal is None:
            raise InvalidSpecifier(operator + version)
        return f"{equal}{wildcard['release']}.*"
    parsed = Version(version)
    if operator == "^":
        return f">={parsed.public},<{_next(parsed, _breaking(parsed.release))}"
    if operator == "~" or (operator == "~=" and len(parsed.release) == 1):
        return f">={parsed.public},<{_next(parsed, min(1, len(parsed.release) - 1))}"
    return f"{operator if operator not in ('', '=') else '=='}{parsed}"


def _breaking(release: tuple[int, ...]) -> int:
    """Which number of a release a caret lets stand: the first that is not 0, else the last written of three."""
    return next((at for at, number in enumerate(release[:3]) if number), min(len(release), 3) - 1)


def _next(version: Version, at: int) -> str:
    """The first release that differs in a number, as poetry writes it: of 1.2.3 at 1 it is 1.3.0."""
    release = [*version.release[:at], version.release[at] + 1, *(0 for _ in version.release[at + 1 :])]
    return (f"{version.epoch}!" if version.epoch else "") + ".".join(map(str, release))


def _span(parts: list[SpecifierSet]) -> SpecifierSet:
    """The narrowest range that holds all alternatives."""
    lows, highs = [], []
    for part in parts:
        bounds = [bound for one in part for bound in _bounds(one.operator, one.version)]
        lows.append(max((bound for bound in bounds if bound[1].startswith(">")), key=_low, default=None))
        highs.append(min((bound for bound in bounds if bound[1].startswith("<")), key=_high, default=None))
    found = []
    if None not in lows:
        found.append(min((one for one in lows if one is not None), key=_low))
    if None not in highs:
        found.append(max((one for one in highs if one is not None), key=_high))
    return SpecifierSet(",".join(f"{operator}{version.public}" for version, operator in found))


def _low(bound: tuple[Version, str]) -> tuple[Version, bool]:
    return bound[0], bound[1] == ">"


def _high(bound: tuple[Version, str]) -> tuple[Version, bool]:
    return bound[0], bound[1] == "<="


def _bounds(operator: str, text: str) -> list[tuple[Version, str]]:
    """The range that one specifier spans, as lower and upper bound."""
    if operator in (">", ">=", "<", "<="):
        return [(Version(text), operator)]
    if operator == "~=":
        version = Version(text)
        return [(version, ">="), (Version(_next(version, len(version.release) - 2)), "<")]
    if operator == "==" and text.endswith(".*"):
        version = Version(text[:-2])
        return [(version, ">="), (Version(_next(version, len(version.release) - 1)), "<")]
    return [(Version(text), ">="), (Version(text), "<=")] if operator == "==" else []


def _compared(specifier: str) -> str:
    """A specifier as a marker compares: `>= '3.8'`."""
    operator = re.match(r"[=<>!~]+", specifier)
    assert operator is not None
    return f"{operator[0]} '{specifier[operator.end() :]}'"


def _sorted(constraint: str) -> list[str]:
    return sorted(str(one) for one in poetry_specifier(constraint))


def _attempted(name: str, value: object) -> tuple[str, ...] | None:
    try:
        return poetry_requirements(name, value)
    except DeclarationError:
        return None


def _poetry_extras(
    extras: Mapping[str, Any], lines: Mapping[str, tuple[str, ...] | None]
) -> dict[str, tuple[str, ...]] | None:
    """Requirement lines by extra; a name that is no dependency adds nothing, as with poetry."""
    by_name = {_plain(name): several for name, several in lines.items()}
    found: dict[str, tuple[str, ...]] = {}
    for extra, names in extras.items():
        several = _texts(names)
        known = [by_name.get(_plain(name), ()) for name in several or ()]
        if several is None or None in known:
            return None
        found[extra] = tuple(line for one in known for line in one or ())
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _table(value: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A table inside tables; empty where there is none or something else."""
    found: Any = value
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return None
    return tuple(value)
