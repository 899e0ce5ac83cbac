"""How one case is sampled: calls in a sample, samples in a round, and when its calls wear it out.

Here belong the conventions of ASV for one case, and pure functions on seconds. Not here: processes (`side`) and the
play of the two sides (`lockstep`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SAMPLE_S = 0.010  # ASV's sample_time
LONGEST_SAMPLE_S = 1.0  # whatever a suite's own sample_time asks for
# A sample of ASV's length is cut into so many, where its calls allow that: the pace of a shared machine changes within
# it, and sides that take turns more often see more of the same. Over 6 rounds of 9 benchmarks of psygnal and param, 60
# pairs of an eighth of the length had the spread of 15 whole ones (0.025 and 0.026 where calls have set-ups between
# them, 0.012 and 0.013 in loops), and 15 of half the length 0.034 and 0.021.
PIECES = 4
SLOW_S = 1.0  # one call of this length needs neither batches nor warming up, and gets fewer samples
COLD_S = 5.0  # a first call of this length is not repeated to learn whether it was only cold
ROUND_S = 2.0  # of sampling in one round, which bounds the samples of slow cases; at least one pair is taken
WARM_S = 1.0  # of warming up a side in a round, whatever a suite's own warmup_time asks for
# Calls that cost so many times more or less at the end of a round than at its start are no repetitions of one thing.
# Five samples against five must all lie apart, and that in rounds that follow each other: on a busy machine a single
# round did so by chance.
WORN_RATIO = 1.5
WORN_SAMPLES = 5
WORN_ROUNDS = 3


@dataclass(frozen=True)
class Facts:
    """What the suite says of a case once it is set up, in ASV's words; `sample_s` is of one of the `PIECES`."""

    mode: str
    number: int
    most_pairs: float
    least_calls: int
    warmup_s: float
    sample_s: float

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Facts:
        """Read a side's answer to `open`."""
        repeat = answer["repeat"]
        most = float(repeat[1]) if isinstance(repeat, list) and len(repeat) == 3 else 0.0
        most = most if isinstance(repeat, list) else float(repeat)
        return cls(
            mode=str(answer["mode"]),
            number=int(answer["number"]),
            most_pairs=most if most >= 1 else math.inf,
            least_calls=int(answer["min_run_count"]),
            warmup_s=float(answer["warmup_time"]),
            sample_s=min(float(answer["sample_time"]) or SAMPLE_S, LONGEST_SAMPLE_S) / PIECES,
        )

    @property
    def fixed(self) -> int:
        """Calls in a sample where the suite says how many; 0 where it does not, or times each call by itself."""
        return self.number if self.mode == "steady" else 0


@dataclass(frozen=True)
class Plan:
    """How a case is sampled: calls in a sample, pairs in a round, whether a first call is already a sample.

    `single` says that each sample is one call in a process of its own, and `why`.
    """

    number: int
    pairs: int
    warm_ups: int = 1
    slow: bool = False
    pair_seconds: float = 0.0
    single: bool = False
    why: str = ""


def plan(facts: Facts, calls: Sequence[float], pairs: int) -> Plan:
    """Choose by the slower side.

    Args:
        facts: Of the case.
        calls: For each side, seconds of one call with the set-up that comes between two.
        pairs: Samples a side that are wanted, if each were as long as one of ASV's.
    """
    number = facts.fixed or math.ceil(facts.sample_s / max(calls))
    pair_seconds = number * sum(calls)
    pieces = min(max(int(2 * PIECES * facts.sample_s / pair_seconds), 1), PIECES)
    slow = number == 1 and max(calls) >= SLOW_S
    wanted = max(pairs * pieces, math.ceil(facts.least_calls / number))
    taken = max(1, int(min(wanted, facts.most_pairs * pieces, ROUND_S / pair_seconds)))
    # Of a call that makes a sample by itself, the first of the round has warmed up enough.
    usual = pieces if number > 1 else 0
    warm_ups = usual if facts.warmup_s < 0 else math.ceil(min(facts.warmup_s, WARM_S) / (pair_seconds / 2))
    return Plan(number, taken, warm_ups, slow, pair_seconds)


def drift(seconds: Sequence[float]) -> float:
    """How many times longer the last samples took than the first, where they lie wholly apart; else 1."""
    if len(seconds) < 3 * WORN_SAMPLES:
        return 1.0
    first, last = seconds[:WORN_SAMPLES], seconds[-WORN_SAMPLES:]
    if min(last) > WORN_RATIO * max(first):
        return min(last) / max(first)
    if max(last) * WORN_RATIO < min(first):
        return max(last) / min(first)
    return 1.0
