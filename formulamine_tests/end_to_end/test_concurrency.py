"""Several runs at once and killed ones, from the command line and from the real UI, on both databases.

A run is held in the middle of its month by the lock of the mirror that it is about to make.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import dagster as dg
import pytest

from formulamine_tests.end_to_end.conftest import in_process, undisturbed
from formulamine_tests.end_to_end.runs import (
    COMMAND,
    CONFIG,
    MONTH,
    Ended,
    contents,
    environment,
    formulamine,
    locks_held,
    processes_of,
)
from formulamine_tests.end_to_end.ui import PATIENCE_S, Ui, running_ui, until
from formulamine_tests.services.histories import History, day

OTHER_MONTH = "2024-03"


def write_repository(path: Path) -> None:
    """Two months with a documentation change each."""
    made = History()
    last = made.commit("Start", day(5, month=1), {"asv.conf.json": CONFIG, "benchmarks/b.py": "", "p.py": "A = 1\n"})
    last = made.commit("DOC: one (#1)", day(3), {"docs/1.rst": "one"}, start=last)
    last = made.commit("DOC: two (#2)", day(3, month=3), {"docs/2.rst": "two"}, start=last)
    made.commit("Later", day(2, month=4), {"p.py": "A = 2\n"}, start=last)
    made.write(path)


@contextlib.contextmanager
def held(home: Path, name: str) -> Iterator[None]:
    """Nobody can make the mirror of `a/NAME` meanwhile, so that a month that needs it stays under way."""
    lock = home / "mirrors" / f"a__{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def holder(home: Path, month: str = MONTH) -> int:
    """Process that runs a month; 0 where none does."""
    lock = home / "locks" / f"month-{month}.lock"
    return int((lock.read_text() if lock.exists() else "") or 0)


class Started:
    """A month begun on the command line."""

    def __init__(self, home: Path, month: str, variables: Mapping[str, str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "month", month, *arguments], cwd=home.parent, env=environment(home, variables), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        until(lambda: holder(home, month) == self.process.pid or self.process.poll() is not None, "the run's lock")
        assert self.process.poll() is None, self.process.communicate()[1]

    def end(self) -> Ended:
        out, err = self.process.communicate(timeout=120)
        return Ended(self.process.returncode, out, err)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)  # a disk that flushes may keep a killed process for a while
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def statuses(home: Path, variables: Mapping[str, str]) -> list[str]:
    """What Dagster calls the runs of a home, oldest first."""
    with undisturbed():
        os.environ.update({**variables, "DAGSTER_HOME": str(home / "dagster")})
        with dg.DagsterInstance.get() as instance:
            return [run.status.value for run in reversed(instance.get_runs())]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that is only read."""
    folder = tmp_path_factory.mktemp("source")
    write_repository(folder / "r")
    return folder / "r"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, source: Path) -> dict[str, dict[str, str]]:
    """What both months say where nothing else runs."""
    home = tmp_path_factory.mktemp("alone") / "home"
    for month in (MONTH, OTHER_MONTH):
        assert in_process(home, "month", month, "--repo", f"a/r={source}").code == 0
    return {month: contents(home, month) for month in (MONTH, OTHER_MONTH)}


@pytest.mark.xdist_group("months at once")
def test_two_months_at_once_end_as_they_would_alone(
    tmp_path: Path, source: Path, alone: dict[str, dict[str, str]], database: dict[str, str]
) -> None:
    home, repo = tmp_path / "home", ("--repo", f"a/r={source}")
    with held(home, "r"):
        runs = [Started(home, month, database, *repo) for month in (MONTH, OTHER_MONTH)]
    assert [run.end().code for run in runs] == [0, 0]
    assert {month: contents(home, month) for month in (MONTH, OTHER_MONTH)} == alone
    assert statuses(home, database) == ["SUCCESS", "SUCCESS"]
    assert processes_of(home) == locks_held(home) == []


@pytest.mark.xdist_group("months at once")
def test_same_month_twice_is_refused_and_a_killed_one_is_carried_on(
    tmp_path: Path, source: Path, alone: dict[str, dict[str, str]], database: dict[str, str]
) -> None:
    home, repo = tmp_path / "home", ("--repo", f"a/r={source}")
    with held(home, "r"):
        first = Started(home, MONTH, database, *repo)
        second = formulamine(home, "month", MONTH, variables=database)
        assert (second.code, len(second.errors)) == (1, 1)
        assert f"a run of {MONTH} is under way in process {first.process.pid}:" in second.errors[0]
        first.kill()
        # A kill in the very moment in which Dagster starts a reader of the run's output leaves that to the next run.
        until(lambda: all(one.startswith("tail ") for one in processes_of(home)), "the end of its processes")
    assert statuses(home, database) == ["STARTED"]  # nobody was there to say otherwise
    again = formulamine(home, "month", MONTH, variables=database)
    assert again.code == 0, again.err
    assert statuses(home, database) == ["FAILURE", "SUCCESS"]
    assert contents(home) == alone[MONTH]
    assert processes_of(home) == locks_held(home) == []


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory, databases: Callable[[], dict[str, str]]) -> Iterator[Ui]:
    folder = tmp_path_factory.mktemp("ui")
    write_repository(folder / "r")
    with running_ui(folder / "home", databases()) as running:
        yield running


def add(ui: Ui, name: str) -> None:
    """A repository that no test had before: its mirror is still to be made."""
    assert in_process(ui.home, "repositories", "add", f"a/{name}={ui.home.parent / 'r'}").code == 0


def launched(ui: Ui) -> tuple[str, int]:
    """A month launched from the UI and under way: its run, and the process that does it."""
    run = ui.launch(MONTH)
    until(lambda: holder(ui.home), "the run's lock")
    return run, holder(ui.home)


def test_command_line_is_refused_while_the_ui_runs_the_month(ui: Ui) -> None:
    add(ui, "one")
    with held(ui.home, "one"):
        run, pid = launched(ui)
        second = formulamine(ui.home, "month", MONTH, variables=ui.variables)
    assert (second.code, len(second.errors)) == (1, 1)
    assert f"is under way in process {pid}:" in second.errors[0]
    assert ui.ended(run) == "SUCCESS"


def test_ui_waits_while_the_command_line_runs_the_month(ui: Ui) -> None:
    add(ui, "two")
    with held(ui.home, "two"):
        first = Started(ui.home, MONTH, ui.variables)
        run = ui.launch(MONTH)
    assert first.end().code == 0
    assert ui.ended(run) == "SUCCESS"


def test_ui_run_of_a_month_that_is_taken_fails_and_names_the_process(ui: Ui) -> None:
    """Where the queue cannot know: the first run keeps its history elsewhere."""
    lock = ui.home / "locks" / f"month-{MONTH}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        first.truncate(0)
        first.write("4711")
        first.flush()
        run = ui.launch(MONTH)
        assert ui.ended(run) == "FAILURE"
        first.truncate(0)
    assert f"a run of {MONTH} is under way in process 4711" in ui.told(run)


def test_killed_worker_of_the_ui_is_called_failed_and_the_next_run_carries_on(ui: Ui) -> None:
    add(ui, "three")
    with held(ui.home, "three"):
        run, pid = launched(ui)
        os.kill(pid, signal.SIGKILL)
        assert ui.ended(run) == "FAILURE"
    assert locks_held(ui.home) == []
    assert ui.ended(ui.launch(MONTH)) == "SUCCESS"


def test_killed_command_line_run_does_not_block_the_queue_of_the_ui(ui: Ui) -> None:
    add(ui, "four")
    with held(ui.home, "four"):
        Started(ui.home, MONTH, ui.variables).kill()
        assert statuses(ui.home, ui.variables)[-1] == "STARTED"
        run = ui.launch(MONTH)
    assert ui.ended(run) == "SUCCESS"
    assert statuses(ui.home, ui.variables)[-2:] == ["FAILURE", "SUCCESS"]


@pytest.mark.xdist_group("months at once")
@pytest.mark.parametrize("part", ["dagster_webserver", "dagster._daemon"])
def test_run_outlives_a_killed_part_of_the_ui_and_ends_truthfully(tmp_path: Path, source: Path, part: str) -> None:
    """`formulamine dev` ends with any of its parts; its code server stays until the run that it began has ended."""
    home = tmp_path / "home"
    assert in_process(home, "repositories", "add", f"a/r={source}").code == 0
    with running_ui(home, {}) as ui:
        with held(home, "r"):
            _, pid = launched(ui)
            os.kill(ui.pid(part), signal.SIGKILL)
            ui.process.wait(60)
            second = formulamine(home, "month", MONTH)
            assert second.code == 1
            assert f"is under way in process {pid}:" in second.errors[0]
            assert statuses(home, {}) == ["STARTED"]
        until(lambda: not processes_of(home), "the end of the run and of all processes")
    assert statuses(home, {}) == ["SUCCESS"]
    assert locks_held(home) == []
    again = formulamine(home, "month", MONTH)
    assert again.code == 0, again.err
    assert statuses(home, {}) == ["SUCCESS", "SUCCESS"]
