"""What every phase's `assets.py` shares: the resource of a run, and the way from a step to a Dagster asset.

Here belongs the translation between plain steps and Dagster. What a step does is in its phase; joining, advancing and
projecting are in `pipeline.py`.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import dagster as dg
import polars as pl
from pydantic import Field, PrivateAttr

from formulamine.dead_runs import end_log_readers, process_tag
from formulamine.interrupts import held_back
from formulamine.items import RunOptions, Step, Tally
from formulamine.lineage import funnel
from formulamine.partitions import MONTHS
from formulamine.pictures import as_markdown, forest_plot, funnel_picture, speedup_picture
from formulamine.pipeline import Materialized, inputs, joined, materialize
from formulamine.records import Record, Status
from formulamine.services.container import Services
from formulamine.services.store import StoreError, content_hash, exclusive
from formulamine.settings import Settings
from formulamine.tables import TABLES, before, owner_of
from formulamine.telling import markdown as escaped

CHECKS_JOB = "gates"
PREVIEW_ROWS = 10
MOST_FOREST_PLOTS = 20  # of a month, 14 kB each in Dagster's event log; `pr_lineage` has any other
EXAMPLE_CHARACTERS = 300
# Of whichever table: what it found out, between what the row is of and how it ended.
PREVIEW_COLUMNS = (
    *("repo", "pr_id", "title", "score", "category", "difficulty", "python_version", "route", "speedup", "ci_low"),
    *("ci_high", "benchmark", "fidelity", "released", "publishable", "status", "reason", "detail"),
)
In = TypeVar("In", bound=Record)
log = logging.getLogger("formulamine")


class MonthRun(dg.ConfigurableResource):  # type: ignore[type-arg]  # generic only in Dagster's own stubs
    """One run of a month: its options, its services, and the lock that no second run of the month gets."""

    limit: int | None = Field(
        default=None, description="compute at most so many new items an asset; the rest are deferred"
    )
    force: bool = Field(default=False, description="compute again what the ledger knows")
    refresh: bool = Field(default=False, description="ask the sources of repositories again, of closed months too")
    partial: bool = Field(default=False, description="release although items are open, and list them")
    trust: bool = Field(default=False, description="accept sandbox limits that this machine cannot enforce")
    backend: Literal["local", "docker"] = Field(default="local", description="where code is built and measured")
    source: Literal["git"] = Field(default="git", description="where pull requests come from")
    select: list[str] = Field(default=[], description="only these assets; the others stay as they are. Empty: all")

    _services: Services | None = PrivateAttr(None)
    _options: RunOptions | None = PrivateAttr(None)

    @contextlib.contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["MonthRun"]:
        """Open services for one run; a run of assets holds the month's lock until its end."""
        from formulamine.demo.sample import commit_ids

        settings = Settings()
        services = Services(settings, self.backend, self.trust, is_ours=lambda commit: commit in commit_ids())
        run = context.run
        assert run is not None
        assert context.instance is not None
        with held_back():
            context.instance.add_run_tags(run.run_id, process_tag())
            end_log_readers(context.instance)
        self._services = services
        self._options = RunOptions(run.run_id, self.limit, self.force)
        month = run.tags.get("dagster/partition", "")
        checks_only = run.job_name == CHECKS_JOB
        with contextlib.nullcontext() if checks_only else exclusive(month_lock(settings, month), f"a run of {month}"):
            try:
                yield self
            finally:
                with held_back(hand_on=False):
                    services.close()

    def selects(self, asset: str) -> bool:
        """Whether this run works on an asset."""
        return not self.select or asset in self.select

    @property
    def services(self) -> Services:
        """Services of this run."""
        assert self._services is not None
        return self._services

    @property
    def options(self) -> RunOptions:
        """How this run treats items."""
        assert self._options is not None
        return self._options


def month_lock(settings: Settings, month: str) -> Path:
    """Lock file of a month's runs."""
    return settings.home / "locks" / f"month-{month}.lock"


def month_asset(asset: str, reads: type[Record], *, version: str, group: str, description: str) -> Callable[..., Any]:
    """Decorator of a month's asset; every table whose fields its step reads is a declared dependency."""
    names = {TABLES[asset].previous} | {owner_of(field, asset) for field in reads.model_fields if before(asset)}
    return dg.asset(
        name=asset,
        partitions_def=MONTHS,
        deps=sorted(name for name in names if name),
        group_name=group,
        code_version=version,
        description=description,
        kinds={"python", "parquet"},
        owners=["team:formulamine"],
        tags={"phase": group},
    )


def advance_month(context: dg.AssetExecutionContext, run: MonthRun, step: Step[In]) -> dg.MaterializeResult[Any]:
    """Carry a month's rows one step."""
    if not run.selects(step.asset):
        return as_it_stands(step.asset, context.partition_key, run)
    rows = joined(step.asset, context.partition_key, run.services.tables)
    return materialize_items(context, run, step, inputs(step, rows, context.partition_key))


def materialize_items(
    context: dg.AssetExecutionContext, run: MonthRun, step: Step[In], items: Sequence[tuple[str, In]]
) -> dg.MaterializeResult[Any]:
    """Advance items, write the table, and tell Dagster what came out."""
    if not run.selects(step.asset):
        return as_it_stands(step.asset, context.partition_key, run)
    made = write_items(context.partition_key, run, step, items, run.options)
    return result(step.asset, context.partition_key, run, made)


def as_it_stands(asset: str, month: str, run: MonthRun) -> dg.MaterializeResult[Any]:
    """The table of an asset that the run did not select, unchanged.

    Raises:
        StoreError: it was never made, so that nothing after it can be either.
    """
    frame = run.services.tables.read(asset, month)
    if frame is None:
        raise StoreError(f"{asset} of {month} was never made and is not selected: select it too")
    log.info("%s: not selected, left as it is", asset)
    return result(asset, month, run, Materialized(frame, content_hash(frame), Tally(reused=frame.height)))


def write_items(
    month: str, run: MonthRun, step: Step[In], items: Sequence[tuple[str, In]], options: RunOptions
) -> Materialized:
    """Advance items and write the table."""
    services = run.services
    with held_back(services.cancelled):  # `advance` looks at it: no outcome is lost in the midst of being written
        made = materialize(
            step, items, month, tables=services.tables, ledger=services.ledger, options=options,
            cancelled=services.cancelled, log=log,
        )  # fmt: skip
        ended = ", ".join(f"{count} {name}" for name, count in made.tally.reasons.most_common()) or "nothing to do"
        log.info("%s: %s (%d reused, %d computed)", step.asset, ended, made.tally.reused, made.tally.computed)
        tell_failures(step.asset, made.frame)
    return made


def tell_failures(asset: str, frame: pl.DataFrame) -> None:
    """One line for each reason of failed rows, with one example: never a line for each of thousands."""
    failed = frame.filter(pl.col("status") == Status.FAILED).sort("reason", frame.columns[0])
    for group in failed.partition_by("reason", maintain_order=True):
        first = group.row(0, named=True)
        detail = " ".join(first["detail"].split())[:EXAMPLE_CHARACTERS]
        log.warning("%s: %d failed (%s), as %s: %s", asset, group.height, first["reason"], group.item(0, 0), detail)


def result(asset: str, month: str, run: MonthRun, made: Materialized) -> dg.MaterializeResult[Any]:
    """Metadata and data version of a table that was just written."""
    frame = made.frame
    counts = frame.group_by("status", "reason").len().sort("status", "reason").to_dicts()
    of_status = {status.value: frame.filter(pl.col("status") == status).height for status in Status}
    of_reason = {f"{one['status']}: {one['reason']}": one["len"] for one in counts if one["reason"]}
    metadata: dict[str, Any] = {
        "dagster/row_count": frame.height,
        **of_status,  # numbers under a name of their own, so that the UI plots each over the months
        **of_reason,
        "reused": made.tally.reused,
        "computed": made.tally.computed,
        "seconds": round(float(frame["seconds"].sum()), 1),
        "cost_usd": round(float(frame["cost_usd"].sum()), 4),
        "outcomes": dg.MetadataValue.md(
            markdown_table(["status", "reason", "rows"], [[c["status"], c["reason"] or "", c["len"]] for c in counts])
        ),
        **{name: dg.MetadataValue.md(text) for name, text in pictures_of(asset, month, run, made).items()},
        "preview": dg.MetadataValue.md(preview(frame)),
        "table": dg.MetadataValue.path(run.services.tables.path(asset, month)),
        "dagster/column_schema": dg.TableSchema(columns=columns_of(asset, frame)),
    }
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(made.data_version))


def pictures_of(asset: str, month: str, run: MonthRun, made: Materialized) -> dict[str, str]:
    """Pictures of a table that was just written, as Markdown: the UI shows each behind a click."""
    drawn: dict[str, str] = {}
    if asset == "published_release":
        counts = funnel(month, run.services.tables)
        drawn["funnel"] = as_markdown(funnel_picture(counts, month), f"Funnel of {month}")
    if asset == "speedup_measurements" and made.side is not None:
        drawn["speedups"] = as_markdown(speedup_picture(made.frame.to_dicts()), f"Confirmed speedups of {month}")
        measure = run.services.settings.measure
        faster = made.frame.filter(pl.col("status") == Status.DONE).sort("ci_low", descending=True)["pr_id"].to_list()
        for pr_id in faster[:MOST_FOREST_PLOTS]:
            rows = made.side.filter(pl.col("pr_id") == pr_id).to_dicts()
            plot = forest_plot(pr_id, rows, measure.min_speedup, measure.min_lower_bound)
            drawn[f"benchmarks {pr_id}"] = as_markdown(plot, f"Benchmarks of {pr_id}")
    return drawn


def columns_of(asset: str, frame: pl.DataFrame) -> list[dg.TableColumn]:
    """Columns of a table, each with the sentence that stands under its field in `records.py`, where there is one."""
    fields = TABLES[asset].record.model_fields
    return [
        dg.TableColumn(name, str(dtype), fields[name].description if name in fields else None)
        for name, dtype in frame.schema.items()
    ]


def preview(frame: pl.DataFrame) -> str:
    """A few rows as Markdown, without the columns that are empty in them."""
    shown = frame.select(name for name in PREVIEW_COLUMNS if name in frame.columns).head(PREVIEW_ROWS)
    columns = [one.name for one in shown if any(value not in (None, "") for value in one)]
    rows = shown.select(columns).rows()
    return markdown_table(columns, [[escaped(_short(value)) for value in row] for row in rows])


def _short(value: object) -> str:
    told = f"{value:.3g}" if isinstance(value, float) else str(value)
    text = "" if value is None else " ".join(told.split())
    return text[:77] + "..." if len(text) > 80 else text


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


@dataclass(frozen=True)
class Found:
    """What a check found: whether the rule holds, and where it does not."""

    passed: bool
    detail: str
    warn: bool = False

    @classmethod
    def of(cls, wrong: Sequence[str], *, fine: str, warn: bool = False) -> "Found":
        """Passed where nothing is wrong."""
        return cls(not wrong, "; ".join(wrong[:20]) if wrong else fine, warn)


CheckBody = Callable[[str, Services], Found]


def month_check(asset: str, name: str, body: CheckBody, description: str, *, warns: bool = False) -> Any:
    """An asset check of one month; blocking unless it warns."""

    def check(context: dg.AssetCheckExecutionContext, run: MonthRun) -> dg.AssetCheckResult:
        month = context.run.tags["dagster/partition"]
        found = body(month, run.services)
        severity = dg.AssetCheckSeverity.WARN if warns or found.warn else dg.AssetCheckSeverity.ERROR
        if not found.passed:
            log.warning("%s.%s: %s", asset, name, found.detail)
        return dg.AssetCheckResult(passed=found.passed, severity=severity, metadata={"detail": found.detail})

    with warnings.catch_warnings():
        # Partitioned checks are a preview feature; dagster is pinned for it, and says so once a check otherwise.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.asset_check(
            asset=asset, name=name, partitions_def=MONTHS, blocking=not warns, description=description
        )(check)
