"""ASV's conventions for one case: what a suite says of its timing is what is done, within a round's time."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.verify.sampling import PIECES, ROUND_S, Facts, drift, plan

ANSWER = {
    "mode": "steady", "number": 0, "repeat": 0.0, "min_run_count": 2, "warmup_time": -1.0, "sample_time": 0.01,
}  # fmt: skip


def facts(**said: Any) -> Facts:
    return Facts.of({**ANSWER, **said})


def test_the_calls_in_a_sample_fill_its_time_on_the_slower_side() -> None:
    found = plan(facts(), [1e-5, 1e-4], 15)
    assert (found.number, found.pairs, found.warm_ups, found.slow) == (25, 60, 4, False)
    assert plan(facts(sample_time=0.1), [1e-4] * 2, 15).number == 250
    assert plan(facts(sample_time=0.0), [1e-4] * 2, 15).number == 25


@pytest.mark.parametrize(("call", "number", "pairs"), [(1e-3, 3, 45), (4e-3, 1, 30), (9e-3, 1, 15), (0.1, 1, 10)])
def test_pairs_are_as_many_as_the_time_of_those_asked_for_gives(call: float, number: int, pairs: int) -> None:
    found = plan(facts(), [call] * 2, 15)
    assert (found.number, found.pairs, found.warm_ups) == (number, pairs, 3 if number > 1 else 0)


@pytest.mark.parametrize(
    ("said", "number", "pairs", "warm_ups"),
    [
        ({"number": 70}, 70, 15, 1),
        ({"number": 70, "mode": "first_call"}, 25, 60, 4),  # a set-up before each call: the number is ours to choose
        ({"repeat": 4.0}, 25, 16, 4),
        ({"repeat": [2.0, 6.0, 20.0]}, 25, 24, 4),
        ({"min_run_count": 3000}, 25, 120, 4),
        ({"warmup_time": 0.0}, 25, 60, 0),
        ({"warmup_time": 0.1}, 25, 60, 40),
        ({"warmup_time": 60.0}, 25, 60, 400),  # no longer than a second
    ],
)
def test_what_a_suite_says_is_done(said: dict[str, Any], number: int, pairs: int, warm_ups: int) -> None:
    found = plan(facts(**said), [1e-4] * 2, 15)
    assert (found.number, found.pairs, found.warm_ups) == (number, pairs, warm_ups)


def test_slow_calls_are_taken_singly_and_seldom() -> None:
    found = plan(facts(), [3.0, 1.0], 15)
    assert (found.number, found.pairs, found.slow) == (1, 1, True)


@given(
    st.floats(min_value=1e-7, max_value=50), st.floats(min_value=1e-7, max_value=50), st.integers(1, 30),
    st.integers(0, 50), st.integers(0, 50),
)  # fmt: skip
def test_a_round_has_its_time_unless_one_pair_is_longer(
    base: float, head: float, pairs: int, repeat: int, least: int
) -> None:
    found = plan(facts(repeat=float(repeat), min_run_count=least), [base, head], pairs)
    assert found.pairs >= 1
    assert found.pairs == 1 or found.pairs * found.pair_seconds <= ROUND_S
    assert repeat == 0 or found.pairs <= repeat * PIECES


def test_calls_that_change_their_pace_in_a_round_are_seen() -> None:
    assert drift([1.0] * 15) == 1.0
    assert drift([1.0 + 0.1 * one for one in range(20)]) == pytest.approx(2.5 / 1.4)
    assert drift([3.0 - 0.1 * one for one in range(20)]) == pytest.approx(1.5 / 2.6)
    assert drift([1.0] * 7 + [9.0] + [1.0] * 7) == 1.0
    assert drift([1.0, 9.0]) == 1.0
