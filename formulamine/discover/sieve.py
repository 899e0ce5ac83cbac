"""The sieve: drop pull requests that clearly are no performance work, and write down what speaks for the others.

Here belong the rules' mechanics; every list, pattern and weight is data in `sieve_rules.toml`. Whether a candidate is
performance work is the judge's to say, and whether it got faster is measured, so a rule drops on clear evidence only:
what is dropped here is lost for good, what is kept costs a judgement. It asks nothing of the outside world.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Literal, Self

from formulamine.discover.diff import FileDiff, parse_patch
from formulamine.items import Done, Rejected
from formulamine.settings import SieveSettings
from formulamine.tables import CandidatePR, FileChange, Record

RULES_FILE = Path(__file__).with_name("sieve_rules.toml")
CHARACTERS_PER_TOKEN = 4  # the unit of MAX_PATCH_TOKENS
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


class SignalRule(Record):
    """One thing that speaks for performance, and where it is looked for."""

    name: str
    where: Literal["title", "body", "notes", "comments", "code", "files", "core"]
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
    core = [path for path in paths if _match(rules.not_core, path) is None]
    if not core:
        kinds = Counter(_match(rules.not_core, path) for path in paths)
        evidence = ", ".join(f"{number} of {kind}" for kind, number in kinds.items())
        return Rejected(SieveReason.NO_CORE_FILE, f"{evidence}: {_listed(paths)}")
    if evidence := _too_large(pr, patch, settings):
        return Rejected(SieveReason.TOO_LARGE, evidence)
    if pr.is_bot and all(_match(rules.pins, path) for path in core):
        return Rejected(SieveReason.BOT_PINS, f"{pr.author} changes {_listed(core)}")
    lines = PatchLines.of(parse_patch(patch), rules)
    bump = rules.version_bump.title.search(pr.title)
    if bump and lines.core and all(map(rules.version_bump.line.search, lines.core)):
        return Rejected(SieveReason.VERSION_BUMP, f"title {bump[0]!r}, and only such lines: {_listed(lines.core)}")
    signals = {
        f"{rule.where} {rule.name}: {quote}": rule.weight
        for rule in rules.signals
        if (quote := _evidence(rule, pr, lines, core, rules))
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
class PatchLines:
    """The lines of a patch, by what they are."""

    core: tuple[str, ...]
    """Every line added to or removed from core files."""
    added: tuple[str, ...]
    """Code added to core files."""
    removed: tuple[str, ...]
    """Code removed from core files."""
    comments: tuple[str, ...]
    """What people say in lines added to core files."""
    notes: tuple[str, ...]
    """Lines added to files of text: documentation and change logs."""

    @classmethod
    def of(cls, diffs: Iterable[FileDiff], rules: SieveRules) -> Self:
        """Sort the lines of a patch."""
        added: list[str] = []
        removed: list[str] = []
        notes: list[str] = []
        for one in diffs:
            if _match(rules.not_core, one.path) is None:
                added += [line[:LINE_LENGTH] for line in one.added]
                removed += [line[:LINE_LENGTH] for line in one.removed]
            elif rules.text.notes.search(one.path):
                notes += [line[:LINE_LENGTH] for line in one.added]
        silent, said = rules.text.silent, rules.text.said
        return cls(
            core=(*added, *removed),
            added=tuple(line for line in added if not silent.search(line)),
            removed=tuple(line for line in removed if not silent.search(line)),
            comments=tuple(found[0] for line in added if (found := said.search(line))),
            notes=tuple(notes),
        )


def _evidence(rule: SignalRule, pr: SieveInput, lines: PatchLines, core: list[str], rules: SieveRules) -> str:
    """What a signal's rule finds, quoted; empty where it finds nothing."""
    match rule.where:
        case "code":
            return _in_code(rule, lines)
        case "title":
            return _quote(rule, [pr.title])
        case "body":
            return _quote(rule, (line[:LINE_LENGTH] for line in rules.text.noise.sub("", pr.body).splitlines()))
        case "notes":
            return _quote(rule, lines.notes)
        case "comments":
            return _quote(rule, lines.comments)
        case "files":
            return _quote(rule, [file.path for file in pr.files])
        case "core":
            return _quote(rule, core)


def _in_code(rule: SignalRule, lines: PatchLines) -> str:
    """Lines that came or went more often than they went or came, so that moved code is no evidence."""
    quotes = []
    for mark, pattern, here, there in (
        ("-", rule.removed, lines.removed, lines.added),
        ("+", rule.pattern, lines.added, lines.removed),
    ):
        if pattern is None:
            continue
        found = [line for line in here if pattern.search(line)]
        if len(found) <= sum(1 for line in there if pattern.search(line)):
            return ""
        moved = set(there)
        quotes.append(f"{mark} {next((line for line in found if line not in moved), found[0]).strip()[:QUOTE_LENGTH]}")
    return " ".join(quotes)


def _quote(rule: SignalRule, texts: Iterable[str]) -> str:
    """The first text in which a pattern is found, with the words found in brackets."""
    for text in texts:
        if rule.pattern and (found := rule.pattern.search(text)):
            return f"[{found[0]}] {text.strip()[:QUOTE_LENGTH]}"
    return ""


def _match(rules: Sequence[Named], text: str) -> str | None:
    """Name of the first pattern that is found."""
    return next((rule.name for rule in rules if rule.pattern.search(text)), None)


def _listed(items: Iterable[str]) -> str:
    """The first few of many, for a detail that people read."""
    shown = [item.strip()[:QUOTE_LENGTH] for item in items]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
