"""What speaks for and against performance work in one pull request, each signal with the line that shows it.

Here belongs looking: in what people say (title, body, notes, comments), in the lines of code, in the syntax of Python,
and in the shape of the change. Patterns and names are data in `sieve_rules.toml`; what a signal weighs is in
`sieve_weights.toml`, and what follows from the weight in `sieve.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from formulamine.discover.diff import FileDiff
from formulamine.discover.sieve_rules import LineKey, Place, SieveRules, SignalRule
from formulamine.discover.syntax import Facts, read
from formulamine.discover.syntax_signals import SYNTAX_SIGNALS, Change

QUOTE_LENGTH = 100  # characters; longer evidence is cut
PYTHON = (".py", ".pyi")
LINE_LENGTH = 1000  # characters that are looked at; longer lines are data, and patterns take their time over them
# Lines of one side whose syntax is read. What is longer is data or a new package, of which the beginning says enough;
# it bounds the time of the sieve.
MOST_SYNTAX_LINES = 400


class Placed(NamedTuple):
    """A changed line and where it stands."""

    path: str
    number: int
    text: str

    def quoted(self, mark: str) -> str:
        """The line as evidence."""
        return f"{self.path}:{self.number} {mark} {self.text.strip()[:QUOTE_LENGTH]}"


@dataclass
class Side:
    """The lines on one side of a patch's core files."""

    texts: set[str] = field(default_factory=set)
    found: dict[LineKey, list[Placed]] = field(default_factory=lambda: defaultdict(list))
    """Lines of code by what is found in them."""
    comments: list[Placed] = field(default_factory=list)
    """What people say in them."""
    syntax: Facts = field(default_factory=Facts)
    lines: int = 0


def find_signals(
    title: str, body: str, paths: Sequence[str], diffs: Sequence[FileDiff], rules: SieveRules
) -> dict[str, str]:
    """The signals of a pull request, each with its evidence.

    Args:
        title: of the pull request.
        body: of the pull request, or empty.
        paths: all files that it changes.
        diffs: those of them that are read; see `read_by_sieve`.
        rules: from `load_rules`.

    Returns:
        Evidence by name of the signal ("code cache"): words in brackets with the text around them, or
        "path:line + text of the line".
    """
    core = [one for one in diffs if rules.kind(one.path) is None]
    before, after = _sides(core, rules)
    found: dict[str, str] = {}
    for place, texts in _said(title, body, paths, diffs, after, rules):
        patterns = rules.said.get(place)
        if patterns is None:
            continue
        for text in texts:
            for name, words in patterns.search(text.text):
                where = f"{text.path}:{text.number} " if text.number else ""
                found.setdefault(name, f"{where}[{words[0]}] {text.text.strip()[:QUOTE_LENGTH]}")
    for rule in rules.signals:
        if rule.in_lines and (quote := _in_code(rule, before, after)):
            found[rule.key] = quote
    change = Change(before.syntax, after.syntax, rules.words)
    texts_at = _Texts(core)
    for name, signal in SYNTAX_SIGNALS.items():
        shown = signal(change)
        if shown is not None:
            mark, fact = shown
            path, number = (before if mark == "-" else after).syntax.places[fact]
            found[f"syntax {name}"] = Placed(path, number, texts_at.of(mark, path, number)).quoted(mark)
    found |= _shape(paths, core, before, after, rules)
    if any(name in found for name in rules.reverts) and "title performance" not in found:
        found.pop("shape tests_kept", None)  # what takes a change back needs no test, whatever the change was
    return found


def read_by_sieve(path: str, rules: SieveRules) -> bool:
    """Whether the lines of a file are looked at."""
    kind = rules.kind(path)
    return kind is None or kind == "tests" or rules.text.notes.search(path) is not None


def _said(
    title: str, body: str, paths: Sequence[str], diffs: Sequence[FileDiff], after: Side, rules: SieveRules
) -> Iterator[tuple[Place, Iterable[Placed]]]:
    """What people say, by where they say it."""
    yield "title", [Placed("", 0, title)]
    yield "body", (Placed("", 0, line[:LINE_LENGTH]) for line in rules.text.noise.sub("", body).splitlines())
    yield "opening", [Placed("", 0, body.lstrip().partition("\n")[0])]
    yield "comments", after.comments
    yield "files", (Placed("", 0, path) for path in paths)
    yield "core", (Placed("", 0, path) for path in paths if rules.kind(path) is None)
    yield "tests", (line for one in diffs if rules.kind(one.path) == "tests" for line in _added(one))
    notes = [one for one in diffs if rules.kind(one.path) not in (None, "tests")]
    yield "notes", (line for one in notes for line in _added(one))


def _added(diff: FileDiff) -> Iterator[Placed]:
    for hunk in diff.hunks:
        number = hunk.new_start
        for line in hunk.lines:
            if line[0] == "+":
                yield Placed(diff.path, number, line[1 : LINE_LENGTH + 1])
            number += line[0] != "-"


def _sides(core: Sequence[FileDiff], rules: SieveRules) -> tuple[Side, Side]:
    """Both sides of the core files, looked through."""
    before, after = Side(), Side()
    for diff in core:
        python = diff.path.endswith(PYTHON)
        native = rules.text.native.search(diff.path) is not None
        for hunk in diff.hunks:
            old, new = hunk.old_start, hunk.new_start
            removed: set[int] = set()
            added: set[int] = set()
            for line in hunk.lines:
                mark = line[0]
                if mark == "+":
                    _look(after, diff.path, new, line[1 : LINE_LENGTH + 1], native, rules)
                    added.add(new)
                elif mark == "-":
                    _look(before, diff.path, old, line[1 : LINE_LENGTH + 1], native, rules)
                    removed.add(old)
                old += mark != "+"
                new += mark != "-"
            if python and max(before.lines, after.lines) <= MOST_SYNTAX_LINES:
                read(before.syntax, diff.path, hunk.before(), frozenset(removed))
                read(after.syntax, diff.path, hunk.after(), frozenset(added))
    return before, after


def _look(side: Side, path: str, number: int, text: str, native: bool, rules: SieveRules) -> None:
    said, keys = rules.look(text)
    side.lines += 1
    side.texts.add(text)
    if said:
        side.comments.append(Placed(path, number, said))
    for key in keys:
        if native or key not in rules.native_only:
            side.found[key].append(Placed(path, number, text))


def _in_code(rule: SignalRule, before: Side, after: Side) -> str:
    """Lines that came or went more often than they went or came, so that moved code is no evidence."""
    quotes = []
    for mark, pattern, here, there in (("-", rule.removed, before, after), ("+", rule.pattern, after, before)):
        if pattern is None:
            continue
        found = here.found.get((mark, rule.key), [])
        if len(found) <= len(there.found.get((mark, rule.key), [])):
            return ""
        new = next((line for line in found if line.text not in there.texts), found[0])
        quotes.append(new.quoted(mark))
    return " ".join(quotes)


def _shape(
    paths: Sequence[str], core: Sequence[FileDiff], before: Side, after: Side, rules: SieveRules
) -> dict[str, str]:
    """Signals of how much is changed, and of what."""
    found = {}
    if not before.lines:
        found["shape only_added"] = f"{after.lines} lines added and none removed in {len(core)} core files"
    code = before.syntax.code or after.syntax.code or any(rules.text.native.search(one.path) for one in core)
    if not code and all(one.path.endswith(PYTHON) for one in core):
        found["shape no_code"] = f"in {len(core)} core files no statement is changed"
    if code and not any(rules.kind(path) == "tests" for path in paths):
        found["shape tests_kept"] = f"{len(paths)} files change and none is a test"
    return found


class _Texts:
    """Texts of lines by their number."""

    def __init__(self, diffs: Sequence[FileDiff]) -> None:
        self._diffs: Mapping[str, FileDiff] = {one.path: one for one in diffs}

    def of(self, mark: str, path: str, number: int) -> str:
        """One line before ("-") or afterwards ("+")."""
        for hunk in self._diffs[path].hunks:
            start = hunk.old_start if mark == "-" else hunk.new_start
            if start <= number < start + len(hunk.lines):
                for at, text in hunk.before() if mark == "-" else hunk.after():
                    if at == number:
                        return text
        return ""
