"""Dagster asset and checks of the measurement: speedup_measurements (and its side table benchmark_results)."""

from typing import Any

import dagster as dg
import polars as pl

from formulamine.checks import done_rows, read_table, rule, table_rules
from formulamine.orchestration import Found, MonthRun, advance_month, month_asset
from formulamine.records import Record, SpeedupMeasurement
from formulamine.services.container import Services
from formulamine.services.store import StoreError
from formulamine.verify.calibrate import read_trials
from formulamine.verify.calibration import passes_per_case
from formulamine.verify.measure import MeasureInput, MeasureReason, RawBlob, record_of
from formulamine.verify.steps import SPEEDUP_MEASUREMENTS_VERSION, speedup_measurements_step

# Chance that a control passes where nobody has calibrated, from resamples (FACTS: 0 of 4000; 3/4000 bounds it).
CONTROL_RATE = 0.001
IMPROBABLE = 0.01
MEASURED = [name for name in SpeedupMeasurement.model_fields if name != "results"]


@month_asset(
    "speedup_measurements",
    MeasureInput,
    version=SPEEDUP_MEASUREMENTS_VERSION,
    group="verify",
    description="The measured speedup of each pull request, by the repository's own benchmarks: the one arbiter.",
)
def speedup_measurements(context: dg.AssetExecutionContext, run: MonthRun) -> dg.MaterializeResult[Any]:
    """Measured pull requests."""
    return advance_month(context, run, speedup_measurements_step(run.services))


def verdicts_follow(month: str, services: Services) -> Found:
    """Each verdict, interval and benchmark result is what the raw samples say."""
    wrong = []
    measured = read_table("speedup_measurements", month, services).filter(pl.col("raw_sha256").is_not_null())
    results = read_table("benchmark_results", month, services)
    for row in measured.to_dicts():
        try:
            raw = RawBlob.model_validate_json(services.blobs.get(row["raw_sha256"]))
            again = record_of(raw, services.settings.measure)
        except (StoreError, ValueError, TypeError, KeyError) as error:
            wrong.append(f"{row['pr_id']} has no raw samples: {error}")
            continue
        if raw.pr_id != row["pr_id"]:
            wrong.append(f"{row['pr_id']} stands on the samples of {raw.pr_id}")
        for name in MEASURED:
            found = getattr(again, name)
            if (found.model_dump() if isinstance(found, Record) else found) != row[name]:
                wrong.append(f"{row['pr_id']}: {name} is {row[name]}, raw samples say {getattr(again, name)}")
        said = results.filter(pl.col("pr_id") == row["pr_id"]).drop("pr_id").to_dicts()
        if said != [one.model_dump() for one in again.results]:
            wrong.append(f"{row['pr_id']}: its benchmark_results are not what raw samples say")
    return Found.of(wrong, fine=f"{measured.height} verdicts recomputed")


def gate_holds(month: str, services: Services) -> Found:
    """What goes on is faster by estimate and by lower bound."""
    limits = services.settings.measure
    rows = done_rows("speedup_measurements", month, services)
    bad = rows.filter(
        (pl.col("verdict") != "faster")
        | (pl.col("speedup").fill_null(0) < limits.min_speedup)
        | (pl.col("ci_low").fill_null(0) < limits.min_lower_bound)
    )
    return Found.of(
        [f"{key} is not faster by the gate" for key in bad["pr_id"].to_list()], fine=f"{rows.height} are faster"
    )


def no_test_is_broken(month: str, services: Services) -> Found:
    """Of what goes on, the tests that the change reaches were run on both sides, and none is broken."""
    rows = done_rows("speedup_measurements", month, services)
    wrong = [
        f"{row['pr_id']} breaks {', '.join(row['tests_broken'])}" if row["tests_broken"] else f"{row['pr_id']}: no run"
        for row in rows.to_dicts()
        if row["tests_broken"] or row["tests_before"] is None or row["tests_after"] is None
    ]
    return Found.of(wrong, fine=f"no test of {rows.height} is broken")


def returns_agree(month: str, services: Services) -> Found:
    """What a confirmed benchmark gives back is the same on both sides; a difference is for a person to look at."""
    rows = done_rows("speedup_measurements", month, services)
    odd = [
        f"{row['pr_id']}: {', '.join(row['returns_differ'])} give back something else"
        for row in rows.to_dicts()
        if row["returns_differ"]
    ]
    return Found(False, "; ".join(odd), warn=True) if odd else Found(True, f"{rows.height} looked at")


def controls_quiet(month: str, services: Services) -> Found:
    """Controls of base against base find nothing. One that does warns; an improbable count blocks."""
    frame = read_table("speedup_measurements", month, services)
    controls, passed = int(frame["controls"].sum() or 0), int(frame["controls_passed"].sum() or 0)
    if not passed:
        return Found(True, f"{controls} controls, none passed")
    from scipy.stats import binom

    calibrated = passes_per_case(read_trials(services.settings.home))
    chance = float(binom.sf(passed - 1, controls, calibrated or CONTROL_RATE))
    detail = (
        f"{passed} of {controls} controls passed, and the sample of each was doubled; so many or more have a chance of "
        f"{chance:.2g} at the {'calibrated' if calibrated else 'assumed'} rate: double FORMULAMINE_CONTROL_SHARE"
    )
    return Found(False, detail, warn=passed == 1 or chance >= IMPROBABLE)  # one of a small month's few only warns


ASSETS = [speedup_measurements]
CHECKS = [
    *table_rules("speedup_measurements", MeasureReason, "One row per image, with a known status and reason."),
    rule("speedup_measurements", "verdicts_follow", verdicts_follow, "Verdicts follow from raw samples."),
    rule("speedup_measurements", "gate_holds", gate_holds, "What goes on is faster by estimate and bound."),
    rule("speedup_measurements", "no_test_is_broken", no_test_is_broken, "No test that passed before fails after."),
    rule("speedup_measurements", "returns_agree", returns_agree, "Benchmarks give back the same (warns)."),
    rule("speedup_measurements", "controls_quiet", controls_quiet, "A/A controls find nothing."),
]  # fmt: skip
