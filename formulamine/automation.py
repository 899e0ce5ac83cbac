"""What starts months by itself: the schedule and the sensor. Both are off until somebody turns them on in the UI.

Here belongs deciding that a month should run. How it runs is the job's matter.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import dagster as dg

from formulamine.discover.registry import Registry
from formulamine.services.store import Tables
from formulamine.settings import Settings

DAY_OF_MONTH = 2  # a day after the month's end: what was merged in its last minutes has reached the mirrors by then
HOUR_OF_DAY = 3  # UTC; measurements like a quiet machine
SENSOR_EVERY_S = 300


def month_schedule(job: Any) -> Any:
    """Run the month that just ended, on the 2nd of each month. Takes and gives what Dagster resolves later."""
    return dg.build_schedule_from_partitioned_job(
        job,
        name="month_schedule",
        description=f"Runs the month that just ended, on day {DAY_OF_MONTH} at {HOUR_OF_DAY}:00 UTC.",
        day_of_month=DAY_OF_MONTH,
        hour_of_day=HOUR_OF_DAY,
    )


def stale_months(settings: Settings) -> dict[str, list[str]]:
    """Months that were made, with the registered repositories that their tables do not cover yet."""
    tables = Tables(settings.home / "tables")
    registered = {entry.name for entry in Registry(settings.home / "repositories.toml").visible()}
    stale: dict[str, list[str]] = {}
    for path in sorted(tables.folder.glob("repositories/*.parquet")):
        frame = tables.read("repositories", path.stem)
        covered = set() if frame is None else set(frame["repo"].to_list())
        if missing := sorted(registered - covered):
            stale[path.stem] = missing
    return stale


def newly_found_sensor(job: Any) -> dg.SensorDefinition:
    """Run again the months that a newly registered repository made stale."""

    @dg.sensor(
        job=job,
        name="newly_found_repositories",
        description="Runs again each month whose tables do not cover a repository that was registered since.",
        minimum_interval_seconds=SENSOR_EVERY_S,
    )
    def newly_found_repositories(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        stale = stale_months(Settings())
        if not stale:
            yield dg.SkipReason("every month that was made covers every registered repository")
        for month, missing in stale.items():
            context.log.info("%s lacks %s", month, ", ".join(missing))
            digest = hashlib.sha256("\n".join(missing).encode()).hexdigest()[:12]
            yield dg.RunRequest(run_key=f"{month}-{digest}", partition_key=month)

    return newly_found_repositories
