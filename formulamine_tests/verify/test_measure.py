"""The step that measures a real pair through the real harness, and the checks on what it wrote."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from formulamine.build.recipe import Recipe
from formulamine.items import Cancelled, Deferred, Done, Failed, Rejected
from formulamine.records import FileChange, OutcomeCounts, SpeedupMeasurement
from formulamine.services.resolver import Interpreter
from formulamine.settings import LoadSettings, MeasureSettings
from formulamine.verify.assets import controls_quiet, gate_holds, no_test_is_broken, verdicts_follow
from formulamine.verify.machine import kernel, machine_class
from formulamine.verify.measure import (
    MeasureInput,
    MeasureReason,
    MeasureStep,
    RawBlob,
    controlled,
    record_of,
)
from formulamine.verify.protocol import Measurement, RawMeasurement, decide
from formulamine_tests.build.conftest import bench, interpreters, jail, uv_cache, warm_cache
from formulamine_tests.build.tables_of import MONTH, month_of, spoiled
from formulamine_tests.build.workbench import Files, Workbench, project
from formulamine_tests.ship.evidence import samples
from formulamine_tests.verify.test_protocol import raw

__all__ = ["bench", "interpreters", "jail", "uv_cache", "warm_cache"]
SLOW = "def work(): return sum(i * i for i in range(20000))\n"
FAST = "def work(): return sum(i * i for i in range(2000))\n"
SETTINGS = MeasureSettings(control_cases=1, control_share=1.0)
COUNTS = OutcomeCounts(passed=0, failed=0, errors=0, skipped=0, not_run=0)


ANY_LOAD = LoadSettings(max_load=1e6)


def step(bench: Workbench, settings: MeasureSettings = SETTINGS, load: LoadSettings = ANY_LOAD) -> MeasureStep:
    lock = bench.home / "measuring.lock"
    return MeasureStep(bench.backend, bench.sandboxes, bench.blobs, settings, lock, bench.cancelled, load)


def built(bench: Workbench, base: Files, head: Files, **recipe: Any) -> MeasureInput:
    item = bench.simple_input(bench.repository(base, head), **recipe)
    return MeasureInput(
        pr_id=item.pr_id, url=item.url, recipe_hash=bench.blobs.put(item.recipe().to_blob()), import_names=["toy"],
        files=[FileChange(path=str(path), additions=1, deletions=0) for path in head],
        base_sha=item.base_sha, merge_sha=item.merge_sha, backend="local",
    )  # fmt: skip


def processes(*texts: str) -> list[int]:
    """Those with all of these on their command line; without a place of the test's own, other tests' count too."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
                if all(text.encode() in command for text in texts):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def test_a_speedup_is_done_and_its_record_follows_from_its_blob(bench: Workbench) -> None:
    # A wheel that brings a `benchmarks` package of its own must not stand in for the suite.
    own = {"src/benchmarks/__init__.py": "", "src/benchmarks/bench.py": "def time_of_the_wheel(): pass\n"}
    item = built(bench, project(SLOW) | own, {"src/toy/__init__.py": FAST})
    outcome = step(bench)(item)
    assert isinstance(outcome, Done), outcome
    record = cast(SpeedupMeasurement, outcome.record)
    assert (record.verdict, record.benchmark) == ("faster", "bench.time_work")
    assert record.speedup is not None
    assert record.speedup > 3
    assert {one.benchmark for one in record.results} == {"bench.time_work"}
    assert (record.machine, record.recipe_hash, record.environment_differs) == (
        machine_class(),
        item.recipe_hash,
        False,
    )
    assert record.controls == 1
    assert (record.kernel, record.measured_on) == (kernel(), "local")
    assert record.spread is not None
    assert 0 < record.spread < 1
    assert (record.tests_before, record.tests_after) == (COUNTS, COUNTS)  # it has no test: none is broken
    assert record.limits == bench.sandbox().limits
    raw = RawBlob.model_validate_json(bench.blobs.get(record.raw_sha256))
    assert record_of(raw, SETTINGS) == record
    assert (raw.pr_id, raw.recipe_hash, raw.backend) == (item.pr_id, item.recipe_hash, "local")
    assert not processes(str(bench.home))


def test_what_is_faster_and_breaks_a_test_is_rejected_with_its_record(bench: Workbench) -> None:
    tests: Files = {"tests/test_toy.py": f"import toy\ndef test_it(): assert toy.work() == {sum(range(20))}\n"}
    base = project("def work(): return sum(range(20)) + 0 * sum(range(200000))\n") | tests
    outcome = step(bench)(built(bench, base, {"src/toy/__init__.py": "def work(): return sum(range(21))\n"}))
    assert isinstance(outcome, Rejected), outcome
    assert (outcome.reason, outcome.detail) == (MeasureReason.TESTS_BROKEN, "tests/test_toy.py::test_it")
    record = cast(SpeedupMeasurement, outcome.record)
    assert (record.verdict, record.tests_broken) == ("faster", ["tests/test_toy.py::test_it"])
    raw = RawBlob.model_validate_json(bench.blobs.get(record.raw_sha256))
    assert record_of(raw, SETTINGS) == record


def test_a_machine_that_is_too_busy_is_waited_for_and_then_left(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loads = iter([9.0, 8.0, 0.1])
    monkeypatch.setattr(os, "getloadavg", lambda: (next(loads, 0.1), 0.0, 0.0))
    monkeypatch.setattr("formulamine.verify.machine.LOOK_EVERY_S", 0.01)
    caplog.set_level("INFO")
    item = built(bench, project(FAST, suite="import toy\n"), {"news.txt": "more"})
    limits = LoadSettings(max_load=1.0 / (os.cpu_count() or 1), load_max_wait_s=1)
    outcome = step(bench, load=limits)(item)
    assert isinstance(outcome, Rejected), outcome
    assert "waits for a quieter machine: load 9.0, wanted 1.0" in caplog.text
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 0.0, 0.0))
    busy = step(bench, load=limits)
    for _ in range(2):  # the second one finds the time to wait used up
        outcome = busy(item)
        assert isinstance(outcome, Deferred), outcome
        assert outcome.reason == MeasureReason.LOADED
        assert outcome.detail.startswith("load 9.0 on ")
        assert outcome.until > datetime.now(UTC)


def test_no_change_is_rejected_with_its_record(bench: Workbench) -> None:
    base = project(FAST)
    outcome = step(bench, SETTINGS.model_copy(update={"control_cases": 0}))(built(bench, base, {"news.txt": "more"}))
    assert isinstance(outcome, Rejected), outcome
    record = cast(SpeedupMeasurement, outcome.record)
    assert outcome.reason == record.verdict
    assert outcome.reason in (MeasureReason.NOT_FASTER, MeasureReason.UNDECIDED)
    assert record.raw_sha256


def test_a_suite_that_does_not_run_is_undecided_and_says_why_and_a_lost_tree_is_built_again(bench: Workbench) -> None:
    suite = "import toy\ndef time_work(): raise ValueError('no way')\n"
    item = built(bench, project(SLOW, suite=suite), {"src/toy/__init__.py": FAST})
    for _ in range(2):
        outcome = step(bench)(item)
        assert isinstance(outcome, Rejected), outcome
        assert outcome.reason == MeasureReason.UNDECIDED
        assert outcome.detail == "no_benchmarks_ran"
        shutil.rmtree(bench.home / "cache")


def test_an_environment_of_its_own_on_each_side_is_said(bench: Workbench) -> None:
    item = built(bench, project(FAST, suite=""), {"news.txt": "more"})
    recipe = Recipe.model_validate_json(bench.blobs.get(item.recipe_hash))
    assert recipe.pins_of(item.base_sha) == recipe.pins_of(item.merge_sha) == []
    raw = samples(item.pr_id, item.recipe_hash).model_copy(update={"environment_differs": True})
    assert record_of(raw, SETTINGS).environment_differs


def test_a_build_that_is_lost_for_good_is_tried_again_later(bench: Workbench) -> None:
    hook = "def build_wheel(*_, **__): raise RuntimeError('gone')\n"
    outcome = step(bench)(built(bench, project(SLOW, hook=hook), {"src/toy/__init__.py": FAST}))
    assert isinstance(outcome, Failed), outcome
    assert (outcome.reason, outcome.infrastructure) == (MeasureReason.BUILD_LOST, True)


@pytest.mark.parametrize(("ratio", "seeds", "passed"), [(1.0, 1, 0), (1.3, 2, 2)])
def test_the_sample_of_a_control_that_finds_something_is_doubled(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, ratio: float, seeds: int, passed: int
) -> None:
    asked = []

    def finished(seen: RawMeasurement) -> Measurement:
        return Measurement(decide(seen), seen, 1.0)

    def control(*_: object, seed: int, **__: object) -> Measurement:
        asked.append(seed)
        return finished(RawMeasurement(cases=tuple(replace(one, stage="control") for one in raw(it=ratio).cases[1:])))

    monkeypatch.setattr("formulamine.verify.protocol.control", control)
    monkeypatch.setattr("formulamine.verify.protocol.measure", lambda *_, **__: finished(raw(same=1.0)))
    outcome = step(bench)(built(bench, project(FAST), {"news.txt": "more"}))
    assert isinstance(outcome, Rejected), outcome
    record = cast(SpeedupMeasurement, outcome.record)
    assert (len(set(asked)), record.controls, record.controls_passed) == (seeds, seeds, passed)
    again = RawBlob.model_validate_json(bench.blobs.get(record.raw_sha256))
    assert record_of(again, SETTINGS) == record


def test_the_share_of_pull_requests_with_a_control_is_what_was_asked_for() -> None:
    names = [f"acme__toy-{number}" for number in range(2000)]
    chosen = [name for name in names if controlled(name, MeasureSettings(control_share=0.2))]
    assert 0.17 < len(chosen) / len(names) < 0.23
    assert set(chosen) < {name for name in names if controlled(name, MeasureSettings(control_share=0.4))}
    assert not any(controlled(name, MeasureSettings(control_cases=0, control_share=1.0)) for name in names)


def cancels(bench: Workbench) -> None:
    """Cancel in the middle of a benchmark that never ends, and see everything gone within five seconds."""
    suite = "import time, toy\ndef time_work():\n    while True: time.sleep(0.1)\n"
    item = built(bench, project(SLOW, suite=suite), {"src/toy/__init__.py": FAST})
    measure, raised = step(bench), []

    def run() -> None:
        try:
            measure(item)
        except Cancelled as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until = time.monotonic() + 60
    while len(processes(str(bench.home), "/harness")) < 2 and thread.is_alive() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(1.0)
    started = time.monotonic()
    bench.cancelled.set()
    thread.join(20)
    assert time.monotonic() - started < 5
    assert raised
    until = time.monotonic() + 2
    while processes(str(bench.home)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not processes(str(bench.home))


def test_a_cancel_ends_a_measurement_at_once(bench: Workbench) -> None:
    cancels(bench)


@pytest.mark.bubblewrap
def test_a_cancel_ends_a_measurement_in_the_sandbox_at_once(jail: Workbench) -> None:
    cancels(jail)


@pytest.mark.bubblewrap
def test_a_speedup_is_found_in_the_sandbox(jail: Workbench) -> None:
    item = built(jail, project(SLOW), {"src/toy/__init__.py": FAST})
    outcome = step(jail, SETTINGS.model_copy(update={"control_cases": 0}))(item)
    assert isinstance(outcome, Done), outcome
    assert "network" in cast(SpeedupMeasurement, outcome.record).limits


Rows = Callable[..., dict[str, Any]]


def measured(home: Path, speedup: float = 1.5, **changes: Any) -> dict[str, Any]:
    """The fields of a row whose raw samples stand in the home's blobs."""
    from formulamine.services.store import Blobs

    raw = samples("acme__toy-7", "recipe", speedup)
    Blobs(home / "blobs").put(raw.to_blob())
    record = record_of(raw, MeasureSettings())
    return {"pr_id": "acme__toy-7", "repo": "acme/toy", **record.model_dump(mode="json")} | changes


@pytest.mark.parametrize("speedup", [1.5, 1.0, 0.5])
def test_a_verdict_that_follows_passes(home: Path, interpreters: dict[str, Interpreter], speedup: float) -> None:
    services = month_of(interpreters, [measured(home, speedup)], "speedup_measurements")
    found = verdicts_follow(MONTH, services)
    assert found.passed, found.detail


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdict": "not_faster"}, "verdict is not_faster, raw samples say faster"),
        ({"speedup": 2.0}, "speedup is 2.0"),
        ({"ci_low": 1.3}, "ci_low is 1.3"),
        ({"ci_high": None}, "ci_high is None"),
        ({"regressions": ["x"]}, "regressions"),
        ({"controls_passed": 4}, "controls_passed is 4"),
        ({"tests_after": COUNTS.model_dump() | {"passed": 9}}, "tests_after is"),
        ({"tests_before": None}, "tests_before is None"),
        ({"tests_gone": ["x"]}, "tests_gone"),
        ({"test_files": []}, "test_files"),
        ({"machine": "a better one"}, "machine is a better one"),
        ({"pr_id": "acme__toy-8"}, "acme__toy-8 stands on the samples of acme__toy-7"),
        ({"raw_sha256": "0" * 64}, "has no raw samples"),
    ],
)
def test_a_verdict_that_does_not_follow_does_not(
    home: Path, interpreters: dict[str, Interpreter], changes: dict[str, Any], said: str
) -> None:
    services = month_of(interpreters, [measured(home)], "speedup_measurements")
    found = verdicts_follow(MONTH, spoiled(services, "speedup_measurements", **changes))
    assert not found.passed
    assert said in found.detail


def test_benchmark_results_that_do_not_follow_do_not_pass(home: Path, interpreters: dict[str, Interpreter]) -> None:
    services = month_of(interpreters, [measured(home)], "speedup_measurements")
    found = verdicts_follow(MONTH, spoiled(services, "benchmark_results", speedup=2.0))
    assert "its benchmark_results are not what raw samples say" in found.detail


@pytest.mark.parametrize(
    ("changes", "holds"),
    [({}, True), ({"verdict": "slower"}, False), ({"speedup": 1.04}, False), ({"ci_low": 1.01}, False),
     ({"ci_low": None}, False), ({"speedup": None}, False), ({"verdict": "slower", "status": "rejected"}, True)],
)  # fmt: skip
def test_only_what_is_faster_goes_on(
    home: Path, interpreters: dict[str, Interpreter], changes: dict[str, Any], holds: bool
) -> None:
    services = month_of(interpreters, [measured(home)], "speedup_measurements")
    assert gate_holds(MONTH, spoiled(services, "speedup_measurements", **changes)).passed is holds


@pytest.mark.parametrize(
    ("changes", "holds"),
    [({}, True), ({"tests_broken": ["tests/test_toy.py::test_more"]}, False), ({"tests_before": None}, False),
     ({"tests_broken": ["tests/test_toy.py::test_more"], "status": "rejected"}, True)],
)  # fmt: skip
def test_only_what_keeps_its_tests_goes_on(
    home: Path, interpreters: dict[str, Interpreter], changes: dict[str, Any], holds: bool
) -> None:
    services = month_of(interpreters, [measured(home)], "speedup_measurements")
    assert no_test_is_broken(MONTH, spoiled(services, "speedup_measurements", **changes)).passed is holds


@pytest.mark.parametrize(
    ("controls", "passed", "fine", "warns"),
    [
        (100, 0, True, False),
        (100, 1, False, True),
        (100, 3, False, False),
        (5, 1, False, True),
        (5, 2, False, False),
        (0, 0, True, False),
    ],
)
def test_one_control_that_passes_warns_and_an_improbable_count_blocks(
    home: Path, interpreters: dict[str, Interpreter], controls: int, passed: int, fine: bool, warns: bool
) -> None:
    services = month_of(interpreters, [measured(home)], "speedup_measurements")
    found = controls_quiet(MONTH, spoiled(services, "speedup_measurements", controls=controls, controls_passed=passed))
    assert (found.passed, found.warn) == (fine, warns)
