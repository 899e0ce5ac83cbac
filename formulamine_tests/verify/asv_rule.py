"""ASV's rule for `asv continuous`, on samples alone: what the protocol replaces.

It treats all samples of two processes as independent: Mann-Whitney's U where there are enough of them, at ASV's p
threshold, else whether intervals of 99% around the medians are apart; and the ratio of medians beyond a factor.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

P_THRESHOLD = 0.002
FACTOR = 1.1  # of `asv continuous`; the paper's gate is 1.05


def faster_by_asv(base: Sequence[float], head: Sequence[float], factor: float = FACTOR) -> bool:
    """Whether ASV would list a benchmark as faster, from seconds on each side."""
    if statistics.median(base) < factor * statistics.median(head):
        return False
    if 1 / math.comb(len(base) + len(head), len(base)) < P_THRESHOLD:
        return _mann_whitney_p(base, head) < P_THRESHOLD
    return _interval(base)[0] > _interval(head)[1]


def _mann_whitney_p(base: Sequence[float], head: Sequence[float]) -> float:
    """Two-sided, by the normal approximation with its correction for continuity."""
    wins = sum((one > other) + (one == other) / 2 for one in base for other in head)
    count = len(base) * len(head)
    spread = math.sqrt(count * (len(base) + len(head) + 1) / 12)
    return math.erfc(max(0.0, abs(wins - count / 2) - 0.5) / spread / math.sqrt(2))


def _interval(samples: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(samples)
    skipped = max(0, math.floor(len(ordered) / 2 - 2.576 * math.sqrt(len(ordered)) / 2))
    return ordered[skipped], ordered[-1 - skipped]
