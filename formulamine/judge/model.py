"""The judge by a model: the same input, outcomes and reasons as the judge by rules, asked of a chain of models.

Here belong the question, what an answer must be, and what becomes of one that does not come: an error, a refusal or an
answer that cannot be read leaves the item failed or deferred, never "no". What the model is told first is
`prompts/judge.md`; how it is asked is in `services/llm.py`. A share of what got a yes, and one of what got a
no, is judged a second time by other models, for the agreement alone: the first judge's answer stands.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from formulamine.discover.diff import parse_patch
from formulamine.items import Deferred, Done, Failed, Outcome, Rejected
from formulamine.judge.rules import JudgeInput, JudgeReason
from formulamine.records import Category, Classification
from formulamine.services.llm import Llm, Prompt, Question
from formulamine.services.llm_budget import Spent
from formulamine.services.llm_errors import BudgetSpent, LlmError, NoAnswer, NotNow
from formulamine.services.store import Blobs

PROMPT_FILE = Path(__file__).with_name("prompts") / "judge.md"
# Characters: together some 8,000 tokens. Nine patches of ten of sympy's performance work are shorter.
BODY_CHARACTERS, PATCH_CHARACTERS = 4_000, 28_000
QUOTE_CHARACTERS = 300
SHARES = 2**32


class Opinion(BaseModel):
    """What you think of the pull request."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    evidence: list[str] = Field(min_length=1, max_length=3)
    """Short quotes, word for word, from the title, the body or single lines of the diff."""
    reason: str = Field(min_length=1, max_length=1000)
    """One or two sentences."""
    is_performance: bool
    """Whether it is performance work; yes if unsure."""
    category: Category
    """The means; uncategorized where it is no performance work."""
    difficulty: Literal["easy", "medium", "hard"]
    """Of writing this change."""

    def rationale(self) -> str:
        """The reason with its evidence."""
        return "; ".join(
            [self.reason.strip(), *(f"quotes {one.strip()[:QUOTE_CHARACTERS]!r}" for one in self.evidence)]
        )


@dataclass
class ModelJudge:
    """Judges candidates by models."""

    llm: Llm
    blobs: Blobs
    prompt: Prompt = field(default_factory=lambda: Prompt.load(PROMPT_FILE))
    _spent: dict[str, Spent] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, item: JudgeInput) -> Outcome:
        """Judge one candidate."""
        patch = self.blobs.get(item.patch_sha256)
        try:
            return self._judged(item, patch)
        except NotNow as error:
            reason = JudgeReason.BUDGET if isinstance(error, BudgetSpent) else JudgeReason.RATE_LIMIT
            return Deferred(error.until, reason, str(error))
        except LlmError as error:
            lacks_answer = isinstance(error, NoAnswer)
            return Failed(
                JudgeReason.UNDECIDED if lacks_answer else JudgeReason.MODEL_FAILED,
                str(error),
                infrastructure=not lacks_answer,
                record=self._undecided(item, self._add(item, error.spent)),
                cost_usd=error.spent.cost_usd or 0.0,
            )

    def _judged(self, item: JudgeInput, patch: bytes) -> Done | Rejected:
        answer = self.llm.ask(self.question(item, patch), self.llm.models("judge"))
        opinion, spent = answer.value, answer.spent
        second: bool | None = None
        second_judge = ""
        if self._again(item, opinion.is_performance):
            try:
                other = self.llm.ask(self.question(item, patch, "again"), self.llm.models("judge_again"))
                second, second_judge, more = other.value.is_performance, other.model, other.spent
            except NoAnswer as error:
                second_judge, more = "none", error.spent
            except LlmError as error:
                error.spent = spent + error.spent
                raise
            spent = spent + more
        cost, total = spent.cost_usd or 0.0, self._add(item, spent)
        record = Classification(
            is_performance=opinion.is_performance,
            category=opinion.category if opinion.is_performance else "uncategorized",
            difficulty=opinion.difficulty,
            rationale=opinion.rationale(),
            judge=answer.model,
            prompt_version=answer.prompt_version,
            tokens=total.tokens,
            second_judge=second_judge,
            second_opinion=second,
        )
        if opinion.is_performance:
            return Done(record, cost_usd=cost)
        return Rejected(JudgeReason.NOT_PERFORMANCE, record.rationale, record, cost_usd=cost)

    def question(self, item: JudgeInput, patch: bytes, purpose: str = "") -> Question[Opinion]:
        """What is asked of one candidate.

        Args:
            item: the candidate; what the sieve found in it is not told, so that judges do not repeat each other.
            patch: its diff.
            purpose: sets the cost of several questions of one item apart.
        """
        text = told(item, patch)
        asked = " ".join(["classifications", *([purpose] if purpose else []), item.pr_id])
        return Question(self.prompt, text, Opinion, item=asked, check=lambda opinion: misquoted(opinion, text))

    def _again(self, item: JudgeInput, is_performance: bool) -> bool:
        """Whether an item is in the sample that is judged twice: by the hash of its name, so that any run draws it.

        What the first judge said divides the candidates, and each part has a share of its own.
        """
        settings = self.llm.settings
        share = settings.judge_again_yes_share if is_performance else settings.judge_again_no_share
        drawn = int(hashlib.sha256(item.pr_id.encode()).hexdigest()[:8], 16) / SHARES
        return bool(self.llm.models("judge_again")) and drawn < share

    def _add(self, item: JudgeInput, spent: Spent) -> Spent:
        """All that this run spent on an item, attempts before included."""
        with self._lock:
            self._spent[item.pr_id] = self._spent.get(item.pr_id, Spent()) + spent
            return self._spent[item.pr_id]

    def _undecided(self, item: JudgeInput, spent: Spent) -> Classification:
        """A row that says what was paid, and neither yes nor no."""
        return Classification(
            is_performance=None,
            category="uncategorized",
            difficulty="medium",
            rationale="",
            judge="none",
            prompt_version=self.prompt.version,
            tokens=spent.tokens,
            second_judge="",
            second_opinion=None,
        )


def told(item: JudgeInput, patch: bytes) -> str:
    """A candidate as the model sees it."""
    core = set(item.core_files)
    diffs = parse_patch(patch)
    others = [one.path for one in diffs if one.path not in core]
    shown = "\n".join(f"=== {one.path}{one.text}" for one in diffs if one.path in core)
    parts = [f"Title: {item.title}", f"Body:\n{_cut(item.body.strip(), BODY_CHARACTERS) or '(none)'}"]
    parts += [f"Tests, documentation and the like that it changes too: {_listed(others)}"] if others else []
    return "\n\n".join([*parts, f"Diff of its code:\n{_cut(shown, PATCH_CHARACTERS)}"])


def misquoted(opinion: Opinion, text: str) -> str:
    """Which evidence does not stand in the text, in words for the model."""
    known = " ".join(text.split())
    for one in opinion.evidence:
        quote = " ".join(one.split())
        bare = quote.lstrip("+- ")
        if not bare or (quote not in known and bare not in known):
            return f"the quote {one[:QUOTE_CHARACTERS]!r} does not stand in the pull request: quote it word for word"
    return ""


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\n[{len(text) - most} more characters]"


def _listed(paths: Sequence[str], most: int = 20) -> str:
    return ", ".join(paths[:most]) + (f" and {len(paths) - most} more" if len(paths) > most else "")
