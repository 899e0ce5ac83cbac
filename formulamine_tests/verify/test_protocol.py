import ast
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from formulamine.verify.cores import quietest_core
from formulamine.verify.lockstep import Lockstep
from formulamine.verify.protocol import (
    BenchmarkResult,
    Measurement,
    Verdict,
    control,
    decide,
    measure,
)
from formulamine.verify.raw import RawCase, RawMeasurement, Round
from formulamine.verify.side import HARNESS, Cancelled, Limits
from formulamine.verify.verdict import kept_by_screen
from formulamine_tests.verify.conftest import Toy, make_toy

MakeToy = Callable[..., Toy]

LIMITS = Limits(call_seconds=2.0, import_seconds=20.0, case_seconds=60.0, total_seconds=120.0)
NO_TIME = replace(LIMITS, total_seconds=0.0)
SLOW = "def work(): return sum(i * i for i in range(3000))\ndef other(): return sum(range(500))\n"
FAST = SLOW.replace("3000", "1000")
SUITE = "import toy\ndef time_work(): toy.work()\ndef time_other(): toy.other()\n"


def took(base: float, head: float, rounds: int = 24, noise: float = 0.01, later: int = 12) -> tuple[Round, ...]:
    """Rounds of five samples that agree up to `noise`, and as many of a later session."""
    made = []
    for index in range(rounds + later):
        drift = 1 + noise * ((index * 7) % 5 - 2) / 2
        before, after = (base * drift,) * 5, (head,) * 5
        made.append(Round(before, before, after, after, "base", "head", session=1 if index < rounds else 2))
    return tuple(made)


def raw(**ratios: float) -> RawMeasurement:
    """A finished measurement whose benchmarks have these ratios."""
    screen = [
        RawCase(name, "screen", "time", "steady", number=1, rounds=took(r, 1, 2, later=0)) for name, r in ratios.items()
    ]
    confirm = [RawCase(name, "confirm", "time", "steady", number=1, rounds=took(r, 1)) for name, r in ratios.items()]
    return RawMeasurement(cases=(*screen, *confirm))


def processes(toy: Toy) -> list[int]:
    """The processes that were started for this toy and still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(toy.root).encode() in command:
                found.append(int(entry.name))
    return found


def run(toy: Toy, **options: object) -> Measurement:
    return measure(toy.launch("base"), toy.launch("head"), **{"limits": LIMITS, **options})  # type: ignore[arg-type]


def test_a_real_speedup_is_confirmed_on_fresh_data(toy: MakeToy) -> None:
    done = []
    made = toy(SLOW, FAST, bench=SUITE)
    measurement = run(made, progress=lambda stage, at, of: done.append((stage, at, of)))
    verdict = measurement.verdict
    assert verdict.verdict == "faster"
    assert verdict.benchmark == "bench.time_work"
    assert verdict.ci_low is not None
    assert verdict.speedup is not None
    assert verdict.ci_high is not None
    assert 2 < verdict.ci_low <= verdict.speedup <= verdict.ci_high < 5
    assert [entry for entry in done if entry[0] == "screen"] == [("screen", at, 4) for at in (1, 2, 3, 4)]
    assert {(case.stage, case.benchmark) for case in measurement.raw.cases} >= {("confirm", "bench.time_work")}
    [confirmed] = [case for case in measurement.raw.cases if case.benchmark == verdict.benchmark][1:]
    assert {of.session for of in confirmed.rounds} == {1, 2}
    assert len({of.hash_seed for of in confirmed.rounds}) == len(confirmed.rounds)
    for case in measurement.raw.cases:
        assert all(of.base_file.startswith(str(made.root / "base")) for of in case.rounds)
        assert all(of.head_file.startswith(str(made.root / "head")) for of in case.rounds)
    again = RawMeasurement.from_json(measurement.raw.to_json())
    assert again == measurement.raw
    assert decide(again) == verdict
    assert not processes(made)
    assert not list((made.root / "scratch-base").iterdir())


def test_a_regression_is_found_with_the_same_rigour(toy: MakeToy) -> None:
    verdict = run(toy(FAST, SLOW, bench=SUITE)).verdict
    assert verdict.verdict == "slower"
    assert verdict.regressions == ("bench.time_work",)
    assert verdict.ci_high is not None
    assert verdict.ci_high < 0.5


def test_the_same_code_is_not_faster_and_its_control_is_quiet(toy: MakeToy) -> None:
    made = toy(SLOW, SLOW, bench=SUITE)
    assert run(made).verdict.verdict == "not_faster"
    controlled = control(made.launch("base"), cases=1, limits=LIMITS)
    assert controlled.verdict.verdict == "not_faster"
    assert [(result.stage, result.decision) for result in controlled.results] == [("control", "dropped")]
    assert decide(RawMeasurement.from_json(controlled.raw.to_json())) == controlled.verdict


FAULTS = """
import os, signal, time, toy

def time_raises(): raise KeyError("not here")
def time_crashes(): os.kill(os.getpid(), signal.SIGSEGV)
def time_leaves(): os._exit(3)
def time_exits(): raise SystemExit(4)
def time_hangs(): time.sleep(60)
def time_prints(): print("garbage {}"); os.write(1, b"more of it")
def time_base_is_slow():
    while toy.SIDE == "base": pass
def time_base_is_stuck():
    if toy.SIDE == "base": time.sleep(60)
def time_writes_everywhere():
    for descriptor in range(3, 300):
        try: os.write(descriptor, b"not json\\n")
        except OSError: pass

class Skipped:
    def setup(self): raise NotImplementedError
    def time_it(self): pass

class Params:
    params = ([1, 2], ["a", "b"])
    param_names = ["n", "letter"]
    def setup(self, n, letter): assert os.getcwd() not in "/"; self.fresh = True
    def time_it(self, n, letter):
        assert self.fresh, "worn state"
        self.fresh = False

class Cached:
    def setup_cache(self):
        with open("made", "w") as file: file.write("once")
        return {"side": toy.SIDE}
    def time_it(self, cache): assert cache["side"] == toy.SIDE and open("made").read() == "once"

class HangingSetup:
    def setup(self): time.sleep(60)
    def time_it(self): pass

class NumberedLoop:
    number = 7
    def time_it(self): toy.SIDE

def timeraw_import(): return "import toy"
def timeraw_broken(): return "import no_such_module"
def mem_list(): return []
def peakmem_list(): return []
def track_one(): return 1 if toy.SIDE == "base" else 2
track_one.unit = "turns"
def track_word(): return "many"
def track_skips(): return 1
def _skip(): raise NotImplementedError
track_skips.setup = _skip

LEFT = [1, 2]
def time_wears_out(): LEFT.pop(); LEFT.pop(); sum(range(1000))
GROWS = [1]
def time_grows():
    GROWS.extend([1] * 50)
    sum(GROWS)
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, tools: Path) -> Measurement:
    """One measurement of a suite in which nearly everything goes wrong."""
    toy = make_toy(
        tmp_path_factory.mktemp("faulty"),
        tools,
        "SIDE = 'base'\nold = 1\n",
        "SIDE = 'head'\nnew = 1\n",
        faults=FAULTS,
        broken="import no_such_module\n",
        ends="import os\nos._exit(5)\n",
        newer="from toy import new\ndef time_new(): pass\n",
        garbage="import os\nfor number in range(200, 300):\n    try: os.write(number, b'not json\\n')\n"
        "    except OSError: pass\n",
    )
    # What noise keeps is confirmed no longer than it takes to see four timeouts.
    measurement = run(toy, limits=replace(LIMITS, call_seconds=1.0, case_seconds=15.0))
    assert not processes(toy)
    return measurement


def screened(measurement: Measurement) -> dict[str, BenchmarkResult]:
    return {result.benchmark: result for result in measurement.results if result.stage == "screen"}


@pytest.mark.parametrize(
    ("benchmark", "status", "detail"),
    [
        ("time_raises", "failed", "KeyError: 'not here' (faults.py:4)"),
        ("time_crashes", "failed", "signal 11"),
        ("time_leaves", "failed", "exit code 3"),
        ("time_exits", "failed", "SystemExit"),
        ("time_hangs", "timeout", "neither side"),
        ("time_prints", "ok", ""),
        ("time_base_is_slow", "base_timeout", "within 1 s"),
        ("time_base_is_stuck", "timeout", "without computing"),
        ("time_writes_everywhere", "failed", "garbage"),
        ("Skipped.time_it", "skipped", "NotImplementedError"),
        ("Cached.time_it", "ok", ""),
        ("HangingSetup.time_it", "timeout", "setup"),
        ("NumberedLoop.time_it", "ok", ""),
        ("timeraw_import", "ok", ""),
        ("time_wears_out", "ok", "timed singly: base: call: IndexError: pop from empty list"),
        ("timeraw_broken", "failed", "CalledProcessError"),
    ],
)
def test_each_fault_is_a_row_with_a_reason(faulty: Measurement, benchmark: str, status: str, detail: str) -> None:
    result = screened(faulty)[f"faults.{benchmark}"]
    assert result.status == status, result
    assert detail in result.detail
    assert (result.speedup is None) == (status not in ("ok", "base_timeout"))


def test_params_make_a_case_each_as_asv_writes_them(faulty: Measurement) -> None:
    found = {name: result for name, result in screened(faulty).items() if "Params" in name}
    assert set(found) == {f"faults.Params.time_it({n}, {letter!r})" for n in (1, 2) for letter in "ab"}
    assert {result.status for result in found.values()} == {"ok"}


def test_the_mode_says_whether_each_call_had_a_setup(faulty: Measurement) -> None:
    found = screened(faulty)
    assert found["faults.Params.time_it(1, 'a')"].mode == "first_call"
    assert found["faults.NumberedLoop.time_it"].mode == "steady"
    assert found["faults.NumberedLoop.time_it"].number == 7
    assert found["faults.timeraw_import"].kind == "timeraw"


def test_modules_that_do_not_import_are_reported_with_their_side(faulty: Measurement) -> None:
    problems = {(problem.side, problem.module.split(".")[1]): problem.error for problem in faulty.raw.problems}
    assert set(problems) == {
        *((side, module) for side in ("base", "head") for module in ("broken", "ends", "garbage")),
        ("base", "newer"),
    }
    assert "no_such_module" in problems["base", "broken"]
    assert "cannot import name 'new'" in problems["base", "newer"]
    assert screened(faulty)["newer.time_new"].detail == "only head has it"


def test_kinds_that_decide_nothing_are_asked_for_their_numbers(faulty: Measurement) -> None:
    found = {value.benchmark.split(".")[1]: value for value in faulty.raw.values}
    # asv_runner knows mem_ only where pympler is installed.
    assert set(found) - {"mem_list"} == {"peakmem_list", "track_one", "track_word", "track_skips"}
    assert (found["track_one"].base, found["track_one"].head, found["track_one"].unit) == (
        (1.0,) * 2,
        (2.0,) * 2,
        "turns",
    )
    assert found["peakmem_list"].unit == "bytes"
    assert min(found["peakmem_list"].base) > 1e6
    assert (found["track_word"].status, "str is no number" in found["track_word"].detail) == ("failed", True)
    assert found["track_skips"].status == "skipped"
    row = screened(faulty)["faults.track_one"]
    assert (row.base_value, row.head_value, row.unit, row.decision, row.speedup) == (1.0, 2.0, "turns", "", None)


def test_a_base_that_times_out_is_evidence_of_a_speedup(faulty: Measurement) -> None:
    verdict = faulty.verdict
    assert verdict.verdict == "faster"
    assert verdict.benchmark == "faults.time_base_is_slow"
    assert verdict.ci_low is not None
    assert verdict.ci_low > 2
    assert verdict.ci_high is None
    assert decide(RawMeasurement.from_json(faulty.raw.to_json())) == verdict


def test_what_a_busy_machine_takes_is_no_wall_time_and_what_a_benchmark_waits_for_is(toy: MakeToy) -> None:
    suite = SUITE + "import time\ndef time_sleeps(): time.sleep(toy.NAP)\n"
    made = toy(SLOW + "NAP = 0.03\n", SLOW + "NAP = 0.01\n", bench=suite)
    core = quietest_core()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        if core is not None:
            os.sched_setaffinity(busy.pid, {core})
        with Lockstep(made.launch("base"), made.launch("head"), LIMITS, threading.Event()) as lockstep:
            lockstep.core = core
            cases = lockstep.discover().cases
            seen = {case.name: lockstep.advance(case, lockstep.begin(case, "screen"), 5) for case in cases}
    finally:
        busy.kill()
        busy.wait()
    [worked], [slept] = seen["bench.time_work"].rounds, seen["bench.time_sleeps"].rounds
    assert sum(worked.base_wall) < 1.5 * sum(worked.base_cpu)
    assert 2 < sum(slept.base_wall) / sum(slept.head_wall) < 4
    assert sum(slept.base_cpu) < 0.5 * sum(slept.base_wall)
    kept = kept_by_screen([replace(of, rounds=of.rounds * 2) for of in seen.values()])
    assert "faster" in kept["bench.time_sleeps"]


def test_a_shadowed_package_is_never_measured(toy: MakeToy) -> None:
    made = toy(SLOW, FAST, bench=SUITE)
    (made.root / "head/toy/__init__.py").rename(made.root / "head/toy/moved.py")
    (made.root / "head/toy").rename(made.root / "elsewhere")
    made.write("shadow/toy/__init__.py", FAST)
    launch = made.launch("head", {"PYTHONPATH": str(made.root / "shadow")})
    verdict = measure(made.launch("base"), launch, limits=LIMITS).verdict
    assert (verdict.verdict, verdict.reason) == ("undecided", "shadowed_import")


def test_a_benchmark_that_swaps_the_package_is_caught_in_its_own_process(toy: MakeToy) -> None:
    made = toy(SLOW, FAST, bench="import sys, toy\ndef setup():\n    toy.__file__ = '/other/toy.py'\n" + SUITE)
    results = run(made).results
    assert {result.status for result in results} == {"failed"}
    assert "shadowed_import" in results[0].detail


def test_a_suite_of_the_package_itself_is_not_taken_for_the_suite(toy: MakeToy) -> None:
    made = toy(SLOW, FAST, bench=SUITE)
    for side in ("base", "head"):
        made.write(f"{side}/benchmarks/__init__.py", "raise RuntimeError('another suite')")
    raw = run(made, limits=NO_TIME).raw
    assert (raw.reason, raw.problems, len(raw.cases)) == ("", (), 2)


@pytest.mark.parametrize(
    ("base", "suite", "reason"),
    [("import no_such_module", SUITE, "import_failed"), (SLOW, "", "no_benchmarks_ran")],
)
def test_where_nothing_ran_the_verdict_says_why(toy: MakeToy, base: str, suite: str, reason: str) -> None:
    verdict = run(toy(base, FAST, bench=suite)).verdict
    assert (verdict.verdict, verdict.reason) == ("undecided", reason)


def test_a_launch_that_is_no_harness_is_a_reason(toy: MakeToy) -> None:
    made = replace(toy(SLOW, FAST, bench=SUITE), python="/bin/echo")
    assert run(made).verdict.reason == "harness_failed"


@pytest.mark.parametrize(
    "suite",
    [
        "import time\ntime.sleep(60)\n",
        "import time\ndef time_hangs(): time.sleep(60)\n",
        "import time\ndef setup(): time.sleep(60)\ndef time_it(): pass\n",
    ],
)
def test_cancelling_leaves_no_process(toy: MakeToy, suite: str) -> None:
    made = toy(SLOW, FAST, bench=suite)
    cancelled = threading.Event()
    threading.Timer(0.7, cancelled.set).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        run(made, cancelled=cancelled, limits=replace(LIMITS, call_seconds=60.0))
    assert time.monotonic() - started < 5
    assert not processes(made)


def test_time_that_runs_out_is_undecided(toy: MakeToy) -> None:
    verdict = run(toy(SLOW, FAST, bench=SUITE), limits=NO_TIME).verdict
    assert (verdict.verdict, verdict.reason) == ("undecided", "no_benchmarks_ran")


def test_random_inputs_and_sets_are_alike_on_both_sides(toy: MakeToy) -> None:
    suite = """
    import random, toy
    AT_IMPORT = random.random()
    class Inputs:
        def setup(self): self.number = random.random()
        def time_it(self):
            with open(toy.LOG, "a") as file: print(AT_IMPORT, self.number, list({"a", "b", "c", "d"}), file=file)
    """
    made = toy("", "", bench=suite)
    for side in ("base", "head"):
        made.write(f"{side}/toy/__init__.py", f"LOG = {str(made.root / side) + '.log'!r}\n")
    run(made, limits=replace(LIMITS, case_seconds=0.01))
    base, head = (sorted(set((made.root / f"{side}.log").read_text().splitlines())) for side in ("base", "head"))
    shared = len(set(base) & set(head))
    assert len(base) > 1
    assert shared >= min(len(base), len(head)) * 0.9  # only while calibrating may the two sides make unequally many


def test_recomputing_finds_tampered_samples() -> None:
    honest = raw(quick=1.3, same=1.0)
    assert decide(honest).verdict == "faster"
    text = json.loads(honest.to_json())
    for case in text["cases"]:
        for of in case["rounds"]:
            of["base_cpu"], of["base_wall"] = of["head_cpu"], of["head_wall"]
    assert decide(RawMeasurement.from_json(json.dumps(text))).verdict == "not_faster"


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_a_sample_that_is_no_time_never_makes_a_verdict(bad: float) -> None:
    honest = raw(quick=1.3)
    screen, confirm = honest.cases
    broken = replace(confirm.rounds[0], head_cpu=(bad,) * 5)
    found = decide(replace(honest, cases=(screen, replace(confirm, rounds=(broken, *confirm.rounds[1:])))))
    assert (found.verdict, found.reason) == ("undecided", "not_settled")
    assert found.results[1].status == "failed"


@pytest.mark.parametrize(
    ("ratios", "verdict", "regressions"),
    [
        ({"quick": 1.3}, "faster", ()),
        ({"quick": 1.3, "slow": 0.7}, "faster", ("slow",)),
        ({"slow": 0.7}, "slower", ("slow",)),
        ({"same": 1.0}, "not_faster", ()),
        ({"hardly": 1.04}, "not_faster", ()),
    ],
)
def test_faster_wins_with_regressions_beside_it(
    ratios: dict[str, float], verdict: str, regressions: tuple[str, ...]
) -> None:
    found = decide(raw(**ratios))
    assert (found.verdict, found.regressions) == (verdict, regressions)


def test_what_promises_and_is_not_confirmed_is_undecided() -> None:
    honest = raw(quick=1.3)
    for cases in (
        honest.cases[:1],
        (honest.cases[0], replace(honest.cases[1], rounds=honest.cases[1].rounds[:3])),
        (honest.cases[0], replace(honest.cases[1], status="failed")),
    ):
        found = decide(replace(honest, cases=cases))
        assert (found.verdict, found.reason) == ("undecided", "not_settled")


def test_the_benchmark_shown_is_the_one_with_the_largest_lower_bound() -> None:
    found = decide(raw(quick=1.3, quicker=2.0))
    assert found.benchmark == "quicker"
    assert (found.kept, found.confirmed, found.screened) == (2, 2, 2)


def test_clocks_that_disagree_are_noted() -> None:
    honest = raw(sleeps=1.5)
    rounds = tuple(replace(of, head_wall=of.base_wall) for of in honest.cases[1].rounds)
    found = decide(replace(honest, cases=(honest.cases[0], replace(honest.cases[1], rounds=rounds))))
    row = found.results[1]
    assert (found.verdict, row.decision, row.clock, row.speedup) == ("not_faster", "dropped", "wall", 1.0)
    assert "by wall time, since CPU time says 1.50x and wall time 1.00x" in row.detail


def test_what_was_not_found_again_is_not_faster() -> None:
    honest = raw(quick=1.3)
    lucky = tuple(replace(of, base_cpu=of.head_cpu, base_wall=of.head_wall) if of.session == 2 else of
                  for of in honest.cases[1].rounds)  # fmt: skip
    found = decide(replace(honest, cases=(honest.cases[0], replace(honest.cases[1], rounds=lucky))))
    assert (found.verdict, found.results[1].decision) == ("not_faster", "dropped")
    assert "not found again" in found.results[1].detail


@pytest.mark.parametrize(("mode", "other"), [("steady", "first_call"), ("first_call", "steady")])
def test_a_call_timed_the_other_way_is_told_and_decides_nothing(mode: str, other: str) -> None:
    honest = raw(cached=1.3)
    rounds = tuple(replace(of, base_other=6.5, head_other=1.0) for of in honest.cases[1].rounds)
    found = decide(replace(honest, cases=(honest.cases[0], replace(honest.cases[1], mode=mode, rounds=rounds))))
    row = found.results[1]
    assert row.speedup == pytest.approx(1.3, abs=0.02)
    assert (row.mode, row.other_mode, row.other_speedup) == (mode, other, pytest.approx(6.5))
    assert "6.50x, which the verdict does not use: ASV times" in row.detail
    alike = tuple(replace(of, base_other=of.base_cpu[0], head_other=of.head_cpu[0]) for of in honest.cases[1].rounds)
    found = decide(replace(honest, cases=(honest.cases[0], replace(honest.cases[1], mode=mode, rounds=alike))))
    assert found.results[1].detail == ""
    assert found.results[1].other_speedup == pytest.approx(1.3, abs=0.02)


def test_a_verdict_of_nothing_is_undecided() -> None:
    assert decide(RawMeasurement()) == Verdict("undecided", "no_benchmarks_ran")


def test_the_harness_is_written_for_the_oldest_interpreter_it_meets() -> None:
    for file in HARNESS.glob("*.py"):
        ast.parse(file.read_text(), feature_version=(3, 8))


def test_a_host_that_is_killed_leaves_no_process(toy: MakeToy) -> None:
    made = toy(SLOW, FAST, bench="import time\ndef time_hangs(): time.sleep(60)\n")
    with made.launch("base")() as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        asked = {"module": "benchmarks.bench", "name": "bench.time_hangs", "case": "bench.time_hangs", "param_index": 0,
                 "core": None, "seed": 0, "hash_seed": 0, "tracing": False, "mode": ""}  # fmt: skip
        for identity, operation in enumerate(("start", "import", "open", "sample")):
            request = {**asked, "id": identity, "op": operation, "number": 1}
            zygote.stdin.write(json.dumps(request).encode() + b"\n")
            zygote.stdin.flush()
            if operation != "sample":
                assert json.loads(zygote.stdout.readline())["status"] == "ok"
        assert len(processes(made)) == 2
        zygote.stdin.close()  # as the end of the host's process does
        zygote.wait(5)
    assert not processes(made)
