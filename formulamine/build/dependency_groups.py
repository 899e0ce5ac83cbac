"""Dependency groups: what a project lists for its developers and not for its users (PEP 735, and poetry's own).

Here belongs reading them. Whether somebody needs one is asked elsewhere: none is installed as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from formulamine.build.declarations import DeclarationError, requirements
from formulamine.build.tool_tables import poetry_groups


def group_names(pyproject: Mapping[str, Any]) -> list[str]:
    """Names of all groups, plain and sorted."""
    return sorted({str(canonicalize_name(name)) for name in (*_table(pyproject), *poetry_groups(pyproject))})


def group(pyproject: Mapping[str, Any], name: str) -> list[Requirement]:
    """Requirements of a group and of those it includes; none where there is no such group.

    Raises:
        DeclarationError: it is malformed, or includes itself or what is not there.
    """
    plain = canonicalize_name(name)
    of_poetry = [lines for other, lines in poetry_groups(pyproject).items() if canonicalize_name(other) == plain]
    return _included(_table(pyproject), name, ()) + requirements([line for lines in of_poetry for line in lines])


def _included(table: Mapping[str, Any], name: str, on_the_way: tuple[str, ...]) -> list[Requirement]:
    plain = str(canonicalize_name(name))
    if plain in on_the_way:
        raise DeclarationError(f"dependency-groups: {name} includes itself")
    named = [value for key, value in table.items() if str(canonicalize_name(key)) == plain]
    if on_the_way and not named:
        raise DeclarationError(f"dependency-groups: {on_the_way[-1]} includes {name}, which is not there")
    found: list[Requirement] = []
    for one in (one for entries in named for one in (entries if isinstance(entries, list) else [entries])):
        match one:
            case str():
                found += requirements([one])
            case {"include-group": str() as other}:
                found += _included(table, other, (*on_the_way, plain))
            case _:
                raise DeclarationError(f"dependency-groups: {name} holds neither a requirement nor an include-group")
    return found


def _table(pyproject: Mapping[str, Any]) -> dict[str, Any]:
    table = pyproject.get("dependency-groups")
    return table if isinstance(table, dict) else {}
