from dataclasses import replace

import pytest
from repeats import Reading, disagreement, inside

ONE = Reading(
    pr_id="a__b-1", time=0, verdict="faster", reason="", benchmark="bench.time_it",
    confirmed={"bench.time_it": [1.5, 1.4, 1.6]}, screened=12, selection="impact", seconds=20.0, load=[0.5, 1.0],
)  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "confirmed", "why"),
    [
        ("faster", {"bench.time_it": [1.55, 1.45, 1.65]}, ""),
        ("faster", {"bench.time_it": [1.39, 1.2, 1.52]}, ""),  # the first lies in the interval of the second
        ("faster", {"bench.time_it": [1.5, None, None]}, ""),
        ("faster", {"bench.time_other": [9.0, 8.0, 10.0]}, ""),
        ("faster", {"bench.time_it": [1.8, 1.7, 1.9]}, "bench.time_it is [1.5, 1.4, 1.6] and [1.8, 1.7, 1.9]"),
        ("not_faster", {}, "the verdicts differ"),
    ],
)
def test_two_measurements_agree_in_verdict_and_within_an_interval(
    verdict: str, confirmed: dict[str, list[float | None]], why: str
) -> None:
    other = replace(ONE, time=1, verdict=verdict, confirmed=confirmed)
    assert disagreement([ONE, other]) == why
    assert bool(disagreement([other, ONE])) == bool(why)
    assert disagreement([ONE, ONE, other]) == why


def test_an_open_bound_holds_whatever_is_beyond_it() -> None:
    assert inside([1e9], [5.0, 4.0, None])
    assert not inside([3.0], [5.0, 4.0, None])


def test_a_row_tells_the_benchmark_of_the_verdict_with_its_interval() -> None:
    told = ONE.told()
    assert "faster" in told
    assert "bench.time_it 1.50x [1.40, 1.60]" in told
    assert "1 confirmed of 12, impact, 20 s, load 0.5 to 1.0" in told
    assert "[open, 1.60]" in replace(ONE, confirmed={"bench.time_it": [1.5, None, 1.6]}).told()
