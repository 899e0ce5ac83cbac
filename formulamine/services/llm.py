"""Asking models: typed answers from a chain of them, cheap ones first, each question paid once.

Here belongs how one question is asked until there is an answer or a reason why there is none: kept answers,
repair of what cannot be read, and the next model. What a question says is the matter of whoever asks; how a request is
sent, and sent again, stands in `llm_requests.py`, which takes seconds to import and is imported for the first one.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ValidationError, create_model, model_validator

from formulamine.services.llm_budget import Budget, Spent
from formulamine.services.llm_cache import LlmCache
from formulamine.services.llm_errors import (
    LlmError,
    NoAnswer,
    NotUsable,
    redacted,
    shortened,
)
from formulamine.settings import LlmSettings

if TYPE_CHECKING:
    from formulamine.services.llm_requests import Requests

PROTOCOL = "1"
"""Raised whenever a question is put otherwise to the same model: answers kept before then are not used."""
BY_TOOL = "Answer with exactly one call of the tool that you are given, and with no other text."
_VERSION = re.compile(r"version: (\w+)\n+")
Task = Literal["judge", "judge_again", "statement", "repair"]
T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Prompt:
    """What a model is told before any question, from a file whose first line is `version: ...`."""

    path: Path
    text: str
    version: str
    """As the file calls it, with the beginning of the hash of its bytes: a changed text has another version."""

    @classmethod
    def load(cls, path: Path) -> Prompt:
        """Read a prompt.

        Raises:
            ValueError: its first line names no version.
        """
        content = path.read_bytes()
        text = content.decode()
        found = _VERSION.match(text)
        if found is None:
            raise ValueError(f"{path}: the first line of a prompt is `version: ...`")
        return cls(path, text[found.end() :], f"{found[1]}-{hashlib.sha256(content).hexdigest()[:12]}")


@dataclass(frozen=True)
class Question(Generic[T]):
    """One question, whichever model it is put to."""

    prompt: Prompt
    text: str
    answer: type[T]
    """What an answer is. Its schema is shown to the model: sentences under fields help it."""
    item: str = ""
    """Whose question it is ("step pr_id"): what is paid for it is told to the same item again after a kill."""
    check: Callable[[T], str] | None = None
    """What is wrong with an answer, in words for the model, which may then mend it; "" where nothing is."""

    @cached_property
    def digest(self) -> str:
        """Hash of what is asked."""
        schema = self.answer.model_json_schema()
        return _hash(PROTOCOL, self.prompt.text, self.text, self.answer.__name__, schema)


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What a model said, and what that cost."""

    value: T
    model: str
    prompt_version: str
    spent: Spent
    """All that was paid for this question and not told yet, attempts that came to nothing included."""
    kept: bool
    """Whether it was known, and nothing was asked now."""


@dataclass
class Llm:
    """The models of one run: one budget, one pause a provider, one file of answers."""

    settings: LlmSettings
    folder: Path
    cancelled: threading.Event
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _requests: Requests | None = field(default=None, repr=False)
    _told: set[int] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.settings.llm_budget_usd, self.settings.llm_budget_tokens)

    @cached_property
    def cache(self) -> LlmCache:
        """Kept answers and spending."""
        return LlmCache(self.folder, self.cancelled)

    def models(self, task: Task) -> tuple[str, ...]:
        """The chain of a task as "provider:model", cheap ones first; empty where none is configured."""
        chain: str = getattr(self.settings, f"{task}_models")
        return tuple(name.strip() for name in chain.split(",") if name.strip())

    def decides(self, task: Task) -> dict[str, str]:
        """What of the settings decides an answer, for `Step.outside`; prompts and prices are data files."""
        asked = {"models": ", ".join(self.models(task))}
        if asked["models"]:
            asked["mode"] = self.settings.openai_mode
            asked["answer tokens"] = str(self.settings.llm_max_output_tokens)
        return asked

    @property
    def spent(self) -> Spent:
        """What this run paid so far."""
        return self.budget.spent

    def ask(self, question: Question[T], models: Sequence[str]) -> Answer[T]:
        """Put a question to one model after the other until one answers it.

        Raises:
            NotUsable: no model, no key, or another thing that somebody must mend.
            NoAnswer: every model refused, or said nothing that can be read.
            Unreachable: a server does not answer.
            BudgetSpent: the run's budget is spent.
            RateLimited: a rate limit lasts longer than FORMULAMINE_LLM_MAX_WAIT_S.
            Cancelled: the run was told to end.
        """
        if not models:
            raise NotUsable("no model is configured for this: set its FORMULAMINE_..._MODELS")
        item = question.item or f"one question {uuid.uuid4()}"
        problems = []
        try:
            for model in models:
                try:
                    value, kept = self._answer(question, model, item)
                except NoAnswer as error:
                    problems.append(f"{model}: {error}")
                    continue
                spent = self._untold(item, question.digest)
                return Answer(value, model, question.prompt.version, spent, kept)
            raise NoAnswer("; ".join(problems))
        except LlmError as error:
            error.spent = self._untold(item, question.digest)
            raise

    def close(self) -> None:
        """End every request and close every connection."""
        if self._requests is not None:
            self._requests.close()
            self._requests = None

    def _answer(self, question: Question[T], model: str, item: str) -> tuple[T, bool]:
        """One model's answer, and whether it was kept."""
        limit, mode = self.settings.llm_max_output_tokens, self.settings.openai_mode
        key = _hash(question.digest, model, limit, mode if model.startswith("openai:") else "tools")
        with self.cache.alone(key):
            kept = self.cache.answer(key)
            if kept is not None and (value := _readable(question, kept)) is not None:
                return value, True
            said = self._asked(question, model, item)
            value = _parsed(question.answer, said)
            if value is None:  # without a key that stood in it
                raise NoAnswer("what it said cannot be kept")
            self.cache.keep(key, model, said)
        return value, False

    def _asked(self, question: Question[T], model: str, item: str) -> str:
        """A new answer as JSON; instructor makes the request, reads what comes back and asks the model to mend it."""
        provider, _, name = model.partition(":")
        with self._lock:
            if self._requests is None:
                from formulamine.services.llm_requests import Requests

                self._requests = Requests(self.settings, self.budget, self.cancelled)
        client = self._requests.client(provider)
        ended: list[Exception] = []

        def create(**request: Any) -> Any:
            assert self._requests is not None
            try:
                return self._requests.reply(model, request, lambda spent: self._spend(item, question, model, spent))
            except Exception as error:
                ended.append(error)
                raise

        system = f"{question.prompt.text.rstrip()}\n\n{BY_TOOL}" if client.by_tool else question.prompt.text
        try:
            value = client.typed(create)(
                response_model=_checked(question),
                max_retries=self.settings.llm_repairs,
                model=name,
                messages=[{"role": "system", "content": system}, {"role": "user", "content": _plain(question.text)}],
                **client.limit_of_output(self.settings.llm_max_output_tokens),
            )
            return redacted(str(value.model_dump_json()))
        except Exception as error:
            if not ended:
                ended.append(NoAnswer(f"what it said cannot be read: {_complaint(error)}"))
        # Outside of `except`, so that what instructor raised, which holds the request, is no part of it.
        raise ended[-1]

    def _spend(self, item: str, question: Question[T], model: str, spent: Spent) -> None:
        self.cache.spend(item, question.digest, model, spent)

    def _untold(self, item: str, digest: str) -> Spent:
        """What was paid for an item's question and not told in this run.

        Earlier runs are told of too: what they paid stands in no ledger if they were killed or deferred, and where it
        does, this outcome takes that one's place.
        """
        spending = self.cache.spending(item, digest)
        with self._lock:
            new = spending.keys() - self._told
            self._told |= new
        return sum((spending[number] for number in sorted(new)), Spent())


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _plain(text: str) -> str:
    """A text that can be sent: halves of characters, as git's paths may hold them, cannot."""
    return text.encode("utf-8", "replace").decode()


def _readable(question: Question[T], said: str) -> T | None:
    """A kept answer, or None where it no longer is one."""
    value = _parsed(question.answer, said)
    return None if value is not None and question.check is not None and question.check(value) else value


def _parsed(answer: type[T], said: str) -> T | None:
    try:
        return answer.model_validate_json(said)
    except ValidationError:
        return None


def _checked(question: Question[T]) -> type[T]:
    """The answer's class, which also asks the question's own check."""
    check = question.check
    if check is None:
        return question.answer

    def holds(value: T) -> T:
        if problem := check(value):
            raise ValueError(problem)
        return value

    made = create_model(
        question.answer.__name__,
        __base__=question.answer,
        __validators__={"holds": model_validator(mode="after")(holds)},  # type: ignore[dict-item]
    )
    made.__doc__ = question.answer.__doc__
    return made  # type: ignore[return-value]  # its base is a variable, which mypy does not follow


def _complaint(error: BaseException) -> str:
    """What instructor complained about last."""
    cause: BaseException = error.__cause__ or error
    if isinstance(cause, ValidationError):
        told = [f"{'.'.join(map(str, one['loc'])) or 'answer'}: {one['msg']}" for one in cause.errors()]
        return shortened("; ".join(told))
    return shortened(str(cause))
