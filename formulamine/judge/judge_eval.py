"""What `formulamine judge-eval` does: sieve and judges on labelled pull requests of given repositories.

Here belongs going from a file of labels and paths of repositories to a report. What a stage is and what is counted of
it is in `evaluation.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formulamine.discover.registry import RegistryEntry
from formulamine.discover.sieve_rules import Weights, load_rules, load_weights
from formulamine.items import Rejected
from formulamine.judge.evaluation import Case, Outcome, Reader, Stage, evaluate, rule_stages, title_stages
from formulamine.judge.labels import read_labels
from formulamine.judge.model import ModelJudge
from formulamine.judge.report import table
from formulamine.judge.rules import JudgeInput
from formulamine.services.container import Services
from formulamine.services.llm_budget import Spent
from formulamine.services.llm_errors import NoAnswer

MOST_MERGED = 2000  # merged pull requests of a repository: the pass rate to about two percent


@dataclass
class Report:
    """What came out."""

    rows: int = 0
    """Labels that could be read."""
    problems: list[str] = field(default_factory=list)
    """Rows that could not, one sentence each."""
    judged: int = 0
    """Labels whose commit is in a given repository."""
    skipped: int = 0
    """Labels whose commit is in none, or that name none."""
    repeated: int = 0
    """Labels of a commit that an earlier label names."""
    unreadable: dict[str, int] = field(default_factory=dict)
    """Commits of which a repository lacks a part, as a partial clone does."""
    labelled: dict[str, Outcome] = field(default_factory=dict)
    prefixed: dict[str, Outcome] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "rows": self.rows,
            "malformed": self.problems,
            "judged": self.judged,
            "skipped": self.skipped,
            "repeated": self.repeated,
            "unreadable": self.unreadable,
            "labels": {name: one.as_json() for name, one in self.labelled.items()},
            "prefixes": {name: one.as_json() for name, one in self.prefixed.items()},
            "cost_usd": self.spent.cost_usd,
            "tokens": self.spent.tokens,
        }

    def as_text(self) -> str:
        """For people."""
        parts = list(self.problems)
        parts.append(
            f"{self.rows} labels: {self.judged} judged, {self.skipped} of no given repository, "
            f"{self.repeated} repeated, {len(self.problems)} rows malformed"
        )
        parts += [f"{repo}: {number} commits cannot be read here" for repo, number in self.unreadable.items()]
        if self.labelled:
            parts.append(f"\nlabelled pull requests\n{table(self.labelled, missed=True)}")
        if self.prefixed:
            parts.append(f"\nby maintainers' prefixes, which no stage sees\n{table(self.prefixed)}")
        known = "" if self.spent.cost_usd is None else f", ${self.spent.cost_usd:.4f}"
        parts.append(f"\nspent on models: {self.spent.tokens} tokens{known}")
        return "\n".join(parts)


def judge_eval(
    labels_file: Path | None, repos: Sequence[RegistryEntry], services: Services, *, merged: int, prefixes: bool
) -> Report:
    """Put labelled, merged and prefixed pull requests through every stage.

    Args:
        labels_file: rows as `labels.Label`; None for prefixes alone.
        repos: names and sources of the repositories.
        services: git, and the models that are configured.
        merged: how many merged pull requests of each repository tell the pass rate; 0 is all.
        prefixes: whether titles with maintainers' prefixes are judged too.

    Raises:
        OSError, UnicodeDecodeError: the file of labels cannot be read.
        GitError: a repository cannot be read.
        LlmError: a model cannot be asked.
    """
    report = Report()
    labels, report.problems = read_labels(labels_file) if labels_file else ([], [])
    report.rows = len(labels)
    rules, weights, git = load_rules(), load_weights(), services.git
    reader = Reader(git, rules, services.settings.sieve)
    stages = title_stages(rules) | rule_stages(weights)
    if services.llm.models("judge"):
        stages["judge: model"] = model_stage(services, weights)

    def labelled() -> Iterator[Case]:
        for entry in repos:
            own = [label for label in labels if label.repo == entry.name]
            with git.reading(entry.name, git.inspect_source(entry.source)) as mirror:
                cases, named = reader.labelled(entry.name, mirror, own)
                report.judged += len(cases)
                report.repeated += named - len(cases)
                report.skipped -= named
                yield from cases
                yield from reader.merged(entry.name, mirror, merged)

    def prefixed() -> Iterator[Case]:
        for entry in repos:
            with git.reading(entry.name, git.inspect_source(entry.source)) as mirror:
                yield from reader.prefixed(entry.name, mirror)

    if labels_file:
        report.labelled = evaluate(labelled(), stages)
        report.skipped += len(labels)
    if prefixes:
        report.prefixed = evaluate(prefixed(), stages)
    report.unreadable = dict(reader.unreadable)
    report.spent = services.llm.spent
    return report


def model_stage(services: Services, weights: Weights) -> Stage:
    """The judge by a model, behind the sieve; of merged pull requests in general it is not asked."""
    judge = ModelJudge(services.llm, services.blobs)
    chain = services.llm.models("judge")

    def stage(case: Case) -> bool | None:
        score = weights.score(case.found)
        if isinstance(case.seen, Rejected) or score < weights.passes_from:
            return False
        if case.truth is None:
            return None
        item = JudgeInput(
            pr_id=case.item.pr_id,
            title=case.item.title,
            body=case.item.body,
            signals=[],
            score=score,
            core_files=case.seen.core,
            patch_sha256="",
        )
        try:
            return services.llm.ask(judge.question(item, case.patch), chain).value.is_performance
        except NoAnswer:  # counted as undecided: it is neither a yes nor a no
            return None

    return stage
