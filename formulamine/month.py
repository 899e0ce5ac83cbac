"""One run of a month from the command line: the same Dagster job that the UI launches.

Here belongs starting Dagster embedded and turning its end into one line and an exit code. What a month does is in the
assets; the options are in `orchestration.MonthRun`.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from formulamine.settings import Settings

TOP = Path(__file__).parents[1]


class MonthFailed(Exception):
    """A run started and could not finish; the message is one line with the mend."""


def seed_dagster_home(settings: Settings) -> Path:
    """Dagster's own home below ours, with our configuration unless there is one already."""
    home = settings.home / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copyfile(TOP / "dagster.yaml", home / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
    return home


def run_job(
    settings: Settings, job: str, month: str, assets: Sequence[str] | None, options: dict[str, Any]
) -> list[Any]:
    """Run a job of the definitions for a month, in this process.

    Args:
        settings: where state lives.
        job: "month" or "gates".
        month: its partition.
        assets: names of the assets to materialize; None for all.
        options: of `MonthRun`.

    Returns:
        Evaluations of the asset checks.

    Raises:
        MonthFailed: it could not finish.
        KeyboardInterrupt: it was told to end.
    """
    seed_dagster_home(settings)
    import dagster as dg

    from formulamine.definitions import defs
    from formulamine.orchestration import CHECKS_JOB

    definition = defs.resolve_job_def(job)
    config = {
        "resources": {"run": {"config": options}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with dg.DagsterInstance.get() as instance:
        try:
            if job == CHECKS_JOB:
                # FACTS: a job of checks alone takes its month as a tag; `partition_key` fails.
                answer = definition.execute_in_process(
                    run_config=config, instance=instance, tags={"dagster/partition": month}, raise_on_error=True
                )
            else:
                answer = definition.execute_in_process(
                    run_config=config, instance=instance, partition_key=month, raise_on_error=True,
                    asset_selection=[dg.AssetKey(name) for name in assets] if assets else None,
                )  # fmt: skip
        except dg.DagsterExecutionInterruptedError as error:
            raise KeyboardInterrupt from error
    return list(answer.get_asset_check_evaluations())


def show_progress() -> None:
    """Progress lines of formulamine on standard error, for a person at a terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("formulamine")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
