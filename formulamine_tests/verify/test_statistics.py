import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.verify import statistics
from formulamine.verify.statistics import (
    ALPHA,
    LOOKS,
    interval,
    keep,
    paired_difference,
    settle,
    settle_timeouts,
)

seconds = st.floats(min_value=1e-9, max_value=1e6)
pairs = st.lists(st.tuples(seconds, seconds), min_size=1, max_size=20)
differences = st.lists(st.floats(min_value=-5, max_value=5), min_size=2, max_size=30)
BOTH = ("faster", "slower")


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
    most = max(3, math.ceil(0.04 * len(estimates)))
    assert len(faster) == min(most, sum(value >= math.log(1.03) for value in estimates.values()))
    assert len(slower) == min(most, sum(value <= -math.log(1.03) for value in estimates.values()))
    left = set(estimates) - set(faster)
    assert all(estimates[kept] >= estimates[name] for kept in faster for name in left)
    assert not set(faster) & set(slower)


def test_a_side_that_times_out_is_kept_first() -> None:
    faster, slower = keep({"a": 0.5, "b": math.inf, "c": 0.6, "d": 0.7, "e": -math.inf})
    assert faster == ("b", "d", "c")
    assert slower == ("e",)


@given(differences, st.integers(min_value=1, max_value=50))
def test_mirrored_rounds_get_the_mirrored_decision(rounds: list[float], kept: int) -> None:
    mirror = {"faster": "slower", "slower": "faster"}
    one = settle(rounds, kept, BOTH, 1.05, 1.02)
    other = settle([-difference for difference in rounds], kept, BOTH, 1.05, 1.02)
    assert other.decision == mirror.get(one.decision, one.decision)
    assert other.rounds == one.rounds


@given(st.lists(st.floats(min_value=-1, max_value=1), min_size=24, max_size=24), st.integers(min_value=1, max_value=9))
def test_a_decision_stands_whatever_comes_later(rounds: list[float], kept: int) -> None:
    whole = settle(rounds, kept, BOTH, 1.05, 1.02)
    assert whole.decision != "open"
    assert settle(rounds[: whole.rounds], kept, BOTH, 1.05, 1.02) == whole


@given(differences, st.integers(min_value=1, max_value=50))
def test_only_what_reaches_both_thresholds_is_faster(rounds: list[float], kept: int) -> None:
    found = settle(rounds, kept, ("faster",), 1.05, 1.02)
    if found.decision == "faster":
        assert found.interval.low >= math.log(1.02)
        assert found.interval.estimate >= math.log(1.05)


def test_more_kept_benchmarks_ask_for_more() -> None:
    rounds = [0.1, 0.12, 0.09, 0.11]
    assert settle(rounds, 1, BOTH, 1.05, 1.02).interval.low > settle(rounds, 30, BOTH, 1.05, 1.02).interval.low


def test_no_rounds_are_open_and_an_unsettled_one_ends_at_the_last_look() -> None:
    assert settle([], 1, BOTH, 1.05, 1.02).decision == "open"
    wild = [0.0, 0.3] * 12
    assert settle(wild, 6, ("faster",), 1.05, 1.02).decision == "unsettled"


def test_timeouts_need_to_come_again_and_to_be_far() -> None:
    assert settle_timeouts([10.0], "faster", 1.05).decision == "open"
    assert settle_timeouts([10.0, 9.0, 8.0], "faster", 1.05).decision == "faster"
    assert settle_timeouts([10.0, 9.0, 8.0], "slower", 1.05).decision == "slower"
    assert math.exp(settle_timeouts([10.0, 9.0, 8.0], "faster", 1.05).interval.low) == pytest.approx(8.0)
    assert settle_timeouts([1.2, 9.0, 8.0], "faster", 1.05).decision == "unsettled"


def passes(true_ratio: float, spread: float, draw: random.Random, kept: int = 6) -> str:
    rounds = [math.log(true_ratio) + draw.gauss(0, spread) for _ in range(LOOKS[-1])]
    return settle(rounds, kept, ("faster",), 1.05, 1.02).decision


def test_nothing_passes_by_noise_and_a_real_speedup_does() -> None:
    draw = random.Random(1)
    # The spread per round that FACTS reports is 0.025 to 0.043.
    assert not any(passes(1.0, 0.04, draw) == "faster" for _ in range(400))
    assert sum(passes(1.3, 0.04, draw) == "faster" for _ in range(100)) >= 99
    assert sum(passes(1.1, 0.03, draw) == "faster" for _ in range(100)) >= 85
    assert ALPHA <= 0.005
