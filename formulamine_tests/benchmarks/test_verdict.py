"""What `asv continuous` prints and leaves is read as it says it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verdict import ASV, OURS, SELECTED, Reading, asv_cases, changed, clean, kept, summary

# As ASV 0.6.6 printed it of the sample's #32; what it calls slower does not run what that one changed.
PRINTED = """\
· Running 16 total benchmarks (2 commits * 1 environments * 8 benchmarks)
[ 0.00%] · For formulamine/sample commit cdf89122 <measured~1> (round 1/2):
[ 3.12%] ··· Running (bench_calendar.time_count_workdays--)........
[59.38%] ··· bench_calendar.time_merge_spans                           499±70μs
| Change   | Before [cdf89122] <measured~1>   | After [17b2d30d] <measured>   |   Ratio | Benchmark (Parameter)             |
|----------|----------------------------------|-------------------------------|---------|-----------------------------------|
| +        | 67.7±0.6μs                       | 76.6±10μs                     |    1.13 | bench_table.Report.time_parse_row |
| -        | 4.99±0.5ms                       | 600±100μs                     |    0.12 | bench_calendar.time_find_clashes  |

SOME BENCHMARKS HAVE CHANGED SIGNIFICANTLY.
PERFORMANCE DECREASED.
"""  # noqa: E501
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n", exclude_categories=("Z", "C")), min_size=1)


def reading(tool: str, seconds: float, *, faster: tuple[str, ...] = (), trial: int = 0) -> Reading:
    return Reading(tool, trial, seconds, list(faster), [], [1.0, 1.5], {"screening": 1.0})


def test_the_table_is_read_as_asv_prints_it() -> None:
    assert changed(PRINTED.splitlines()) == (
        ["bench_calendar.time_find_clashes"],
        ["bench_table.Report.time_parse_row"],
    )


@given(st.lists(st.tuples(st.sampled_from("+-"), NAMES.map(lambda name: f"bench.time_a({name})"))))
def test_every_row_of_the_table_is_listed_once(rows: list[tuple[str, str]]) -> None:
    table = [f"| {sign}        | 1.00±0.1ms  | 2.00±0.1ms |    0.50 | {name} |" for sign, name in rows]
    faster, slower = changed(["· Running 2 total benchmarks", *table, "BENCHMARKS NOT SIGNIFICANTLY CHANGED."])
    assert faster == [name for sign, name in rows if sign == "-"]
    assert slower == [name for sign, name in rows if sign == "+"]


def test_cases_are_named_as_asv_prints_them(tmp_path: Path) -> None:
    listing = {
        "version": 2,
        "bench.time_plain": {"params": []},
        "bench.time_two": {"params": [["10", "20"], ["'a'"]]},
        "other.time_it": {"params": []},
    }
    (tmp_path / "benchmarks.json").write_text(json.dumps(listing))
    assert asv_cases(tmp_path, "") == [
        "bench.time_plain",
        "bench.time_two(10, 'a')",
        "bench.time_two(20, 'a')",
        "other.time_it",
    ]
    assert asv_cases(tmp_path, r"^bench.*\(20") == ["bench.time_two(20, 'a')"]


@pytest.mark.parametrize(("ours", "selected", "fine"), [(35.0, 15.0, True), (36.0, 15.0, False), (35.0, 16.0, False)])
def test_both_bounds_decide(ours: float, selected: float, fine: bool, capsys: pytest.CaptureFixture[str]) -> None:
    readings = [reading(ASV, 100.0, faster=("bench.time_a",)), reading(OURS, ours), reading(SELECTED, selected)]
    assert summary(readings) is fine
    told = capsys.readouterr().out
    assert f"ours: {ours:.0f} s, {ours:.0f}% of ASV's 100 s (bound 35%)" in told
    assert "asv continuous: something faster in 1 of 1" in told


def test_readings_outlive_what_was_built_for_them(tmp_path: Path) -> None:
    readings = [reading(OURS, 3.0), reading(ASV, 10.0, trial=1)]
    lines = [json.dumps(vars(one)) for one in readings]
    (tmp_path / "readings.jsonl").write_text("\n".join([*lines, lines[0][:5]]))
    (tmp_path / "clone").mkdir()
    (tmp_path / "asv.conf.json").touch()
    (tmp_path / "asv-1.log").touch()
    clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asv-1.log", "readings.jsonl"]
    assert kept(tmp_path) == readings
