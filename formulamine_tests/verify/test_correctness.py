"""Tests of a change run on both sides: in real sandboxes, by a real pytest, hostile ones included."""

import shutil
import threading
import time
from pathlib import Path

import pytest

from formulamine.items import Cancelled
from formulamine.services.resolver import Interpreter
from formulamine.settings import MeasureSettings
from formulamine.verify.correctness import run_tests
from formulamine.verify.outcomes import FileRun, RawTests, judge
from formulamine_tests.build.conftest import bench, interpreters, jail, uv_cache, warm_cache
from formulamine_tests.build.workbench import Files, Workbench, project
from formulamine_tests.verify.test_measure import processes

__all__ = ["bench", "interpreters", "jail", "uv_cache", "warm_cache"]
WORK = "def work(): return 3\ndef more(): return 4\ndef lost(): return 5\n"
CHANGED = "def work(): return 3\ndef more(): return 5\n"
FASTER: Files = {"src/toy/__init__.py": WORK + "# faster\n"}


def ran(bench: Workbench, base: Files, head: Files, settings: MeasureSettings | None = None) -> RawTests:
    """Run the tests of a change of these files."""
    item = bench.simple_input(bench.repository(project(WORK) | base, head))
    pair = bench.backend.pair(item.recipe(), item.url, bench.sandbox, item.pr_id)
    raw = run_tests(
        pair, bench.own_pytest(), list(map(str, head)), bench.sandbox(), settings or MeasureSettings(),
        bench.cancelled, lambda *_: None,
    )  # fmt: skip
    assert not processes(str(bench.home))
    return RawTests.model_validate_json(raw.model_dump_json())


def run(raw: RawTests, side: str, file: str, turn: int = 1) -> FileRun:
    found = raw.run(side, turn, f"tests/{file}")
    assert found is not None
    return found


# One change, and a test file for each way in which its tests may end.
BEFORE: Files = {
    "tests/test_toy.py": "import toy\ndef test_work(): assert toy.work() == 3\n"
    "def test_more(): assert toy.more() == 4\n",
    "tests/test_adapted.py": "import toy\ndef test_more(): assert toy.more() == 4\ndef test_work(): toy.work()\n"
    "def test_renamed(): toy.work()\n",
    "tests/test_lost.py": "from toy import lost\ndef test_lost(): assert lost() == 5\ndef test_other(): pass\n",
    "tests/test_never.py": "import toy\ndef test_never(): assert toy.work() == 7\n",
    "tests/test_needs.py": "import toy, nowhere\ndef test_it(): pass\n",
    "tests/test_deleted.py": "import toy\ndef test_it(): toy.work()\n",
    "tests/test_kinds.py": """
import unittest, pytest, toy
from tests.helper import THREE

class TestToy(unittest.TestCase):
    def test_work(self): self.assertEqual(toy.work(), THREE)

@pytest.mark.parametrize("given", [1, 2])
@pytest.mark.ours
def test_given(given, four, tmp_path): assert toy.work() + 1 == four

class Checks:
    def check_it(self): assert toy.work() == 3
""",
    "tests/conftest.py": "import pytest\n@pytest.fixture\ndef four(): return 4\n",
    "tests/helper.py": "THREE = 3\n",
    # Options and plugins that are not here must not keep the tests from running, and the rest must hold.
    "pytest.ini": "[pytest]\naddopts = --cov=toy --strict-markers -n auto\nmarkers = ours\nrequired_plugins = xyz\n"
    "python_classes = Test* Checks\npython_functions = test_* check_*\n",
}
AFTER: Files = {
    "src/toy/__init__.py": CHANGED,
    "tests/test_adapted.py": "import pytest, toy\ndef test_more(): assert toy.more() == 5\n"
    "@pytest.mark.skip(reason='slow')\ndef test_work(): toy.work()\ndef test_new(): assert toy.more() == 5\n",
    "tests/test_deleted.py": "",
}


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory, interpreters: dict[str, Interpreter], uv_cache: Path, warm_cache: Path
) -> RawTests:
    home = tmp_path_factory.mktemp("both")
    shutil.copytree(warm_cache, home / "cache", symlinks=True)
    bench = Workbench(home, interpreters, uv_cache=uv_cache)
    bench.own_tools()
    # A test that remembers that it was run, which only one without a sandbox can.
    remembered = f"""
import pathlib, toy
def test_now_and_then():
    seen = pathlib.Path({str(home / "seen")!r})
    runs = len(seen.read_text()) if seen.exists() else 0
    seen.write_text("x" * (runs + 1))
    assert runs != 1
"""
    raw = ran(bench, BEFORE | {"tests/test_flaky.py": remembered}, AFTER)
    assert (home / "seen").read_text() == "xxxx"
    return raw


def test_a_test_that_passed_and_fails_after_twice_is_broken(both: RawTests) -> None:
    assert run(both, "base", "test_toy.py").outcomes == {"test_work": "passed", "test_more": "passed"}
    assert run(both, "head", "test_toy.py", turn=2).outcomes == {"test_work": "passed", "test_more": "failed"}
    assert "assert 5 == 4" in run(both, "head", "test_toy.py").detail


def test_only_what_is_broken_is_called_so(both: RawTests) -> None:
    broken = {"test_toy.py::test_more", "test_lost.py::test_lost", "test_lost.py::test_other"}
    found = judge(both)
    assert set(found.broken) == {f"tests/{name}" for name in broken}
    assert found.flaky == ("tests/test_flaky.py::test_now_and_then",)


def test_a_file_that_does_not_import_after_says_why(both: RawTests) -> None:
    head = run(both, "head", "test_lost.py")
    assert (head.ended, head.outcomes) == ("uncollected", {})
    assert "cannot import name 'lost'" in head.detail


def test_each_side_runs_its_own_tests(both: RawTests) -> None:
    assert run(both, "base", "test_adapted.py").outcomes == dict.fromkeys(
        ("test_more", "test_work", "test_renamed"), "passed"
    )
    assert run(both, "head", "test_adapted.py").outcomes == {
        "test_more": "passed", "test_work": "skipped", "test_new": "passed",
    }  # fmt: skip
    assert set(judge(both).gone) == {
        "tests/test_adapted.py::test_renamed", "tests/test_adapted.py::test_work", "tests/test_deleted.py::test_it",
    }  # fmt: skip


def test_what_fails_before_too_is_run_once(both: RawTests) -> None:
    for file in ("test_never.py", "test_needs.py"):
        assert run(both, "base", file).outcomes == run(both, "head", file).outcomes
        assert both.run("head", 2, f"tests/{file}") is None
    assert "No module named 'nowhere'" in run(both, "base", "test_needs.py").detail


def test_classes_of_unittest_parameters_and_fixtures_run_with_the_projects_configuration(both: RawTests) -> None:
    names = ("TestToy::test_work", "test_given[1]", "test_given[2]", "Checks::check_it")
    assert run(both, "head", "test_kinds.py").outcomes == dict.fromkeys(names, "passed")


def test_counts_are_those_of_the_first_turn(both: RawTests) -> None:
    found = judge(both)
    assert found.before.model_dump() == {"passed": 13, "failed": 1, "errors": 1, "skipped": 0, "not_run": 0}
    assert found.after.model_dump() == {"passed": 7, "failed": 3, "errors": 2, "skipped": 1, "not_run": 0}


def test_tests_inside_of_the_package_see_the_built_one_and_the_bound_counts_what_it_cuts(bench: Workbench) -> None:
    """A flat layout whose wheel brings a generated module that the tree lacks, and leaves its tests out."""
    hook = """
        import shutil
        _build = build_wheel
        def build_wheel(*arguments, **more):
            shutil.copytree("flat", "src/flat", dirs_exist_ok=True)
            with open("src/flat/_version.py", "w") as file:
                file.write("VERSION = 7\\n")
            shutil.rmtree("src/flat/tests")
            return _build(*arguments, **more)
    """
    base = project(WORK, hook=hook) | {
        "flat/__init__.py": "from flat._version import VERSION\ndef work(): return VERSION\n",
        "flat/tests/__init__.py": "",
        "flat/tests/test_flat.py": "from .. import work\nimport flat\n"
        "def test_it(): assert flat.work() == work() == 7\n",
        "flat/tests/test_more.py": "import flat\n",
    }
    changed = {"flat/__init__.py": str(base["flat/__init__.py"]) + "# faster\n"}
    raw = ran(bench, base, changed, MeasureSettings(test_files=1))  # type: ignore[arg-type]
    found = judge(raw)
    assert raw.files == ["flat/tests/test_flat.py"]
    assert (found.before.passed, found.after.passed, found.left_out) == (1, 1, 1), raw


def test_when_a_sides_time_is_used_up_the_rest_is_not_run_and_not_broken(bench: Workbench) -> None:
    slow: Files = {"tests/test_toy.py": "import time, toy\ndef test_it(): time.sleep(60)\n"}
    raw = ran(bench, slow, FASTER, MeasureSettings(test_timeout_s=1))
    assert {one.ended for one in raw.runs} == {"out_of_time"}
    assert (judge(raw).broken, judge(raw).left_out) == ((), 1)


def test_a_cancel_ends_the_tests_at_once(bench: Workbench) -> None:
    threading.Timer(3.0, bench.cancelled.set).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        ran(bench, {"tests/test_toy.py": "import time, toy\ndef test_it(): time.sleep(600)\n"}, FASTER)
    assert time.monotonic() - started < 15
    assert not processes(str(bench.home))


# What a test of head may do beside failing; on base the same file is a plain one.
HOSTILE = {
    "exits": "import os\ndef test_work(): os._exit(0)\n",
    "exits_at_import": "import os\nos._exit(0)\n",
    "raises_exit": "def test_work(): raise SystemExit(0)\n",
    "stops_pytest": "import pytest\ndef test_work(): pytest.exit('fine', 0)\n",
    "crashes": "import ctypes\ndef test_work(): ctypes.string_at(0)\n",
    "kills_its_parent": "import os, signal\ndef test_work():\n    os.kill(os.getppid(), signal.SIGKILL)\n"
    "    os.kill(0, signal.SIGKILL)\n",
    "floods_memory": "def test_work(): [bytearray(2 ** 28) for _ in range(1000)]\n",
    "prints_garbage": "import os, sys\ndef test_work():\n"
    "    for descriptor in range(1, 300):\n        try: os.write(descriptor, b'{\"ended\": 0}\\n' * 99)\n"
    "        except OSError: pass\n    sys.__stdout__.write('{\"test\": \"test_work\", \"outcome\": \"passed\"}\\n')\n"
    "    assert False\n",
    "hangs": "def test_work():\n    while True: pass\n",
}  # fmt: skip
FORKS = """
import os, pathlib, time
def test_work():
    (pathlib.Path(__file__).parents[1] / "src" / "toy" / "__init__.py").write_text("gone")
    for _ in range(3):
        if not os.fork():
            os.setsid()
            while True: time.sleep(1)
def test_last(): pass
"""
REACHES_OUT = """
import os, pytest, socket
def test_work():
    with pytest.raises(OSError): socket.create_connection(("192.0.2.1", 80), 1)
def test_last(): assert not os.path.exists({path!r})
"""


@pytest.mark.bubblewrap
def test_hostile_tests_after_are_broken_and_leave_nothing(jail: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("formulamine.verify.correctness.HEAD_AT_LEAST_S", 3.0)
    plain = "def test_work(): pass\ndef test_last(): pass\n"
    harmless = {"forks": FORKS, "reaches_out": REACHES_OUT.format(path=str(jail.home / "blobs"))}
    files = {what: f"tests/test_{what}.py" for what in (*HOSTILE, *harmless)}
    head: Files = {files[what]: text + "def test_last(): pass\n" for what, text in HOSTILE.items()}
    head |= {files[what]: text for what, text in harmless.items()}
    raw = ran(jail, dict.fromkeys(files.values(), plain), head, MeasureSettings(measure_memory_mb=512))
    found = judge(raw)
    for what in HOSTILE:
        assert f"{files[what]}::test_work" in found.broken, raw.run("head", 1, files[what])
    assert found.before.passed == 2 * len(files)
    assert not [name for name in found.broken if name.startswith(tuple(files[what] for what in harmless))]
    ended = {what: run(raw, "head", f"test_{what}.py").ended for what in files}
    assert ended == {
        **dict.fromkeys(files, "died"), "exits_at_import": "died", "hangs": "timeout",
        **dict.fromkeys(("raises_exit", "floods_memory", "prints_garbage", *harmless), "ok"),
    }  # fmt: skip
