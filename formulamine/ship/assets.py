"""Dagster assets and checks of what ships: problem_statements -> published_release."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from formulamine.checks import done_rows, rule, table_rules
from formulamine.items import RunOptions
from formulamine.orchestration import (
    Found,
    MonthRun,
    advance_month,
    as_it_stands,
    log,
    markdown_table,
    month_asset,
    result,
    write_items,
)
from formulamine.pipeline import inputs, joined
from formulamine.records import Removed, StatementPart, Status
from formulamine.services.container import Services
from formulamine.ship.gates import Held, ReleasedRow, ReleaseInput, ReleaseReason, pass_gates
from formulamine.ship.guard import Documents, guard_of, unfounded
from formulamine.ship.release import compose, read_manifest, recover, verify, write
from formulamine.ship.statements import StatementInput, StatementReason, confirmed, names_of
from formulamine.ship.steps import (
    PROBLEM_STATEMENTS_VERSION,
    PUBLISHED_RELEASE_VERSION,
    problem_statements_step,
    published_release_step,
    versions,
)
from formulamine.tables import TABLES
from formulamine.telling import markdown as escaped
from formulamine.verify.calibrate import read_trials
from formulamine.verify.calibration import told

MOST_REMOVED = 100  # sentences of a month in Dagster's event log; the table has all


class ReleaseRefused(Exception):
    """The month cannot be released; the message says which items stand in the way, and the mend."""


@month_asset(
    "problem_statements",
    StatementInput,
    version=PROBLEM_STATEMENTS_VERSION,
    group="ship",
    description="What an agent is told: from what stood before the fix and from what was measured.",
)
def problem_statements(context: dg.AssetExecutionContext, run: MonthRun) -> dg.MaterializeResult[Any]:
    """Statements."""
    made = advance_month(context, run, problem_statements_step(run.services))
    counted = told_of_statements(done_rows("problem_statements", context.partition_key, run.services))
    return dg.MaterializeResult(metadata={**(made.metadata or {}), **counted}, data_version=made.data_version)


@month_asset(
    "published_release",
    ReleaseInput,
    version=PUBLISHED_RELEASE_VERSION,
    group="ship",
    description="What provably got faster: every gate recomputed, then a dataset folder written whole.",
)
def published_release(context: dg.AssetExecutionContext, run: MonthRun) -> dg.MaterializeResult[Any]:
    """The month's release."""
    month, services = context.partition_key, run.services
    recover(release_folder(services, month))
    if not run.selects("published_release"):
        return as_it_stands("published_release", month, run)
    still_open = open_items(month, services)
    if still_open and not run.partial:
        raise ReleaseRefused(refusal(month, still_open))
    rows = joined("published_release", month, services.tables)
    gates = gate_results(rows, month, services)
    passed = [row for row in gates.values() if isinstance(row, ReleasedRow)]
    release = compose(
        month, passed, funnel=ended(month, services), open_items=sorted(still_open), versions=versions(services),
        calibration=told(read_trials(services.settings.home)),
    )  # fmt: skip
    folder = release_folder(services, month)
    now = datetime.now(UTC)
    step = published_release_step(services, gates, release, now)
    # --limit and --force are about work; these rows only say what the gates just said.
    made = write_items(month, run, step, inputs(step, rows, month), RunOptions(run.options.run_id))
    held = made.frame.filter(pl.col("status") != Status.DONE)
    if held.height:
        first = held.row(0, named=True)
        raise ReleaseRefused(
            f"release of {month} refused: {held.height} pull requests fail a gate, {first['pr_id']} at "
            f"{first['reason']} ({first['detail']}): run the month again with --force"
        )
    first_published = made.frame["published_at"].min()
    published_at = first_published if isinstance(first_published, datetime) else now
    wrote = write(release, folder, published_at)
    log.info("release %s of %s: %s, %d rows", release.version, month, folder, len(passed))
    answer = result("published_release", month, run, made)
    extra: dict[str, Any] = {
        "release": dg.MetadataValue.path(folder),
        "release_version": release.version,
        "written": wrote,
    }
    return dg.MaterializeResult(metadata={**(answer.metadata or {}), **extra}, data_version=answer.data_version)


def told_of_statements(done: pl.DataFrame) -> dict[str, Any]:
    """What the UI plots over months: sentences shown and left out, leaks by rule, fidelity and tokens."""
    rows = done.to_dicts()
    why = [one["why"] for row in rows for one in row["removed"]]
    leaks = sorted({one for one in why if one.startswith("leak")})
    counted: dict[str, Any] = {
        "sentences shown": sum(len(row["parts"]) for row in rows),
        "sentences removed": len(why),
        "sentences removed as leaks": sum(one.startswith("leak") for one in why),
        "stated from the measurement alone": sum(row["sources"] == ["measured"] for row in rows),
        "tokens": sum(row["extraction_tokens"] for row in rows),
        **{f"removed as {name}": why.count(name) for name in leaks},
    }
    if rows:
        counted["fidelity"] = sum(row["fidelity"] for row in rows) / len(rows)
        removed = [[row["pr_id"], one["why"], escaped(one["text"])] for row in rows for one in row["removed"]]
        table = markdown_table(["pull request", "why", "sentence"], removed[:MOST_REMOVED])
        counted["removed sentences"] = dg.MetadataValue.md(table)
    return counted


def release_folder(services: Services, month: str) -> Path:
    """Where a month's release is."""
    return services.settings.home / "release" / month


def gate_results(rows: Sequence[Mapping[str, object]], month: str, services: Services) -> dict[str, ReleasedRow | Held]:
    """Each pull request's passage through the gates, recomputed."""
    items = [ReleaseInput.model_validate({name: row[name] for name in ReleaseInput.model_fields}) for row in rows]
    limits = services.settings
    return {
        item.pr_id: pass_gates(item, services.git, services.blobs, limits.measure, limits.release) for item in items
    }


def open_items(month: str, services: Services) -> dict[str, str]:
    """Items of all tables of a month that have no outcome yet: deferred, or failed for infrastructure."""
    found: dict[str, str] = {}
    for name, table in TABLES.items():
        frame = services.tables.read(name, month)
        if frame is None or name == "published_release":
            continue
        waiting = frame.filter((pl.col("status") == Status.DEFERRED) | pl.col("infrastructure").fill_null(False))
        found |= {row[table.key]: f"{name} {row['reason']}" for row in waiting.to_dicts()}
    return found


def refusal(month: str, still_open: Mapping[str, str]) -> str:
    """One line on why a month is not released yet."""
    kinds = sorted(set(still_open.values()))
    counted = ", ".join(f"{sum(why == kind for why in still_open.values())} {kind}" for kind in kinds)
    return (
        f"release of {month} refused, items are open ({counted}): run the month again once that is mended, "
        "or release without them by --partial"
    )


def ended(month: str, services: Services) -> list[tuple[str, dict[str, int]]]:
    """How the rows of each asset before the release ended."""
    found = []
    for name in TABLES:
        frame = services.tables.read(name, month)
        if name == "published_release" or frame is None:
            continue
        counts = frame.group_by("status", "reason").len().sort("status", "reason").rows()
        found.append(
            (name, {f"{status} ({reason})" if reason else str(status): count for status, reason, count in counts})
        )
    return found


def statements_tell_nothing(month: str, services: Services) -> Found:
    """No rendered statement tells its fix, and each extracted sentence stands in its source."""
    wrong = []
    rows = joined("published_release", month, services.tables)
    for row in rows:
        guard = guard_of(
            row["repo"], row["url"], row["base_sha"], row["merge_sha"], row["patch_sha256"], row["core_files"],
            services.git, services.blobs,
        )  # fmt: skip
        parts = [StatementPart.model_validate(one) for one in row["parts"]]
        removed = [Removed.model_validate(one) for one in row["removed"]]
        written = Documents.model_validate_json(services.blobs.get(row["documents_sha256"]))
        faster = names_of(confirmed(services.blobs, row["raw_sha256"], services.settings.measure))
        found = [f"tells {leak}" for leak in guard.told(row["statement"], removed, faster)]
        found += unfounded(parts, row["statement"], row["title"], row["body"], written, guard.people)
        wrong += [f"{row['pr_id']}: {one}" for one in found]
    return Found.of(wrong, fine=f"{len(rows)} statements are clean")


def release_is_whole(month: str, services: Services) -> Found:
    """The folder holds exactly what its manifest says, row for row what passes every gate now."""
    folder = release_folder(services, month)
    wrong = verify(folder)
    if wrong:
        return Found(False, "; ".join(wrong))
    manifest = read_manifest(folder)
    gates = gate_results(joined("published_release", month, services.tables), month, services)
    wrong += [f"{key} is held at {gate.reason}: {gate.detail}" for key, gate in gates.items() if isinstance(gate, Held)]
    released = pl.read_parquet(folder / "data" / "train.parquet")
    if sorted(released["pr_id"].to_list()) != sorted(gates) or manifest["pull_requests"] != sorted(gates):
        wrong.append("the released pull requests are not those that pass every gate")
    for row in released.to_dicts():
        gate = gates.get(row["pr_id"])
        if isinstance(gate, ReleasedRow) and ReleasedRow.model_validate(row) != gate:
            wrong.append(f"{row['pr_id']} was released with other content than passes the gates now")
    return Found.of(wrong, fine=f"{released.height} rows, release {manifest['release_version']}")


def release_is_recorded(month: str, services: Services) -> Found:
    """The manifest's version and time are those that the rows of the release were given."""
    manifest = read_manifest(release_folder(services, month))
    rows = done_rows("published_release", month, services)
    wrong = [
        f"{row['pr_id']} is of release {row['release_version']}, manifest.json of {manifest.get('release_version')}"
        for row in rows.to_dicts()
        if row["release_version"] != manifest.get("release_version")
    ]
    first = rows["published_at"].min()
    if isinstance(first, datetime) and manifest.get("published_at") != first.isoformat():
        wrong.append(f"manifest.json has published_at {manifest.get('published_at')}, its rows {first.isoformat()}")
    return Found.of(wrong, fine=f"{rows.height} rows of release {manifest.get('release_version')}")


ASSETS = [problem_statements, published_release]
CHECKS = [
    *table_rules("problem_statements", StatementReason, "One row per faster pull request, with known ends."),
    rule("problem_statements", "statements_tell_nothing", statements_tell_nothing, "No statement is a leak."),
    *table_rules("published_release", ReleaseReason, "One row per statement, with a known status and reason."),
    rule("published_release", "release_is_whole", release_is_whole, "The folder is what passes every gate."),
    rule("published_release", "release_is_recorded", release_is_recorded, "The manifest agrees with the table."),
]  # fmt: skip
