"""Problem statements: what an agent is told, from what stood before the fix and from what was measured.

Here belongs putting a statement together: sentences that were extracted, freed of what tells the fix, and rendered by
the template (`statement.md.jinja`) beside what was measured. How sentences are found is `extraction.py`'s matter, what
tells the fix is `guard.py`'s. The text of a pull request is never shown as a whole: where too little of it can be, the
task is stated from what was measured alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from jinja2 import Environment, StrictUndefined

from formulamine.items import Deferred, Done, Failed, Outcome, Rejected
from formulamine.records import BenchmarkResult, ProblemStatement, Record, Removed, StatementPart
from formulamine.services.git import Git
from formulamine.services.llm import Answer, Llm
from formulamine.services.llm_errors import BudgetSpent, LlmError, NoAnswer, NotNow
from formulamine.services.store import Blobs
from formulamine.settings import MeasureSettings
from formulamine.ship import extraction
from formulamine.ship.extraction import BY_RULES, SHOWN, Extracted, Extraction
from formulamine.ship.guard import TEMPLATE_FILE, Documents, Guard, guard_of
from formulamine.ship.issues import Document, IssueSource, IssuesUnreachable, NoIssues, documents
from formulamine.ship.sentences import stands_in
from formulamine.verify.measure import RawBlob, record_of

MOST_PARTS = 12  # sentences of a statement: a page; what comes first in title, message and issues counts most
# What a kind of document is called in `sources`.
SOURCE = {"title": "title", "message": "message", "issue": "issues", "comment": "issues"}
MEASURED = "measured"


class StatementReason(StrEnum):
    """Why a pull request has no statement."""

    LEAK = "leak"
    ISSUES_UNREACHABLE = "issues_unreachable"
    BUDGET = "budget"
    RATE_LIMIT = "rate_limit"
    NO_ANSWER = "no_answer"
    MODEL_FAILED = "model_failed"


class Why(StrEnum):
    """Why a sentence was left out, where it is neither of the solution (`Section`) nor a leak ("leak: rule")."""

    NOTHING_SLOW = "nothing_slow"
    NOT_IN_SOURCE = "not_in_source"
    SAYS_NOTHING = "says_nothing"
    TOO_MANY = "too_many"


class StatementInput(Record):
    """Fields that a statement reads."""

    pr_id: str
    repo: str
    url: str
    number: int
    title: str
    body: str
    base_sha: str
    merge_sha: str
    patch_sha256: str
    core_files: list[str]
    raw_sha256: str


@dataclass
class StatementStep:
    """States problems of pull requests that were measured as faster."""

    git: Git
    blobs: Blobs
    measure: MeasureSettings
    llm: Llm
    issues: IssueSource = field(default_factory=NoIssues)

    def __call__(self, item: StatementInput) -> Outcome:
        """State one problem."""
        try:
            written = Documents(documents=documents(item.repo, item.number, item.title, item.body, self.issues))
        except IssuesUnreachable as error:
            return Failed(StatementReason.ISSUES_UNREACHABLE, str(error), infrastructure=True)
        guard = guard_of(
            item.repo, item.url, item.base_sha, item.merge_sha, item.patch_sha256, item.core_files, self.git, self.blobs
        )
        try:
            found, answer = self._extracted(written.hidden(guard.people), item.pr_id)
        except NotNow as error:
            reason = StatementReason.BUDGET if isinstance(error, BudgetSpent) else StatementReason.RATE_LIMIT
            return Deferred(error.until, reason, str(error))
        except LlmError as error:
            unanswered = isinstance(error, NoAnswer)
            reason = StatementReason.NO_ANSWER if unanswered else StatementReason.MODEL_FAILED
            cost = error.spent.cost_usd or 0.0
            return Failed(reason, str(error), infrastructure=not unanswered, cost_usd=cost)
        chosen = choose(found, guard)
        faster = confirmed(self.blobs, item.raw_sha256, self.measure)
        statement = render(item.repo, chosen.parts, faster)
        cost = (answer.spent.cost_usd or 0.0) if answer else 0.0
        if leaks := guard.told(statement, chosen.removed, names_of(faster)):
            told = "; ".join(map(str, leaks[:5]))
            return Rejected(StatementReason.LEAK, f"the rendered text tells the fix: {told}", cost_usd=cost)
        record = ProblemStatement(
            statement=statement,
            sources=sources_of(chosen.parts),
            parts=chosen.parts,
            fidelity=chosen.fidelity,
            removed=chosen.removed,
            documents_sha256=self.blobs.put(written.model_dump_json().encode()),
            extracted_by=answer.model if answer else BY_RULES,
            extraction_prompt=answer.prompt_version if answer else "",
            extraction_tokens=answer.spent.tokens if answer else 0,
        )
        return Done(record, cost_usd=cost)

    def _extracted(self, written: Sequence[Document], pr_id: str) -> tuple[list[Extracted], Answer[Extraction] | None]:
        """Sentences by a model where one is configured, else by rules."""
        if self.llm.models("statement"):
            return extraction.by_model(self.llm, written, f"problem_statements {pr_id}")
        return extraction.by_rules(written), None


@dataclass(frozen=True)
class Chosen:
    """What is shown of what was extracted, and what is not."""

    parts: list[StatementPart]
    removed: list[Removed]
    fidelity: float
    """Share of the sentences extracted to be shown that stand in their source; 1.0 where there is none."""


def choose(found: Sequence[Extracted], guard: Guard) -> Chosen:
    """Sentences that tell the problem and not the fix, and those that are left out, each with why.

    A sentence that the rules call a solution is left out whatever the model called it.
    """
    solution = [one.text for one in found if one.section not in (None, *SHOWN)]
    parts: list[StatementPart] = []
    removed: list[Removed] = []
    invented = 0
    first: dict[str, Extracted] = {}
    for one in found:
        first.setdefault(one.text, one)
    for one in first.values():
        why = _why_not(one, guard, solution)
        invented += why == Why.NOT_IN_SOURCE
        if why:
            removed.append(Removed(text=one.text, why=why))
        else:
            parts.append(StatementPart(section=str(one.section), kind=one.document.kind, text=one.text))
    if extraction.says_nothing([one.text for one in parts]):
        removed += [Removed(text=one.text, why=Why.SAYS_NOTHING) for one in parts]
        parts = []
    removed += [Removed(text=one.text, why=Why.TOO_MANY) for one in parts[MOST_PARTS:]]
    asked = sum(one.section in SHOWN for one in found)
    return Chosen(parts[:MOST_PARTS], removed, 1.0 - invented / asked if asked else 1.0)


def _why_not(one: Extracted, guard: Guard, solution: Sequence[str]) -> str:
    """Why a sentence is left out; "" where it is shown."""
    if one.section is None:
        return Why.NOTHING_SLOW
    if one.section not in SHOWN:
        return one.section
    if not stands_in(one.text, one.document.text):
        return Why.NOT_IN_SOURCE
    if told := extraction.tells_solution(one.text):
        return told
    leaks = guard.leaks(one.text, solution)
    return f"leak: {leaks[0].rule}" if leaks else ""


def confirmed(blobs: Blobs, raw_sha256: str, settings: MeasureSettings) -> list[BenchmarkResult]:
    """Benchmarks that were confirmed to get faster, from the raw samples."""
    record = record_of(RawBlob.model_validate_json(blobs.get(raw_sha256)), settings)
    return [one for one in record.results if one.stage == "confirm" and one.decision == "faster"]


def names_of(faster: Sequence[BenchmarkResult]) -> list[str]:
    """Names of benchmarks, which a statement may hold whatever they tell."""
    return [one.benchmark for one in faster]


def sources_of(parts: Sequence[StatementPart]) -> list[str]:
    """Where a statement comes from."""
    return [*dict.fromkeys(SOURCE[one.kind] for one in parts), MEASURED]


def measured_lines(faster: Sequence[BenchmarkResult]) -> list[str]:
    """What was measured of the slow side, a line each: benchmarks that got faster, and their time before."""
    return [
        f"`{one.benchmark}`: "
        + ("did not end in time" if one.base_seconds is None else f"{_duration(one.base_seconds)} a call")
        for one in faster
    ]


def render(repo: str, parts: Sequence[StatementPart], faster: Sequence[BenchmarkResult]) -> str:
    """The statement, in Markdown."""
    template = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True).from_string(
        TEMPLATE_FILE.read_text(encoding="utf-8")
    )
    by_section = {section.value: [one.text for one in parts if one.section == section] for section in SHOWN}
    return template.render(repo=repo, measured=measured_lines(faster), **by_section)


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
