"""The sieve: drop pull requests that clearly are no performance work, and write down what speaks for the others.

Here belong the rules' mechanics; every list, pattern and weight is data in `sieve_rules.toml`. Whether a candidate is
performance work is the judge's to say, and whether it got faster is measured, so a rule drops on clear evidence only:
what is dropped here is lost for good, what is kept costs a judgement. It asks nothing of the outside world.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Literal, Self

from formulamine.discover.diff import parse_patch
from formulamine.discover.patterns import Patterns
from formulamine.items import Done, Rejected
from formulamine.settings import SieveSettings
from formulamine.tables import CandidatePR, FileChange, Record

RULES_FILE = Path(__file__).with_name("sieve_rules.toml")
CHARACTERS_PER_TOKEN = 4  # the unit of MAX_PATCH_TOKENS
REMEMBERED_LINES = 20_000  # a few MB
QUOTE_LENGTH = 100  # characters; longer evidence is cut
LINE_LENGTH = 1000  # characters that are looked at; longer lines are data, and patterns take their time over them


class SieveReason(StrEnum):
    """The rule that dropped a pull request."""

    EMPTY_PATCH = "empty_patch"
    NO_CORE_FILE = "no_core_file"
    TOO_LARGE = "too_large"
    BOT_PINS = "bot_pins"
    VERSION_BUMP = "version_bump"
    REVERT = "revert"
    NOT_PERFORMANCE_TITLE = "not_performance_title"


class SieveInput(Record):
    """What the sieve reads of a pull request; the commits name its patch."""

    pr_id: str
    repo: str
    base_sha: str
    merge_sha: str
    title: str
    body: str
    author: str
    is_bot: bool
    files: list[FileChange]


class Named(Record):
    """A pattern with the name that is given as evidence."""

    name: str
    pattern: re.Pattern[str]


class VersionBump(Record):
    """How a version bump is titled, and what each line of it looks like."""

    title: re.Pattern[str]
    line: re.Pattern[str]


class Revert(Record):
    """How a revert is titled, or what stands in its body."""

    title: re.Pattern[str]
    body: re.Pattern[str]


class Text(Record):
    """What is said by people, in a patch and around it."""

    noise: re.Pattern[str]
    """Parts of a body that say nothing."""
    notes: re.Pattern[str]
    """Paths of files in which people tell what changed."""
    said: re.Pattern[str]
    """The comment in a line of code, or a line that is prose."""
    silent: re.Pattern[str]
    """Lines of core files that are no code."""


Place = Literal["title", "body", "notes", "comments", "code", "files", "core"]
LineKey = str | tuple[str, int]


class SignalRule(Record):
    """One thing that speaks for performance, and where it is looked for."""

    name: str
    where: Place
    weight: float
    pattern: re.Pattern[str] | None = None
    removed: re.Pattern[str] | None = None


class SieveRules(Record):
    """All of `sieve_rules.toml`."""

    enough: float
    not_core: list[Named]
    pins: list[Named]
    version_bump: VersionBump
    revert: Revert
    not_performance: list[Named]
    text: Text
    signals: list[SignalRule]

    @cached_property
    def kinds(self) -> Patterns[str]:
        """What a file is that is no code."""
        return Patterns({rule.name: rule.pattern for rule in self.not_core})

    @cached_property
    def said(self) -> dict[Place, Patterns[int]]:
        """Signals by where they are looked for, but for those in code; each named by its number."""
        by_place: dict[Place, dict[int, re.Pattern[str]]] = defaultdict(dict)
        for number, rule in enumerate(self.signals):
            if rule.where != "code" and rule.pattern:
                by_place[rule.where][number] = rule.pattern
        return {place: Patterns(patterns) for place, patterns in by_place.items()}

    @cached_property
    def look(self) -> Callable[[str], tuple[str, tuple[LineKey, ...]]]:
        """What people say in a line of a core file, and the signals in it if it is code, by mark and number.

        Answers are remembered: two lines of three come again, in the same pull request or when they go.
        """
        patterns: dict[LineKey, re.Pattern[str]] = {"silent": self.text.silent, "said": self.text.said}
        for number, rule in enumerate(self.signals):
            if rule.where == "code":
                patterns |= {("-", number): rule.removed} if rule.removed else {}
                patterns |= {("+", number): rule.pattern} if rule.pattern else {}
        in_line = Patterns(patterns)

        @lru_cache(REMEMBERED_LINES)
        def look(line: str) -> tuple[str, tuple[LineKey, ...]]:
            found = dict(in_line.search(line))
            said = found.pop("said", None)
            return said[0] if said else "", () if "silent" in found else tuple(found)

        return look


@cache
def load_rules(path: Path = RULES_FILE) -> SieveRules:
    """Read the rules.

    Raises:
        ValueError: the file is no TOML, lacks a part, or holds a pattern that does not compile.
    """
    return SieveRules.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))


def sieve(pr: SieveInput, patch: bytes, rules: SieveRules, settings: SieveSettings) -> Done | Rejected:
    """Say whether a pull request may be performance work.

    Args:
        pr: the pull request.
        patch: its diff from base to merge commit.
        rules: from `load_rules`.
        settings: the size limits.

    Returns:
        Done(CandidatePR), or Rejected with the rule as reason and its evidence as detail.

    Raises:
        DiffError: the patch is none of git's.
    """
    paths = [file.path for file in pr.files]
    if not paths or not patch:
        return Rejected(SieveReason.EMPTY_PATCH, f"{len(paths)} files, a diff of {len(patch)} bytes")
    kinds = {path: _kind(path, rules) for path in paths}
    core = [path for path in paths if kinds[path] is None]
    if not core:
        evidence = ", ".join(f"{number} of {kind}" for kind, number in Counter(map(kinds.get, paths)).items())
        return Rejected(SieveReason.NO_CORE_FILE, f"{evidence}: {_listed(paths)}")
    if evidence := _too_large(pr, patch, settings):
        return Rejected(SieveReason.TOO_LARGE, evidence)
    if pr.is_bot and all(any(rule.pattern.search(path) for rule in rules.pins) for path in core):
        return Rejected(SieveReason.BOT_PINS, f"{pr.author} changes {_listed(core)}")
    lines = PatchLines.of(patch, rules, kinds)
    changed = [*lines.added.lines, *lines.removed.lines]
    bump = rules.version_bump.title.search(pr.title)
    if bump and changed and all(map(rules.version_bump.line.search, changed)):
        return Rejected(SieveReason.VERSION_BUMP, f"title {bump[0]!r}, and only such lines: {_listed(changed)}")
    quotes = _quotes(pr, lines, core, rules)
    signals = {
        f"{rule.where} {rule.name}: {quotes[number]}": rule.weight
        for number, rule in enumerate(rules.signals)
        if number in quotes
    }
    heaviest_first = sorted(signals, key=lambda signal: -signals[signal])
    score = sum(signals.values())
    if score < rules.enough and (purpose := _other_purpose(pr, rules)):
        reason, evidence = purpose
        return Rejected(reason, f"{evidence}; for performance speaks {_listed(heaviest_first) or 'nothing'}")
    return Done(
        CandidatePR(
            signals=heaviest_first,
            score=score,
            patch_sha256=hashlib.sha256(patch).hexdigest(),
            patch_tokens=len(patch) // CHARACTERS_PER_TOKEN,
            core_files=core,
        )
    )


def _too_large(pr: SieveInput, patch: bytes, settings: SieveSettings) -> str:
    """Which limit a pull request is beyond, if any."""
    sizes = {
        "files": (len(pr.files), settings.max_files),
        "changed lines": (sum(file.additions + file.deletions for file in pr.files), settings.max_changed_lines),
        "patch tokens": (len(patch) // CHARACTERS_PER_TOKEN, settings.max_patch_tokens),
    }
    return ", ".join(f"{size} {unit} > {limit}" for unit, (size, limit) in sizes.items() if size > limit)


def _other_purpose(pr: SieveInput, rules: SieveRules) -> tuple[SieveReason, str] | None:
    """What else a pull request says it is for, with the words that say so."""
    if found := rules.revert.title.search(pr.title):
        return SieveReason.REVERT, f"title {found[0]!r}"
    if found := rules.revert.body.search(pr.body):
        return SieveReason.REVERT, f"body {found[0]!r}"
    for rule in rules.not_performance:
        if found := rule.pattern.search(pr.title):
            return SieveReason.NOT_PERFORMANCE_TITLE, f"{rule.name}, title {found[0]!r}"
    return None


@dataclass(frozen=True)
class Side:
    """The lines on one side of a patch's core files."""

    lines: Sequence[str]
    """All of them."""
    code: Mapping[LineKey, Sequence[str]]
    """Lines of code by what is found in them."""
    comments: Sequence[str]
    """What people say in them."""

    @classmethod
    def of(cls, lines: Sequence[str], rules: SieveRules) -> Self:
        """Look through lines."""
        code: dict[LineKey, list[str]] = defaultdict(list)
        comments: list[str] = []
        for line in lines:
            said, keys = rules.look(line)
            if said:
                comments.append(said)
            for key in keys:
                code[key].append(line)
        return cls(lines, code, comments)


@dataclass(frozen=True)
class PatchLines:
    """The lines of a patch, by what they are."""

    added: Side
    removed: Side
    notes: Sequence[str]
    """Lines added to files of text: documentation and change logs."""

    @classmethod
    def of(cls, patch: bytes, rules: SieveRules, kinds: Mapping[str, str | None]) -> Self:
        """Sort the lines of a patch."""
        added: list[str] = []
        removed: list[str] = []
        notes: list[str] = []
        read = {path for path, kind in kinds.items() if kind is None or rules.text.notes.search(path)}
        for one in parse_patch(patch, read.__contains__):
            if kinds[one.path] is None:
                added += [line[:LINE_LENGTH] for line in one.added]
                removed += [line[:LINE_LENGTH] for line in one.removed]
            else:
                notes += [line[:LINE_LENGTH] for line in one.added]
        return cls(Side.of(added, rules), Side.of(removed, rules), notes)


def _quotes(pr: SieveInput, lines: PatchLines, core: Sequence[str], rules: SieveRules) -> dict[int, str]:
    """What the signals find, quoted, by their number."""
    texts: dict[Place, Iterable[str]] = {
        "title": [pr.title],
        "body": (line[:LINE_LENGTH] for line in rules.text.noise.sub("", pr.body).splitlines()),
        "notes": lines.notes,
        "comments": lines.added.comments,
        "files": [file.path for file in pr.files],
        "core": core,
    }
    quotes = {
        number: quote
        for number, rule in enumerate(rules.signals)
        if rule.where == "code" and (quote := _in_code(number, rule, lines))
    }
    for place, patterns in rules.said.items():
        for text in texts[place]:
            for number, found in patterns.search(text):
                # The first text in which a pattern is found, with the words found in brackets.
                quotes.setdefault(number, f"[{found[0]}] {text.strip()[:QUOTE_LENGTH]}")
    return quotes


def _in_code(number: int, rule: SignalRule, lines: PatchLines) -> str:
    """Lines that came or went more often than they went or came, so that moved code is no evidence."""
    quotes = []
    for mark, pattern, here, there in (
        ("-", rule.removed, lines.removed, lines.added),
        ("+", rule.pattern, lines.added, lines.removed),
    ):
        if pattern is None:
            continue
        found = here.code.get((mark, number), ())
        if len(found) <= len(there.code.get((mark, number), ())):
            return ""
        moved = set(there.lines)
        new = next((line for line in found if line not in moved), found[0])
        quotes.append(f"{mark} {new.strip()[:QUOTE_LENGTH]}")
    return " ".join(quotes)


def _kind(path: str, rules: SieveRules) -> str | None:
    """What a file is that is no code; the first rule decides."""
    return next((name for name, _ in rules.kinds.search(path)), None)


def _listed(items: Iterable[str]) -> str:
    """The first few of many, for a detail that people read."""
    shown = [item.strip()[:QUOTE_LENGTH] for item in items]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
