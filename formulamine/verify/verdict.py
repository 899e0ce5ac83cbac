"""The verdict: what the raw samples of a measurement say, as a pure function of them.

Here belong the raw data as they are stored, the rows for people, and the rules from one to the other; whoever has the
raw data can recompute every row and the verdict. Not here: taking samples (`protocol`, `lockstep`) and the arithmetic
of estimates (`statistics`).
"""

from __future__ import annotations

import json
import math
import statistics as numbers
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from formulamine.verify import statistics
from formulamine.verify.lockstep import ModuleProblem, RawCase, Round
from formulamine.verify.statistics import Outcome

VERSION = "2"
"""Changes with anything that may change a verdict; it belongs in the fingerprint of whoever measures."""

MIN_SPEEDUP = 1.05
MIN_LOWER_BOUND = 1.02
SCREEN_ALPHA = 0.025  # each side of the interval shown for a screened benchmark, which decides nothing
BOTH = ("faster", "slower")
LATE = {"base_timeout": "faster", "head_timeout": "slower"}
OUT_OF_TIME = "the time of the whole measurement is used up"
LARGEST_LOG = 700.0  # math.exp overflows a little later


@dataclass(frozen=True)
class RawMeasurement:
    """Everything the verdict follows from, and nothing that was computed from it.

    `reason` says in one word why a side could not be used, `detail` in more; `one_sided` are (case, kind, the side that
    has it), `other` benchmarks whose kind decides nothing, `load` the machine's load before and after.
    """

    cases: tuple[RawCase, ...] = ()
    one_sided: tuple[tuple[str, str, str], ...] = ()
    other: tuple[str, ...] = ()
    problems: tuple[ModuleProblem, ...] = ()
    reason: str = ""
    detail: str = ""
    load: tuple[str, str] = ("", "")
    version: str = VERSION

    def to_json(self) -> str:
        """As JSON, from which `from_json` gives back an equal object."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> RawMeasurement:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The text is no JSON.
            TypeError: It has other fields.
        """
        fields = json.loads(text)
        fields["cases"] = tuple(
            RawCase(**{**case, "rounds": tuple(Round(**_tuples(of)) for of in case["rounds"])})
            for case in fields["cases"]
        )
        fields["problems"] = tuple(ModuleProblem(**problem) for problem in fields["problems"])
        fields["one_sided"] = tuple((name, kind, side) for name, kind, side in fields["one_sided"])
        return cls(**_tuples(fields))


@dataclass(frozen=True)
class BenchmarkResult:
    """One benchmark in one stage. Seconds are CPU time of one call; ratios are base over head, above 1 is faster.

    `mode` is steady (a loop of calls) or first_call (one call after each set-up). Where one side did not end in time,
    `speedup` is a bound: the ratio is at least (base_timeout) or at most (head_timeout) that. The interval of a screen
    is a plain 95% one, that of a confirmation is simultaneous over all kept benchmarks and all looks. `decision` is
    kept_faster, kept_slower or passed_over in a screen; faster, slower, dropped or unsettled after; empty where nothing
    ran.
    """

    benchmark: str
    stage: str
    kind: str
    mode: str = ""
    status: str = "ok"
    detail: str = ""
    number: int = 0
    rounds: int = 0
    decision: str = ""
    speedup: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    base_seconds: float | None = None
    head_seconds: float | None = None
    wall_speedup: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What the raw samples say: faster, not_faster, slower or undecided, the last with a `reason` in one word.

    `benchmark` is the confirmed one with the largest lower bound, with its simultaneous interval; of a slower verdict
    the one with the smallest upper bound. `regressions` are confirmed slower ones, beside any verdict.
    """

    verdict: str
    reason: str = ""
    benchmark: str = ""
    speedup: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    regressions: tuple[str, ...] = ()
    screened: int = 0
    kept: int = 0
    confirmed: int = 0
    results: tuple[BenchmarkResult, ...] = ()


def decide(raw: RawMeasurement, min_speedup: float = MIN_SPEEDUP, min_lower_bound: float = MIN_LOWER_BOUND) -> Verdict:
    """What follows from the raw samples; a pure function, so that a stored verdict can be recomputed."""
    screened = [case for case in raw.cases if case.stage == "screen"]
    directions = kept_by_screen(screened)
    controls = [case for case in raw.cases if case.stage == "control"]
    results = [_screen_result(case, directions) for case in screened]
    for case in raw.cases:
        if case.stage == "confirm" and case.benchmark in directions:
            wanted = (directions[case.benchmark],)
            results.append(_result(case, settle(case, len(directions), wanted, min_speedup, min_lower_bound)))
        elif case.stage == "control":
            results.append(_result(case, settle(case, len(controls), BOTH, min_speedup, min_lower_bound)))
    for name, kind, side in raw.one_sided:
        results.append(BenchmarkResult(name, "screen", kind, status="failed", detail=f"only {side} has it"))

    faster = [result for result in results if result.decision == "faster"]
    slower = [result for result in results if result.decision == "slower"]
    settled = {result.benchmark for result in results if result.decision in ("faster", "slower", "dropped")}
    promising = {name for name, direction in directions.items() if direction == "faster"}
    best = None
    if raw.reason:
        verdict, reason = "undecided", raw.reason
    elif faster:
        verdict, reason = "faster", ""
        best = max(faster, key=lambda result: (result.ci_low or 0.0, result.benchmark))
    elif slower:
        verdict, reason = "slower", ""
        best = min(slower, key=lambda result: (result.ci_high or math.inf, result.benchmark))
    elif not any(result.rounds for result in results):
        verdict, reason = "undecided", "no_benchmarks_ran"
    elif promising - settled:
        verdict, reason = "undecided", "not_settled"
    elif any(case.detail == OUT_OF_TIME for case in raw.cases):
        verdict, reason = "undecided", "out_of_time"
    else:
        verdict, reason = "not_faster", ""
    return Verdict(
        verdict=verdict,
        reason=reason,
        benchmark=best.benchmark if best else "",
        speedup=best.speedup if best else None,
        ci_low=best.ci_low if best else None,
        ci_high=best.ci_high if best else None,
        regressions=tuple(result.benchmark for result in slower),
        screened=sum(_screen_estimate(case) is not None for case in screened),
        kept=len(directions),
        confirmed=len(faster) + len(slower),
        results=tuple(results),
    )


def _differences(case: RawCase) -> list[float]:
    return [statistics.paired_difference(of.base_cpu, of.head_cpu) for of in case.rounds]


def _timeout_ratios(case: RawCase) -> list[float]:
    """In each round, how many times longer than the side that ended the other one was allowed to take.

    Raises:
        ValueError: A round has both sides or none, or a sample that is no time.
    """
    late = "base_wall" if case.status == "base_timeout" else "head_wall"
    ended = "head_wall" if case.status == "base_timeout" else "base_wall"
    ratios = []
    for of in case.rounds:
        if getattr(of, late):
            raise ValueError("a side that times out in one round and not in another")
        slowest = max(getattr(of, ended))
        if not (math.isfinite(slowest) and min(getattr(of, ended)) > 0):
            raise ValueError("a sample is not a finite number of seconds above zero")
        ratios.append(case.limit_seconds / slowest)
    return ratios


def _screen_estimate(case: RawCase) -> float | None:
    """What a case is ranked by; None where it did not run."""
    try:
        if case.status in LATE and _timeout_ratios(case):
            return math.inf if LATE[case.status] == "faster" else -math.inf
        if case.status == "ok" and len(case.rounds) >= statistics.SCREEN_ROUNDS:
            return numbers.median(_differences(case))
    except ValueError:
        pass  # `_screen_result` reports it
    return None


def kept_by_screen(cases: Iterable[RawCase]) -> dict[str, str]:
    """The benchmarks that the screen keeps, each with the direction to confirm."""
    estimates = {case.benchmark: _screen_estimate(case) for case in cases if case.stage == "screen"}
    faster, slower = statistics.keep({name: value for name, value in estimates.items() if value is not None})
    return {**dict.fromkeys(faster, "faster"), **dict.fromkeys(slower, "slower")}


def settle(case: RawCase, kept: int, directions: Sequence[str], min_speedup: float, min_lower_bound: float) -> Outcome:
    """Where the confirmation of a case stands, of `kept` that are confirmed, as one or more `directions`."""
    try:
        if case.status == "ok":
            return statistics.settle(_differences(case), kept, directions, min_speedup, min_lower_bound)
        if case.status in LATE and LATE[case.status] in directions:
            return statistics.settle_timeouts(_timeout_ratios(case), LATE[case.status], min_speedup)
    except ValueError as error:
        return Outcome("unsettled", 0, statistics.NOTHING, str(error))
    return Outcome("unsettled", 0, statistics.NOTHING)


def _screen_result(case: RawCase, directions: dict[str, str]) -> BenchmarkResult:
    decision = f"kept_{directions[case.benchmark]}" if case.benchmark in directions else "passed_over"
    outcome = Outcome("", 0, statistics.NOTHING)
    try:
        if case.status in LATE:
            bound = statistics.settle_timeouts(_timeout_ratios(case), LATE[case.status], MIN_SPEEDUP)
            outcome = replace(bound, decision=decision)
        elif case.status == "ok" and case.rounds:
            differences = _differences(case)
            outcome = Outcome(decision, len(differences), statistics.interval(differences, SCREEN_ALPHA))
    except ValueError as error:
        outcome = replace(outcome, error=str(error))
    return _result(case, outcome)


def _result(case: RawCase, outcome: Outcome) -> BenchmarkResult:
    """Describe a case from the rounds that its outcome used."""
    used = case.rounds[: outcome.rounds]
    shared = BenchmarkResult(
        benchmark=case.benchmark,
        stage=case.stage,
        kind=case.kind,
        mode=case.mode,
        status="failed" if outcome.error else case.status,
        detail="; ".join(filter(None, (case.detail, outcome.error))),
        number=case.number,
        rounds=outcome.rounds,
        decision="unsettled" if outcome.decision == "open" else outcome.decision,
    )
    if not used:
        return shared
    wall = None
    detail = shared.detail
    if case.status == "ok":
        wall = numbers.median(statistics.paired_difference(of.base_wall, of.head_wall) for of in used)
        if abs(wall - outcome.interval.estimate) > math.log(statistics.WALL_DISAGREEMENT):
            found = f"CPU time says {math.exp(outcome.interval.estimate):.2f}x, wall time {math.exp(wall):.2f}x"
            detail = "; ".join(filter(None, (detail, found)))
    return replace(
        shared,
        detail=detail,
        speedup=_ratio(outcome.interval.estimate),
        ci_low=_ratio(outcome.interval.low),
        ci_high=_ratio(outcome.interval.high),
        base_seconds=_call_seconds([of.base_cpu for of in used], case.number),
        head_seconds=_call_seconds([of.head_cpu for of in used], case.number),
        wall_speedup=None if wall is None else _ratio(wall),
    )


def _call_seconds(samples: Sequence[Sequence[float]], number: int) -> float | None:
    medians = [numbers.median(taken) for taken in samples if taken]
    return numbers.median(medians) / number if medians and number else None


def _ratio(difference: float) -> float | None:
    """The ratio of a difference of logarithms; None where it is unbounded."""
    return math.exp(difference) if abs(difference) < LARGEST_LOG else None


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
