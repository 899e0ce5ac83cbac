"""Which benchmarks a suite's files hold, read without running any of them.

Here belongs ASV's naming applied to source: functions and methods called time_..., and so on, of classes and of what
they inherit inside the suite. It answers two questions: how many benchmarks the source names, and whether a name that
was discovered can come from it at all. Python can make benchmarks that no reader of source foresees (a loop with
setattr, a base class of another package): where a file does such things it explains whatever is said to be in it, so
that only what provably comes from nowhere is called foreign.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from formulamine import syntax_tree
from formulamine.build.folders import entries_of, text_of_file

# asv_runner 0.3.2, benchmarks/*.py: `name_regex` of each type, matched against the attribute's name.
KINDS = {
    "mem": re.compile(r"^(Mem[A-Z_].+)|(mem_.+)$"),
    "peakmem": re.compile(r"^(PeakMem[A-Z_].+)|(peakmem_.+)$"),
    "time": re.compile(r"^(Time[A-Z_].+)|(time_.+)$"),
    "timeraw": re.compile(r"^(Timeraw[A-Z_].+)|(timeraw_.+)$"),
    "track": re.compile(r"^(Track[A-Z_].+)|(track_.+)$"),
}
TIMED = ("time", "timeraw")
# Words with which code binds names that stand nowhere in its text. A file that has one explains any name in it.
_MAKES_NAMES = frozenset({"setattr", "globals", "locals", "vars", "exec", "eval", "type", "__dict__", "make_dataclass"})
# With this attribute a benchmark is called whatever it says (asv_runner.discovery._get_benchmark).
_RENAMES = "benchmark_name"
_LARGEST_FILE = 2 * 2**20  # bytes: the largest file of a suite seen (xarray) has 30 kB; what is larger is data
_DEEPEST = 50  # classes that inherit from one another
# pkgutil takes any name without a dot for a module's, and so does asv_runner.
_MODULE_FILE = re.compile(r"(?P<name>[^.]+)(\.py|\.pyc|(\.[\w-]+)*\.so)")


@dataclass(frozen=True)
class _Class:
    """A class as its text says it."""

    names: frozenset[str]
    """What its body binds."""
    bases: tuple[str, ...]
    """As written, with dots."""
    is_open: bool
    """Whether it may hold more than its text says."""


@dataclass
class _Module:
    """A file of the suite."""

    names: set[str] = field(default_factory=set)
    """Functions defined at its top level."""
    classes: dict[str, _Class] = field(default_factory=dict)
    bound: set[str] = field(default_factory=set)
    """Every other name that is bound at its top level, and what an import called it before."""
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Names from other modules of the suite: the module and the name there."""
    is_open: bool = False
    """Whether it may hold more than its text says."""
    opens_functions: bool = False
    """Whether functions in it may be called otherwise than in its text."""
    renames: bool = False
    """Whether it names benchmarks by an attribute."""
    is_found: bool = True
    """Whether discovery comes to it: every folder above it is a package."""


@dataclass(frozen=True)
class SuiteSource:
    """A suite as its files tell it."""

    modules: dict[str, _Module]
    _known: dict[tuple[str, str], tuple[frozenset[str], bool]] = field(default_factory=dict)

    def benchmarks(self) -> list[str]:
        """Time benchmarks that the source names, as asv_runner would call them, sorted."""
        found = set()
        for module, content in self.modules.items():
            if not content.is_found:
                continue
            found |= {_joined(module, name) for name in content.names if is_timed(name) and not name.startswith("_")}
            for name, (where, original) in self._classes_of(module).items():
                names, _ = self._names(where, original, ())
                if not name.startswith("_"):
                    found |= {_joined(module, original, one) for one in names if is_timed(one)}
            for name, (where, original) in content.imported.items():
                functions = self.modules[where].names if where in self.modules else ()
                if original in functions and is_timed(name) and not name.startswith("_"):
                    found.add(_joined(module, original))
        return sorted(found)

    def explains(self, benchmark: str) -> bool:
        """Whether a discovered name can come from the source."""
        parts = benchmark.split(".")
        if any(module.renames for module in self.modules.values()):
            return True
        return any(
            module in self.modules and self._explains(module, parts[at:])
            for at in range(len(parts))
            for module in [".".join(parts[:at])]
        )

    def _explains(self, module: str, rest: list[str]) -> bool:
        content = self.modules[module]
        if len(rest) not in (1, 2):
            return False
        # What is imported from a file that makes names may be called anything here too.
        sources = {where for where, _ in content.imported.values()} & set(self.modules)
        if content.is_open or any(self.modules[where].is_open for where in sources):
            return True
        if len(rest) == 1:
            return content.opens_functions or rest[0] in content.names | content.bound
        for where, original in self._classes_of(module).values():
            if original == rest[0]:
                names, is_open = self._names(where, original, ())
                return is_open or rest[1] in names
        return rest[0] in content.bound

    def _classes_of(self, module: str) -> dict[str, tuple[str, str]]:
        """Classes that a module has, its own and imported ones of the suite: where they are defined, and as what."""
        content = self.modules[module]
        found = {name: (module, name) for name in content.classes}
        for name, (where, original) in content.imported.items():
            place = self._defined(where, original)
            if place is not None:
                found.setdefault(name, place)
        return found

    def _defined(self, module: str, name: str) -> tuple[str, str] | None:
        """Where in the suite a class is defined that a module knows by a name."""
        place: tuple[str, str] | None = (module, name)
        seen = set()
        while place is not None and place not in seen:
            seen.add(place)
            content = self.modules.get(place[0])
            if content is None:
                return None
            if place[1] in content.classes:
                return place
            place = content.imported.get(place[1])
        return None

    def _names(self, module: str, name: str, below: tuple[tuple[str, str], ...]) -> tuple[frozenset[str], bool]:
        """Attributes of a class with what it inherits in the suite, and whether it may have others.

        `below` are the classes that asked for it: a circle, or a chain as nobody writes it, is not followed.
        """
        if (module, name) in self._known:
            return self._known[module, name]
        own = self.modules[module].classes[name]
        names, is_open = own.names, own.is_open or self.modules[module].is_open
        for base in own.bases:
            if base == "object":
                continue
            place = self._base(module, base)
            if place is None or place in below or len(below) > _DEEPEST:
                is_open = True
                continue
            more, opened = self._names(*place, (*below, (module, name)))
            names, is_open = names | more, is_open or opened
        self._known[module, name] = names, is_open
        return names, is_open

    def _base(self, module: str, base: str) -> tuple[str, str] | None:
        """Where the class is that stands in a class statement."""
        first, _, rest = base.partition(".")
        place = self._defined(module, first)
        if not rest:
            return place
        there = self.modules[module].imported.get(first)
        if there is None or "." in rest:
            return None
        return self._defined(_joined(*there), rest)


def read(suite: Path) -> SuiteSource:
    """The source of a suite. What cannot be read as Python explains everything and counts as nothing.

    Args:
        suite: the folder of the suite's package.
    """
    modules: dict[str, _Module] = {"": _Module()}
    folders: dict[str, PurePosixPath] = {}
    packages = {PurePosixPath(".")}
    for one in entries_of(suite):
        path, match = PurePosixPath(one.relative), _MODULE_FILE.fullmatch(one.path.name)
        if match is None or any("." in part for part in path.parts[:-1]):
            continue
        if match["name"] == "__init__":
            packages.add(path.parent)
        name = _joined(*path.parts[:-1], *([] if match["name"] == "__init__" else [match["name"]]))
        readable = one.is_file and path.suffix == ".py" and one.size <= _LARGEST_FILE
        text = text_of_file(one.path) if readable else None
        modules[name] = _Module(is_open=True) if text is None else _module(text, name, suite.name, path.stem)
        folders[name] = path.parent
    for name, folder in folders.items():
        modules[name].is_found = {folder, *folder.parents} <= packages
    return SuiteSource(modules)


def is_timed(name: str) -> bool:
    """Whether asv_runner would take an attribute of this name for a time benchmark."""
    return any(KINDS[kind].match(name) for kind in TIMED)


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _module(text: str, name: str, suite: str, stem: str) -> _Module:
    try:
        tree = syntax_tree.parse(text)
    except syntax_tree.UNREADABLE:  # newer than this Python, or not meant to be read
        return _Module(is_open=True, renames=_RENAMES in text)
    found = _Module(renames=_RENAMES in text)
    package = name if stem == "__init__" else name.rpartition(".")[0]
    words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    words |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found.is_open = bool(words & _MAKES_NAMES)
    for statement in _statements(tree.body):
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                found.names.add(statement.name)
                # What a decorator gives may have another name than what it was given.
                found.opens_functions |= bool(statement.decorator_list)
            case ast.ClassDef():
                found.is_open |= statement.name in found.classes
                found.classes[statement.name] = _class(statement)
                found.is_open |= any(not _keeps_the_class(one) for one in statement.decorator_list)
            case ast.ImportFrom():
                _import(found, statement, package, suite)
            case ast.Import():
                for alias in statement.names:
                    whole = alias.name.partition(".")
                    if whole[0] == suite and alias.asname:
                        found.imported[alias.asname] = (whole[2], "")
                    found.bound.add(alias.asname or whole[0])
            case _:
                targets = set(_targets(statement))
                found.bound |= targets
                # The value may be a class or a function that is called otherwise.
                found.is_open |= bool(targets) and not isinstance(getattr(statement, "value", None), _PLAIN)
    return found


# Values that are no class and no function.
_PLAIN = (
    *(ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.ListComp, ast.SetComp, ast.DictComp),
    *(ast.GeneratorExp, ast.BinOp, ast.Compare, ast.JoinedStr),
)


def _import(found: _Module, statement: ast.ImportFrom, package: str, suite: str) -> None:
    """Names from another module: of the suite with their place, of others as names that may be anything."""
    where = statement.module or ""
    inside: str | None = None
    if statement.level:
        parents = package.split(".") if package else []
        up = statement.level - 1
        inside = _joined(*parents[: len(parents) - up], where) if up <= len(parents) else None
    elif where == suite or where.startswith(f"{suite}."):
        inside = where.partition(".")[2]
    for alias in statement.names:
        if alias.name == "*":
            found.is_open = True
        elif inside is not None:
            found.imported[alias.asname or alias.name] = (inside, alias.name)
            found.bound.add(alias.name)
        else:
            found.bound |= {alias.name, alias.asname or alias.name}


def _class(statement: ast.ClassDef) -> _Class:
    names, is_open = set(), bool(statement.keywords)
    for one in _statements(statement.body):
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(one.name)
        elif isinstance(one, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in one.names}
        else:
            names |= set(_targets(one))
    bases = tuple(_dotted(base) for base in statement.bases)
    return _Class(frozenset(names), tuple(base for base in bases if base), is_open or "" in bases)


def _keeps_the_class(decorator: ast.expr) -> bool:
    """Whether a decorator gives back the class under its own name: those of ASV do, and dataclass."""
    name = _dotted(decorator.func if isinstance(decorator, ast.Call) else decorator).rpartition(".")[2]
    return name in ("dataclass", "skip_benchmark", "skip_benchmark_if", "skip_params_if", "parameterize")


def _dotted(node: ast.expr) -> str:
    """A dotted name; empty for any other expression."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a body and of the blocks in it, but not of what it defines."""
    left = list(body)[::-1]
    while left:
        one = left.pop()
        yield one
        if not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for name in ("body", "orelse", "finalbody"):
                left += reversed(getattr(one, name, None) or [])
            for part in [*(getattr(one, "handlers", None) or []), *(getattr(one, "cases", None) or [])]:
                left += reversed(part.body)


def _targets(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement itself binds: an assignment's, a loop's, a with's."""
    parts: list[ast.AST] = []
    for name in ("targets", "target", "items", "test", "value", "iter"):
        value = getattr(statement, name, None)
        parts += value if isinstance(value, list) else [value] if isinstance(value, ast.AST) else []
    for part in parts:
        for node in ast.walk(part):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
