"""What speaks for and against performance work in one pull request, each signal with the line that shows it.

Here belongs looking: in what people say (title, body, notes, comments), in the lines of code, in the syntax of Python,
and in the shape of the change. Patterns and names are data in `sieve_rules.toml`; what a signal weighs is in
`sieve_weights.toml`, and what follows from the weight in `sieve.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from formulamine.discover.diff import FileDiff, Lines
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
    """A line and where it stands."""

    path: str
    number: int
    text: str

    def quoted(self, mark: str) -> str:
        """The line as evidence."""
        return f"{self.path}:{self.number} {mark} {self.text.strip()[:QUOTE_LENGTH]}"


class Texts(NamedTuple):
    """Texts of one place, looked through together."""

    texts: Sequence[str]
    path: str = ""
    numbers: Sequence[int] = ()
    """Of lines of a file."""

    @classmethod
    def of_lines(cls, path: str, hunks: Iterable[Lines]) -> Texts:
        """The patch's own lines on one side of a file."""
        numbers, texts = [], []
        for lines in hunks:
            numbers += [lines.start + place for place in lines.changed]
            texts += [lines.texts[place][:LINE_LENGTH] for place in lines.changed]
        return cls(texts, path, numbers)

    def placed(self, place: int) -> Placed:
        """One of them."""
        return Placed(self.path, self.numbers[place] if self.numbers else 0, self.texts[place])


@dataclass
class Side:
    """The lines on one side of a patch's core files."""

    texts: set[str] = field(default_factory=set)
    found: dict[LineKey, list[Placed]] = field(default_factory=lambda: defaultdict(list))
    """Lines of code by what is found in them."""
    files: list[Texts] = field(default_factory=list)
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
        for key, at, words in patterns.search_lines(texts.texts) if patterns else ():
            if key not in found:
                one = texts.placed(at)
                where = f"{one.path}:{one.number} " if one.number else ""
                found[key] = f"{where}[{words[0]}] {one.text.strip()[:QUOTE_LENGTH]}"
    for rule in rules.signals:
        if rule.in_lines and (quote := _in_code(rule, before, after)):
            found[rule.key] = quote
    change = Change(before.syntax, after.syntax, rules.words)
    for name, signal in SYNTAX_SIGNALS.items():
        shown = signal(change)
        if shown is not None:
            mark, fact = shown
            path, number = (before if mark == "-" else after).syntax.places[fact]
            found[f"syntax {name}"] = Placed(path, number, _text(core, mark, path, number)).quoted(mark)
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
) -> Iterator[tuple[Place, Texts]]:
    """What people say, by where they say it."""
    yield "title", Texts([title])
    yield "body", Texts([line[:LINE_LENGTH] for line in rules.text.noise.sub("", body).splitlines()])
    yield "opening", Texts([body.lstrip().partition("\n")[0]])
    for file in after.files:
        yield "comments", _comments(file, rules)
    yield "files", Texts(paths)
    yield "core", Texts([path for path in paths if rules.kind(path) is None])
    for one in diffs:
        if rules.kind(one.path) is not None:
            place: Place = "tests" if rules.kind(one.path) == "tests" else "notes"
            yield place, Texts.of_lines(one.path, (hunk.after for hunk in one.hunks))


def _comments(file: Texts, rules: SieveRules) -> Texts:
    """What people say in those lines of a file in which something is found that is looked for in comments."""
    places = sorted({place for _, place, _ in rules.said["comments"].search_lines(file.texts)})
    said = [(place, words[0]) for place in places if (words := rules.text.said.search(file.texts[place]))]
    return Texts([words for _, words in said], file.path, [file.numbers[place] for place, _ in said])


def _sides(core: Sequence[FileDiff], rules: SieveRules) -> tuple[Side, Side]:
    """Both sides of the core files, looked through."""
    before, after = Side(), Side()
    for diff in core:
        native = rules.text.native.search(diff.path) is not None
        _look(before, Texts.of_lines(diff.path, (hunk.before for hunk in diff.hunks)), native, rules)
        _look(after, Texts.of_lines(diff.path, (hunk.after for hunk in diff.hunks)), native, rules)
        for hunk in diff.hunks:
            before.lines += len(hunk.before.changed)
            after.lines += len(hunk.after.changed)
            if diff.path.endswith(PYTHON) and max(before.lines, after.lines) <= MOST_SYNTAX_LINES:
                read(before.syntax, diff.path, hunk.before)
                read(after.syntax, diff.path, hunk.after)
    return before, after


def _look(side: Side, file: Texts, native: bool, rules: SieveRules) -> None:
    side.files.append(file)
    side.texts.update(file.texts)
    for key, place, _ in rules.in_code.search_lines(file.texts):
        if (native or key not in rules.native_only) and not rules.text.silent.search(file.texts[place]):
            side.found[key].append(file.placed(place))


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


def _text(core: Sequence[FileDiff], mark: str, path: str, number: int) -> str:
    """One line of a core file before ("-") or afterwards ("+")."""
    for diff in core:
        for hunk in diff.hunks if diff.path == path else ():
            lines = hunk.before if mark == "-" else hunk.after
            if lines.start <= number < lines.start + len(lines.texts):
                return lines.texts[number - lines.start]
    return ""
