"""A month that is hit at random points of every phase, again and again, and then carried to its end."""

from __future__ import annotations

import random
import signal
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from formulamine.demo.sample import REPOSITORY, write_sample
from formulamine_tests.end_to_end.runs import (
    MONTH,
    QUICK,
    Ended,
    Hit,
    broken_blobs,
    endings,
    expected_endings,
    formulamine,
    hit,
    table,
)

pytestmark = [pytest.mark.network, pytest.mark.bubblewrap, pytest.mark.xdist_group("months")]
SEED = 20240229
# What the run says as it begins, and how long after that it may be hit: together the whole run is covered.
POINTS = (
    ("state is in", 3.0, signal.SIGKILL),
    ("candidate_prs: 16 of 16 to do", 0.2, signal.SIGKILL),
    ("env_payloads: ", 3.0, signal.SIGKILL),
    ("images: ", 1.5, signal.SIGINT),
    ("images: ", 2.5, signal.SIGKILL),
    ("speedup_measurements: 6 of 6 to do", 5.0, signal.SIGINT),
    ("speedup_measurements: ", 15.0, signal.SIGKILL),
    ("problem_statements: ", 0.5, signal.SIGKILL),
)


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
        told.hits.append(hit(told.home, month, chance.uniform(0.05, 1) * window, by, at=at))
    told.last = formulamine(told.home, *month, variables=QUICK)
    return told


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
    measured = "3 done, 1 rejected(not_faster), 1 rejected(slower), 1 rejected(tests_broken) (6 reused, 0 computed)"
    assert f"speedup_measurements: {measured}" in interrupted.last.err


def test_nothing_stands_twice_and_no_interrupted_attempt_counts(interrupted: Interrupted) -> None:
    with sqlite3.connect(interrupted.home / "ledger.sqlite") as ledger:
        rows = ledger.execute("select step, item, attempts from outcomes").fetchall()
    assert [key for key, count in Counter((step, item) for step, item, _ in rows).items() if count > 1] == []
    assert {attempts for _, _, attempts in rows} == {1}
    assert len(rows) == 1 + 1 + 16 + 9 + 8 + 7 + 6 + 3 + 3
    results = table(interrupted.home, "benchmark_results").select("pr_id", "benchmark", "stage")
    assert results.is_duplicated().sum() == 0


def test_no_half_written_file_counts(interrupted: Interrupted) -> None:
    assert broken_blobs(interrupted.home) == []
    ended = formulamine(interrupted.home, "check", MONTH, variables=QUICK)
    assert ended.code == 0, ended.out
