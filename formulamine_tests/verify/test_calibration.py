"""Trials in which the truth is known: that the extra work is really done, and what trials add up to."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from formulamine.cli import main
from formulamine.items import Cancelled
from formulamine.settings import Settings
from formulamine.verify import calibrate as calibrations
from formulamine.verify.calibration import (
    NothingToSlow,
    Trial,
    at_most,
    passes_per_case,
    render,
    slow_one,
    summarize,
    told,
    trial,
)
from formulamine.verify.lockstep import Lockstep
from formulamine.verify.measure import MeasureInput
from formulamine.verify.raw import VERSION
from formulamine.verify.side import Launch, Limits
from formulamine_tests.verify.conftest import Toy

MakeToy = Callable[..., Toy]
at_most(0, 1)  # loads scipy, which is slow, before any test has a deadline
LIMITS = Limits(call_seconds=10.0, import_seconds=60.0, case_seconds=60.0, total_seconds=300.0)
PACKAGE = "def work(): return sum(i * i for i in range(3000))\n"
SUITE = "import toy\ndef time_work(): toy.work()\ndef time_too(): toy.work()\ndef time_fails(): raise ValueError\n"
ONE = Trial(
    version=VERSION, machine="m", pair="a__b-1", seed=1, ratio=1.0, benchmarks=6, benchmark="", verdict="not_faster",
    reason="", found=(), slower=(), speedup=None, ci_low=None, ci_high=None, kept=2, seconds=10.0, load=("", ""),
)  # fmt: skip
SLOWED = replace(ONE, ratio=1.1, benchmark="x", verdict="faster", found=("x",), speedup=1.12, ci_low=1.05, ci_high=1.2)


def maker(toy: Toy) -> Callable[[int, Mapping[str, float]], Launch]:
    """Launches the base side of a toy with extra work."""

    def make(seed: int, extra_turns: Mapping[str, float]) -> Launch:
        return toy.launch("base", seed=seed, extra_turns=dict(extra_turns))

    return make


def test_a_slowdown_is_really_executed_and_found(toy: MakeToy) -> None:
    make = maker(toy(PACKAGE, PACKAGE, bench=SUITE))
    one, measured = trial(
        make, pair="a__b-1", machine="m", seed=3, ratio=2.0, benchmarks=0, limits=LIMITS, cancelled=threading.Event()
    )
    assert one.benchmark in ("bench.time_work", "bench.time_too")
    assert (one.verdict, one.found, one.slower) == ("faster", (one.benchmark,), ())
    assert (one.power, one.false) == (True, False)
    assert one.speedup == pytest.approx(2.0, rel=0.15)
    assert {case.benchmark for case in measured.raw.cases if case.stage == "screen"} >= {"bench.time_too"}


def test_a_suite_in_which_nothing_can_be_slowed_is_said(toy: MakeToy) -> None:
    made = toy(PACKAGE, PACKAGE, bench="import toy\ndef time_fails(): raise ValueError\n")
    with Lockstep(made.launch("base"), made.launch("base"), LIMITS, threading.Event()) as lockstep:
        cases = lockstep.discover().cases
        with pytest.raises(NothingToSlow, match="none of 1 benchmarks"):
            slow_one(lockstep, cases, 1.1)


@pytest.mark.parametrize(("count", "of", "bound"), [(0, 300, 0.00994), (1, 300, 0.0157), (0, 1, 0.95), (5, 5, 1.0)])
def test_the_bound_is_the_exact_binomial_one(count: int, of: int, bound: float) -> None:
    from scipy.stats import binomtest

    assert at_most(count, of) == pytest.approx(bound, rel=0.01)
    assert at_most(count, of) == pytest.approx(binomtest(count, of, alternative="less").proportion_ci(0.95).high)


@given(st.integers(min_value=0, max_value=50), st.integers(min_value=1, max_value=50))
def test_a_bound_is_above_what_was_seen_and_falls_with_more_trials(count: int, more: int) -> None:
    assert count / (count + more) < at_most(count, count + more) < 1
    assert at_most(count, count + more + 1) < at_most(count, count + more)


def test_trials_add_up() -> None:
    wrong = replace(ONE, verdict="slower", slower=("y",))
    missed = replace(SLOWED, verdict="not_faster", found=(), speedup=None, ci_low=None, ci_high=None)
    other = replace(missed, verdict="faster", found=("y",))
    same, slowed = summarize([ONE, ONE, wrong, SLOWED, missed, other])
    assert (same.ratio, same.trials, same.false) == (1.0, 3, 1)
    assert (slowed.trials, slowed.false, slowed.power, slowed.covered) == (3, 1, 1, 1)
    assert slowed.error == pytest.approx(1.12 / 1.1 - 1)
    assert passes_per_case([ONE, wrong, SLOWED]) == pytest.approx(2 / 14)
    assert passes_per_case([SLOWED]) is None
    assert "1.10x" in render([same, slowed])
    assert "1 of 3 measurements of base against itself found a difference (at most 86.5%" in told([ONE, ONE, wrong])
    assert "1 of 1 slowdowns by 1.1 were found, off by 1.8% in the median" in told([SLOWED])
    assert told([]) == ""


def test_trials_are_read_back_and_one_that_was_cut_off_is_none(tmp_path: Path) -> None:
    path = calibrations.trials_file(tmp_path)
    assert calibrations.read_trials(tmp_path) == []
    path.parent.mkdir()
    older = json.dumps({"version": "1", "what": "another protocol"})
    path.write_text(
        f"{older}\n{json.dumps(asdict(ONE))}\n{json.dumps(asdict(SLOWED))}\n" + json.dumps(asdict(ONE))[:40]
    )
    assert calibrations.read_trials(tmp_path) == [ONE, SLOWED]
    path.write_text("no json\n")
    with pytest.raises(ValueError, match="Expecting"):
        calibrations.read_trials(tmp_path)


def test_a_run_that_was_ended_carries_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, float, int]] = []

    def tried(item: MeasureInput, _: object, machine: str, seed: int, ratio: float, __: int) -> Trial:
        if len(done) == 3:
            raise Cancelled(item.pr_id)
        done.append((item.pr_id, ratio, seed))
        return replace(ONE, pair=item.pr_id, machine=machine, seed=seed, ratio=ratio)

    monkeypatch.setattr(calibrations, "_trial", tried)
    pairs = [
        MeasureInput(
            pr_id=name, url="", recipe_hash="", import_names=[], files=[], base_sha="", merge_sha="", backend="local"
        )
        for name in ("a__b-1", "a__b-2")
    ]
    asked = {"ratios": (1.0, 1.1), "trials": 2, "benchmarks": 4}
    with calibrations.services_of(Settings(), "local", False) as services:
        with pytest.raises(Cancelled):
            list(calibrations.calibrate(pairs, services, **asked))
        assert len(calibrations.read_trials(home)) == 3
        first, done[:] = list(done), []
        assert len(list(calibrations.calibrate(pairs, services, **asked))) == 1
        assert {(pair, ratio) for pair, ratio, _ in first + done} == {
            ("a__b-1", 1.0), ("a__b-1", 1.1), ("a__b-2", 1.0), ("a__b-2", 1.1)
        }  # fmt: skip
        assert len({seed for _, _, seed in first + done}) == 4  # no two share data
        assert list(calibrations.calibrate(pairs, services, **asked)) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["2024-02", "--ratio", "0.5"], 2, "base can only be made slower"),
        (["2024-02", "--trials", "0"], 2, "--trials"),
        (["2024-02"], 1, "was never made: run `formulamine month 2024-02`"),
        (["2024-13"], 2, "2024-13"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(home: Path, arguments: list[str], code: int, said: str) -> None:
    result = CliRunner().invoke(main, ["calibrate", *arguments])
    assert (result.exit_code, said in result.output) == (code, True), result.output
