"""Runs whose process is gone: Dagster would call them running for ever, and start no other while it waits for them.

What runs on the command line, and what outlives its code server, has nobody who watches its process. So each run says
in a tag which process it is, and whoever looks calls a run failed whose process is not there any more. A process of
another machine or container cannot be seen from here and is left alone.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg

from formulamine.services import processes

PROCESS_TAG = "formulamine/process"
SENSOR_EVERY_S = 10
UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def process_tag() -> dict[str, str]:
    """The tag with which a run says that this process is it."""
    return {PROCESS_TAG: processes.this_process()}


def fail_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Call runs ended whose process is gone, and end what they left behind.

    Returns:
        Their ids.
    """
    dead = []
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        process = run.tags.get(PROCESS_TAG, "")
        if processes.is_alive(process):
            continue
        last = instance.get_run_by_id(run.run_id)  # it may have ended well since it was listed
        if last is None or last.is_finished:
            continue
        told = f"its process {processes.number(process)} is gone: run the month again, it carries on from there"
        if last.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(last, told)
        else:
            instance.report_run_failed(last, told)
        dead.append(run.run_id)
    end_log_readers(instance)
    return dead


def end_log_readers(instance: dg.DagsterInstance) -> None:
    """End processes that still wait for the output of a run that has ended.

    Dagster copies a run's output to its terminal with a `tail`, and starts a moment later what watches over that: a run
    killed in between leaves the `tail` for ever.
    """
    for pid, run_id in _log_readers():
        run = instance.get_run_by_id(run_id)
        if run is not None and run.is_finished:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # it may have been started with every other signal ignored


def _log_readers() -> Iterator[tuple[int, str]]:
    """Processes that copy a run's output, and the run's id."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = os.fsdecode(path.read_bytes()).split("\0")
        except OSError:  # gone
            continue
        if words[:4] == ["tail", "-F", "-c", "+0"] and Path(words[4]).parent.name == "compute_logs":
            yield int(path.parent.name), Path(words[4]).parent.parent.name


@dg.sensor(
    name="runs_without_process",
    description="Calls a run failed whose process was killed, so that the next one is started.",
    minimum_interval_seconds=SENSOR_EVERY_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def runs_without_process(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Look for them now and then."""
    dead = fail_dead_runs(context.instance)
    return dg.SkipReason(f"called failed: {', '.join(dead)}" if dead else "every run has its process")
