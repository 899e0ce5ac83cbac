"""Which cases a change can touch, on toys whose change is known."""

import ast
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from formulamine.verify.harness.sources import digests, functions
from formulamine.verify.impact import select
from formulamine.verify.lockstep import Lockstep
from formulamine.verify.protocol import decide, measure
from formulamine.verify.raw import RawMeasurement, Selection
from formulamine.verify.side import Limits
from formulamine_tests.verify.conftest import Toy

MakeToy = Callable[..., Toy]
LIMITS = Limits(call_seconds=10.0, import_seconds=60.0, case_seconds=60.0, total_seconds=300.0)
PACKAGE = '''
"""A toy."""
import functools
__version__ = "1.0"
STEP = 1

def work(n=3):
    """Add up."""
    def inner(number):
        return number + STEP
    return sum(map(inner, range(n)))

def other():
    return sum(range(10))

def at_import():
    return 7

SEVEN = at_import()

def in_setup():
    return [1, 2, 3]

@functools.lru_cache(maxsize=None)
def cached(n):
    return n + 1

def hidden_by(function):
    return function

@hidden_by
def decorated():
    return 1

def replaced_by(function):
    return lambda: 1

@replaced_by
def compiled():
    return 5

class Thing:
    size = 3

    def double(self):
        return self.size * 2

    @property
    def half(self):
        return self.size / 2
'''
SUITE = """
import subprocess, sys, threading, toy
def time_work(): toy.work()
def time_other(): toy.other()
def time_cached(): toy.cached(3)
def time_thing(): toy.Thing().double()
def time_half(): toy.Thing().half
def time_decorated(): toy.decorated()
def time_lazily():
    import toy.late
def time_in_thread():
    thread = threading.Thread(target=toy.work)
    thread.start()
    thread.join()
def time_elsewhere(): subprocess.run([sys.executable, "-c", "pass"], check=True)
def timeraw_import(): return "import toy"
class Made:
    def setup(self): self.things = toy.in_setup()
    def time_it(self): sum(self.things)
class Cached:
    def setup_cache(self): return toy.other()
    def time_it(self, cache): cache + 1
"""
DECORATED = "@hidden_by\ndef decorated():\n    return 1\n"
BLIND = {"bench.time_elsewhere", "bench.timeraw_import"}


def choice(toy: MakeToy, old: str, new: str, **files: str) -> Selection:
    """What is chosen where `old` in the package becomes `new`."""
    assert old in PACKAGE
    made = toy(PACKAGE, PACKAGE.replace(old, new), bench=SUITE)
    for side in ("base", "head"):
        made.write(f"{side}/toy/late.py", "LATE = 1\n")
    for name, text in files.items():
        made.write(name.replace("__", "/").replace("_dot_", "."), text)
    with Lockstep(made.launch("base"), made.launch("head"), LIMITS, threading.Event()) as lockstep:
        lockstep.trace()
        return select(lockstep, lockstep.discover().cases, 0)


@pytest.mark.parametrize(
    ("old", "new", "reached"),
    [
        ("number + STEP", "STEP + number", {"bench.time_work", "bench.time_in_thread"}),
        ("return n + 1", "return 1 + n", {"bench.time_cached"}),
        ("self.size * 2", "2 * self.size", {"bench.time_thing"}),
        ("self.size / 2", "0.5 * self.size", {"bench.time_half"}),
        # Whatever this decorator does, the function runs as Python code.
        (DECORATED, DECORATED.replace("return 1", "return 2"), {"bench.time_decorated"}),
        # Comments, what is told to people, and another version of the same code are no change.
        ("    return sum(map", "    # all of it\n    return sum(map", set()),
        ('"""Add up."""', '"""Add all up."""', set()),
        ('__version__ = "1.0"', '__version__ = "1.1"', set()),
        # A function that comes is seen by whoever calls it, also where it hides one of a class.
        ("class Thing:", "def unused():\n    return 1\n\nclass Thing:", set()),
    ],
)
def test_a_case_is_reached_where_it_runs_a_changed_function(
    toy: MakeToy, old: str, new: str, reached: set[str]
) -> None:
    found = choice(toy, old, new)
    changed = "Add" not in new and "__version__" not in new and "all of it" not in new
    assert (found.mode, found.why) == ("impact", "")
    assert set(found.reached) == reached | (BLIND if changed else set())
    assert found.excluded == 12 - len(found.reached)
    assert len(found.sampled) == 1
    assert not set(found.sampled) & set(found.reached)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("STEP = 1", "STEP = 2", "toy/__init__.py: module level runs at import"),
        ("size = 3", "size = 4", "toy/__init__.py: module level runs at import"),
        ("n=3", "n=4", "the signature of work differs"),
        ("return 7", "return 8", "at_import runs at import"),
        ("[1, 2, 3]", "[1, 2, 3, 4]", "in_setup runs in the set-up of bench.Made.time_it"),
        ("range(10)", "range(11)", "other runs in the set-up of bench.Cached.time_it"),
        ("maxsize=None", "maxsize=9", "the signature of cached differs"),
        ("return 5", "return 6", "compiled differs, which its decorator may hide"),
        (DECORATED, "decorated = print\n", "comes or goes with a decorator"),
    ],
)
def test_everything_is_measured_where_a_trace_would_not_tell(toy: MakeToy, old: str, new: str, why: str) -> None:
    found = choice(toy, old, new)
    assert found.mode == "all"
    assert why in found.why


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"head__toy__table_dot_json": "{}"}, "toy/table.json differs, which is no Python source"),
        ({"head__toy__fast_dot_so": "compiled"}, "toy/fast.so differs"),
        ({"head__toy__broken_dot_py": "def ("}, "toy/broken.py cannot be parsed"),
        ({"head__toy-1_dot_dist-info__METADATA": "Requires-Dist: numpy\n"}, "metadata METADATA differs"),
    ],
)
def test_data_compiled_code_and_dependencies_touch_everything(toy: MakeToy, files: dict[str, str], why: str) -> None:
    found = choice(toy, "class Thing", "class Thing", **files)
    assert (found.mode, why in found.why) == ("all", True), found


def test_a_module_that_is_imported_late_touches_only_who_imports_it(toy: MakeToy) -> None:
    found = choice(toy, "class Thing", "class Thing", head__toy__late_dot_py="LATE = 2\n")
    assert (found.mode, set(found.reached)) == ("impact", {"bench.time_lazily"} | BLIND)


@pytest.mark.parametrize(
    ("started", "mode"),
    [
        ("subprocess.run(['uname', '-m'], check=True, stdout=subprocess.DEVNULL)", "impact"),  # as numpy asks lscpu
        ("subprocess.run('uname -m', shell=True, check=True, stdout=subprocess.DEVNULL)", "all"),
        ("subprocess.run([sys.executable, '-c', 'pass'], check=True)", "all"),
    ],
)
def test_only_a_program_that_tells_of_the_machine_may_run_at_import(toy: MakeToy, started: str, mode: str) -> None:
    suite = f"import subprocess, sys, toy\n{started}\ndef time_work(): toy.work()\ndef time_other(): toy.other()\n"
    made = toy(PACKAGE, PACKAGE.replace("self.size * 2", "2 * self.size"), bench=suite)
    with Lockstep(made.launch("base"), made.launch("head"), LIMITS, threading.Event()) as lockstep:
        lockstep.trace()
        found = select(lockstep, lockstep.discover().cases, 0)
    assert found.mode == mode
    assert mode == "impact" or found.why == "at import, it starts another process (subprocess.Popen)"


def test_a_change_that_no_benchmark_reaches_is_not_covered(toy: MakeToy) -> None:
    suite = "import toy\ndef time_other(): toy.other()\ndef time_cached(): toy.cached(1)\n"
    made = toy(PACKAGE, PACKAGE.replace("self.size * 2", "self.size + self.size"), bench=suite)
    measured = measure(made.launch("base"), made.launch("head"), limits=LIMITS, select=True)
    assert (measured.verdict.verdict, measured.verdict.reason) == ("undecided", "not_covered")
    assert measured.raw.selection.changed == ("toy/__init__.py: Thing.double",)
    assert {case.benchmark for case in measured.raw.cases} == set(measured.raw.selection.sampled)
    assert decide(RawMeasurement.from_json(measured.raw.to_json())) == measured.verdict


def test_a_benchmark_that_was_excluded_and_is_faster_has_all_measured(toy: MakeToy) -> None:
    slow = "import os, sys\ndef work(): return 1\ndef spare(): return 1\n"
    # What no trace sees: behaviour that depends on where the package lies.
    loop = "sum(i * i for i in range(4000 if '/base/' in toy.__file__ else 1000))"
    suite = f"import toy\ndef time_hidden(): {loop}\n"
    made = toy(slow, slow.replace("def spare(): return 1", "def spare(): return 2"), bench=suite)
    measured = measure(made.launch("base"), made.launch("head"), limits=LIMITS, select=True)
    assert (measured.verdict.verdict, measured.verdict.benchmark) == ("faster", "bench.time_hidden")
    assert measured.raw.selection.why == "bench.time_hidden was excluded, yet it was confirmed"


def test_sources_are_read_alike_wherever_they_lie(tmp_path: Path) -> None:
    file = tmp_path / "toy.py"
    file.write_text(PACKAGE)
    found = functions(str(file))
    assert set(found["functions"]) >= {"work", "Thing.double", "Thing.half", "cached"}
    first, last = found["functions"]["cached"][:2]
    assert ast.get_source_segment(PACKAGE, ast.parse(PACKAGE).body[-4]) is not None
    assert PACKAGE.splitlines()[first - 1].startswith("@functools")
    assert PACKAGE.splitlines()[last - 1].strip() == "return n + 1"
    assert set(digests(str(tmp_path))) == {"toy.py"}
