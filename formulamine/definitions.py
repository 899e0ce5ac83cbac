"""What Dagster loads: every phase's assets and checks, and the jobs over them."""

from __future__ import annotations

import warnings

import dagster as dg

import formulamine.build.assets
import formulamine.discover.assets
import formulamine.judge.assets
import formulamine.lineage_assets
import formulamine.ship.assets
import formulamine.verify.assets
from formulamine.automation import month_schedule, newly_found_sensor
from formulamine.dead_runs import runs_without_process
from formulamine.lineage_assets import PR_LINEAGE
from formulamine.orchestration import CHECKS_JOB, MonthRun

MONTH_JOB = "month"
PHASES = (
    formulamine.discover.assets,
    formulamine.judge.assets,
    formulamine.build.assets,
    formulamine.verify.assets,
    formulamine.ship.assets,
)


def build(run: MonthRun | None = None) -> dg.Definitions:
    """The definitions that command line and UI load.

    Args:
        run: stands in for the resource of a run, in tests.
    """
    # A pull request's story has partitions of its own, and no job may have two kinds.
    of_a_month = dg.AssetSelection.all() - dg.AssetSelection.assets(PR_LINEAGE)
    month = dg.define_asset_job(MONTH_JOB, of_a_month, description="A whole month, with its checks.")
    assets = [asset for phase in PHASES for asset in phase.ASSETS] + formulamine.lineage_assets.ASSETS
    checks = [check for phase in PHASES for check in phase.CHECKS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # several lines an asset; dagster is pinned for it
        assets = list(dg.with_source_code_references(assets))
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        resources={"run": run or MonthRun()},
        # One process: a multiprocess step costs 7 s, and the work is done by threads and sandboxes of its own.
        executor=dg.in_process_executor,
        jobs=[
            month,
            dg.define_asset_job(
                CHECKS_JOB, dg.AssetSelection.all_asset_checks(), description="The checks of a month alone."
            ),
        ],
        schedules=[month_schedule(month)],
        sensors=[newly_found_sensor(month), runs_without_process],
    )


defs = build()
