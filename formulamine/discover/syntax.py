"""What Python code holds, read from a few of its lines: the hunks of a patch.

Here belongs making the lines of a hunk a program that `ast` can read, and counting what is in it: loops, calls, early
exits, parameters. What it means that there is more or less of something is in `syntax_signals.py`. Only hunks are read:
whole files take a hundred times as long, and say the same before and after wherever the patch does not touch them.
"""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from formulamine import syntax_tree
from formulamine.discover.diff import Lines

Fact = tuple[str, str]
"""What is found, and its name where it has one: ("call", "append"), ("loop", "")."""

MOST_CUTS = 6  # lines of one hunk that are given up before the rest of it is
FILENAME = "<hunk>"
# What Python thinks of the mined code's escapes and comparisons is nobody's matter here. Only warnings about hunks, and
# once for all: a filter that comes and goes (`catch_warnings`) is not for several threads.
warnings.filterwarnings("ignore", module=re.escape(FILENAME))

_LOOP = re.compile(r"\s*(async +)?(for|while)\b")
_OPENS = re.compile(r":\s*(#.*)?$|^\s*@|\\$")
_CONTINUES = re.compile(r"\s*(else|elif|except|finally)\b")
_HANDLES = re.compile(r"\s*(except|finally)\b")
_QUOTES = re.compile(r'"""|\'\'\'')
# A line that can be no code, wherever it stands: an example of a docstring, or one that begins with two names.
_NAME = rf"(?!(?:{'|'.join((*keyword.kwlist, *keyword.softkwlist))})\b)[A-Za-z]\w+"
_PROSE = re.compile(rf"\s*(?:>>>|\.\.\. |{_NAME} +{_NAME}\b(?![\"']))")
_DISPLAYS = {ast.Set: "set", ast.SetComp: "set", ast.Dict: "dict", ast.List: "list", ast.Tuple: "tuple"}
_BUILDS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_TOLD_KEYWORDS = frozenset({"copy", "dtype", "out", "deep", "order", "axis", "maxsize"})


@dataclass
class Facts:
    """What a patch's own lines of one side hold: how often, and where first.

    What stands on the lines around them is there on both sides.
    """

    counts: dict[Fact, int] = field(default_factory=dict)
    places: dict[Fact, tuple[str, int]] = field(default_factory=dict)
    """Path and line of the first."""
    kept: set[str] = field(default_factory=set)
    """Functions around them, which begin on lines that are nobody's own."""
    code: bool = False
    """Whether there is a statement among them, other than a docstring."""

    def of(self, kind: str) -> dict[str, int]:
        """How often each name of a kind is found."""
        return {name: count for (one, name), count in self.counts.items() if one == kind}

    def total(self, kind: str) -> int:
        """How often a kind is found."""
        return sum(count for (one, _), count in self.counts.items() if one == kind)


def read(facts: Facts, path: str, lines: Lines) -> None:
    """Add what the lines of one side of a hunk hold.

    Args:
        facts: what was found before, and is added to.
        path: of the file.
        lines: the lines; what is on those that the patch leaves alone does not count.
    """
    for tree, above in _trees(lines):
        _Counter(facts, path, lines, above).visit(tree)


def _trees(lines: Lines) -> Iterator[tuple[ast.Module, int]]:
    """Programs that lines make, each with what to add to its line numbers to get places among the lines.

    Lines that make none are left out.
    """
    texts = lines.texts
    code = [place for place in lines.changed if _indent(texts[place]) is not None]
    start, end = _outside_of_strings(texts) if code else (0, 0)

    def shows(start: int, end: int) -> bool:
        """Whether there is code on a changed line."""
        at = bisect_left(code, start)
        return at < len(code) and code[at] < end

    if not shows(start, end):
        return
    few = _narrowed(texts, [place for place in lines.changed if start <= place < end], start, end)
    if few != (start, end) and not isinstance(tree := _parsed(texts, *few), int):
        yield tree
        return
    for _ in range(MOST_CUTS):
        prose = next((place for place in range(start, end) if _PROSE.match(texts[place])), end)
        fault = prose
        if shows(start, prose):
            tree = _parsed(texts, start, prose)
            if isinstance(tree, int):
                fault = tree
                if shows(start, fault):
                    # What stands before the fault may be no program either, as within brackets, and then says nothing.
                    tree = _parsed(texts, start, fault)
            if not isinstance(tree, int):
                yield tree
        start = fault + 1


def _narrowed(texts: Sequence[str], changed: Sequence[int], start: int, end: int) -> tuple[int, int]:
    """Changed lines, with a loop that they are in and what they begin; all lines where these would be torn apart."""
    loops = (place for place in range(start, changed[0]) if _LOOP.match(texts[place]))
    first = next(loops, changed[0])
    last = end if any(_OPENS.search(texts[place]) for place in changed) else changed[-1] + 1
    above, few = "\n".join(texts[start:first]), "\n".join(texts[first:last])
    whole = _closed(above) and _closed(few) and _quotes(few) % 2 == 0
    return (first, last) if whole else (start, end)


def _closed(text: str) -> bool:
    """Whether as many brackets are closed as are opened."""
    count = text.count
    return count("(") + count("[") + count("{") == count(")") + count("]") + count("}")


def _quotes(text: str) -> int:
    """How often a docstring begins or ends."""
    return len(_QUOTES.findall(text)) if '"""' in text or "'''" in text else 0


def _parsed(texts: Sequence[str], start: int, end: int) -> tuple[ast.Module, int] | int:
    """The program that lines make, with what to add to its line numbers, or the place of the first that is at fault."""
    header, body = _program(texts[start:end])
    above = start - len(header) - 1
    try:
        return syntax_tree.parse("\n".join([*header, *body, ""]), FILENAME), above
    except SyntaxError as error:
        return min(max((error.lineno or 1) + above, start), end - 1)
    except syntax_tree.UNREADABLE:
        return end - 1


def _outside_of_strings(texts: Sequence[str]) -> tuple[int, int]:
    """From where to where lines are no part of a docstring of which the hunk has only the beginning or the end."""
    if _quotes("\n".join(texts)) % 2 == 0:
        return 0, len(texts)
    quoted = [place for place, text in enumerate(texts) for _ in _QUOTES.findall(text)]
    before = next((text for text in reversed(texts[: quoted[0]]) if text.strip()), "")
    opens = before.rstrip().endswith(":") or texts[quoted[0]].rstrip()[-3:] not in ('"""', "'''")
    return (0, quoted[-1]) if opens else (quoted[0] + 1, len(texts))


def _program(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Lines that open the blocks which the given ones are in, and the given ones, the last block closed.

    Where lines step out of a block that they did not open, a block is opened for them to step out of.
    """
    code = ((line, indent) for line in lines if (indent := _indent(line)) is not None)
    first, lowest = next(code, ("", -1))
    if lowest < 0:
        return [], list(lines)
    openers = {}
    if _CONTINUES.match(first):
        openers[lowest] = ("try" if _HANDLES.match(first) else "if 1") + ": pass"
    for line in lines:
        if lowest == 0:
            break
        # Most lines are no less indented than those before them, and need no closer look.
        if not line[:lowest].isspace() and (indent := _indent(line)) is not None and indent < lowest:
            lowest = indent
            openers[indent] = "try:" if _HANDLES.match(line) else "if 1:"
    if lowest > 0:
        openers.setdefault(0, "if 1:")
    header = [" " * indent + openers[indent] for indent in sorted(openers)]
    last, indent = next((line, indent) for line in reversed(lines) if (indent := _indent(line)) is not None)
    closing = []
    if last.rstrip().endswith(":"):
        closing = [" " * (indent + 1) + "pass"]
    elif last.lstrip().startswith("@"):
        closing = [" " * indent + "def _(): pass"]
    return header, [*lines, *closing]


def _indent(line: str) -> int | None:
    """How far a line is indented; None where there is no code on it."""
    code = line.lstrip()
    if not code or code[0] == "#":
        return None
    return len(line) - len(code) if "\t" not in line else len(line.expandtabs()) - len(line.expandtabs().lstrip())


class _Counter:
    """Counts what is in a tree."""

    def __init__(self, facts: Facts, path: str, lines: Lines, above: int) -> None:
        self._facts, self._counts, self._places = facts, facts.counts, facts.places
        self._path, self._offset = path, lines.start + above
        self._ordered = [place - above for place in lines.changed]
        self._changed = set(self._ordered)

    def visit(self, tree: ast.AST) -> None:
        """Go through a tree; of each node it is known whether a loop repeats it."""
        stack: list[tuple[Any, bool]] = [(tree, False)]
        while stack:
            node, repeated = stack.pop()
            kind = _KINDS[type(node)]
            if kind.statement:
                if not self._holds_changes(node):
                    continue
                self._facts.code = self._facts.code or self._does_something(node)
            if kind.reader is not None:
                kind.reader(self, node, repeated)
            inside = (repeated or kind.repeats) and not kind.starts
            for name in kind.fields:
                child = getattr(node, name)
                if type(child) is list:
                    for one in child:
                        if type(one) in _KINDS:
                            stack.append((one, inside))
                elif type(child) in _KINDS:
                    # What a loop goes through is evaluated once.
                    stack.append((child, repeated if name == "iter" else inside))

    def _does_something(self, node: Any) -> bool:
        """Whether a statement that holds changes is more than a docstring, or a block around one."""
        if hasattr(node, "body"):
            return any(map(self.is_changed, (node, *getattr(node, "decorator_list", ()))))
        return not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))

    def _holds_changes(self, node: Any) -> bool:
        """Whether a statement stands on a changed line, with its decorators."""
        decorators = getattr(node, "decorator_list", ())
        place = bisect_left(self._ordered, (decorators[0] if decorators else node).lineno)
        return place < len(self._ordered) and self._ordered[place] <= node.end_lineno

    def is_changed(self, node: Any) -> bool:
        """Whether a node begins on a changed line."""
        return node.lineno in self._changed

    def keep(self, name: str) -> None:
        """Note a function that is there on both sides, around a changed line."""
        self._facts.kept.add(name)

    def add(self, kind: str, name: str, node: Any) -> None:
        """Note one finding, if it is on a changed line."""
        if node.lineno in self._changed:
            fact = (kind, name)
            self._counts[fact] = self._counts.get(fact, 0) + 1
            if fact not in self._places:
                self._places[fact] = (self._path, node.lineno + self._offset)


def _name(node: ast.AST) -> str:
    """The last part of a dotted name, of what is called or subscripted too."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Call):
        return _name(node.func)
    return _name(node.value) if isinstance(node, ast.Subscript) else ""


def _loop(counter: _Counter, node: ast.AST, repeated: bool) -> None:
    counter.add("loop", "", node)


def _comprehension(counter: _Counter, node: ast.AST, repeated: bool) -> None:
    counter.add("comprehension", type(node).__name__, node)


def _call(counter: _Counter, node: ast.Call, repeated: bool) -> None:
    name = _name(node.func)
    counter.add("repeated call" if repeated else "call", name, node)
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        counter.add("of module", node.func.value.id, node)
    for one in node.keywords:
        if one.arg in _TOLD_KEYWORDS:
            value = repr(one.value.value) if isinstance(one.value, ast.Constant) else ""
            counter.add("keyword", f"{one.arg}={value}", node)


def _if(counter: _Counter, node: ast.If, repeated: bool) -> None:
    if len(node.body) == 1 and not node.orelse and isinstance(node.body[0], ast.Return | ast.Continue | ast.Break):
        counter.add("exit", type(node.body[0]).__name__.lower(), node)
    test = node.test
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is) and isinstance(test.left, ast.Attribute):
        counter.add("unset attribute", test.left.attr, node)
    counter.add("branch", "", node)


def _compare(counter: _Counter, node: ast.Compare, repeated: bool) -> None:
    for operator, other in zip(node.ops, node.comparators, strict=True):
        if isinstance(operator, ast.In | ast.NotIn):
            counter.add("member of", _DISPLAYS.get(type(other), _name(other)), node)
        elif isinstance(operator, ast.Is | ast.IsNot):
            counter.add("identity", "", node)
        elif isinstance(operator, ast.Eq | ast.NotEq):
            counter.add("equality", "", node)


def _function(counter: _Counter, node: ast.FunctionDef | ast.AsyncFunctionDef, repeated: bool) -> None:
    if not counter.is_changed(node):
        counter.keep(node.name)
    public = not node.name.startswith("_")
    counter.add("function" if public else "private function", node.name, node)
    for decorator in node.decorator_list:
        counter.add("decorator", _name(decorator), decorator)
    parameters = node.args
    for one in (*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs):
        counter.add("parameter", f"{node.name}.{one.arg}", one)


def _class(counter: _Counter, node: ast.ClassDef, repeated: bool) -> None:
    counter.add("class", node.name, node)


def _raise(counter: _Counter, node: ast.Raise, repeated: bool) -> None:
    counter.add("raise", _name(node.exc) if node.exc else "", node)


def _import(counter: _Counter, node: ast.Import | ast.ImportFrom, repeated: bool) -> None:
    modules = [node.module or "."] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
    for module in modules:
        counter.add("inner import" if node.col_offset else "import", module, node)


def _assign(counter: _Counter, node: ast.Assign, repeated: bool) -> None:
    target = node.targets[0]
    if isinstance(target, ast.Name):
        if isinstance(node.value, ast.Attribute):
            counter.add("alias", target.id, node)
        if not node.col_offset:
            counter.add("module value", target.id, node)
    elif isinstance(target, ast.Subscript):
        counter.add("stored in", _name(target), node)


def _operation(counter: _Counter, node: ast.BinOp | ast.AugAssign, repeated: bool) -> None:
    if isinstance(node.op, ast.RShift | ast.LShift | ast.BitAnd | ast.FloorDiv):
        counter.add("integer operation", type(node.op).__name__, node)


def _try(counter: _Counter, node: ast.Try, repeated: bool) -> None:
    counter.add("try", "", node)


def _yield(counter: _Counter, node: ast.AST, repeated: bool) -> None:
    counter.add("yield", "", node)


# Nothing but what a signal asks for: most of the time of the sieve is spent here.
_READERS: dict[type, Any] = {
    ast.For: _loop, ast.AsyncFor: _loop, ast.While: _loop,
    **dict.fromkeys(_BUILDS, _comprehension),
    ast.Call: _call, ast.If: _if, ast.Compare: _compare, ast.FunctionDef: _function, ast.AsyncFunctionDef: _function,
    ast.ClassDef: _class, ast.Raise: _raise, ast.Import: _import, ast.ImportFrom: _import, ast.Assign: _assign,
    ast.BinOp: _operation, ast.AugAssign: _operation, ast.Try: _try, ast.Yield: _yield,
}  # fmt: skip

_REPEATS = frozenset({ast.For, ast.AsyncFor, ast.While, *_BUILDS})
_STARTS = frozenset({ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda})  # their bodies run when they are called
_LEAVES = (ast.Name, ast.Constant, ast.Pass, ast.alias)  # most nodes; nothing is in them
_NO_NODES = frozenset(
    {"id", "attr", "arg", "name", "names", "module", "level", "kind", "type_comment", "ctx", "op", "ops"}
)


class _Kind(NamedTuple):
    """What the counter does with nodes of a type."""

    statement: bool
    reader: Any
    repeats: bool
    starts: bool
    fields: tuple[str, ...]
    """Where in a node others are, of those that are looked at."""


_KINDS = {
    kind: _Kind(
        issubclass(kind, ast.stmt),
        _READERS.get(kind),
        kind in _REPEATS,
        kind in _STARTS,
        tuple(name for name in kind._fields if name not in _NO_NODES),
    )
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST) and not issubclass(kind, _LEAVES)
}
