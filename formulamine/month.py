"""One run of a month from the command line: the same Dagster job that the UI launches.

Here belongs starting Dagster embedded and turning its end into one line and an exit code. What a month does is in the
assets; the options are in `orchestration.MonthRun`.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formulamine.services.store import write_atomically
from formulamine.settings import Settings, SettingsError

if TYPE_CHECKING:
    from dagster import DagsterEvent

TOP = Path(__file__).parents[1]
POSTGRES_VARIABLE = "FORMULAMINE_DAGSTER_POSTGRES_URL"
POSTGRES_STORAGE = f"""
storage:
  postgres:
    postgres_url:
      env: {POSTGRES_VARIABLE}
"""
CONNECT_TIMEOUT_S = 10  # seconds to wait for PostgreSQL at the start of a run


class CheckCrashed(Exception):
    """A check came to no answer; the message says which, and why."""


def seed_dagster_home(settings: Settings) -> Path:
    """Dagster's own home below ours, with our configuration unless somebody wrote another there.

    The configuration names the variable that holds the URL of PostgreSQL, never the URL: it has a password.

    Raises:
        SettingsError: PostgreSQL is asked for and cannot be used, or the configuration that is there is of the other
            storage than the settings.
    """
    home = settings.home / "dagster"
    file = home / "dagster.yaml"
    url = settings.paths.dagster_postgres_url
    embedded = (TOP / "dagster.yaml").read_text()
    wanted = embedded + (POSTGRES_STORAGE if url else "")
    found = file.read_text() if file.exists() else None
    if url:
        if found not in (None, embedded) and POSTGRES_VARIABLE not in found:
            raise SettingsError(
                f"{POSTGRES_VARIABLE} is set, and {file} was edited and does not name it: add what "
                "deploy/README.md shows under `storage`, or move the file away"
            )
        try_postgres(url)
        os.environ[POSTGRES_VARIABLE] = url  # Dagster and the processes it starts read it there; it may be from .env
    elif found is not None and POSTGRES_VARIABLE in found:
        raise SettingsError(
            f"{file} keeps Dagster's history in PostgreSQL, and {POSTGRES_VARIABLE} is not set: set it, or move the "
            "file away to begin one in SQLite"
        )
    home.mkdir(parents=True, exist_ok=True)
    if found is None or (url and found == embedded):
        write_atomically(file, wanted.encode())
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
    return home


def try_postgres(url: str, timeout_s: int = CONNECT_TIMEOUT_S) -> str:
    """Connect to Dagster's PostgreSQL once, since Dagster itself tries long and fails with a traceback.

    Returns:
        Where it is, without the password.

    Raises:
        SettingsError: it is no URL of PostgreSQL, or no server answers there.
    """
    import sqlalchemy as sa

    from formulamine.services import ledger

    try:
        engine = ledger.engine(url, timeout_s)
        if engine.dialect.name != "postgresql":
            raise ValueError("is of sqlite, which is what is used where it is empty")
    except ValueError as error:
        raise SettingsError(f"{POSTGRES_VARIABLE} {error}: write postgresql+psycopg2://USER@HOST/DATABASE") from error
    try:
        engine.connect().close()
    except sa.exc.DBAPIError as error:
        raise SettingsError(
            f"Dagster's storage {ledger.place(engine.url)} cannot be opened ({ledger.why(error)}): start its server, "
            f"or check {POSTGRES_VARIABLE}"
        ) from error
    finally:
        engine.dispose()
    return ledger.place(engine.url)


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
        KeyboardInterrupt: it was told to end.
        CheckCrashed: a check of "gates" could not be made.
        Exception: what an asset, a check or the month's lock raised.
    """
    seed_dagster_home(settings)
    import dagster as dg
    from dagster._utils.interrupts import capture_interrupts

    from formulamine.dead_runs import fail_dead_runs, process_tag
    from formulamine.definitions import defs
    from formulamine.orchestration import CHECKS_JOB

    definition = defs.resolve_job_def(job)
    config = {
        "resources": {"run": {"config": options}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Dagster's own way to be safe from the first moment to the last: what arrives while it opens, writes or closes its
    # databases waits for the next step, or for the end.
    with capture_interrupts(), dg.DagsterInstance.get() as instance:
        fail_dead_runs(instance)
        try:
            if job == CHECKS_JOB:
                # FACTS: a job of checks alone takes its month as a tag; `partition_key` fails.
                # A blocking check that fails raises where errors do: the others would not be made.
                answer = definition.execute_in_process(
                    run_config=config, instance=instance, tags={"dagster/partition": month, **process_tag()},
                    raise_on_error=False,
                )  # fmt: skip
                raise_crashed(answer.all_events)
            else:
                answer = definition.execute_in_process(
                    run_config=config, instance=instance, partition_key=month, tags=process_tag(), raise_on_error=True,
                    asset_selection=[dg.AssetKey(name) for name in assets] if assets else None,
                )  # fmt: skip
        except dg.DagsterExecutionInterruptedError as error:
            raise KeyboardInterrupt from error
        except dg.DagsterUserCodeExecutionError as error:
            raise error.user_exception from error
    return list(answer.get_asset_check_evaluations())


def raise_crashed(events: Sequence[DagsterEvent]) -> None:
    """Tell failed checks, which are answers, from those that could not be made.

    Raises:
        CheckCrashed: one could not be made.
    """
    for event in events:
        if event.is_step_failure and (error := event.step_failure_data.error) is not None:
            cause = error.cause or error
            if error.cls_name != "DagsterAssetCheckFailedError":
                raise CheckCrashed(f"{event.step_key} could not be made: {cause.message}")


def show_progress() -> None:
    """Progress lines of formulamine on standard error, for a person at a terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("formulamine")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
