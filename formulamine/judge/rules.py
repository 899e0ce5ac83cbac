"""The judge by rules: is a candidate performance work, of what kind, and how hard.

Here belongs the decision from what the sieve found; every pattern and bound is data in `judge_rules.toml`. It is biased
to yes, since the measured speedup decides and a pull request turned away here is lost. A language model will take its
place behind the same input, outcome and reasons, so it stays short. It asks nothing of the outside world.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Literal

from formulamine.discover.diff import FileDiff, parse_patch
from formulamine.items import Done, Rejected
from formulamine.tables import Category, Classification, Record

RULES_FILE = Path(__file__).with_name("judge_rules.toml")
QUOTED_SIGNALS = 4  # the heaviest; the row of the candidate has them all
QUOTED_CHARACTERS = 120


class JudgeReason(StrEnum):
    """Why a candidate does not go on."""

    NOT_PERFORMANCE = "not_performance"
    UNDECIDED = "undecided"
    """The judge gave no usable answer, which is no "no". Rules always answer."""


class JudgeInput(Record):
    """What the judge reads of a candidate; the hash names its patch."""

    pr_id: str
    title: str
    signals: list[str]
    score: float
    core_files: list[str]
    patch_sha256: str


class Purpose(Record):
    """Something else that a title may say."""

    name: str
    takes: float
    pattern: re.Pattern[str]


class Kind(Record):
    """Words that tell one category."""

    name: Category
    pattern: re.Pattern[str]


class JudgeRules(Record):
    """All of `judge_rules.toml`."""

    version: str
    """Short hash of the file."""
    yes_from: float
    medium_from: int
    hard_from: int
    title_counts: int
    purposes: list[Purpose]
    categories: list[Kind]


@cache
def load_rules(path: Path = RULES_FILE) -> JudgeRules:
    """Read the rules.

    Raises:
        ValueError: the file is no TOML, lacks a part, or holds a pattern that does not compile.
    """
    data = path.read_bytes()
    return JudgeRules.model_validate(
        {**tomllib.loads(data.decode("utf-8")), "version": hashlib.sha256(data).hexdigest()[:12]}
    )


def judge(item: JudgeInput, patch: bytes) -> Done | Rejected:
    """Say whether a candidate is performance work.

    Args:
        item: the candidate, with the sieve's signals and score.
        patch: its diff from base to merge commit.

    Returns:
        Done(Classification), or Rejected(not_performance) with the classification as its record.

    Raises:
        DiffError: the patch is none of git's.
    """
    rules = load_rules()
    core = set(item.core_files)
    diffs = [one for one in parse_patch(patch) if one.path in core]
    purpose = next((one for one in rules.purposes if one.pattern.search(item.title)), None)
    score = item.score - (purpose.takes if purpose else 0.0)
    verdict = Classification(
        is_performance=score >= rules.yes_from,
        category=_category(item, rules) if score >= rules.yes_from else "uncategorized",
        difficulty=_difficulty(diffs, rules),
        rationale=_rationale(item, score, purpose, diffs, rules),
        judge="rules",
        prompt_version=rules.version,
        tokens=0,
    )
    if verdict.is_performance:
        return Done(verdict)
    return Rejected(JudgeReason.NOT_PERFORMANCE, verdict.rationale, verdict)


def _category(item: JudgeInput, rules: JudgeRules) -> Category:
    """The category whose words are found most often; uncategorized where none is."""
    texts = [item.title] * rules.title_counts + item.signals
    counts = {kind.name: sum(1 for text in texts if kind.pattern.search(text)) for kind in rules.categories}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else "uncategorized"


def _difficulty(diffs: list[FileDiff], rules: JudgeRules) -> Literal["easy", "medium", "hard"]:
    """How hard it is, by the changed lines of core files."""
    lines = sum(len(one.added) + len(one.removed) for one in diffs)
    if lines >= rules.hard_from:
        return "hard"
    return "medium" if lines >= rules.medium_from else "easy"


def _rationale(
    item: JudgeInput, score: float, purpose: Purpose | None, diffs: list[FileDiff], rules: JudgeRules
) -> str:
    """What the verdict rests on, quoted."""
    parts = [f"score {score:g}, yes from {rules.yes_from:g}"]
    if purpose and (found := purpose.pattern.search(item.title)):
        parts.append(f"title {item.title!r} says {purpose.name} ({found[0]!r}, -{purpose.takes:g})")
    parts += item.signals[:QUOTED_SIGNALS] or [f"nothing in title {item.title!r}, body or diff speaks for performance"]
    if not any(": + " in signal for signal in item.signals[:QUOTED_SIGNALS]):
        added = (line.strip() for one in diffs for line in one.added)
        parts += [f"adds: + {line[:QUOTED_CHARACTERS]}" for line in added if len(line) > 1][:1]
    return "; ".join(parts)
