"""How well sieve and judge tell performance work: recall, pass rate, and false positives by kind.

Here belong the stages that are compared and what is counted of each. Labels come from `labels.py`, pull requests from
`discover/mined.py`; how a report looks is in `report.py`. It reads mirrors, and asks a model where one is configured.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from formulamine.discover.messages import read_landing
from formulamine.discover.mined import Mined, merged_shas, mine
from formulamine.discover.sieve import Examined, SieveInput, examine
from formulamine.discover.sieve_rules import SieveRules, Weights
from formulamine.items import Rejected
from formulamine.judge.labels import Label, by_prefix
from formulamine.judge.rates import Rate
from formulamine.services.git import Git
from formulamine.settings import SieveSettings

# What the title-only rules of FACTS take for words of performance and for words of another purpose.
POSITIVE = ("title performance", "title means")
NEGATIVE = ("title bug_fix", "title new_feature", "title upkeep")


@dataclass(frozen=True)
class Case:
    """One pull request that is judged."""

    item: SieveInput
    patch: bytes
    seen: Examined | Rejected
    """What the sieve saw in it."""
    truth: bool | None
    """Whether it is performance work; None where nobody says, as of merged ones in general."""
    kind: str
    """Who says so, or the prefix that does."""

    @property
    def found(self) -> Mapping[str, str]:
        """Signals; none where a rule dropped it before."""
        return self.seen.found if isinstance(self.seen, Examined) else {}


Stage = Callable[[Case], bool | None]
"""Whether a case goes on; None where the stage could not say."""


@dataclass
class Outcome:
    """What one stage did."""

    recall: Rate = field(default_factory=Rate)
    passed: Rate = field(default_factory=Rate)
    """Of merged pull requests, whatever they are."""
    false: dict[str, Rate] = field(default_factory=dict)
    """What is no performance work and passed, by kind."""
    undecided: int = 0
    """Neither let go on nor turned away; in no other figure."""
    missed: list[str] = field(default_factory=list)
    """Performance work that did not pass, as "repo#number title"."""

    @property
    def false_positives(self) -> Rate:
        """Of all kinds."""
        return sum(self.false.values(), Rate())

    def count(self, case: Case, passes: bool | None) -> None:
        """Count one case."""
        if passes is None:
            self.undecided += case.truth is not None
            return
        one = Rate(int(passes), 1)
        if case.truth is None:
            self.passed += one
        elif case.truth:
            self.recall += one
            if not passes:
                self.missed.append(f"{case.item.pr_id} {case.item.title!r}")
        else:
            self.false[case.kind] = self.false.get(case.kind, Rate()) + one

    def as_json(self) -> dict[str, object]:
        """For machines."""
        return {
            "recall": self.recall.as_json(),
            "pass_rate": self.passed.as_json(),
            "false_positives": self.false_positives.as_json(),
            "false_positives_by_kind": {kind: rate.as_json() for kind, rate in sorted(self.false.items())},
            "undecided": self.undecided,
            "missed": self.missed,
        }


def title_stages(rules: SieveRules) -> dict[str, Stage]:
    """The title-only rules of FACTS, for comparison."""
    words = rules.said["title"]
    negatives = frozenset({*NEGATIVE, *rules.reverts, *rules.other_purposes})

    def tell(case: Case) -> tuple[bool, bool]:
        names = {name for name, _ in words.search(case.item.title)}
        return bool(names.intersection(POSITIVE)), bool(names & negatives)

    def either(case: Case) -> bool:
        positive, negative = tell(case)
        return positive or not negative

    def both(case: Case) -> bool:
        positive, negative = tell(case)
        return positive and not negative

    return {
        "title: positive or not negative": either,
        "title: positive": lambda case: tell(case)[0],
        "title: positive and not negative": both,
    }


def rule_stages(weights: Weights) -> dict[str, Stage]:
    """The sieve, and the judge by rules behind it."""

    def scored(case: Case) -> float:
        return weights.score(case.found) if isinstance(case.seen, Examined) else float("-inf")

    return {
        "sieve": lambda case: scored(case) >= weights.passes_from,
        "judge: rules": lambda case: scored(case) >= max(weights.yes_from, weights.passes_from),
    }


def evaluate(cases: Iterable[Case], stages: Mapping[str, Stage]) -> dict[str, Outcome]:
    """Put each case through each stage."""
    outcomes = {name: Outcome() for name in stages}
    for case in cases:
        for name, stage in stages.items():
            outcomes[name].count(case, stage(case))
    return outcomes


@dataclass
class Reader:
    """Makes cases of what mirrors hold."""

    git: Git
    rules: SieveRules
    settings: SieveSettings
    unreadable: Counter[str] = field(default_factory=Counter)
    """Commits that a mirror lacks a part of, by repository."""

    def labelled(self, repo: str, mirror: Path, labels: Sequence[Label]) -> tuple[list[Case], int]:
        """Cases of labels, each commit once, and how many labels name a commit that this mirror holds and can read."""
        held = self.git.held(mirror, [label.merge_sha for label in labels if label.merge_sha])
        named = [label for label in labels if label.merge_sha in held]
        by_sha = {label.merge_sha: label for label in reversed(named) if label.merge_sha}
        cases = [
            self.case(one, label.is_performance, label.source)
            for one in self._mine(repo, mirror, list(by_sha))
            for label in [by_sha[one.item.merge_sha]]
        ]
        read = {case.item.merge_sha for case in cases}
        return cases, sum(label.merge_sha in read for label in named)

    def merged(self, repo: str, mirror: Path, most: int) -> Iterator[Case]:
        """Merged pull requests of a mirror, `most` of them drawn by their commit's hash; 0 is all."""
        shas = sorted(merged_shas(self.git, mirror), key=lambda sha: hashlib.sha256(sha.encode()).hexdigest())
        for one in self._mine(repo, mirror, shas[: most or None]):
            yield self.case(one, None, "merged")

    def prefixed(self, repo: str, mirror: Path) -> Iterator[Case]:
        """Merged pull requests whose title has a maintainers' prefix, prefix and performance words hidden."""
        shas = merged_shas(self.git, mirror)
        commits = self.git.commits(mirror, shas)
        told = {}
        for sha in shas:
            landing = read_landing(commits[sha])
            if landing is not None and (said := by_prefix(landing.title)):
                told[sha] = said
        for one in self._mine(repo, mirror, list(told)):
            truth, prefix = told[one.item.merge_sha]
            yield self.case(Mined(hidden(one.item, self.rules), one.patch), truth, prefix)

    def case(self, one: Mined, truth: bool | None, kind: str) -> Case:
        """One case."""
        return Case(one.item, one.patch, examine(one.item, one.patch, self.rules, self.settings), truth, kind)

    def _mine(self, repo: str, mirror: Path, shas: Sequence[str]) -> Iterator[Mined]:
        read = 0
        for one in mine(self.git, mirror, repo, shas):
            read += 1
            yield one
        if read < len(shas):
            self.unreadable[repo] += len(shas) - read


def hidden(item: SieveInput, rules: SieveRules) -> SieveInput:
    """A pull request without prefixes, and without the words of its title that say performance outright.

    Its body loses prefixes and lines that say the title again.
    """
    words = next(rule.pattern for rule in rules.signals if rule.key == "title performance" and rule.pattern)
    title = without_prefix(item.title)
    said = {without_prefix(item.title).strip().lower()}
    lines = (without_prefix(line.lstrip(" *-")) for line in item.body.splitlines())
    body = "\n".join(line for line in lines if line.strip().lower() not in said)
    return item.model_copy(update={"title": " ".join(words.sub(" ", title).split()), "body": body})


def without_prefix(title: str) -> str:
    """A title without what stands before its first colon, where that is a word or a few."""
    return re.sub(r"^\W*(\w+(\([^)]*\))?!?\s*[:,/&\]]\s*)+", "", title)
