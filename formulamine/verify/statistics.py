"""What the seconds mean: from paired samples to an estimate with an interval, and when to stop measuring.

Here belong the numbers of the protocol and pure functions on numbers. Not here: processes, clocks, names of benchmarks,
files. Differences are natural logarithms of base seconds over head seconds: above zero, head is faster.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

# The protocol's constants. They were chosen on resamples of a few dozen rounds of networkx benchmarks, where they gave
# no false pass in 4,000 and a power of 0.956 at 1.10x (FACTS, "Measuring a speedup"): a start, not a proof.
SCREEN_ROUNDS = 2  # fresh pairs of processes, enough to rank
SCREEN_PAIRS = 5  # samples a side in each of them
CONFIRM_PAIRS = 15
LOOKS = (4, 6, 10, 16, 24)  # rounds after which the confirmation may claim something
GIVE_UP_FROM = 3  # rounds of a session after each of which it may give up: that claims nothing, so it spends no error
ALPHA = 0.005  # one-sided error of a whole measurement in one direction, spent over kept benchmarks and looks
DROP_ALPHA = 0.05  # giving up needs less certainty than claiming: an error here costs recall of one benchmark
# Of a round's difference. Rounds that follow each other are alike: on a busy virtual machine the differences of a side
# against itself had a standard deviation of 0.032 and a correlation of 0.42 from round to round (652 rounds of 125
# series), and one that was off by 0.08 stayed so for three rounds, within 0.01. So a few rounds that agree must not
# make a narrow interval. Resampled in blocks of four rounds, a case without a difference passed in 14 of 10,000 with a
# floor of 0.003 and in 1 of 10,000 with this; a true 1.07 passes in 0.99 either way, and takes 11 rounds instead of 9.
SD_FLOOR = 0.02
KEEP_RATIO = 1.03  # below the gate's 1.05, since a screen's estimate errs by as much
# A round of a screen had a spread of 0.043 on a shared machine (48 series of param). A 1.10 among 50 benchmarks is then
# one of three kept in 0.92 of 20,000 simulated screens, and one of five in 0.96.
KEEP_LEAST = 5
KEEP_SHARE = 0.04  # of all screened, where that is more
# A base that does not end within its limit bounds the ratio from below, in wall time. On a loaded machine that bound is
# loose, so it has to be far from the gate and to come again.
TIMEOUT_ROUNDS = 3
TIMEOUT_AGAIN = 1
TIMEOUT_RATIO = 2.0
# What was confirmed is confirmed again when all else is settled, in later processes: what a busy neighbour or the state
# of the machine did to one stretch of time, it hardly does to another. An error here asks for luck twice.
AGAIN_LOOKS = (4, 8, 12)
AGAIN_ALPHA = 0.05 / len(AGAIN_LOOKS)
# CPU and wall time further apart than this, one-sided, mean sleep, I/O, threads or other processes: CPU time does not
# tell then what a user waits for.
CLOCK_ALPHA = 0.005
FAR_APART = 1.25  # of a few rounds, which make no narrow interval; the spread of wall time per round is 0.09
OTHERWISE_ALPHA = 0.025  # each side: that a call timed the other way gives another ratio


@dataclass(frozen=True)
class Interval:
    """An estimated difference with its bounds, `low <= estimate <= high`, natural logarithms."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """What one pair of fresh processes says, by each clock; `session` as in `raw.Round`."""

    cpu: float
    wall: float
    session: int = 1


@dataclass(frozen=True)
class Outcome:
    """Where the looks at one benchmark ended.

    `decision` is faster, slower, dropped (it is neither by as much as asked for), unsettled (the last look has passed),
    open (more rounds are needed) or again (more rounds of a later session are); `rounds` and `again` are how many of
    each session the decision used; `interval` is simultaneous over all kept benchmarks and all looks; `clock` is what
    it goes by; `error` says what is wrong with samples that cannot be used.
    """

    decision: str
    rounds: int
    interval: Interval
    error: str = ""
    again: int = 0
    clock: str = "cpu"


def paired_difference(base: Sequence[float], head: Sequence[float]) -> float:
    """The median of log(base / head) over pairs of samples in seconds.

    Raises:
        ValueError: The sides have no samples or not equally many, or one is not finite and above zero.
    """
    if not base or len(base) != len(head):
        raise ValueError(f"{len(base)} base samples and {len(head)} head samples make no pairs")
    if not all(math.isfinite(seconds) and seconds > 0 for seconds in (*base, *head)):
        raise ValueError("a sample is not a finite number of seconds above zero")
    return statistics.median(math.log(before) - math.log(after) for before, after in zip(base, head, strict=True))


def interval(differences: Sequence[float], alpha: float) -> Interval:
    """Student's t interval for the mean of the rounds around their median, `alpha` in each tail.

    With a single round nothing is known of the spread and the bounds are infinite.

    Raises:
        ValueError: There are no rounds.
    """
    estimate = statistics.median(differences)
    count = len(differences)
    if count < 2:
        return Interval(estimate, -math.inf, math.inf)
    from scipy.special import stdtrit  # a third of a second to import, and only who measures or releases needs it

    spread = max(statistics.stdev(differences), SD_FLOOR)
    mean = statistics.fmean(differences)
    reach = -float(stdtrit(count - 1, alpha)) * spread / math.sqrt(count)
    # A lone outlier can drag the mean's interval off the median, which is what is reported.
    return Interval(estimate, min(mean - reach, estimate), max(mean + reach, estimate))


def keep_by_either(screens: Mapping[str, Sequence[Difference]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """As `keep`, by CPU time, and where the clocks are far apart by wall time too: the confirmation finds out."""
    cpu = {name: statistics.median(of.cpu for of in seen) for name, seen in screens.items()}
    wall = {name: statistics.median(of.wall for of in seen) for name, seen in screens.items()}
    apart = {name for name in screens if not abs(wall[name] - cpu[name]) <= math.log(FAR_APART)}
    by_cpu, by_wall = keep(cpu), keep({name: wall[name] for name in apart})
    faster, slower = (tuple(dict.fromkeys(one + other)) for one, other in zip(by_cpu, by_wall, strict=True))
    return faster, slower


def keep(estimates: Mapping[str, float]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Choose from screened `estimates` those to confirm: as faster, and as slower; the most extreme first.

    Infinities stand for a side that timed out.
    """
    most = max(KEEP_LEAST, math.ceil(KEEP_SHARE * len(estimates)))
    faster = [(-estimate, name) for name, estimate in estimates.items() if estimate >= math.log(KEEP_RATIO)]
    slower = [(estimate, name) for name, estimate in estimates.items() if estimate <= -math.log(KEEP_RATIO)]
    return tuple(name for _, name in sorted(faster)[:most]), tuple(name for _, name in sorted(slower)[:most])


def clock_of(differences: Sequence[Difference]) -> str:
    """By which clock the verdict goes: "cpu", which is less noisy, unless "wall" disagrees beyond its own error."""
    apart = interval([of.wall - of.cpu for of in differences], CLOCK_ALPHA)
    return "wall" if apart.low > 0 or apart.high < 0 else "cpu"


def settle(
    differences: Sequence[Difference],
    kept: int,
    directions: Sequence[str],
    min_speedup: float,
    min_lower_bound: float,
) -> Outcome:
    """Look at the rounds of one benchmark as they come, and stop at the first look that decides.

    The unit is the pair of processes, not the sample. What a first session finds, a later one has to find again by
    itself, and both together have to hold it at the error of the whole measurement.

    Args:
        differences: One per pair of processes, in the order measured.
        kept: How many benchmarks are confirmed in this measurement, over which the error is spent.
        directions: What it may turn out to be: "faster", "slower" or both.
        min_speedup: What the estimate must reach, as a ratio.
        min_lower_bound: What the interval's nearer bound must reach, as a ratio.
    """
    alpha = ALPHA / (max(kept, 1) * (len(LOOKS) + len(AGAIN_LOOKS)))
    speedup, bound = math.log(min_speedup), math.log(min_lower_bound)
    first = [of for of in differences if of.session == 1]
    later = [of for of in differences if of.session == 2]
    found = _Look([], alpha)
    for rounds in range(GIVE_UP_FROM, LOOKS[-1] + 1):
        if rounds > len(first):
            found = _Look(first, alpha)
            return Outcome("open", len(first), found.interval, clock=found.clock)
        found = _Look(first[:rounds], alpha)
        reached = (one for one in directions if rounds in LOOKS and found.reaches(one, bound, speedup))
        if direction := next(reached, ""):
            break
        if not any(found.allows(one, speedup) for one in directions):
            return Outcome("dropped", rounds, found.interval, clock=found.clock)
    else:
        return Outcome("unsettled", LOOKS[-1], found.interval, clock=found.clock)
    for look in range(GIVE_UP_FROM, AGAIN_LOOKS[-1] + 1):
        if look > len(later):
            return Outcome("again", rounds, found.interval, clock=found.clock)
        found = _Look(first[:rounds] + later[:look], alpha)
        alone = _Look(later[:look], AGAIN_ALPHA, found.clock)
        if look in AGAIN_LOOKS and all(one.reaches(direction, bound, speedup) for one in (found, alone)):
            return Outcome(direction, rounds, found.interval, again=look, clock=found.clock)
        if not alone.allows(direction, speedup):
            return Outcome("dropped", rounds, found.interval, again=look, clock=found.clock)
    return Outcome("unsettled", rounds, found.interval, again=look, clock=found.clock)


class _Look:
    """What some rounds allow to say: an interval to claim by, and a looser one to give up by."""

    def __init__(self, seen: Sequence[Difference], alpha: float, clock: str = "") -> None:
        self.alpha, self.clock = alpha, clock or (clock_of(seen) if seen else "cpu")
        self.values = [of.wall if self.clock == "wall" else of.cpu for of in seen]
        # Few rounds cannot tell that CPU time misses what a user waits for; they can make one wait for more.
        apart = statistics.median(of.wall - of.cpu for of in seen) if seen else 0.0
        self.unclear = self.clock == "cpu" and not abs(apart) <= math.log(FAR_APART)

    @cached_property
    def interval(self) -> Interval:
        """At the error of a claim."""
        return interval(self.values, self.alpha) if self.values else NOTHING

    @cached_property
    def loose(self) -> Interval:
        """At the error of giving up."""
        return interval(self.values, DROP_ALPHA) if self.values else NOTHING

    def reaches(self, direction: str, bound: float, speedup: float) -> bool:
        """Whether the nearer bound and the estimate both reach what is asked for."""
        found = self.interval
        if direction == "faster":
            return found.low >= bound and found.estimate >= speedup
        return -found.high >= bound and -found.estimate >= speedup

    def allows(self, direction: str, speedup: float) -> bool:
        """Whether it may still be as much as asked for."""
        return self.unclear or (self.loose.high if direction == "faster" else -self.loose.low) >= speedup


def settle_timeouts(ratios: Sequence[float], later: int, direction: str, min_speedup: float) -> Outcome:
    """Settle a benchmark of which one side did not end in time, from one bound of the ratio per round.

    Args:
        ratios: In each round, the limit over the other side's wall seconds: the ratio is at least that.
        later: How many of these rounds, the last ones, are of a later session.
        direction: "faster" where base did not end, "slower" where head did not.
        min_speedup: What the bound must reach, as a ratio.
    """
    least = math.log(min(ratios))
    sign = 1 if direction == "faster" else -1
    bounds = Interval(least, least, math.inf) if sign > 0 else Interval(-least, -math.inf, -least)
    rounds = len(ratios) - later
    if min(ratios) < max(TIMEOUT_RATIO, min_speedup):
        return Outcome("unsettled", rounds, bounds, again=later, clock="wall")
    decision = direction if later >= TIMEOUT_AGAIN else "again"
    return Outcome(decision if rounds >= TIMEOUT_ROUNDS else "open", rounds, bounds, again=later, clock="wall")


NOTHING = Interval(0.0, -math.inf, math.inf)  # no rounds, nothing known
