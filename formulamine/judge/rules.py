"""The judge by rules: is a candidate performance work, of what kind, and how hard.

Here belongs the decision from what the sieve found: the bound is in the sieve's `sieve_weights.toml`, fitted with its
weights; patterns of categories and bounds of difficulty are in `judge_rules.toml`. It is biased
to yes, since the measured speedup decides and a pull request turned away here is lost. A model takes its place behind
the same input, outcome and reasons where one is configured (`model.py`). It asks nothing of the outside world.
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
from formulamine.discover.sieve_rules import WEIGHTS_FILE, load_weights
from formulamine.items import Done, Rejected
from formulamine.records import Category, Classification, Record

RULES_FILE = Path(__file__).with_name("judge_rules.toml")
QUOTED_SIGNALS = 4  # the heaviest; the row of the candidate has them all
QUOTED_CHARACTERS = 120
_PLACED = re.compile(r":\d+ [-+] ")  # a line of the diff, quoted


class JudgeReason(StrEnum):
    """Why a candidate does not go on."""

    NOT_PERFORMANCE = "not_performance"
    UNDECIDED = "undecided"
    """The models gave no usable answer, which is no "no". Rules always answer."""
    MODEL_FAILED = "model_failed"
    """No model could be asked: a key, a server."""
    BUDGET = "budget"
    RATE_LIMIT = "rate_limit"


class JudgeInput(Record):
    """What a judge reads of a candidate; the hash names its patch."""

    pr_id: str
    title: str
    body: str
    signals: list[str]
    score: float
    core_files: list[str]
    patch_sha256: str


class Kind(Record):
    """Words that tell one category."""

    name: Category
    pattern: re.Pattern[str]


class JudgeRules(Record):
    """All of `judge_rules.toml`."""

    version: str
    """Short hash of the file and of the sieve's weights."""
    medium_from: int
    hard_from: int
    title_counts: int
    categories: list[Kind]


@cache
def load_rules(path: Path = RULES_FILE) -> JudgeRules:
    """Read the rules.

    Raises:
        ValueError: the file is no TOML, lacks a part, or holds a pattern that does not compile.
    """
    data = path.read_bytes()
    version = hashlib.sha256(data + WEIGHTS_FILE.read_bytes()).hexdigest()[:12]
    return JudgeRules.model_validate({**tomllib.loads(data.decode("utf-8")), "version": version})


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
    rules, yes_from = load_rules(), load_weights().yes_from
    core = set(item.core_files)
    diffs = [one for one in parse_patch(patch) if one.path in core]
    yes = item.score >= yes_from
    verdict = Classification(
        is_performance=yes,
        category=_category(item, rules) if yes else "uncategorized",
        difficulty=difficulty(diffs, rules),
        rationale=_rationale(item, yes_from, diffs),
        judge="rules",
        prompt_version=rules.version,
        tokens=0,
        second_judge="",
        second_opinion=None,
    )
    if verdict.is_performance:
        return Done(verdict)
    return Rejected(JudgeReason.NOT_PERFORMANCE, verdict.rationale, verdict)


def _category(item: JudgeInput, rules: JudgeRules) -> Category:
    """The category whose words are found most often; uncategorized where none is."""
    known = load_weights().weights
    speak = [signal for signal in item.signals if known.get(signal.partition(":")[0], 0.0) > 0]
    texts = [item.title] * rules.title_counts + speak
    counts = {kind.name: sum(1 for text in texts if kind.pattern.search(text)) for kind in rules.categories}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else "uncategorized"


def difficulty(diffs: list[FileDiff], rules: JudgeRules) -> Literal["easy", "medium", "hard"]:
    """How hard it is, by the changed lines of core files."""
    lines = sum(len(one.added) + len(one.removed) for one in diffs)
    if lines >= rules.hard_from:
        return "hard"
    return "medium" if lines >= rules.medium_from else "easy"


def _rationale(item: JudgeInput, yes_from: float, diffs: list[FileDiff]) -> str:
    """What the verdict rests on, quoted: the heaviest signals, the lightest, and a line of the diff."""
    parts = [f"score {item.score:g}, yes from {yes_from:g}"]
    parts += item.signals[:QUOTED_SIGNALS] or [f"nothing in title {item.title!r}, body or diff speaks for performance"]
    if len(item.signals) > QUOTED_SIGNALS:
        parts.append(f"least of all {item.signals[-1]}")
    if not any(_PLACED.search(signal) for signal in item.signals[:QUOTED_SIGNALS]):
        added = (line.strip() for one in diffs for line in one.added)
        parts += [f"adds: + {line[:QUOTED_CHARACTERS]}" for line in added if len(line) > 1][:1]
    return "; ".join(parts)
