"""What runs of tests say, on runs that were made up."""

from collections.abc import Mapping
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.verify.outcomes import FAILING, NAMES_KEPT, FileRun, RawTests, judge, shown

FILE = "tests/test_it.py"
ENDS = ("ok", "absent", "uncollected", "skipped", "died", "timeout", "out_of_time")
OUTCOMES = st.sampled_from(["passed", "skipped", *sorted(FAILING)])


def run(side: Literal["base", "head"], outcomes: Mapping[str, str], turn: int = 1, ended: str = "ok") -> FileRun:
    return FileRun.model_validate(
        {"side": side, "turn": turn, "file": FILE, "ended": ended, "detail": "", "outcomes": outcomes, "seconds": 1.0}
    )


def raw(*runs: FileRun) -> RawTests:
    return RawTests(files=[FILE], left_out=0, runs=list(runs))


@pytest.mark.parametrize(
    ("again", "ended", "broken"),
    [
        (("passed", "failed"), "ok", True),
        (("passed", "passed"), "ok", False),
        (("failed", "failed"), "ok", False),  # it fails on base now and then too
        (("passed", "died"), "died", True),
        (("passed", "not_run"), "timeout", True),
        (("passed", "failed"), "out_of_time", True),  # fail-closed: what could not be looked at again stands
    ],
)
def test_a_failure_is_looked_at_twice(again: tuple[str, str], ended: str, broken: bool) -> None:
    base, head = again
    found = judge(
        raw(
            run("base", {"test": "passed"}), run("head", {"test": "failed"}),
            run("base", {"test": base}, 2), run("head", {"test": head}, 2, ended),
        )
    )  # fmt: skip
    assert found.broken == ((f"{FILE}::test",) if broken else ())
    assert found.flaky == (() if broken else (f"{FILE}::test",))


def test_a_failure_without_a_second_look_stands() -> None:
    assert judge(raw(run("base", {"test": "passed"}), run("head", {"test": "error"}))).broken == (f"{FILE}::test",)


@pytest.mark.parametrize(
    ("ended", "broken", "gone"),
    [("ok", 0, 2), ("absent", 0, 2), ("skipped", 0, 2), ("out_of_time", 0, 0), ("uncollected", 2, 0), ("died", 2, 0),
     ("timeout", 2, 0)],
)  # fmt: skip
def test_a_file_of_which_head_runs_no_test(ended: str, broken: int, gone: int) -> None:
    found = judge(raw(run("base", {"one": "passed", "two": "passed", "never": "failed"}), run("head", {}, 1, ended)))
    assert (len(found.broken), len(found.gone)) == (broken, gone)


sides = st.dictionaries(st.sampled_from("abcd"), OUTCOMES)


@given(st.lists(st.tuples(sides, st.sampled_from(ENDS)), min_size=4, max_size=4))
def test_only_what_passed_before_is_named_and_in_one_place(runs: list[tuple[dict[str, str], str]]) -> None:
    parts = [
        run("head" if number % 2 else "base", outcomes, 1 + number // 2, ended)
        for number, (outcomes, ended) in enumerate(runs)
    ]
    found = judge(raw(*parts))
    passed = {f"{FILE}::{name}" for name, outcome in parts[0].outcomes.items() if outcome == "passed"}
    named = [*found.broken, *found.gone, *found.flaky]
    assert len(named) == len(set(named))
    assert set(named) <= passed
    still = {f"{FILE}::{name}" for name, outcome in parts[1].outcomes.items() if outcome == "passed"}
    assert not still & set(named) or parts[1].ended == "absent"
    assert RawTests.model_validate_json(raw(*parts).model_dump_json()) == raw(*parts)


@given(sides)
def test_a_side_against_itself_breaks_nothing(outcomes: dict[str, str]) -> None:
    found = judge(raw(run("base", outcomes), run("head", outcomes)))
    assert (found.before, found.broken, found.gone, found.flaky) == (found.after, (), (), ())
    assert sum(found.before.model_dump().values()) == len(outcomes)


def test_a_row_names_the_first_ones_and_counts_the_rest() -> None:
    names = tuple(f"test_{number}" for number in range(NAMES_KEPT + 3))
    assert shown(names) == [*names[:NAMES_KEPT], "and 3 more"]
    assert shown(names[:NAMES_KEPT]) == list(names[:NAMES_KEPT])
