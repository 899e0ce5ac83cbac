import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.verify import statistics
from formulamine.verify.statistics import (
    AGAIN_LOOKS,
    GIVE_UP_FROM,
    LOOKS,
    Difference,
    clock_of,
    interval,
    keep,
    keep_by_either,
    paired_difference,
    settle,
    settle_timeouts,
)

seconds = st.floats(min_value=1e-9, max_value=1e6)
pairs = st.lists(st.tuples(seconds, seconds), min_size=1, max_size=20)
differences = st.lists(st.floats(min_value=-5, max_value=5), min_size=2, max_size=30)
BOTH = ("faster", "slower")
interval([0.0, 0.1], 0.1)  # loads scipy, which is slow, before any test has a deadline


def cpu(rounds: Sequence[float], later: Sequence[float] = ()) -> list[Difference]:
    """Rounds on whose clocks agree, of a first and a later session."""
    return [Difference(one, one, 1) for one in rounds] + [Difference(one, one, 2) for one in later]


@given(pairs)
def test_swapping_the_sides_changes_the_sign_of_the_difference(samples: list[tuple[float, float]]) -> None:
    base, head = zip(*samples, strict=True)
    assert paired_difference(base, head) == -paired_difference(head, base)


@given(pairs, st.floats(min_value=0.1, max_value=10))
def test_the_difference_does_not_depend_on_the_unit(samples: list[tuple[float, float]], unit: float) -> None:
    base, head = zip(*samples, strict=True)
    scaled = paired_difference([unit * taken for taken in base], [unit * taken for taken in head])
    assert scaled == pytest.approx(paired_difference(base, head), abs=1e-9)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_sample_that_is_no_time_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        paired_difference([1.0, bad], [1.0, 1.0])


@pytest.mark.parametrize(("base", "head"), [([], []), ([1.0], []), ([1.0], [1.0, 2.0])])
def test_sides_without_pairs_are_refused(base: list[float], head: list[float]) -> None:
    with pytest.raises(ValueError, match="pairs"):
        paired_difference(base, head)


@given(differences, st.floats(min_value=1e-6, max_value=0.1))
def test_an_interval_holds_its_estimate_and_grows_with_certainty(rounds: list[float], alpha: float) -> None:
    wide, narrow = interval(rounds, alpha / 2), interval(rounds, alpha)
    assert wide.low <= narrow.low <= narrow.estimate <= narrow.high <= wide.high
    assert narrow.high - narrow.low > 0


def test_the_interval_is_students() -> None:
    found = interval([0.1, 0.2, 0.3, 0.4], 0.025)
    # By the table, t(3) at 0.975 is 3.1824.
    assert found.high - 0.25 == pytest.approx(3.1824 * 0.12910 / 2, rel=1e-4)


def test_rounds_that_agree_by_luck_have_the_floor_as_their_spread() -> None:
    found = interval([0.1] * 4, 0.025)
    assert found.high - found.low == pytest.approx(2 * 3.1824 * statistics.SD_FLOOR / 2, rel=1e-4)


@given(st.dictionaries(st.text(max_size=3), st.floats(min_value=-2, max_value=2), max_size=200))
def test_the_screen_keeps_the_extremes_of_both_tails(estimates: dict[str, float]) -> None:
    faster, slower = keep(estimates)
    most = max(5, math.ceil(0.04 * len(estimates)))
    assert len(faster) == min(most, sum(value >= math.log(1.03) for value in estimates.values()))
    assert len(slower) == min(most, sum(value <= -math.log(1.03) for value in estimates.values()))
    left = set(estimates) - set(faster)
    assert all(estimates[kept] >= estimates[name] for kept in faster for name in left)
    assert not set(faster) & set(slower)


def test_a_side_that_times_out_is_kept_first() -> None:
    faster, slower = keep({"a": 0.5, "b": math.inf, "c": 0.6, "d": 0.7, "e": -math.inf})
    assert faster == ("b", "d", "c", "a")
    assert slower == ("e",)


@given(differences, differences, st.integers(min_value=1, max_value=50))
def test_mirrored_rounds_get_the_mirrored_decision(rounds: list[float], later: list[float], kept: int) -> None:
    mirror = {"faster": "slower", "slower": "faster"}
    one = settle(cpu(rounds, later), kept, BOTH, 1.05, 1.02)
    other = settle(cpu([-of for of in rounds], [-of for of in later]), kept, BOTH, 1.05, 1.02)
    assert other.decision == mirror.get(one.decision, one.decision)
    assert (other.rounds, other.again) == (one.rounds, one.again)


@given(
    st.lists(st.floats(min_value=-1, max_value=1), min_size=24, max_size=24),
    st.lists(st.floats(min_value=-1, max_value=1), min_size=12, max_size=12),
    st.integers(min_value=1, max_value=9),
)
def test_a_decision_stands_whatever_comes_later(rounds: list[float], later: list[float], kept: int) -> None:
    whole = settle(cpu(rounds, later), kept, BOTH, 1.05, 1.02)
    assert whole.decision not in ("open", "again")
    assert settle(cpu(rounds[: whole.rounds], later[: whole.again]), kept, BOTH, 1.05, 1.02) == whole


@given(differences, differences, st.integers(min_value=1, max_value=50))
def test_only_what_reaches_both_thresholds_is_faster(rounds: list[float], later: list[float], kept: int) -> None:
    found = settle(cpu(rounds, later), kept, ("faster",), 1.05, 1.02)
    if found.decision == "faster":
        assert found.again
        assert found.interval.low >= math.log(1.02)
        assert found.interval.estimate >= math.log(1.05)


def test_more_kept_benchmarks_ask_for_more() -> None:
    rounds = cpu([0.1, 0.12, 0.09, 0.11])
    assert settle(rounds, 1, BOTH, 1.05, 1.02).interval.low > settle(rounds, 30, BOTH, 1.05, 1.02).interval.low


def test_no_rounds_are_open_and_an_unsettled_one_ends_at_the_last_look() -> None:
    assert settle([], 1, BOTH, 1.05, 1.02).decision == "open"
    assert settle(cpu([0.0, 0.3] * 12), 6, ("faster",), 1.05, 1.02).decision == "unsettled"


FOUND = [0.3, 0.31, 0.29, 0.3, 0.3, 0.31]


def test_what_a_first_session_finds_has_to_be_found_again() -> None:
    assert settle(cpu(FOUND), 1, ("faster",), 1.05, 1.02).decision == "again"
    assert settle(cpu(FOUND, FOUND), 1, ("faster",), 1.05, 1.02).decision == "faster"
    gone = settle(cpu(FOUND, [0.0, 0.01, -0.01, 0.0]), 1, ("faster",), 1.05, 1.02)
    assert (gone.decision, gone.again) == ("dropped", GIVE_UP_FROM)
    wild = settle(cpu(FOUND, [0.5, -0.3] * 6), 1, ("faster",), 1.05, 1.02)
    assert (wild.decision, wild.again) == ("unsettled", AGAIN_LOOKS[-1])


def test_giving_up_waits_for_no_look_and_claiming_does() -> None:
    nothing, much = [0.0, 0.01, -0.01], [0.3, 0.31, 0.29]
    assert settle(cpu(nothing), 6, BOTH, 1.05, 1.02).decision == "dropped"
    assert settle(cpu(nothing[:2]), 6, BOTH, 1.05, 1.02).decision == "open"
    assert settle(cpu(much), 6, BOTH, 1.05, 1.02).decision == "open"
    uneven = cpu([0.0, 0.08, 0.0, 0.08, 0.0, 0.0, 0.0, 0.0])
    assert settle(uneven[:7], 6, BOTH, 1.05, 1.02).decision == "open"
    assert (settle(uneven, 6, BOTH, 1.05, 1.02).decision, len(uneven) in LOOKS) == ("dropped", False)


def test_nothing_is_given_up_by_cpu_time_while_wall_time_is_far_from_it() -> None:
    naps = [Difference(one, 0.4 + 6 * one) for one in (0.01, -0.02, 0.02, -0.01)]
    assert clock_of(naps[:3]) == "cpu"
    assert settle(naps[:3], 6, ("faster",), 1.05, 1.02).decision == "open"
    assert settle([replace(of, wall=of.cpu) for of in naps[:3]], 6, ("faster",), 1.05, 1.02).decision == "dropped"


def test_wall_time_decides_where_it_disagrees_beyond_its_error() -> None:
    jitter = [0.01, -0.01, 0.0] * 10
    sleeps = [Difference(0.4 + one, 0.0 + one / 2, 1) for one in jitter]
    assert clock_of(sleeps) == "wall"
    found = settle(sleeps, 1, ("faster",), 1.05, 1.02)
    assert (found.decision, found.clock) == ("dropped", "wall")
    threads = [Difference(0.0, 0.4 + one, 1 if at < 24 else 2) for at, one in enumerate(jitter)]
    found = settle(threads, 1, ("faster",), 1.05, 1.02)
    assert (found.decision, found.clock) == ("faster", "wall")
    noisy = [Difference(0.3 + one, 0.3 + 9 * one, 1) for one in jitter]
    assert clock_of(noisy) == "cpu"


def test_the_screen_keeps_by_either_clock_where_they_are_far_apart() -> None:
    screens = {
        "quick": [Difference(0.3, 0.3)] * 2,
        "sleeps": [Difference(0.0, 0.5)] * 2,
        "busy": [Difference(0.3, -0.4)] * 2,
        "same": [Difference(0.0, 0.1)] * 2,
        "late": [Difference(math.inf, math.inf)],
    }
    faster, slower = keep_by_either(screens)
    assert set(faster) == {"quick", "sleeps", "busy", "late"}
    assert slower == ("busy",)


def test_timeouts_need_to_come_again_and_to_be_far() -> None:
    assert settle_timeouts([10.0], 0, "faster", 1.05).decision == "open"
    assert settle_timeouts([10.0, 9.0, 8.0], 0, "faster", 1.05).decision == "again"
    assert settle_timeouts([10.0, 9.0, 8.0, 9.0], 1, "faster", 1.05).decision == "faster"
    assert settle_timeouts([10.0, 9.0, 8.0, 9.0], 1, "slower", 1.05).decision == "slower"
    assert math.exp(settle_timeouts([10.0, 9.0, 8.0], 0, "faster", 1.05).interval.low) == pytest.approx(8.0)
    assert settle_timeouts([1.2, 9.0, 8.0], 0, "faster", 1.05).decision == "unsettled"
