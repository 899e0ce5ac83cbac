"""Requests to models, each sent as often as it takes.

Here belong retries, the pause after a rate limit that all workers of a provider share, and what is counted before and
after each request. What is asked, and what becomes of a reply, is the matter of `llm.py`. This imports the client
libraries, so it is imported when the first request is sent.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from formulamine.items import Cancelled
from formulamine.services.llm_budget import Budget, OverBudget, Pause, Spent, TooLong, Usage, cost_of
from formulamine.services.llm_clients import Client, Kind, Reply, Thread, Trouble, client
from formulamine.services.llm_errors import BudgetSpent, NoAnswer, NotUsable, RateLimited, Unreachable
from formulamine.settings import LlmSettings

BACKOFF_S = 1.0  # doubles; a limit or an overload of a provider passes in seconds to a minute
JITTER = 0.5  # of a backoff, added to it
CHARACTERS_PER_TOKEN = 4
OLDER_LIMIT, NEWER_LIMIT = "max_tokens", "max_completion_tokens"
log = logging.getLogger("formulamine")


class Requests:
    """Everything that the requests of one run share."""

    def __init__(self, settings: LlmSettings, budget: Budget, cancelled: threading.Event) -> None:
        self._settings, self._budget, self._cancelled = settings, budget, cancelled
        self._thread = Thread()
        self._lock = threading.Lock()
        self._clients: dict[str, Client] = {}
        self._pauses: dict[str, Pause] = {}
        self._unforced: set[str] = set()
        self._newer_limit: set[str] = set()
        self._unpriced: set[str] = set()

    def client(self, provider: str) -> Client:
        """The client of a provider, made when it is first asked.

        Raises:
            NotUsable: it has no key, or an address that is none.
        """
        with self._lock:
            if provider not in self._clients:
                settings = self._settings
                base_url = settings.openai_base_url if provider == "openai" else settings.anthropic_base_url
                try:
                    made = client(provider, base_url, settings.openai_mode, settings.llm_timeout_s)
                except Trouble as trouble:
                    raise NotUsable(f"{trouble}: mend the environment, or configure no model of {provider}") from None
                self._clients[provider], self._pauses[provider] = made, Pause()
            return self._clients[provider]

    def reply(self, model: str, request: dict[str, Any], spend: Callable[[Spent], None]) -> Any:
        """One reply that is no refusal, however many requests that takes.

        Args:
            model: "provider:model".
            request: as instructor made it; what the model does not know is changed in it.
            spend: told what each reply cost, before anybody reads it.

        Raises:
            LlmError: there is none; see each kind.
            Cancelled: the run was told to end.
        """
        provider = model.partition(":")[0]
        asked, pause = self.client(provider), self._pauses[provider]
        failures, waited = 0, 0.0
        while True:
            if self._cancelled.is_set():
                raise Cancelled("before a model was asked")
            waited += self._waited(pause, self._settings.llm_max_wait_s - waited, provider)
            if model in self._unforced and "tool_choice" in request:
                request["tool_choice"] = asked.unforced
            if model in self._newer_limit and OLDER_LIMIT in request:
                request[NEWER_LIMIT] = request.pop(OLDER_LIMIT)
            got = self._sent(asked, model, request, spend)
            if isinstance(got, Reply):
                pause.over()
                if got.refused:
                    raise NoAnswer(got.refused)
                return got.response
            log.info("%s: %s", model, got)
            if got.kind is Kind.UNUSABLE:
                if not self._learned(asked, model, request, str(got)):
                    raise NotUsable(f"{model}: {got}")
            elif got.kind is Kind.REJECTED:
                raise NoAnswer(f"the question is not accepted: {got}")
            elif got.kind is Kind.LIMIT:
                pause.begin(got.retry_after, BACKOFF_S)
            else:
                failures += 1
                if failures > self._settings.llm_retries:
                    raise Unreachable(f"{model}: {got}")
                if got.retry_after is not None:
                    pause.begin(got.retry_after, BACKOFF_S)
                elif self._cancelled.wait(BACKOFF_S * 2 ** (failures - 1) * random.uniform(1.0, 1.0 + JITTER)):
                    raise Cancelled("waiting to ask a model again")

    def close(self) -> None:
        """End every request and close every connection."""
        for one in self._clients.values():
            self._thread.run(one.close(), threading.Event())
        self._thread.close()

    def _learned(self, asked: Client, model: str, request: dict[str, Any], message: str) -> bool:
        """Whether a refusal says how the same can be asked otherwise."""
        # Newer models of Anthropic, and some servers, refuse to be forced to call a tool; asked, they call it.
        if "tool_choice" in message and request.get("tool_choice", asked.unforced) != asked.unforced:
            self._unforced.add(model)
            return True
        if NEWER_LIMIT in message and OLDER_LIMIT in request:  # a reasoning model of OpenAI behind another address
            self._newer_limit.add(model)
            return True
        return False

    def _sent(
        self, asked: Client, model: str, request: dict[str, Any], spend: Callable[[Spent], None]
    ) -> Reply | Trouble:
        """What one request comes to, its cost noted.

        Raises:
            BudgetSpent: nothing is left for it.
        """
        most = Usage(
            len(json.dumps(request, default=str)) // CHARACTERS_PER_TOKEN, self._settings.llm_max_output_tokens
        )
        estimate = self._spent(model, most)
        try:
            with self._budget.request(estimate, self._cancelled):
                try:
                    reply = self._thread.run(asked.send(request), self._cancelled)
                except Trouble as trouble:
                    return trouble
                if reply.usage is None:
                    self._budget.pay(estimate)  # it must end all the same, so it is told the worst
                    spend(Spent(1, 0, 0, None))
                else:
                    spent = self._spent(model, reply.usage)
                    self._budget.pay(spent)
                    spend(spent)
                return reply
        except OverBudget as error:
            why = str(error)
        raise BudgetSpent(f"the run's budget for models is spent: {why}", datetime.now(UTC))

    def _spent(self, model: str, usage: Usage) -> Spent:
        cost = cost_of(model, usage)
        if cost is None and model not in self._unpriced:
            self._unpriced.add(model)
            log.warning("%s has no price: its cost is not known, only FORMULAMINE_LLM_BUDGET_TOKENS binds it", model)
        return Spent(1, usage.input_tokens, usage.output_tokens, cost)

    def _waited(self, pause: Pause, longest_s: float, provider: str) -> float:
        """Seconds that a provider's pause took.

        Raises:
            RateLimited: it would take too long.
        """
        try:
            return pause.wait(max(longest_s, 0.0), self._cancelled)
        except TooLong as error:
            left = error.seconds
        until = datetime.now(UTC) + timedelta(seconds=left)
        raise RateLimited(f"{provider} wants {left:.0f} s of pause (FORMULAMINE_LLM_MAX_WAIT_S)", until)
