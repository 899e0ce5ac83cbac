"""What the sieve knows, read from `sieve_rules.toml` and `sieve_weights.toml`.

Here belong the records of both files and the patterns made ready for searching. What is done with them is in
`signals.py` and `sieve.py`; where each rule comes from stands beside it in its file.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Literal

from formulamine.discover.patterns import Patterns
from formulamine.discover.syntax_signals import Words
from formulamine.records import Record

RULES_FILE = Path(__file__).with_name("sieve_rules.toml")
WEIGHTS_FILE = Path(__file__).with_name("sieve_weights.toml")
REMEMBERED_PATHS = 20_000  # a few MB

Place = Literal["title", "body", "opening", "notes", "comments", "code", "native", "tests", "files", "core"]
LineKey = tuple[str, str]
"""What is found in a line of code: a mark ("+" or "-") and the signal."""


class Named(Record):
    """A pattern with the name that is given as evidence."""

    name: str
    pattern: re.Pattern[str]


class VersionBump(Record):
    """How a version bump is titled, and what each line of it looks like."""

    title: re.Pattern[str]
    line: re.Pattern[str]


class Text(Record):
    """What is said by people, in a patch and around it."""

    noise: re.Pattern[str]
    """Parts of a body that say nothing."""
    notes: re.Pattern[str]
    """Paths of files in which people tell what changed."""
    native: re.Pattern[str]
    """Paths of files in a language that is compiled."""
    said: re.Pattern[str]
    """The comment in a line of code, or a line that is prose."""
    silent: re.Pattern[str]
    """Lines of core files that are no code."""


class SignalRule(Record):
    """One thing that speaks for or against performance work, and where it is looked for."""

    name: str
    where: Place
    pattern: re.Pattern[str] | None = None
    removed: re.Pattern[str] | None = None

    @property
    def key(self) -> str:
        """What it is called among all signals."""
        return f"{self.where} {self.name}"

    @property
    def in_lines(self) -> bool:
        """Whether it is looked for in lines of code."""
        return self.where in ("code", "native")


class SieveRules(Record):
    """All of `sieve_rules.toml`."""

    reverts: list[str]
    """Signals of a revert."""
    other_purposes: list[str]
    """Signals of another purpose."""
    priors: dict[str, float]
    """What each signal weighs before anything was learned; one that is not among them weighs nothing."""
    not_core: list[Named]
    pins: list[Named]
    version_bump: VersionBump
    text: Text
    words: Words
    signals: list[SignalRule]

    @cached_property
    def kinds(self) -> Patterns[str]:
        """What a file is that is no code."""
        return Patterns({rule.name: rule.pattern for rule in self.not_core})

    @cached_property
    def kind(self) -> Callable[[str], str | None]:
        """What a file is that is no code, by its path; the first rule decides. Answers are remembered."""
        return lru_cache(REMEMBERED_PATHS)(lambda path: next((name for name, _ in self.kinds.search(path)), None))

    @cached_property
    def said(self) -> dict[Place, Patterns[str]]:
        """Signals by where they are looked for, but for those in lines of code."""
        by_place: dict[Place, dict[str, re.Pattern[str]]] = defaultdict(dict)
        for rule in self.signals:
            if not rule.in_lines and rule.pattern:
                by_place[rule.where][rule.key] = rule.pattern
        return {place: Patterns(patterns) for place, patterns in by_place.items()}

    @cached_property
    def native_only(self) -> frozenset[LineKey]:
        """Signals that count in files of compiled languages alone."""
        return frozenset((mark, rule.key) for rule in self.signals if rule.where == "native" for mark in "+-")

    @cached_property
    def in_code(self) -> Patterns[LineKey]:
        """What is looked for in lines of code, by mark and signal."""
        patterns: dict[LineKey, re.Pattern[str]] = {}
        for rule in self.signals:
            if rule.in_lines:
                patterns |= {("-", rule.key): rule.removed} if rule.removed else {}
                patterns |= {("+", rule.key): rule.pattern} if rule.pattern else {}
        return Patterns(patterns)


class Weights(Record):
    """All of `sieve_weights.toml`: what `python -m formulamine.judge.fit` made of labelled pull requests."""

    passes_from: float
    """Log-odds from which the sieve lets a pull request go on."""
    yes_from: float
    """Log-odds from which the judge by rules says yes."""
    intercept: float
    weights: dict[str, float]
    """Of each signal that has one."""

    def score(self, signals: Iterable[str]) -> float:
        """Log-odds that pull requests with these signals are performance work, in hundredths."""
        return round(self.intercept + math.fsum(self.weights.get(name, 0.0) for name in signals), 2)


@cache
def load_rules(path: Path = RULES_FILE) -> SieveRules:
    """Read the rules.

    Raises:
        ValueError: the file is no TOML, lacks a part, or holds a pattern that does not compile.
    """
    return SieveRules.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))


@cache
def load_weights(path: Path = WEIGHTS_FILE) -> Weights:
    """Read the weights.

    Raises:
        ValueError: the file is no TOML or lacks a part.
    """
    return Weights.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
