"""What a side is made of: the files of its site, and the functions of a Python file.

Here belongs reading sources with the side's own interpreter, whose grammar may be newer or older than ours. Not here:
comparing the sides.
"""

from __future__ import annotations

import ast
import hashlib
import os
from typing import Any

# What an installer writes about what it did, and what no code reads at run time.
PASSED_OVER = (
    ".pyc",
    ".pyi",
    ".md",
    ".rst",
    "py.typed",
    "/RECORD",
    "/INSTALLER",
    "/WHEEL",
    "/REQUESTED",
    "/direct_url.json",
)
# A file that a build makes says which version it is, by one of these; another version alone changes no behaviour.
VERSION_NAMES = {
    "version", "__version__", "version_tuple", "__version_tuple__", "commit_id", "__commit_id__", "version_json",
    "__git_version__", "git_revision", "full_version", "short_version",
}  # fmt: skip
# Around a function these change nothing of what a trace sees: it runs as Python code when it is called.
PLAIN_DECORATORS = {
    "property", "staticmethod", "classmethod", "abstractmethod", "cached_property", "contextmanager", "wraps", "setter",
    "getter", "deleter", "overload", "lru_cache", "cache", "deprecated", "final", "override",
}  # fmt: skip


def digests(site: str) -> dict[str, str]:
    """SHA-256 of each file below `site` that code may depend on; of metadata, of what it requires."""
    found = {}
    for top, _, names in os.walk(site):
        for name in names:
            path = os.path.join(top, name)
            relative = os.path.relpath(path, site)
            if relative.endswith(PASSED_OVER) or ".dist-info/licenses" in relative:
                continue
            with open(path, "rb") as file:
                content = file.read()
            if ".dist-info" in relative:
                content = b"\n".join(line for line in content.split(b"\n\n")[0].split(b"\n") if b"Requires-" in line)
                relative = "metadata " + name
            found[relative] = hashlib.sha256(content).hexdigest()
    return found


def functions(path: str) -> dict[str, Any]:
    """The outermost functions of a file, and a digest of all that stands outside them.

    Returns:
        `rest`, and `functions` by qualified name: first line, last line, digest of the body, digest of the signature
        with its decorators and defaults, and whether a trace sees every call of it.

    Raises:
        SyntaxError: This interpreter cannot parse it.
    """
    with open(path, "rb") as file:
        tree = ast.parse(file.read())
    found: dict[str, list[Any]] = {}
    _strip(tree, "", found)
    return {"rest": _digest(tree), "functions": found}


def _strip(node: Any, prefix: str, found: dict[str, list[Any]]) -> None:
    """Take functions out of a module or class body, and what is only told to people or says a version."""
    kept = []
    for number, statement in enumerate(node.body):
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = prefix + statement.name
            while name in found:  # a setter beside its property
                name += "'"
            found[name] = _function(statement)
        elif not (_is_text(statement) and number == 0) and not _says_version(statement):
            if isinstance(statement, ast.ClassDef):
                _strip(statement, prefix + statement.name + ".", found)
            kept.append(statement)
    node.body = kept


def _function(node: Any) -> list[Any]:
    first = min([node.lineno] + [one.lineno for one in node.decorator_list])
    body = node.body[1:] if _is_text(node.body[0]) else node.body
    defaults = [one for one in node.args.defaults + node.args.kw_defaults if one is not None]
    plain = all(_name(one) in PLAIN_DECORATORS for one in node.decorator_list)
    simple = plain and all(isinstance(one, ast.Constant) for one in defaults)
    signature = [node.args, *node.decorator_list] + ([node.returns] if node.returns else [])
    return [
        first, node.end_lineno, _digest(ast.Module(body=body, type_ignores=[])), "".join(map(_digest, signature)),
        plain, simple,
    ]  # fmt: skip


def _name(decorator: Any) -> str:
    while isinstance(decorator, ast.Call):
        decorator = decorator.func
    return decorator.attr if isinstance(decorator, ast.Attribute) else getattr(decorator, "id", "")


def _is_text(statement: Any) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str)


def _says_version(statement: Any) -> bool:
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return False
    return all(isinstance(one, ast.Name) and one.id in VERSION_NAMES for one in targets)


def _digest(node: Any) -> str:
    return hashlib.sha256(ast.dump(node).encode()).hexdigest()[:16]
