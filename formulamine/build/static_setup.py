"""What setup.cfg and setup.py say as they stand, by their text alone: no line of them is run.

Here belongs reading both as setuptools does where a literal stands, and saying "only code knows" everywhere else. What
they say is evidence, not the last word: a command class or an imported helper may change all of it.
"""

from __future__ import annotations

import ast
import configparser
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from formulamine import syntax_tree
from formulamine.build.declarations import Fields

# Of a file, and of what its names and interpolations grow to: a hostile one doubles itself in every line.
MAX_CHARACTERS = 1_000_000
_UNKNOWN = Fields(None, None, None, None, None)
_REFERENCE = re.compile(r"%(?:(?P<percent>%)|\((?P<name>[^)]+)\)s)")
_DIRECTIVES = ("file:", "attr:")
# What may bind names out of sight, where it is not given a namespace of its own.
_BINDERS = frozenset({"exec", "execfile", "globals", "locals", "vars"})
# They look at what they are given and leave it as it is.
_LOOKERS = frozenset({"dict", "len", "list", "print", "set", "setup", "sorted", "str", "sum", "tuple"})

_Value = TypeVar("_Value")


class _Dynamic(Exception):
    """Only code knows this value."""


def setup_cfg(content: bytes | None) -> Fields:
    """Fields of `[metadata]` and `[options]`; what a `file:` or `attr:` fetches is unknown."""
    if content is None:
        return Fields()
    parser = _parsed_cfg(content)
    if parser is None:
        return _UNKNOWN
    metadata, options = _section(parser, "metadata"), _section(parser, "options")
    extras: dict[str, tuple[str, ...]] | None = {}
    for name, value in _section(parser, "options.extras_require", as_written=True).items():
        lines = _cfg_requirements(value)
        extras = None if lines is None or extras is None else {**extras, name: lines}
    classifiers = metadata.get("classifiers", metadata.get("classifier", ""))
    requires_python = options.get("python_requires", "")
    return Fields(
        name=metadata.get("name", ""),
        requires_python=None if requires_python is None else requires_python.strip(),
        classifiers=_cfg_list(classifiers, ","),
        requirements=_cfg_requirements(options.get("install_requires", "")),
        extras=extras,
    )


def is_package(content: bytes) -> bool:
    """Whether a setup.cfg alone makes a package: it has a name and options."""
    parser = _parsed_cfg(content)
    return parser is not None and parser.has_section("options") and bool(_section(parser, "metadata").get("name"))


def setup_py(content: bytes | None) -> Fields:
    """Fields that the one call of `setup()` gives as literals, or as names bound once to literals."""
    if content is None:
        return Fields()
    if len(content) > MAX_CHARACTERS:
        return _UNKNOWN
    try:
        module = syntax_tree.parse(content)
    except syntax_tree.UNREADABLE:
        return _UNKNOWN
    calls = [node for node in ast.walk(module) if isinstance(node, ast.Call) and _is_setup(node.func)]
    if len(calls) != 1 or "setup" in _bound_by_code(module):
        return _UNKNOWN
    reader = _Reader(module)
    try:
        given, is_whole = reader.keywords(calls[0])
    except RecursionError:
        return _UNKNOWN

    def field(keyword: str) -> object:
        """A keyword's value; None where it is not given.

        Raises:
            _Dynamic: only code knows it.
        """
        if keyword in given:
            return reader.value(given[keyword])
        if not is_whole:
            raise _Dynamic
        return None

    return Fields(
        name=_attempt(lambda: _text(field("name"))),
        requires_python=_attempt(lambda: _text(field("python_requires"))),
        classifiers=_attempt(lambda: _lines(field("classifiers"))),
        requirements=_attempt(lambda: _lines(field("install_requires"))),
        extras=_attempt(lambda: _extras(field("extras_require"))),
    )


def setup_fields(cfg: bytes | None, setup: bytes | None) -> Fields:
    """Fields of both together, as setuptools takes them: what `setup()` is given wins over setup.cfg."""
    by_code, by_cfg = setup_py(setup), setup_cfg(cfg)
    return by_code.filled(by_cfg)


class _Reader:
    """Values of expressions, as far as they stand still."""

    def __init__(self, module: ast.Module) -> None:
        self._names = _constants(module)
        self._left = MAX_CHARACTERS

    def keywords(self, call: ast.Call) -> tuple[dict[str, ast.expr], bool]:
        """Keywords of a call, and whether these are all: `**what` counts where it is a known dictionary."""
        found: dict[str, ast.expr] = {}
        is_whole = not any(isinstance(one, ast.Starred) for one in call.args)
        for keyword in call.keywords:
            if keyword.arg is not None:
                found[keyword.arg] = keyword.value
                continue
            node = keyword.value
            if isinstance(node, ast.Name):
                node = self._names.get(node.id, node)
            if isinstance(node, ast.Call) and _is_plain_dict(node):
                more, all_of_it = self.keywords(node)
                found |= more
                is_whole &= all_of_it
            elif isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(key.value, str):
                        found[key.value] = value
                    else:
                        is_whole = False
            else:
                is_whole = False
        return found, is_whole

    def value(self, node: ast.expr) -> object:
        """What an expression is.

        Raises:
            _Dynamic: only code knows, or it grows beyond all reason.
        """
        self._left -= 1
        if self._left < 0:
            raise _Dynamic
        match node:
            case ast.Constant(value=str() as text):
                self._left -= len(text)
                return text
            case ast.Constant(value=None):
                return None
            case ast.Name(id=name) if name in self._names:
                return self.value(self._names[name])
            case ast.List() | ast.Tuple() | ast.Set():
                return [one for element in node.elts for one in self._elements(element)]
            case ast.Dict():
                return self._dictionary(node)
            case ast.BinOp(op=ast.Add()):
                left, right = self.value(node.left), self.value(node.right)
                if isinstance(left, str) and isinstance(right, str):
                    return left + right
                if isinstance(left, list) and isinstance(right, list):
                    return left + right
            case ast.Subscript(slice=ast.Constant(value=str() as key)):
                whole = self.value(node.value)
                if isinstance(whole, dict) and key in whole:
                    return whole[key]
            case ast.Call() if _is_plain_dict(node):
                given, is_whole = self.keywords(node)
                if is_whole:
                    return {name: self.value(value) for name, value in given.items()}
        raise _Dynamic

    def _elements(self, node: ast.expr) -> list[object]:
        if not isinstance(node, ast.Starred):
            return [self.value(node)]
        several = self.value(node.value)
        if not isinstance(several, list):
            raise _Dynamic
        return several

    def _dictionary(self, node: ast.Dict) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                more = self.value(value)
                if not isinstance(more, dict):
                    raise _Dynamic
                found |= more
                continue
            name = self.value(key)
            if not isinstance(name, str):
                raise _Dynamic
            found[name] = self.value(value)
        return found


def _constants(module: ast.Module) -> dict[str, ast.expr]:
    """Names that are bound once, at module level, and that nothing in sight changes afterwards."""
    if any(_hides_bindings(node) for node in ast.walk(module)):
        return {}
    bound = Counter(name for node in ast.walk(module) for name in _bound(node))
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(module):
        for name, value in _assigned(node):
            assigned.setdefault(name, []).append(value)
    changed: set[str] = set()
    todo = [name for node in ast.walk(module) for name in _handed_on(node)]
    while todo:  # what a changed collection holds may be changed through it
        name = todo.pop()
        if name not in changed:
            changed.add(name)
            todo += [inner for value in assigned.get(name, ()) for inner in _names(value)]
    return {
        name: value
        for statement in module.body
        for name, value in _assigned(statement)
        if bound[name] == 1 and (name not in changed or _is_text(value))
    }


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names that a statement gives one value each."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield name, value
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            yield name, value


def _bound(node: ast.AST) -> Iterator[str]:
    """Names that a node itself binds, deletes or declares."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.arg(arg=name):
            yield name
        case ast.alias(name=name, asname=other):
            yield other or name.partition(".")[0]
        case (
            ast.ExceptHandler(name=str() as name) | ast.MatchAs(name=str() as name) | ast.MatchStar(name=str() as name)
        ):
            yield name
        case ast.MatchMapping(rest=str() as name):
            yield name
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            yield from names


def _handed_on(node: ast.AST) -> Iterator[str]:
    """Names whose value a node may change: by a method, an item, or by giving it to a function."""
    match node:
        case ast.Attribute(value=value) | ast.Subscript(value=value, ctx=ast.Store() | ast.Del()):
            yield from _names(value)
        case ast.Call(func=func) if _name_of(func) not in _LOOKERS:
            for given in (*node.args, *(keyword.value for keyword in node.keywords)):
                yield from _names(given)


def _hides_bindings(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name), args=args):
            return name in _BINDERS and len(args) < 2
        case ast.ImportFrom(names=[ast.alias(name="*")]):
            return True
    return False


def _names(node: ast.AST) -> list[str]:
    return [one.id for one in ast.walk(node) if isinstance(one, ast.Name)]


def _name_of(func: ast.expr) -> str:
    return func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant)


def _is_plain_dict(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args


def _attempt(read: Callable[[], _Value]) -> _Value | None:
    """A value, or None where only code knows it."""
    try:
        return read()
    except (_Dynamic, RecursionError):
        return None


def _text(value: object) -> str:
    if not isinstance(value, str | None):
        raise _Dynamic
    return (value or "").strip()


def _lines(value: object) -> tuple[str, ...]:
    """Requirements or classifiers: a list of them, or a text with one a line."""
    several = value if isinstance(value, list) else [_text(value)]
    return _uncommented(line for one in several for line in _text(one).splitlines())


def _extras(value: object) -> dict[str, tuple[str, ...]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Dynamic
    return {name: _lines(several) for name, several in value.items()}


def _parsed_cfg(content: bytes) -> configparser.RawConfigParser | None:
    if len(content) > MAX_CHARACTERS:
        return None
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[method-assign, assignment]  # names are kept as they are
    try:
        parser.read_string(content.decode())
    except (configparser.Error, UnicodeDecodeError):
        return None
    return parser


def _section(parser: configparser.RawConfigParser, name: str, as_written: bool = False) -> dict[str, str | None]:
    """Options of a section; None where a value cannot be put together."""
    if not parser.has_section(name):
        return {}
    raw = {option: value or "" for option, value in parser.items(name)}
    options = _Options(raw)
    return {option if as_written else option.lower().replace("-", "_"): options.filled_in(option) for option in raw}


class _Options:
    """Options of a section, whose values may refer to each other as `%(option)s`."""

    def __init__(self, raw: Mapping[str, str]) -> None:
        self._raw = raw
        self._left = MAX_CHARACTERS

    def filled_in(self, option: str) -> str | None:
        """A value with what it refers to, or None where that is not there, a ring, or beyond all reason."""
        value = self._raw[option]
        for _ in range(configparser.MAX_INTERPOLATION_DEPTH):
            pieces, at = list[str](), 0
            found = list(_REFERENCE.finditer(value))
            if not any(match["name"] for match in found):
                return value.replace("%%", "%")
            for match in found:
                name = match["name"]
                if name is not None and name not in self._raw:
                    return None
                pieces += [value[at : match.start()], "%%" if name is None else self._raw[name]]
                at = match.end()
                self._left -= len(pieces[-2]) + len(pieces[-1])
                if self._left < 0:
                    return None
            value = "".join(pieces) + value[at:]
        return None


def _cfg_list(value: str | None, separator: str) -> tuple[str, ...] | None:
    """A list as setuptools splits it: by lines if there are several, else by a separator."""
    if value is None or value.strip().startswith(_DIRECTIVES):
        return None
    parts = value.splitlines() if "\n" in value else value.split(separator)
    return tuple(part.strip() for part in parts if part.strip())


def _cfg_requirements(value: str | None) -> tuple[str, ...] | None:
    lines = _cfg_list(value, ";")
    return None if lines is None else _uncommented(lines)


def _uncommented(lines: Iterable[str]) -> tuple[str, ...]:
    """Lines without comments and blanks, as setuptools reads requirements."""
    stripped = (line.strip() for line in lines)
    bare = [line.partition(" #")[0].strip() for line in stripped if not line.startswith("#")]
    return tuple(line for line in bare if line)


def _is_setup(func: ast.expr) -> bool:
    return _name_of(func) == "setup"


def _bound_by_code(module: ast.Module) -> set[str]:
    """Names that are bound otherwise than by an import."""
    return {name for node in ast.walk(module) if not isinstance(node, ast.alias) for name in _bound(node)}
