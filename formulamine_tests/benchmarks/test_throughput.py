"""Stages of a measurement add up, whatever rounds it had."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from throughput import CONTROL, FIRST, REST, assets, measurements, ninth, spent, stages

from formulamine.verify.measure import RawBlob
from formulamine.verify.raw import RawCase, RawMeasurement, Round

ROUNDS = st.lists(
    st.tuples(
        st.sampled_from(["screen", "confirm"]),
        st.sampled_from([1, 2]),
        st.floats(0.1, 4000).map(lambda at: round(at, 1)),
    )
)


def measurement(*rounds: tuple[str, int, float]) -> RawMeasurement:
    cases = [
        RawCase(f"time_{index}", stage, "time", rounds=(Round((), (), (), (), "", "", session=session, at=at),))
        for index, (stage, session, at) in enumerate(rounds)
    ]
    return RawMeasurement(tuple(cases))


def blob(measured: RawMeasurement, *controls: RawMeasurement) -> RawBlob:
    return RawBlob(
        pr_id="a__b-1", recipe_hash="", backend="local", environment_differs=False, machine="", kernel="",
        load_before=1.0, load_after=2.0, limits=[], measurement=measured.to_json(),
        control=[one.to_json() for one in controls],
    )  # fmt: skip


def test_time_between_rounds_belongs_to_the_later_one() -> None:
    of = stages(measurement(("screen", 1, 5.0), ("screen", 1, 7.0), ("confirm", 1, 20.0), ("confirm", 2, 21.5)))
    assert of == {FIRST: 5.0, "screening": 2.0, "confirmation": 13.0, "second session": 1.5}


def test_nothing_measured_has_no_stages() -> None:
    assert stages(RawMeasurement()) == {}


@given(ROUNDS)
def test_stages_add_up_to_the_end_of_the_last_round(rounds: list[tuple[str, int, float]]) -> None:
    last = max((at for _, _, at in rounds), default=0.0)
    assert sum(stages(measurement(*rounds)).values()) == pytest.approx(last)


@given(ROUNDS, ROUNDS, st.floats(0, 100))
def test_what_a_pull_request_took_is_the_sum_of_its_stages(
    rounds: list[tuple[str, int, float]], control: list[tuple[str, int, float]], more: float
) -> None:
    raw = blob(measurement(*rounds), measurement(*control))
    seconds = sum(spent(0.0, raw).values()) + more
    of = spent(seconds, raw)
    assert sum(of.values()) == pytest.approx(seconds)
    assert of[REST] == pytest.approx(more)
    assert of[CONTROL] == pytest.approx(max((at for _, _, at in control), default=0.0))


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_nine_in_ten_do_not_exceed_it(values: list[float]) -> None:
    assert ninth(values) in values
    assert sum(value <= ninth(values) for value in values) >= 0.9 * len(values)


def test_an_hour_holds_as_many_as_the_mean_says() -> None:
    rows = [
        {"seconds": seconds, "load_before": load, "screened": screened, "selection": selection}
        for seconds, load, screened, selection in ((100.0, 1.0, 10, "all"), (300.0, 2.5, 30, "impact"))
    ]
    told = measurements(rows, [{"screening": 100.0}, {"screening": 200.0, REST: 100.0}], 200)
    assert told[0] == "2 measured in 400 s: 18.0 an hour, one at a time"
    assert "median 200 s, 90% 300 s" in told[1]
    assert [line.split()[-1] for line in told[3:5]] == ["75%", "25%"]
    assert told[-1] == "200 survivors at that mean of 200 s: 11.1 h"


def test_an_asset_without_rows_is_not_told() -> None:
    assert [line.split()[0] for line in assets({"images": [1.0, 2.0], "speedup_measurements": []})] == [
        "asset",
        "images",
    ]
