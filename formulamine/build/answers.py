"""Which answer of a build backend stands for more than the commit that it was given for.

Here belongs what decides what a backend requires to build a wheel, where that is known to be little: a backend that
runs no code of the tree, its own release, and the files and the tag that it reads. A backend of the tree's own, a
setup.py with code, a hook or a version that the tree computes may look at anything, and are asked for each commit.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from formulamine import syntax_tree
from formulamine.build.cache import key_of
from formulamine.build.declarations import BuildSystem

# Backends that run code of the tree only where a setup.py, or a table looked for below, tells them to.
DECLARATIVE = frozenset(
    {"flit_core.buildapi", "hatchling.build", "mesonpy", "poetry.core.masonry.api", "setuptools.build_meta"}
)


def shared_key(
    system: BuildSystem,
    pyproject: Mapping[str, Any],
    files: Mapping[str, bytes],
    names: Collection[str],
    tag: str | None,
    pins: Sequence[str],
    python: str,
    variables: Mapping[str, str],
) -> str | None:
    """A key that commits share to which a backend gives one answer; None where each is asked.

    Args:
        system: the backend.
        pyproject: its file, parsed.
        files: contents of the build files that are there, by name.
        names: what stands at the package's root: some find packages by that.
        tag: nearest to the commit: some compute a version of it, or fail to.
        pins: of the build environment.
        python: series of its interpreter.
        variables: of its environment.
    """
    tool = pyproject.get("tool", {})
    if system.backend not in DECLARATIVE or system.backend_path or not isinstance(tool, dict):
        return None
    if not _is_plain(files.get("setup.py", b"")):
        return None
    if b"attr:" in files.get("setup.cfg", b"") or _runs_code(tool):
        return None
    texts = {name: content.hex() for name, content in files.items()}
    return key_of(system.backend, texts, sorted(names), tag, list(pins), python, dict(variables))


def _runs_code(tool: Mapping[str, Any]) -> bool:
    """Whether tables of tools name code or further files of the tree."""
    hatch, setuptools, poetry = (tool.get(name, {}) for name in ("hatch", "setuptools", "poetry"))
    told = str(hatch)
    return "'custom'" in told or "'code'" in told or "dynamic" in setuptools or "build" in poetry


def _is_plain(setup: bytes) -> bool:
    """Whether a setup.py only calls setuptools' `setup()` with literals, and so looks at nothing by code of its own."""
    try:
        return all(map(_says_little, syntax_tree.parse(setup).body))
    except syntax_tree.UNREADABLE:
        return False


def _says_little(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(ast.Constant()):
            return True
        case ast.Import(names=[ast.alias(name="setuptools", asname=None)]):
            return True
        case ast.ImportFrom(module="setuptools", names=[ast.alias(name="setup", asname=None)], level=0):
            return True
        case ast.Expr(ast.Call(func=function, args=[], keywords=given)):
            is_setup = ast.unparse(function) in ("setup", "setuptools.setup")
            return is_setup and all(one.arg is not None and _is_literal(one.value) for one in given)
        case ast.If(test=test, body=body, orelse=[]):
            return ast.unparse(test) == "__name__ == '__main__'" and all(map(_says_little, body))
    return False


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        return False
    return True
