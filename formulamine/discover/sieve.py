"""The sieve: drop pull requests that clearly are no performance work, and write down what speaks for the others.

Here belong the rules that drop; what is looked for is in `signals.py`, and every list, pattern and weight is data in
`sieve_rules.toml` and `sieve_weights.toml`. Whether a candidate is performance work is the judge's to say, and whether
it got faster is measured, so a rule drops on clear evidence only: what is dropped here is lost for good, what is kept
costs a judgement. It asks nothing of the outside world.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from formulamine.discover.diff import FileDiff, parse_patch
from formulamine.discover.sieve_rules import SieveRules, Weights, load_rules, load_weights
from formulamine.discover.signals import QUOTE_LENGTH, find_signals, read_by_sieve
from formulamine.items import Done, Rejected
from formulamine.records import CandidatePR, FileChange, Record
from formulamine.settings import SieveSettings

CHARACTERS_PER_TOKEN = 4  # the unit of MAX_PATCH_TOKENS


class SieveReason(StrEnum):
    """The rule that dropped a pull request."""

    EMPTY_PATCH = "empty_patch"
    NO_CORE_FILE = "no_core_file"
    TOO_LARGE = "too_large"
    BOT_PINS = "bot_pins"
    VERSION_BUMP = "version_bump"
    REVERT = "revert"
    NOT_PERFORMANCE_TITLE = "not_performance_title"
    UNLIKELY = "unlikely"


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


@dataclass(frozen=True)
class Examined:
    """A pull request that no rule dropped, and what was found in it."""

    core: list[str]
    """Its core files."""
    found: Mapping[str, str]
    """Evidence by name of the signal."""


def examine(pr: SieveInput, patch: bytes, rules: SieveRules, settings: SieveSettings) -> Examined | Rejected:
    """Apply the rules that look at no score, and find the signals of what is left.

    Args:
        pr: the pull request.
        patch: its diff from base to merge commit.
        rules: from `load_rules`.
        settings: the size limits.

    Raises:
        DiffError: the patch is none of git's.
    """
    paths = [file.path for file in pr.files]
    if not paths or not patch:
        return Rejected(SieveReason.EMPTY_PATCH, f"{len(paths)} files, a diff of {len(patch)} bytes")
    core = [path for path in paths if rules.kind(path) is None]
    if not core:
        evidence = ", ".join(f"{number} of {kind}" for kind, number in Counter(map(rules.kind, paths)).items())
        return Rejected(SieveReason.NO_CORE_FILE, f"{evidence}: {_listed(paths)}")
    if evidence := _too_large(pr, patch, settings):
        return Rejected(SieveReason.TOO_LARGE, evidence)
    if pr.is_bot and all(any(rule.pattern.search(path) for rule in rules.pins) for path in core):
        return Rejected(SieveReason.BOT_PINS, f"{pr.author} changes {_listed(core)}")
    diffs = parse_patch(patch, lambda path: read_by_sieve(path, rules))
    if evidence := _version_bump(pr, diffs, rules):
        return Rejected(SieveReason.VERSION_BUMP, evidence)
    return Examined(core, find_signals(pr.title, pr.body, paths, diffs, rules))


def sieve(
    pr: SieveInput, patch: bytes, rules: SieveRules, weights: Weights, settings: SieveSettings
) -> Done | Rejected:
    """Say whether a pull request may be performance work.

    Args:
        pr: the pull request.
        patch: its diff from base to merge commit.
        rules: from `load_rules`.
        weights: from `load_weights`.
        settings: the size limits.

    Returns:
        Done(CandidatePR), or Rejected with the rule as reason and its evidence as detail.

    Raises:
        DiffError: the patch is none of git's.
    """
    seen = examine(pr, patch, rules, settings)
    if isinstance(seen, Rejected):
        return seen
    found, known = seen.found, weights.weights
    score = weights.score(found)
    heaviest_first = sorted((name for name in found if name in known), key=lambda name: -known[name])
    signals = [f"{name}: {found[name]}" for name in heaviest_first]
    if score < weights.passes_from:
        speaks = [signal for name, signal in zip(heaviest_first, signals, strict=True) if known[name] > 0]
        reason, evidence = _other_purpose(found, rules) or (
            SieveReason.UNLIKELY,
            "nothing outweighs what speaks against",
        )
        told = f"{evidence}; score {score:g}; for performance speaks {_listed(speaks) or 'nothing'}"
        return Rejected(reason, told)
    return Done(
        CandidatePR(
            signals=signals,
            score=score,
            patch_sha256=hashlib.sha256(patch).hexdigest(),
            patch_tokens=len(patch) // CHARACTERS_PER_TOKEN,
            core_files=seen.core,
        )
    )


def sieve_by_files(item: SieveInput, patch: bytes, settings: SieveSettings) -> Done | Rejected:
    """Sieve by the rules and weights in their files, which each process reads once."""
    return sieve(item, patch, load_rules(), load_weights(), settings)


def _too_large(pr: SieveInput, patch: bytes, settings: SieveSettings) -> str:
    """Which limit a pull request is beyond, if any."""
    sizes = {
        "files": (len(pr.files), settings.max_files),
        "changed lines": (sum(file.additions + file.deletions for file in pr.files), settings.max_changed_lines),
        "patch tokens": (len(patch) // CHARACTERS_PER_TOKEN, settings.max_patch_tokens),
    }
    return ", ".join(f"{size} {unit} > {limit}" for unit, (size, limit) in sizes.items() if size > limit)


def _version_bump(pr: SieveInput, diffs: Sequence[FileDiff], rules: SieveRules) -> str:
    """The title of a version bump, where core files change in nothing but such lines; empty where they do not."""
    bump = rules.version_bump.title.search(pr.title)
    if bump is None:
        return ""
    changed = [line for one in diffs if rules.kind(one.path) is None for line in (*one.added, *one.removed)]
    if not changed or not all(map(rules.version_bump.line.search, changed)):
        return ""
    return f"title {bump[0]!r}, and only such lines: {_listed(changed)}"


def _other_purpose(found: Mapping[str, str], rules: SieveRules) -> tuple[SieveReason, str] | None:
    """What else a pull request says it is for, with the words that say so."""
    for reason, names in (
        (SieveReason.REVERT, rules.reverts),
        (SieveReason.NOT_PERFORMANCE_TITLE, rules.other_purposes),
    ):
        for name in names:
            if name in found:
                return reason, f"{name}: {found[name]}"
    return None


def _listed(items: Iterable[str]) -> str:
    """The first few of many, for a detail that people read."""
    shown = [item.strip()[: 2 * QUOTE_LENGTH] for item in items]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
