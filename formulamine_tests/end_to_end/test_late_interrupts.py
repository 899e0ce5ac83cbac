"""Ctrl-C at the worst moments: while a database is being closed, and again and again until the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from formulamine_tests.end_to_end.runs import MONTH, environment, usable

# The command, with a Ctrl-C before every closing of a database from the n-th on of those that hold what is named; the
# last ones come when the line that tells the end is out.
DISTURBED = """
import os, signal, sys
from sqlalchemy.engine.default import DefaultDialect
from formulamine.cli import main

close, (name, first), closings = DefaultDialect.do_close, sys.argv[1:3], []

def interrupt_and_close(dialect, connection):
    (_, _, file), *_ = connection.execute("pragma database_list").fetchall()
    closings.extend([file] if file.endswith(name) else [])
    if len(closings) >= int(first) and file.endswith(name):
        os.kill(os.getpid(), signal.SIGINT)
    close(dialect, connection)

DefaultDialect.do_close = interrupt_and_close
main(sys.argv[3:])
"""
LINE = "formulamine: interrupted: the same command carries on from here"


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    repository = tmp_path_factory.mktemp("source") / "one"
    usable("One", "Two").write(repository)
    return ["month", MONTH, "--repo", f"a/one={repository}", "--select", "discover"]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        pytest.param("schedules.db", 1, id="Dagster opens"),
        pytest.param("runs.db", 1, id="the run is written"),
        pytest.param("/index.db", 1, id="an event is written"),
        pytest.param("/index.db", 40, id="an event is written later"),
    ],
)
def test_an_interrupt_while_a_database_closes_is_told_in_one_line(
    name: str, first: int, month: list[str], home: Path
) -> None:
    ended = disturbed(name, first, month, home)
    assert ended.returncode == 130, ended.stderr
    told = [line for line in ended.stderr.splitlines() if line[2:3] != ":"]  # besides progress
    assert told == [f"state is in {home}", LINE]


def test_one_that_comes_while_a_finished_run_closes_its_ledger_ends_nothing(month: list[str], home: Path) -> None:
    ended = disturbed("ledger.sqlite", 1, month, home)
    assert "Traceback" not in ended.stderr
    assert (ended.returncode, LINE in ended.stderr) == (0, False)


def disturbed(name: str, first: int, month: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DISTURBED, name, str(first), *month], cwd=home.parent, env=environment(home),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
