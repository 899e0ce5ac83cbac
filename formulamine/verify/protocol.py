"""The protocol: screen everything, confirm the extremes on fresh data.

Here belong the stages of a measurement and their time. Not here: processes (`lockstep`, `side`), the arithmetic of
estimates (`statistics`) and what the samples say (`verdict`). Nothing here knows of pull requests, settings or
sandboxes.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from formulamine.verify import impact, statistics
from formulamine.verify.lockstep import Lockstep, Suite, load_note
from formulamine.verify.raw import VERSION, RawMeasurement, RawValue, Selection
from formulamine.verify.side import Case, Launch, Limits, SideBroken
from formulamine.verify.verdict import (
    BOTH,
    MIN_LOWER_BOUND,
    MIN_SPEEDUP,
    OUT_OF_TIME,
    BenchmarkResult,
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
    only: Collection[str] | None = None,
    select: bool = False,
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
        only: Names of the cases to measure; None for all.
        select: Measure only what the change can touch, and a sample of the rest; see `impact`.

    Raises:
        Cancelled: `cancelled` was set; no process is left.
    """
    run = _Run(limits, min_speedup, min_lower_bound, progress, only)
    with Lockstep(base, head, limits, cancelled or threading.Event(), seed) as lockstep:
        measured = run.finish(lambda: run.screen_and_confirm(lockstep, seed, select))
    wrong = contradicted(measured)
    if not wrong:
        return measured
    again = measure(
        base, head, limits=limits, min_speedup=min_speedup, min_lower_bound=min_lower_bound, cancelled=cancelled,
        progress=progress, seed=seed + 1, only=only,
    )  # fmt: skip
    noted = replace(again.raw, selection=Selection("all", f"{wrong} was excluded, yet it was confirmed"))
    return replace(again, raw=noted, seconds=measured.seconds + again.seconds)


def contradicted(measured: Measurement) -> str:
    """A benchmark that the change cannot touch and that was confirmed all the same; empty where there is none."""
    sampled = measured.raw.selection.sampled
    confirmed = [one.benchmark for one in measured.results if one.decision in ("faster", "slower")]
    return next((name for name in confirmed if name in sampled), "")


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

    def __init__(
        self,
        limits: Limits,
        min_speedup: float,
        min_lower_bound: float,
        progress: Progress | None,
        only: Collection[str] | None = None,
    ) -> None:
        self.limits, self.min_speedup, self.min_lower_bound = limits, min_speedup, min_lower_bound
        self.progress, self.only = progress, only
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

    def discover(self, lockstep: Lockstep) -> Suite:
        suite = lockstep.discover()
        if self.only is not None:
            cases, others = (tuple(case for case in of if case.name in self.only) for of in (suite.cases, suite.others))
            suite = replace(suite, cases=cases, others=others)
        self.raw = replace(self.raw, one_sided=suite.one_sided, problems=suite.problems)
        return suite

    def screen_and_confirm(self, lockstep: Lockstep, seed: int, choose: bool) -> None:
        """Screen every case, confirm the extremes, and ask the kinds that decide nothing for their numbers."""
        if choose:
            lockstep.trace()
        suite = self.discover(lockstep)
        if choose:
            selection = impact.select(lockstep, suite.cases, seed, self.report)
            self.raw = replace(self.raw, selection=selection)
            if selection.mode == "impact":
                chosen = {*selection.reached, *selection.sampled}
                suite = replace(suite, cases=tuple(case for case in suite.cases if case.name in chosen), others=())
            lockstep.renew()
        self._screen(lockstep, suite.cases)
        directions = kept_by_screen(self.raw.cases)
        kept = [(case, directions[case.name]) for case in suite.cases if case.name in directions]
        self._confirm(lockstep, kept, "confirm")
        for case in suite.others:
            late = self.elapsed() > self.limits.total_seconds
            value = RawValue(case.name, case.kind, "", "failed", OUT_OF_TIME) if late else lockstep.values(case)
            self.raw = replace(self.raw, values=(*self.raw.values, value))

    def _screen(self, lockstep: Lockstep, cases: Sequence[Case]) -> None:
        """Take a round of each case, and then one more in fresh processes."""
        rounds = {case.name: lockstep.begin(case, "screen") for case in cases}
        try:
            for index in range(statistics.SCREEN_ROUNDS):
                if index:
                    lockstep.renew()
                for number, case in enumerate(cases):
                    raw = rounds[case.name]
                    if raw.status == "ok" and self.elapsed() > self.limits.total_seconds * SCREEN_SHARE:
                        rounds[case.name] = replace(raw, status="failed", detail=OUT_OF_TIME)
                    elif raw.status == "ok":
                        rounds[case.name] = lockstep.advance(case, raw, statistics.SCREEN_PAIRS)
                    self.report("screen", index * len(cases) + number + 1, statistics.SCREEN_ROUNDS * len(cases))
        finally:
            self.raw = replace(self.raw, cases=(*self.raw.cases, *rounds.values()))

    def confirm_sample(self, lockstep: Lockstep, count: int, seed: int) -> None:
        """Confirm cases chosen by a hash, in both directions."""

        def rank(case: Case) -> str:
            return hashlib.sha256(f"{seed}:{case.name}".encode()).hexdigest()

        self._confirm(
            lockstep, [(case, BOTH) for case in sorted(self.discover(lockstep).cases, key=rank)[:count]], "control"
        )

    def _confirm(self, lockstep: Lockstep, kept: Sequence[tuple[Case, Sequence[str]]], stage: str) -> None:
        """Take round after round of all that is open, each in fresh processes, until every case is settled.

        What has been confirmed waits until the others are settled, and is then confirmed again.
        """
        rounds = {case.name: lockstep.begin(case, stage) for case, _ in kept}
        spent = dict.fromkeys(rounds, 0.0)
        settled = 0
        waiting = list(kept)
        try:
            for session, going_on in ((1, "open"), (2, "again")):
                later = []
                while waiting:
                    lockstep.renew()
                    for case, directions in list(waiting):
                        started = self.elapsed()
                        raw = lockstep.advance(case, rounds[case.name], statistics.CONFIRM_PAIRS, session)
                        spent[case.name] += self.elapsed() - started
                        decision = settle(raw, len(kept), directions, self.min_speedup, self.min_lower_bound).decision
                        late = self._late(spent[case.name]) if decision in ("open", "again") else ""
                        rounds[case.name] = replace(raw, detail=late) if late else raw
                        if late or decision != going_on:
                            waiting.remove((case, directions))
                            if decision == "again" and not late:
                                later.append((case, directions))
                            else:
                                settled += 1
                                self.report(stage, settled, len(kept))
                waiting = later
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
