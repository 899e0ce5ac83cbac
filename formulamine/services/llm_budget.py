"""What asking models costs: prices, what was spent, the budget of a run, and the pause that all its workers share.

Here belong money, tokens and waiting. Who asks what is the matter of `llm.py`.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from formulamine.items import Cancelled

PRICES_FILE = Path(__file__).with_name("llm_prices.toml")
PER = 1_000_000
POLL_S = 0.05
LONGEST_BACKOFF_S = 60.0
SPREAD = 0.1  # of a pause, at most a second: so that workers do not all come back in the same instant


@dataclass(frozen=True)
class Usage:
    """Tokens of one reply, as its server counted them."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    """Those of the input that the server still had and sells for less."""


@dataclass(frozen=True)
class Spent:
    """What was paid. `cost_usd` is None as soon as a price or a server's count of tokens is not known."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0

    @property
    def tokens(self) -> int:
        """Both kinds."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Spent) -> Spent:
        known = self.cost_usd is not None and other.cost_usd is not None
        return Spent(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            (self.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None,
        )


NOTHING = Spent()


@dataclass(frozen=True)
class Price:
    """Dollars for a million tokens."""

    input: float
    output: float
    cached_input: float | None = None
    """Where the price list has none, such tokens cost what others do."""


@cache
def prices() -> dict[str, Price]:
    """The price list, by provider:model."""
    loaded = tomllib.loads(PRICES_FILE.read_text())
    return {f"{provider}:{name}": Price(**price) for provider in loaded for name, price in loaded[provider].items()}


def cost_of(model: str, usage: Usage) -> float | None:
    """Dollars of one reply; None for a model without a price."""
    price = prices().get(model)
    if price is None:
        return None
    cached_price = price.input if price.cached_input is None else price.cached_input
    fresh = (usage.input_tokens - usage.cached_tokens) * price.input + usage.cached_tokens * cached_price
    return (fresh + usage.output_tokens * price.output) / PER


class OverBudget(Exception):
    """Nothing is left of a budget; the message says of which."""


class Budget:
    """What one run may spend, shared by its threads.

    A request is let through as long as something is left. Near the end requests go one by one, so that the budget is
    passed by one request at most and not by one of each worker.
    """

    def __init__(self, max_usd: float, max_tokens: int) -> None:
        self.max_usd, self.max_tokens = max_usd, max_tokens
        self.spent = NOTHING
        self._known_usd = 0.0  # of what has a price: one model without must not hide what the others cost
        self._underway = NOTHING
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def request(self, estimate: Spent, cancelled: threading.Event) -> Iterator[None]:
        """Let one request through, waiting while those under way may use up the rest.

        Raises:
            OverBudget: nothing is left.
            Cancelled: the run was told to end.
        """
        while not self._admitted(estimate):
            if cancelled.wait(POLL_S):
                raise Cancelled("waiting for the rest of a budget")
        try:
            yield
        finally:
            with self._lock:
                self._underway = self._underway + _negative(estimate)

    def pay(self, spent: Spent) -> None:
        """Count what a request came to."""
        with self._lock:
            self.spent = self.spent + spent
            self._known_usd += spent.cost_usd or 0.0

    def _admitted(self, estimate: Spent) -> bool:
        with self._lock:
            if self._known_usd >= self.max_usd:
                raise OverBudget(f"${self._known_usd:.4f} of ${self.max_usd:g} (FORMULAMINE_LLM_BUDGET_USD)")
            if self.spent.tokens >= self.max_tokens:
                raise OverBudget(f"{self.spent.tokens} of {self.max_tokens} tokens (FORMULAMINE_LLM_BUDGET_TOKENS)")
            after = self._underway + Spent(1, estimate.input_tokens, estimate.output_tokens, estimate.cost_usd or 0.0)
            fits = self._known_usd + (after.cost_usd or 0.0) <= self.max_usd
            fits = fits and self.spent.tokens + after.tokens <= self.max_tokens
            if fits or not self._underway.requests:
                self._underway = after
                return True
            return False


def _negative(estimate: Spent) -> Spent:
    return Spent(-1, -estimate.input_tokens, -estimate.output_tokens, -(estimate.cost_usd or 0.0))


class TooLong(Exception):
    """A pause would last longer than one is ready to wait. `seconds` are left of it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:.0f} s")
        self.seconds = seconds


class Pause:
    """The time before which no worker asks one provider again."""

    def __init__(self) -> None:
        self._until = 0.0
        self._in_a_row = 0
        self._lock = threading.Lock()

    def begin(self, retry_after: float | None, backoff_s: float) -> None:
        """Pause for as long as the server says, or else twice as long as the last time."""
        with self._lock:
            if retry_after is None:
                if time.monotonic() < self._until:
                    return  # another worker met the same limit: that is one refusal, not several in a row
                self._in_a_row += 1
                retry_after = min(backoff_s * 2 ** (self._in_a_row - 1), LONGEST_BACKOFF_S)
            self._until = max(self._until, time.monotonic() + retry_after)

    def over(self) -> None:
        """The provider answers again."""
        with self._lock:
            self._in_a_row = 0

    def wait(self, longest_s: float, cancelled: threading.Event) -> float:
        """Wait until no pause is left, and return the seconds that took.

        Raises:
            TooLong: it would take longer than `longest_s`.
            Cancelled: the run was told to end.
        """
        started = time.monotonic()
        spread = min(1.0, SPREAD * max(0.0, self._until - started))
        while (left := self._until - time.monotonic()) > 0:
            if time.monotonic() - started + left > longest_s:
                raise TooLong(left)
            # The pause may grow meanwhile, so that a long one is looked at again.
            if cancelled.wait(1.0 if left > 1.0 else left + random.uniform(0, spread)):
                raise Cancelled("waiting for a rate limit to pass")
        return time.monotonic() - started
