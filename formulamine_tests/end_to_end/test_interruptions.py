"""A month that is hit at random points of every phase, again and again, and then carried to its end."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from formulamine.demo.sample import REPOSITORY, write_sample
from formulamine.services.store import Blobs
from formulamine_tests.end_to_end.runs import (
    COMMAND,
    MONTH,
    Ended,
    endings,
    environment,
    expected_endings,
    formulamine,
    table,
)

pytestmark = [pytest.mark.network, pytest.mark.bubblewrap]
SEED = 20240229
# What the run says as it begins, and how long after that it may be hit: together the whole run is covered.
POINTS = (
    ("state is in", 3.0, signal.SIGKILL),
    ("candidate_prs: 15 of 15 to do", 0.2, signal.SIGKILL),
    ("env_payloads: ", 3.0, signal.SIGKILL),
    ("images: ", 1.5, signal.SIGINT),
    ("images: ", 2.5, signal.SIGKILL),
    ("speedup_measurements: 5 of 5 to do", 5.0, signal.SIGINT),
    ("speedup_measurements: ", 15.0, signal.SIGKILL),
    ("problem_statements: ", 0.5, signal.SIGKILL),
)
# The controls are a third of a measurement's time, and say nothing about being interrupted.
QUICK = {"FORMULAMINE_CONTROL_CASES": "0"}
GONE_WITHIN_S = 5.0


@dataclass(frozen=True)
class Hit:
    """One run that was hit."""

    at: str
    by: signal.Signals
    code: int
    seconds: float
    """Until the command itself had ended."""
    err: str
    left: Sequence[str]
    """Command lines of processes of this home that were there `GONE_WITHIN_S` after the end."""
    groups: Sequence[str]
    """Control groups of the command that held a process then."""


@dataclass
class Interrupted:
    home: Path
    hits: list[Hit] = field(default_factory=list)
    last: Ended | None = None


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """The demo's month in a fresh home, hit at every point, then run to its end."""
    folder = tmp_path_factory.mktemp("interrupted")
    told = Interrupted(folder / "home")
    write_sample(folder / "sample.git")
    month = ["month", MONTH, "--repo", f"{REPOSITORY}={folder / 'sample.git'}"]
    chance = random.Random(SEED)
    for at, window, by in POINTS:
        told.hits.append(hit(told.home, month, at, chance.uniform(0.05, 1) * window, by))
    told.last = formulamine(told.home, *month, variables=QUICK)
    return told


def hit(home: Path, arguments: Sequence[str], at: str, delay: float, by: signal.Signals) -> Hit:
    """Run the command, send the leader of its group a signal some time after a line, and look at what is left."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=home.parent, env=environment(home, QUICK), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if at in line:
            break
    rest = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    rest.start()
    time.sleep(delay)
    started = time.monotonic()
    process.send_signal(by)
    code = process.wait(30)
    seconds = time.monotonic() - started
    until = time.monotonic() + GONE_WITHIN_S
    while (left := processes_of(home)) and time.monotonic() < until:
        time.sleep(0.1)
    rest.join(1)
    return Hit(at, by, code, seconds, "".join(lines), left, groups_of(process.pid))


def processes_of(home: Path) -> list[str]:
    """Processes whose command line or environment names this home: its bwrap, git, uv and interpreters."""
    found, name = [], os.fsencode(home)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, variables = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:  # gone, or not ours to see
            continue
        if name in command or name in variables:
            found.append(command.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


def groups_of(pid: int) -> list[str]:
    """Control groups that a command made and that still hold a process."""
    procs = Path("/sys/fs/cgroup").glob(f"**/formulamine/{pid}-*/cgroup.procs")
    return [str(path.parent) for path in procs if path.read_text().strip()]


def test_every_hit_met_a_run_that_was_under_way(interrupted: Interrupted) -> None:
    assert [(one.at, one.code, one.err[-500:]) for one in interrupted.hits if one.code == 0] == []
    assert sum(one.by == signal.SIGKILL for one in interrupted.hits) >= 6


def test_killed_runs_leave_no_process_and_no_group_with_one(interrupted: Interrupted) -> None:
    killed = [one for one in interrupted.hits if one.by == signal.SIGKILL]
    assert {(one.at, one.code) for one in killed} == {(one.at, -signal.SIGKILL) for one in killed}
    assert [(one.at, one.left, one.groups) for one in killed if one.left or one.groups] == []


def test_interrupt_ends_within_5_seconds_with_130_in_one_line_and_leaves_no_process(interrupted: Interrupted) -> None:
    for one in interrupted.hits:
        if one.by == signal.SIGKILL:
            continue
        assert one.code == 130, (one.at, one.err)
        assert one.seconds < 5, one.at
        assert "Traceback" not in one.err
        assert one.err.splitlines()[-1] == "formulamine: interrupted: the same command carries on from here"
        assert (list(one.left), list(one.groups)) == ([], []), one.at


def test_same_command_ends_as_if_nothing_had_happened(interrupted: Interrupted) -> None:
    assert interrupted.last is not None
    assert interrupted.last.code == 0, interrupted.last.err
    assert endings(interrupted.home) == expected_endings()


def test_work_done_before_a_hit_was_reused(interrupted: Interrupted) -> None:
    assert interrupted.last is not None
    assert "speedup_measurements: 3 done, 1 rejected(not_faster), 1 rejected(slower) (5 reused, 0 computed)" in (
        interrupted.last.err
    )


def test_nothing_stands_twice_and_no_interrupted_attempt_counts(interrupted: Interrupted) -> None:
    with sqlite3.connect(interrupted.home / "ledger.sqlite") as ledger:
        rows = ledger.execute("select step, item, attempts from outcomes").fetchall()
    assert [key for key, count in Counter((step, item) for step, item, _ in rows).items() if count > 1] == []
    assert {attempts for _, _, attempts in rows} == {1}
    assert len(rows) == 1 + 1 + 15 + 8 + 7 + 6 + 5 + 3 + 3
    results = table(interrupted.home, "benchmark_results").select("pr_id", "benchmark", "stage")
    assert results.is_duplicated().sum() == 0


def test_no_half_written_file_counts(interrupted: Interrupted) -> None:
    blobs = Blobs(interrupted.home / "blobs")
    kept = [path.name for path in (interrupted.home / "blobs").glob("*/*") if not path.name.startswith(".")]
    assert all(blobs.get(name) for name in kept)
    ended = formulamine(interrupted.home, "check", MONTH, variables=QUICK)
    assert ended.code == 0, ended.out
