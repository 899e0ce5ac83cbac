"""How far two judges agree on the sample that both judged.

Here belong the figures; which candidates are judged twice is decided in `model.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from formulamine.judge.rates import Rate

LEAST = 0.8  # share; below it one of two judges is wrong of every fifth candidate, and somebody should look
FROM = 10  # candidates judged twice: with fewer a share says nothing


@dataclass(frozen=True)
class Agreement:
    """Agreement on candidates to which the first judge said yes, and no."""

    yes: Rate
    no: Rate

    @property
    def all(self) -> Rate:
        """Both strata together."""
        return self.yes + self.no

    @property
    def suffices(self) -> bool:
        """Whether nobody need look."""
        share = self.all.share
        return share is None or self.all.of < FROM or share >= LEAST

    def __str__(self) -> str:
        """In words."""
        return f"second judges agree on {self.all} (after a yes {self.yes}, after a no {self.no})"


def agreement(rows: Iterable[Mapping[str, Any]]) -> Agreement:
    """Agreement over rows of `classifications`."""
    rates = {True: Rate(), False: Rate()}
    for row in rows:
        first, second = row["is_performance"], row["second_opinion"]
        if first is not None and second is not None:
            rates[first] += Rate(int(first == second), 1)
    return Agreement(rates[True], rates[False])
