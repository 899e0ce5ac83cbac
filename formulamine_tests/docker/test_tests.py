"""Tests of a change in containers: by the same code as on the local backend, with nothing left behind."""

import pytest

from formulamine.settings import MeasureSettings
from formulamine.verify.correctness import run_tests
from formulamine.verify.outcomes import judge
from formulamine_tests.build.workbench import Files, project
from formulamine_tests.docker.conftest import DockerBench

pytestmark = pytest.mark.docker

WORK = "def work(): return 3\ndef more(): return 4\n"
TESTS: Files = {
    "tests/test_toy.py": "import toy\ndef test_work(): assert toy.work() == 3\n"
    "def test_more(): assert toy.more() == 4\n",
    "tests/test_exits.py": "def test_it(): pass\n",
    "tests/test_writes.py": """
import pathlib, pytest, socket, toy
def test_it():
    pathlib.Path(toy.__file__).write_text("gone")
    with pytest.raises(OSError): socket.create_connection(("192.0.2.1", 80), 1)
""",
}


def test_tests_run_in_containers_on_both_sides(dock: DockerBench) -> None:
    head: Files = {
        "src/toy/__init__.py": WORK.replace("4", "5"),
        "tests/test_exits.py": "import os\ndef test_it(): os._exit(0)\n",
    }
    item = dock.simple_input(dock.repository(project(WORK) | TESTS, head))
    pair = dock.backend.pair(item.recipe(), item.url, dock.sandbox, item.pr_id)
    settings = MeasureSettings(measure_memory_mb=512)
    raw = run_tests(
        pair, dock.own_pytest(), list(map(str, head)), dock.sandbox(), settings, dock.cancelled, lambda *_: None
    )
    found = judge(raw)
    assert set(found.broken) == {"tests/test_toy.py::test_more", "tests/test_exits.py::test_it"}, raw
    assert (found.before.passed, found.after.passed) == (4, 2), raw
