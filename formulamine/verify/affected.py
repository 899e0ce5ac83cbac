"""Which test files a change reaches, read from the sources and never run.

Here belongs the graph of imports between a repository's own files, and the order in which it puts test files: those
that the change touches, then those that import what it changed, the nearest first. Not here: running them
(`correctness`), and what their outcomes mean (`outcomes`).
"""

from __future__ import annotations

import ast
import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from formulamine import syntax_tree
from formulamine.build.folders import entries_of, text_of_file

# What pytest collects unless a project says otherwise; in a folder of tests also names like param's `testlist.py`.
TEST_FILE = re.compile(r"(^|/)(test_[^/]*|[^/]*_test)\.py$|(^|/)tests?/([^/]+/)*test[^/]*\.py$")
SOURCE = re.compile(r"(?P<stem>[^/.]+)\.(py|pyx)$")
# Folders that hold packages without being one.
SOURCE_ROOTS = ("src", "lib", "python")
# A name that is imported counts one step from where it is defined. A package that is merely executed on the way there
# counts more than any chain of such steps: through its root, everything imports everything.
NEAR, FAR = 1, 1000


@dataclass(frozen=True)
class Affected:
    """Test files by their paths in the repository, the nearest first, and how many more there were."""

    files: tuple[str, ...]
    left_out: int


@dataclass
class _Source:
    """What one file defines and imports, by dotted names."""

    package: str
    defines: set[str] = field(default_factory=set)
    bound: dict[str, str] = field(default_factory=dict)
    """Names that imports bind, and what they stand for."""
    stars: list[str] = field(default_factory=list)
    uses: set[str] = field(default_factory=set)
    """Names that it imports from elsewhere, or reaches through an imported module."""
    runs: set[str] = field(default_factory=set)
    """Modules that it merely imports."""


def affected_tests(base: Path, head: Path, changed: Sequence[str], most: int) -> Affected:
    """Test files that a change touches, and those that import what it changed.

    Imports are those of the head side, since what base alone imports is gone after the change.

    Args:
        base: the tree before the change.
        head: the tree after it.
        changed: paths that differ between the two.
        most: how many files to name.
    """
    touched = [path for path in changed if TEST_FILE.search(path) and any(map(_is_file, (base / path, head / path)))]
    graph = _Graph(_sources(head))
    distances = graph.distances(changed)
    alike = {match["stem"] for path in changed if (match := SOURCE.search(path)) and not TEST_FILE.search(path)}

    def rank(path: str) -> tuple[int, int, str]:
        stem = re.sub(r"^test_?|_test$", "", PurePosixPath(path).stem)
        return 0 if path in touched else 1 if stem in alike else 2, distances.get(path, 0), path

    reached = {path for path in distances if TEST_FILE.search(path)}
    ordered = sorted(reached | set(touched), key=rank)
    return Affected(tuple(ordered[:most]), max(0, len(ordered) - most))


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _sources(tree: Path) -> dict[str, str]:
    """Texts of a tree's modules by path. What is a link, or no text, is left out."""
    found = {}
    for entry in entries_of(tree, frozenset({".git"})):
        if SOURCE.search(entry.relative) and (text := text_of_file(entry.path)) is not None:
            found[entry.relative] = text
    return found


class _Graph:
    """The files of one tree, and which of them import which."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.paths = frozenset(texts)
        self.modules: dict[str, str] = {}
        for path in sorted(texts):
            for name in self._names(path):
                self.modules.setdefault(name, path)
        self.sources = {path: _read(text, self._package(path)) for path, text in texts.items()}

    def distances(self, changed: Iterable[str]) -> dict[str, int]:
        """How far each file is from the nearest change; files that no import leads to it are absent."""
        importers: dict[str, list[tuple[str, int]]] = {}
        for path in self.sources:
            for imported, cost in self._imports(path):
                importers.setdefault(imported, []).append((path, cost))
        waiting = sorted({start for path in changed for start in self._starts(path)})
        found: dict[str, int] = {}
        while waiting:
            distance, path = heapq.heappop(waiting)
            if path not in found:
                found[path] = distance
                for importer, cost in importers.get(path, ()):
                    heapq.heappush(waiting, (distance + cost, importer))
        return found

    def _starts(self, path: str) -> Iterator[tuple[int, str]]:
        """From where a changed file reaches others."""
        if PurePosixPath(path).name == "conftest.py":  # pytest finds it by its place
            below = f"{PurePosixPath(path).parent}/".removeprefix("./")
            yield from ((NEAR, one) for one in self.paths if one.startswith(below) and TEST_FILE.search(one))
        if path in self.paths:
            yield 0, path
            return
        for folder in PurePosixPath(path).parents:  # compiled code or data: whoever imports its package
            package = str(folder / "__init__.py")
            if package in self.paths:
                yield FAR, package
                return

    def _imports(self, path: str) -> Iterator[tuple[str, int]]:
        source = self.sources[path]
        for name in source.uses:
            found = self._resolved(name)
            if found is not None:
                yield found, NEAR
        for name in source.uses | source.runs | set(source.stars):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                if (module := self.modules.get(".".join(parts[:end]))) is not None:
                    yield module, FAR

    def _resolved(self, name: str) -> str | None:
        """The file that defines a dotted name, through the packages that hand it on; None outside of the tree."""
        return self._defining(name, set())

    def _defining(self, name: str, seen: set[str]) -> str | None:
        if name in seen:  # two modules that import from each other
            return None
        seen.add(name)
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            module = self.modules.get(".".join(parts[:end]))
            if module is not None:
                return self._home(module, parts[end:], seen) or module
        return None

    def _home(self, module: str, rest: Sequence[str], seen: set[str]) -> str | None:
        """Where what a module calls by the first name of `rest` is defined, if it is in the tree."""
        if not rest:
            return module
        source = self.sources[module]
        if rest[0] in source.bound:
            return self._defining(".".join([source.bound[rest[0]], *rest[1:]]), seen)
        if rest[0] in source.defines:
            return module
        for star in source.stars:
            handed_on = self.modules.get(star)
            key = f"{star}.*{rest[0]}"
            if handed_on is not None and key not in seen:
                seen.add(key)
                if (found := self._home(handed_on, rest, seen)) is not None:
                    return found
        return None

    def _names(self, path: str) -> Iterator[str]:
        """Names under which a file may be imported: from the repository's root, and from where its package stands."""
        parts = PurePosixPath(path).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        starts = {0, self._root(path)}
        starts |= {1} if parts[:1] and parts[0] in SOURCE_ROOTS else set()
        yield from (".".join(parts[start:]) for start in sorted(starts) if parts[start:])

    def _root(self, path: str) -> int:
        """How many folders lead to the one from which a file's package is imported."""
        folders = list(PurePosixPath(path).parents)[:-1]
        packages = 0
        while packages < len(folders) and str(folders[packages] / "__init__.py") in self.paths:
            packages += 1
        return len(folders) - packages

    def _package(self, path: str) -> str:
        """Dotted name of the package that a file's relative imports start from."""
        return ".".join(PurePosixPath(path).parent.parts[self._root(path) :])


def _read(text: str, package: str) -> _Source:
    """What a file says of imports; nothing where it is no Python that this one reads."""
    found = _Source(package)
    try:
        tree = syntax_tree.parse(text)
    except syntax_tree.UNREADABLE:
        return found
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.defines.add(statement.name)
        else:
            targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
            found.defines |= {one.id for one in targets if isinstance(one, ast.Name)}
    attributes = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.runs.add(alias.name)
                found.bound[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            _import_from(found, node)
        elif isinstance(node, ast.Attribute):
            attributes.append(_dotted(node))
    for root, *rest in filter(None, attributes):
        if root in found.bound:
            found.uses.add(".".join([found.bound[root], *rest]))
    return found


def _import_from(found: _Source, node: ast.ImportFrom) -> None:
    module = node.module or ""
    if node.level:
        parents = found.package.split(".") if found.package else []
        kept = parents[: len(parents) - (node.level - 1)] if node.level - 1 <= len(parents) else []
        module = ".".join([*kept, *([module] if module else [])])
    for alias in node.names:
        if alias.name == "*":
            found.stars.append(module)
        else:
            name = f"{module}.{alias.name}" if module else alias.name
            found.bound[alias.asname or alias.name] = name
            found.uses.add(name)


def _dotted(node: ast.Attribute) -> list[str]:
    """Names of `a.b.c`; none for any other expression."""
    parts = [node.attr]
    value = node.value
    while isinstance(value, ast.Attribute):
        parts.append(value.attr)
        value = value.value
    return [value.id, *reversed(parts)] if isinstance(value, ast.Name) else []
