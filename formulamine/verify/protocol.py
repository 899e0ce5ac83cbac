"""The protocol: screen everything, confirm the extremes on fresh data.

Here belong the stages of a measurement and their time. Not here: processes (`lockstep`, `side`), the arithmetic of
estimates (`statistics`) and what the samples say (`verdict`). Nothing here knows of pull requests, settings or
sandboxes.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from formulamine.verify import statistics
from formulamine.verify.lockstep import Lockstep, load_note
from formulamine.verify.side import Case, Launch, Limits, SideBroken
from formulamine.verify.verdict import (
    BOTH,
    MIN_LOWER_BOUND,
    MIN_SPEEDUP,
    OUT_OF_TIME,
    VERSION,
    BenchmarkResult,
    RawMeasurement,
    Verdict,
    decide,
    kept_by_screen,
    settle,
)

__all__ = [
    "VERSION",
    "BenchmarkResult",
    "Measurement",
    "RawMeasurement",
    "Verdict",
    "control",
    "decide",
    "measure",
]

DEFAULT_LIMITS = Limits()
SCREEN_SHARE = 0.6  # of the total time, so that a large suite leaves time to confirm what it promises
CONTROLS = 5  # cases of an A/A control

Progress = Callable[[str, int, int], None]
"""Called with the stage, how many of its cases are done, and how many there are."""


@dataclass(frozen=True)
class Measurement:
    """A finished measurement; `verdict` equals `decide(raw, ...)` with the same thresholds, then and later."""

    verdict: Verdict
    raw: RawMeasurement
    seconds: float

    @property
    def results(self) -> tuple[BenchmarkResult, ...]:
        """One per benchmark and stage."""
        return self.verdict.results


def measure(
    base: Launch,
    head: Launch,
    *,
    limits: Limits = DEFAULT_LIMITS,
    min_speedup: float = MIN_SPEEDUP,
    min_lower_bound: float = MIN_LOWER_BOUND,
    cancelled: threading.Event | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Measurement:
    """Measure whether `head` is faster than `base`.

    Args:
        base: Starts the side before the change.
        head: Starts the side after it, with the same suite.
        limits: Wall time allowed; what does not fit is undecided.
        min_speedup: The ratio that a confirmed estimate must reach.
        min_lower_bound: The ratio that its lower bound must reach.
        cancelled: Set by another thread to end within seconds.
        progress: Told of each case that is done.
        seed: Of the suite's random numbers, alike on both sides.

    Raises:
        Cancelled: `cancelled` was set; no process is left.
    """
    run = _Run(limits, min_speedup, min_lower_bound, progress)
    with Lockstep(base, head, limits, cancelled or threading.Event(), seed) as lockstep:
        return run.finish(lambda: run.screen_and_confirm(lockstep))


def control(
    base: Launch,
    *,
    cases: int = CONTROLS,
    limits: Limits = DEFAULT_LIMITS,
    min_speedup: float = MIN_SPEEDUP,
    min_lower_bound: float = MIN_LOWER_BOUND,
    cancelled: threading.Event | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Measurement:
    """Measure a side against itself, by the confirmation that `measure` uses, in both directions.

    Args:
        base: Starts the side; two processes of it are compared.
        cases: How many benchmark cases to take, chosen by a hash of `seed` and name.
        limits: As in `measure`, as are the rest.
        min_speedup: As in `measure`.
        min_lower_bound: As in `measure`.
        cancelled: As in `measure`.
        progress: As in `measure`.
        seed: As in `measure`.

    Returns:
        A measurement whose results have the stage "control"; a verdict of faster or slower is a false alarm.

    Raises:
        Cancelled: `cancelled` was set; no process is left.
    """
    run = _Run(limits, min_speedup, min_lower_bound, progress)
    with Lockstep(base, base, limits, cancelled or threading.Event(), seed) as lockstep:
        return run.finish(lambda: run.confirm_sample(lockstep, cases, seed))


class _Run:
    """One measurement under way: its time, its thresholds, and the raw data so far."""

    def __init__(self, limits: Limits, min_speedup: float, min_lower_bound: float, progress: Progress | None) -> None:
        self.limits, self.min_speedup, self.min_lower_bound = limits, min_speedup, min_lower_bound
        self.progress = progress
        self.started = time.monotonic()
        self.load = load_note()
        self.raw = RawMeasurement()

    def finish(self, stages: Callable[[], None]) -> Measurement:
        try:
            stages()
        except SideBroken as error:
            self.raw = replace(self.raw, reason=error.reason, detail=str(error))
        self.raw = replace(self.raw, load=(self.load, load_note()))
        verdict = decide(self.raw, self.min_speedup, self.min_lower_bound)
        return Measurement(verdict, self.raw, self.elapsed())

    def discover(self, lockstep: Lockstep) -> tuple[Case, ...]:
        suite = lockstep.discover()
        self.raw = replace(self.raw, one_sided=suite.one_sided, other=suite.other, problems=suite.problems)
        return suite.cases

    def screen_and_confirm(self, lockstep: Lockstep) -> None:
        """Screen every case, and confirm the extremes."""
        cases = self.discover(lockstep)
        for index, case in enumerate(cases):
            raw = lockstep.begin(case, "screen")
            while raw.status == "ok" and len(raw.rounds) < statistics.SCREEN_ROUNDS:
                if self.elapsed() > self.limits.total_seconds * SCREEN_SHARE:
                    raw = replace(raw, status="failed", detail=OUT_OF_TIME)
                else:
                    raw = lockstep.advance(case, raw, statistics.SCREEN_PAIRS)
            self.raw = replace(self.raw, cases=(*self.raw.cases, raw))
            self.report("screen", index + 1, len(cases))
        directions = kept_by_screen(self.raw.cases)
        self._confirm(
            lockstep, [(case, (directions[case.name],)) for case in cases if case.name in directions], "confirm"
        )

    def confirm_sample(self, lockstep: Lockstep, count: int, seed: int) -> None:
        """Confirm cases chosen by a hash, in both directions."""

        def rank(case: Case) -> str:
            return hashlib.sha256(f"{seed}:{case.name}".encode()).hexdigest()

        self._confirm(lockstep, [(case, BOTH) for case in sorted(self.discover(lockstep), key=rank)[:count]], "control")

    def _confirm(self, lockstep: Lockstep, kept: Sequence[tuple[Case, Sequence[str]]], stage: str) -> None:
        """Take round after round of all that is open, each in fresh processes, until every case is settled."""
        rounds = {case.name: lockstep.begin(case, stage) for case, _ in kept}
        spent = dict.fromkeys(rounds, 0.0)
        waiting = list(kept)
        try:
            while waiting:
                lockstep.renew()
                for case, directions in list(waiting):
                    started = self.elapsed()
                    raw = lockstep.advance(case, rounds[case.name], statistics.CONFIRM_PAIRS)
                    spent[case.name] += self.elapsed() - started
                    outcome = settle(raw, len(kept), directions, self.min_speedup, self.min_lower_bound)
                    late = self._late(spent[case.name]) if outcome.decision == "open" else ""
                    rounds[case.name] = replace(raw, detail=late) if late else raw
                    if late or outcome.decision != "open":
                        waiting.remove((case, directions))
                        self.report(stage, len(kept) - len(waiting), len(kept))
        finally:
            self.raw = replace(self.raw, cases=(*self.raw.cases, *rounds.values()))

    def _late(self, spent: float) -> str:
        if self.elapsed() > self.limits.total_seconds:
            return OUT_OF_TIME
        return f"not settled in {self.limits.case_seconds:g} s" if spent > self.limits.case_seconds else ""

    def elapsed(self) -> float:
        """Seconds since the measurement began."""
        return time.monotonic() - self.started

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell the caller how far the stage is."""
        if self.progress is not None:
            self.progress(stage, done, total)
