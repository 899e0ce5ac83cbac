"""What a benchmark suite imports, and which distribution that would be.

Here belongs reading imports by their syntax and matching module and distribution by name. Modules whose distribution
is called otherwise stand in `import_names.toml`.
"""

from __future__ import annotations

import ast
import posixpath
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.utils import canonicalize_name

from formulamine import syntax_tree

IMPORT_NAMES_FILE = Path(__file__).with_name("import_names.toml")
# There wherever a suite runs: ours, not the project's.
_OF_ASV = frozenset({"asv", "asv_runner"})


@dataclass(frozen=True)
class Import:
    """A module that a suite imports."""

    path: str
    """The first file that does, by name."""
    is_optional: bool
    """Whether every import of it stands in a `try` that goes on without it."""


def suite_imports(files: Mapping[str, bytes], suite: str) -> dict[str, Import]:
    """Top-level modules that a suite imports, without Python's own and its own, sorted.

    Args:
        files: contents of its Python files by path. One that cannot be parsed imports nothing.
        suite: its folder.
    """
    found: dict[str, Import] = {}
    for path, content in sorted(files.items()):
        for name, is_optional in _imports(content):
            known = found.get(name, Import(path, True))
            found[name] = Import(known.path, known.is_optional and is_optional)
    inside = [posixpath.relpath(path, suite).split("/")[0] for path in files]
    own = {posixpath.basename(suite), *(name.partition(".")[0] for name in inside)}
    foreign = sorted(set(found) - own - sys.stdlib_module_names - _OF_ASV)
    return {name: found[name] for name in foreign}


def provides(distribution: str, module: str) -> bool:
    """Whether a distribution provides a top-level module, as far as their names tell."""
    plain = canonicalize_name(distribution)
    return plain == canonicalize_name(module) or plain in _provided_by().get(module, ())


def modules_of(distribution: str) -> set[str]:
    """Top-level modules that a distribution is likely to provide."""
    plain = canonicalize_name(distribution)
    return {plain.replace("-", "_")} | {module for module, names in _provided_by().items() if plain in names}


def needed(imports: Mapping[str, Import], required: Collection[str], offers: Collection[str]) -> dict[str, str]:
    """Modules that no required distribution provides and an offered one does, each with the first that does.

    Args:
        imports: of the suite.
        required: distributions that are there anyway.
        offers: distributions that may be taken, best first.
    """
    found: dict[str, str] = {}
    for module in imports:
        if not any(provides(one, module) for one in required):
            taken = next((one for one in offers if provides(one, module)), None)
            found |= {module: taken} if taken is not None else {}
    return found


@cache
def _provided_by() -> dict[str, tuple[str, ...]]:
    table: dict[str, list[str]] = tomllib.loads(IMPORT_NAMES_FILE.read_text())["provided_by"]
    return {module: tuple(names) for module, names in table.items()}


def _imports(content: bytes) -> Iterator[tuple[str, bool]]:
    """Top-level modules that a file imports, each with whether it goes on without it."""
    try:
        todo: list[tuple[ast.AST, bool]] = [(syntax_tree.parse(content), False)]
    except syntax_tree.UNREADABLE:
        return
    while todo:
        node, guarded = todo.pop()
        match node:
            case ast.Import(names=names):
                yield from ((alias.name.partition(".")[0], guarded) for alias in names)
            case ast.ImportFrom(module=str() as module, level=0):
                yield module.partition(".")[0], guarded
            case ast.Try(body=body, handlers=handlers):
                caught = guarded or any(_catches_import_errors(handler) for handler in handlers)
                todo += [(one, caught) for one in body]
                todo += [(one, guarded) for one in (*handlers, *node.orelse, *node.finalbody)]
            case _:
                todo += [(one, guarded) for one in ast.iter_child_nodes(node)]


def _catches_import_errors(handler: ast.ExceptHandler) -> bool:
    """Whether a handler catches what an import raises."""
    if handler.type is None:
        return True
    several = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {one.id for one in several if isinstance(one, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
