"""How well the protocol does: trials in which the truth is known, and what they add up to.

Here belong one trial on two launches of the same side, its record, and the sums over trials. Not here: pairs, locks and
where trials are kept (`calibrate`). A trial is a whole measurement of base against base; in some, base is made slower
in one benchmark by work that it really does, and of which the protocol knows nothing.
"""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from formulamine.verify import protocol
from formulamine.verify.lockstep import Lockstep, number_of
from formulamine.verify.side import Case, CaseEnded, Launch, Limits, SideDied

RATIOS = (1.0, 1.02, 1.05, 1.10, 1.30, 2.0)
"""What is tried: 1 is base against itself; between 1.02 and the gate of 1.05 either answer is right."""
CONFIDENCE = 0.95  # of the bounds on a rate, one-sided
PILOT_ROUNDS, PILOT_PAIRS = 5, 5
PILOT_TURNS = 200_000  # a few milliseconds
SLOWEST_S = 0.5  # a call of the benchmark that is made slower; longer ones would make a trial of hours
# A sample of the benchmark that is made slower; in a shorter one the clocks around the extra work, some 2 us, are too
# much of it: samples of 10 us were made slower by 1.6 where 1.3 was meant.
LEAST_SAMPLE_S = 0.0005
TRIED = 10  # benchmarks, until one can be made slower

MakeLaunch = Callable[[int, Mapping[str, float]], Launch]
"""Makes the launch of the side for a seed, with so many turns of extra work in each call of some cases."""


@dataclass(frozen=True)
class Trial:
    """One trial. `benchmark` is the one made slower, by `ratio`; both sides are the same where `ratio` is 1.

    `found` are the benchmarks confirmed as faster, `slower` those confirmed as slower; `speedup` and its bounds are
    those of `benchmark`, None where it was not confirmed. `load` is that of the machine before and after.
    """

    version: str
    machine: str
    pair: str
    seed: int
    ratio: float
    benchmarks: int
    benchmark: str
    verdict: str
    reason: str
    found: tuple[str, ...]
    slower: tuple[str, ...]
    speedup: float | None
    ci_low: float | None
    ci_high: float | None
    kept: int
    seconds: float
    load: tuple[str, str]
    raw_sha256: str = ""

    @property
    def false(self) -> bool:
        """Whether it found, in either direction, what is not there."""
        return bool(self.slower or set(self.found) - {self.benchmark})

    @property
    def power(self) -> bool:
        """Whether it found what is there."""
        return self.benchmark in self.found


class NothingToSlow(Exception):
    """No benchmark of the suite can be made slower by a known amount."""


def trial(
    make: MakeLaunch,
    *,
    pair: str,
    machine: str,
    seed: int,
    ratio: float,
    benchmarks: int,
    limits: Limits,
    cancelled: threading.Event,
) -> tuple[Trial, protocol.Measurement]:
    """Carry out one trial.

    Args:
        make: Launches the side.
        pair: Name of what is measured.
        machine: On what.
        seed: Of random numbers, of the choice of benchmarks and of the one that is made slower.
        ratio: How much slower it is made; 1 for not at all.
        benchmarks: How many cases of the suite take part, chosen by the seed; 0 for all.
        limits: Wall time allowed.
        cancelled: Set by another thread to end within seconds.

    Raises:
        Cancelled: `cancelled` was set; no process is left.
        SideBroken: The side cannot be used.
        NothingToSlow: No benchmark can be made slower.
    """
    plain = make(seed, {})
    with Lockstep(plain, plain, limits, cancelled, seed) as lockstep:
        cases = sorted(lockstep.discover().cases, key=lambda case: number_of(seed, case.name))
        chosen = cases[:benchmarks] if benchmarks else cases
        slowed, turns = slow_one(lockstep, chosen, ratio) if ratio != 1 else ("", 0.0)
    measured = protocol.measure(
        make(seed, {slowed: turns}) if slowed else plain, plain, limits=limits, cancelled=cancelled, seed=seed,
        only=[case.name for case in chosen],
    )  # fmt: skip
    verdict = measured.verdict
    confirmed = [one for one in verdict.results if one.stage == "confirm"]
    row = next((one for one in confirmed if one.benchmark == slowed and one.decision == "faster"), None)
    return (
        Trial(
            version=protocol.VERSION,
            machine=machine,
            pair=pair,
            seed=seed,
            ratio=ratio,
            benchmarks=verdict.screened,
            benchmark=slowed,
            verdict=verdict.verdict,
            reason=verdict.reason,
            found=tuple(one.benchmark for one in confirmed if one.decision == "faster"),
            slower=verdict.regressions,
            speedup=row.speedup if row else None,
            ci_low=row.ci_low if row else None,
            ci_high=row.ci_high if row else None,
            kept=verdict.kept,
            seconds=round(measured.seconds, 1),
            load=measured.raw.load,
        ),
        measured,
    )


def slow_one(lockstep: Lockstep, cases: Sequence[Case], ratio: float) -> tuple[str, float]:
    """Choose the first case whose call can be made `ratio` times as long, and by how many turns of extra work.

    Raises:
        NothingToSlow: None of the first cases can.
    """
    for case in [case for case in cases if case.kind == "time"][:TRIED]:
        try:
            return case.name, (ratio - 1) * _turns_of_a_call(lockstep, case)
        except (CaseEnded, SideDied):
            lockstep.renew()  # a benchmark that fails is not one to be made slower
    raise NothingToSlow(f"none of {len(cases)} benchmarks can be made slower by a known amount")


def _turns_of_a_call(lockstep: Lockstep, case: Case) -> float:
    """How many turns of extra work take as long as one call, by CPU time, over some rounds of fresh processes.

    Calls are sampled as the protocol does: of many in a row, or without a set-up between them, each would take less.

    Raises:
        CaseEnded, SideDied: The case cannot be measured, or its calls take too long.
    """
    raw, found = lockstep.begin(case, "pilot"), []
    for child in range(PILOT_ROUNDS):
        lockstep.renew()
        raw = lockstep.advance(case, raw, PILOT_PAIRS)
        if raw.status != "ok":
            raise CaseEnded(raw.status, raw.detail)
        last = raw.rounds[-1]
        call = statistics.median((*last.base_cpu, *last.head_cpu)) / raw.number
        if not LEAST_SAMPLE_S / raw.number <= call <= SLOWEST_S:
            raise CaseEnded("failed", f"{case.name}: a call of {call:g} s is not made slower by a known amount")
        try:
            lockstep.base.open(case, lockstep.core, child)
            samples = [lockstep.base.sample(PILOT_TURNS, child, case.timeout, "spin") for _ in range(PILOT_PAIRS)]
        finally:
            lockstep.base.close(case.timeout)
        spun = [sample.cpu for sample in samples if sample is not None]
        if not spun:
            raise CaseEnded("timeout", f"{case.name}: no room for extra work")
        found.append(call * PILOT_TURNS / statistics.median(spun))
    return statistics.median(found)


@dataclass(frozen=True)
class Summary:
    """What the trials of one ratio add up to; rates are shares of `trials`, bounds one-sided at 95%.

    `error` is the median of how far a confirmed estimate is off, as a share; None where there was none.
    """

    ratio: float
    trials: int
    false: int
    false_at_most: float
    power: int
    power_at_least: float
    error: float | None
    covered: int
    seconds: float


def summarize(trials: Iterable[Trial]) -> list[Summary]:
    """Add up trials, a row for each ratio."""
    by_ratio: dict[float, list[Trial]] = {}
    for one in trials:
        by_ratio.setdefault(one.ratio, []).append(one)
    return [_summary(ratio, of) for ratio, of in sorted(by_ratio.items())]


def _summary(ratio: float, trials: Sequence[Trial]) -> Summary:
    false, power = sum(one.false for one in trials), sum(one.power for one in trials)
    found = [one for one in trials if one.speedup is not None]
    errors = [abs(one.speedup / ratio - 1) for one in found if one.speedup is not None]
    return Summary(
        ratio=ratio,
        trials=len(trials),
        false=false,
        false_at_most=at_most(false, len(trials)),
        power=power,
        power_at_least=1 - at_most(len(trials) - power, len(trials)),
        error=statistics.median(errors) if errors else None,
        covered=sum((one.ci_low or 0) <= ratio <= (one.ci_high or math.inf) for one in found),
        seconds=statistics.median(one.seconds for one in trials),
    )


def at_most(count: int, of: int) -> float:
    """The exact binomial (Clopper-Pearson) upper bound on a rate of which `count` of `of` were seen."""
    from scipy.special import betaincinv  # slow to import, and only who sums up needs it

    return 1.0 if count >= of else float(betaincinv(count + 1, of - count, CONFIDENCE))


def passes_per_case(trials: Iterable[Trial]) -> float | None:
    """The rate at which a case without a difference is confirmed, from trials of base against itself; None without any.

    One more pass than was seen, in two more cases: no rate is nothing.
    """
    same = [one for one in trials if one.ratio == 1]
    passes, cases = (sum(len(one.found) + len(one.slower) for one in same), sum(one.benchmarks for one in same))
    return (passes + 1) / (cases + 2) if same else None


def told(trials: Sequence[Trial]) -> str:
    """What the trials of one protocol come to, in a sentence; empty where there are none."""
    by_ratio = {one.ratio: one for one in summarize(trials)}
    sentences = []
    if same := by_ratio.get(1.0):
        many = f"{same.false} of {same.trials} measurements of base against itself found a difference"
        sentences.append(f"{many} (at most {same.false_at_most:.1%}, 95% exact)")
    sentences += [
        f"{one.power} of {one.trials} slowdowns by {ratio:g} were found"
        + ("" if one.error is None else f", off by {one.error:.1%} in the median")
        for ratio, one in by_ratio.items()
        if ratio != 1
    ]
    return "; ".join(sentences)


def render(summaries: Sequence[Summary]) -> str:
    """A table for a terminal."""
    names = ("ratio", "trials", "false", "at most", "found", "error", "in interval", "s each")
    lines = ["{:>6} {:>6} {:>6} {:>8} {:>6} {:>6} {:>11} {:>7}".format(*names)]
    for one in summaries:
        same = one.ratio == 1
        error = "" if one.error is None else f"{one.error:.1%}"
        found = "" if same else f"{one.power}"
        covered = "" if same else f"{one.covered} of {one.power}"
        lines.append(
            f"{one.ratio:>5.2f}x {one.trials:>6} {one.false:>6} {one.false_at_most:>8.2%} {found:>6} {error:>6} "
            f"{covered:>11} {one.seconds:>7.0f}"
        )
    return "\n".join(lines)
