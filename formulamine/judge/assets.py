"""Dagster asset and checks of the judge: classifications."""

from typing import Any

import dagster as dg
import polars as pl

from formulamine.checks import done_rows, read_table, rule, table_rules
from formulamine.judge.agreement import agreement
from formulamine.judge.rules import JudgeInput, JudgeReason
from formulamine.judge.steps import CLASSIFICATIONS_VERSION, classifications_step
from formulamine.orchestration import Found, MonthRun, advance_month, month_asset
from formulamine.services.container import Services

MOST_UNDECIDED = 0.05  # share; FACTS: errors recorded as "no" lost 1% of real ones elsewhere


@month_asset(
    "classifications",
    JudgeInput,
    version=CLASSIFICATIONS_VERSION,
    group="judge",
    description="Which candidates are performance work, of which kind, and why the judge thinks so.",
)
def classifications(context: dg.AssetExecutionContext, run: MonthRun) -> dg.MaterializeResult[Any]:
    """Judged candidates."""
    made = advance_month(context, run, classifications_step(run.services))
    return made._replace(metadata={**(made.metadata or {}), **figures(context.partition_key, run.services)})


def figures(month: str, services: Services) -> dict[str, float]:
    """Numbers that the UI plots over the months, besides those of every asset (`cost_usd` among them)."""
    frame = read_table("classifications", month, services)
    told: dict[str, float] = {"tokens": int(frame["tokens"].sum()), "share_undecided": round(_undecided(frame), 4)}
    both = agreement(frame.to_dicts()).all
    if both.share is not None:
        told |= {"agreement": round(both.share, 4), "judged_twice": both.of}
    return told


def no_error_is_a_no(month: str, services: Services) -> Found:
    """Whoever is turned away was judged: it has a rationale and a judge, and was not merely an error."""
    frame = read_table("classifications", month, services)
    away = frame.filter(pl.col("reason") == JudgeReason.NOT_PERFORMANCE)
    bad = away.filter(pl.col("is_performance").fill_null(True) | pl.col("rationale").is_null())
    yes = done_rows("classifications", month, services).filter(~pl.col("is_performance").fill_null(False))
    wrong = [f"{key} was turned away without a judgement" for key in bad["pr_id"].to_list()]
    wrong += [f"{key} goes on although the judge said no" for key in yes["pr_id"].to_list()]
    return Found.of(wrong, fine=f"{away.height} turned away, each with a rationale")


def undecided(month: str, services: Services) -> Found:
    """Few candidates are left undecided."""
    frame = read_table("classifications", month, services)
    share = _undecided(frame)
    return Found(share <= MOST_UNDECIDED, f"{round(share * frame.height)} of {frame.height} undecided", True)


def _undecided(frame: pl.DataFrame) -> float:
    """Share of candidates that have neither a yes nor a no."""
    return frame.filter(pl.col("status").is_in(["failed", "deferred"])).height / frame.height if frame.height else 0.0


def judges_agree(month: str, services: Services) -> Found:
    """Where a sample was judged twice, the judges mostly agree."""
    found = agreement(read_table("classifications", month, services).to_dicts())
    return Found(found.suffices, str(found) if found.all.of else "nothing was judged twice", True)


ASSETS = [classifications]
CHECKS = [
    *table_rules("classifications", JudgeReason, "One row per candidate, with a known status and reason."),
    rule("classifications", "no_error_is_a_no", no_error_is_a_no, 'No error stands as "no".'),
    rule("classifications", "undecided", undecided, "The share of undecided ones is small.", warns=True),
    rule("classifications", "judges_agree", judges_agree, "Two judges agree on a sample.", warns=True),
]  # fmt: skip
