"""What is left of runs whose process is gone. Killed runs themselves: end_to_end/test_concurrency.py."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest

from formulamine.dead_runs import fail_dead_runs, process_tag


@dg.job
def nothing() -> None:
    """Does nothing."""


class Readers:
    """Processes as Dagster starts them to copy a run's output to its terminal."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack

    def start(self, run_id: str) -> subprocess.Popen[bytes]:
        log = self.folder / run_id / "compute_logs" / "abc.err"
        log.parent.mkdir(parents=True)
        log.touch()
        process = self.stack.enter_context(subprocess.Popen(["tail", "-F", "-c", "+0", str(log)]))
        self.stack.callback(process.kill)
        return process


@pytest.fixture
def readers(tmp_path: Path) -> Iterator[Readers]:
    with ExitStack() as stack:
        yield Readers(tmp_path, stack)


def test_readers_of_ended_runs_end_and_no_others(readers: Readers) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        ended, alive = (
            instance.create_run_for_job(nothing, tags=process_tag(), status=status)
            for status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED)
        )
        of_ended, of_alive, of_stranger = (readers.start(run) for run in (ended.run_id, alive.run_id, "elsewhere"))
        assert fail_dead_runs(instance) == []
        assert of_ended.wait(10) != 0
        assert of_alive.poll() is None
        assert of_stranger.poll() is None
