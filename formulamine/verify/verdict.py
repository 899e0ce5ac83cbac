"""The verdict: what the raw samples of a measurement say, as a pure function of them.

Here belong the rows for people, and the rules from raw data (`raw`) to them; whoever has the raw data can recompute
every row and the verdict. Not here: taking samples (`protocol`, `lockstep`) and the arithmetic of estimates
(`statistics`).
"""

from __future__ import annotations

import math
import statistics as numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from formulamine.verify import statistics
from formulamine.verify.raw import RawCase, RawMeasurement, RawValue, Round
from formulamine.verify.statistics import Difference, Outcome

MIN_SPEEDUP = 1.05
MIN_LOWER_BOUND = 1.02
SCREEN_ALPHA = 0.025  # each side of the interval shown for a screened benchmark, which decides nothing
BOTH = ("faster", "slower")
DECIDING_KINDS = ("time", "timeraw")
LATE = {"base_timeout": "faster", "head_timeout": "slower"}
OUT_OF_TIME = "the time of the whole measurement is used up"
LARGEST_LOG = 700.0  # math.exp overflows a little later


@dataclass(frozen=True)
class BenchmarkResult:
    """One benchmark in one stage. Seconds are CPU time of one call; ratios are base over head, above 1 is faster.

    `mode` is what the verdict goes by: steady (a loop of calls), first_call (one call after each set-up) or single (one
    call in each process); `other_mode` is how else it was timed, and gave `other_speedup`. `clock` is what `speedup`
    and its interval go by: cpu, or wall where the two disagree. Where one side did not end in time, `speedup` is a
    bound: the ratio is at least (base_timeout) or at most (head_timeout) that. The interval of a screen is a plain 95%
    one, that of a confirmation is simultaneous over all kept benchmarks and all looks. `decision` is kept_faster,
    kept_slower or passed_over in a screen; faster, slower, dropped or unsettled after; empty where nothing ran or its
    kind decides nothing: `base_value` and `head_value` then have a `unit` of the suite's own.
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
    clock: str = "cpu"
    other_mode: str = ""
    other_speedup: float | None = None
    unit: str = "seconds"
    base_value: float | None = None
    head_value: float | None = None


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
            wanted = directions[case.benchmark]
            results.append(_result(case, settle(case, len(directions), wanted, min_speedup, min_lower_bound)))
        elif case.stage == "control":
            results.append(_result(case, settle(case, len(controls), BOTH, min_speedup, min_lower_bound)))
    for name, kind, side in raw.one_sided:
        results.append(BenchmarkResult(name, "screen", kind, status="failed", detail=f"only {side} has it"))
    results += [_value_result(value) for value in raw.values]

    faster = [result for result in results if result.decision == "faster"]
    slower = [result for result in results if result.decision == "slower"]
    settled = {result.benchmark for result in results if result.decision in ("faster", "slower", "dropped")}
    promising = {name for name, wanted in directions.items() if "faster" in wanted}
    best = None
    if raw.reason:
        verdict, reason = "undecided", raw.reason
    elif faster:
        verdict, reason = "faster", ""
        best = max(faster, key=lambda result: (result.ci_low or 0.0, result.benchmark))
    elif slower:
        verdict, reason = "slower", ""
        best = min(slower, key=lambda result: (result.ci_high or math.inf, result.benchmark))
    elif raw.selection.mode == "impact" and not raw.selection.reached:
        verdict, reason = "undecided", "not_covered"
    elif not any(result.rounds and result.kind in DECIDING_KINDS for result in results):
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
        screened=sum(bool(_screen_differences(case)) for case in screened),
        kept=len(directions),
        confirmed=len(faster) + len(slower),
        results=tuple(results),
    )


def _differences(case: RawCase) -> list[Difference]:
    return [
        Difference(
            statistics.paired_difference(of.base_cpu, of.head_cpu),
            statistics.paired_difference(of.base_wall, of.head_wall),
            of.session,
        )
        for of in case.rounds
    ]


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
        if not 0 < of.late_seconds <= case.limit_seconds:
            raise ValueError("a side that was late had another time than its limit")
        ratios.append(of.late_seconds / slowest)
    return ratios


def _screen_differences(case: RawCase) -> list[Difference]:
    """What a case is ranked by; nothing where it did not run."""
    try:
        if case.status in LATE and _timeout_ratios(case):
            bound = math.inf if LATE[case.status] == "faster" else -math.inf
            return [Difference(bound, bound)]
        if case.status == "ok" and len(case.rounds) >= statistics.SCREEN_ROUNDS:
            return _differences(case)
    except ValueError:
        pass  # `_screen_result` reports it
    return []


def kept_by_screen(cases: Iterable[RawCase]) -> dict[str, tuple[str, ...]]:
    """The benchmarks that the screen keeps, each with the directions to confirm."""
    screens = {case.benchmark: _screen_differences(case) for case in cases if case.stage == "screen"}
    faster, slower = statistics.keep_by_either({name: seen for name, seen in screens.items() if seen})
    kept = dict.fromkeys(faster, ("faster",))
    return {**kept, **{name: (*kept.get(name, ()), "slower") for name in slower}}


def settle(case: RawCase, kept: int, directions: Sequence[str], min_speedup: float, min_lower_bound: float) -> Outcome:
    """Where the confirmation of a case stands, of `kept` that are confirmed, as one or more `directions`."""
    try:
        if case.status == "ok":
            return statistics.settle(_differences(case), kept, directions, min_speedup, min_lower_bound)
        if case.status in LATE and LATE[case.status] in directions:
            later = sum(of.session == 2 for of in case.rounds)
            return statistics.settle_timeouts(_timeout_ratios(case), later, LATE[case.status], min_speedup)
    except ValueError as error:
        return Outcome("unsettled", 0, statistics.NOTHING, str(error))
    return Outcome("unsettled", 0, statistics.NOTHING)


def _screen_result(case: RawCase, directions: Mapping[str, Sequence[str]]) -> BenchmarkResult:
    decision = f"kept_{directions[case.benchmark][0]}" if case.benchmark in directions else "passed_over"
    outcome = Outcome("", 0, statistics.NOTHING)
    try:
        if case.status in LATE:
            bound = statistics.settle_timeouts(_timeout_ratios(case), 0, LATE[case.status], MIN_SPEEDUP)
            outcome = replace(bound, decision=decision)
        elif case.status == "ok" and case.rounds:
            seen = [of.cpu for of in _differences(case)]
            outcome = Outcome(decision, len(seen), statistics.interval(seen, SCREEN_ALPHA))
    except ValueError as error:
        outcome = replace(outcome, error=str(error))
    return _result(case, outcome)


def _result(case: RawCase, outcome: Outcome) -> BenchmarkResult:
    """Describe a case from the rounds that its outcome used."""
    used = _used(case, outcome)
    shared = BenchmarkResult(
        benchmark=case.benchmark,
        stage=case.stage,
        kind=case.kind,
        mode=case.mode,
        status="failed" if outcome.error else case.status,
        detail="; ".join(filter(None, (case.detail, outcome.error, case.why))),
        number=case.number,
        rounds=len(used),
        decision="unsettled" if outcome.decision in ("open", "again") else outcome.decision,
        clock=outcome.clock,
    )
    if not used:
        return shared
    wall, notes = None, [shared.detail]
    if case.status == "ok":
        wall = numbers.median(statistics.paired_difference(of.base_wall, of.head_wall) for of in used)
        cpu = numbers.median(statistics.paired_difference(of.base_cpu, of.head_cpu) for of in used)
        if outcome.clock == "wall":
            notes.append(f"by wall time, since CPU time says {math.exp(cpu):.2f}x and wall time {math.exp(wall):.2f}x")
        if outcome.again and outcome.decision in ("dropped", "unsettled"):
            notes.append("not found again in a later session")
    other_mode, other_speedup, note = _otherwise(case, used)
    return replace(
        shared,
        detail="; ".join(filter(None, (*notes, note))),
        speedup=_ratio(outcome.interval.estimate),
        ci_low=_ratio(outcome.interval.low),
        ci_high=_ratio(outcome.interval.high),
        base_seconds=_call_seconds([of.base_cpu for of in used], case.number),
        head_seconds=_call_seconds([of.head_cpu for of in used], case.number),
        wall_speedup=None if wall is None else _ratio(wall),
        other_mode=other_mode,
        other_speedup=other_speedup,
    )


def _used(case: RawCase, outcome: Outcome) -> tuple[Round, ...]:
    first = [of for of in case.rounds if of.session == 1][: outcome.rounds]
    return (*first, *[of for of in case.rounds if of.session == 2][: outcome.again])


def _otherwise(case: RawCase, used: Sequence[Round]) -> tuple[str, float | None, str]:
    """How a case was timed the other way, the ratio that this gave, and a sentence where it is another one."""
    both = [
        (statistics.paired_difference([of.base_other], [of.head_other]), of)
        for of in used
        if of.base_other is not None and of.head_other is not None
    ]
    if case.status != "ok" or not both:
        return "", None, ""
    mode = "first_call" if case.mode == "steady" else "steady"
    ratio = math.exp(numbers.median(other for other, _ in both))
    apart = statistics.interval(
        [other - statistics.paired_difference(of.base_cpu, of.head_cpu) for other, of in both],
        statistics.OTHERWISE_ALPHA,
    )
    if apart.low <= 0 <= apart.high:
        return mode, ratio, ""
    why = "ASV times a loop, there being no set-up" if mode == "first_call" else "ASV times one call after each set-up"
    what = "the first call" if mode == "first_call" else "a loop without set-ups between the calls"
    return mode, ratio, f"{what} says {ratio:.2f}x, which the verdict does not use: {why}"


def _value_result(value: RawValue) -> BenchmarkResult:
    base, head = (numbers.median(found) if found else None for found in (value.base, value.head))
    return BenchmarkResult(
        benchmark=value.benchmark, stage="screen", kind=value.kind, status=value.status, detail=value.detail,
        rounds=len(value.base), clock="", unit=value.unit, base_value=base, head_value=head,
    )  # fmt: skip


def _call_seconds(samples: Sequence[Sequence[float]], number: int) -> float | None:
    medians = [numbers.median(taken) for taken in samples if taken]
    return numbers.median(medians) / number if medians and number else None


def _ratio(difference: float) -> float | None:
    """The ratio of a difference of logarithms; None where it is unbounded."""
    return math.exp(difference) if abs(difference) < LARGEST_LOG else None
