"""Shares with their exact intervals."""

from __future__ import annotations

from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Rate:
    """So many of so many."""

    count: int = 0
    of: int = 0

    def __add__(self, other: Rate) -> Rate:
        """Both together."""
        return Rate(self.count + other.count, self.of + other.of)

    @property
    def share(self) -> float | None:
        """The share, None of nothing."""
        return self.count / self.of if self.of else None

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Clopper and Pearson's interval, which covers at least so often whatever the share is."""
        from scipy.special import betaincinv

        tail = (1 - confidence) / 2
        low = float(betaincinv(self.count, self.of - self.count + 1, tail)) if self.count else 0.0
        high = float(betaincinv(self.count + 1, self.of - self.count, 1 - tail)) if self.count < self.of else 1.0
        return low, high

    def __str__(self) -> str:
        """As "93.8% (105/112, 87.5-97.5%)"."""
        if self.share is None:
            return "-"
        low, high = self.interval()
        return f"{self.share:.1%} ({self.count}/{self.of}, {100 * low:.1f}-{100 * high:.1f}%)"

    def as_json(self) -> dict[str, float | int | None]:
        """For machines."""
        low, high = self.interval() if self.of else (None, None)
        return {"count": self.count, "of": self.of, "share": self.share, "low": low, "high": high}
