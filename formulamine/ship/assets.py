"""Dagster assets and checks of what ships: problem_statements -> published_release."""

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from formulamine.build.assets import ENV_PAYLOADS_VERSION, IMAGES_VERSION
from formulamine.checks import done_rows, rule, table_rules
from formulamine.discover.assets import CANDIDATE_PRS_VERSION, PULL_REQUESTS_VERSION, REPOSITORIES_VERSION
from formulamine.items import Done, Failed, Outcome, RunOptions, Step
from formulamine.judge.assets import CLASSIFICATIONS_VERSION
from formulamine.judge.rules import load_rules
from formulamine.orchestration import (
    Found,
    MonthRun,
    advance_month,
    as_it_stands,
    log,
    month_asset,
    result,
    write_items,
)
from formulamine.pipeline import inputs, joined
from formulamine.services.container import Services
from formulamine.ship.release import (
    Held,
    ReleasedRow,
    ReleaseInput,
    ReleaseReason,
    compose,
    pass_gates,
    read_manifest,
    recover,
    verify,
    write,
)
from formulamine.ship.statements import (
    RULES_FILE,
    TEMPLATE_FILE,
    StatementInput,
    StatementReason,
    StatementStep,
    fix_of,
    stands_in,
)
from formulamine.tables import TABLES, PublishedRelease, Status
from formulamine.verify import protocol
from formulamine.verify.assets import SPEEDUP_MEASUREMENTS_VERSION

PROBLEM_STATEMENTS_VERSION = "2"
PUBLISHED_RELEASE_VERSION = "2"


class ReleaseRefused(Exception):
    """The month cannot be released; the message says which items stand in the way, and the mend."""


def problem_statements_step(services: Services) -> Step[StatementInput]:
    """State the problem of what got faster."""
    return Step(
        asset="problem_statements",
        version=PROBLEM_STATEMENTS_VERSION,
        reads=StatementInput,
        run=StatementStep(services.git, services.blobs, services.settings.measure),
        reasons=StatementReason,
        sources=(
            "formulamine.ship.statements",
            "formulamine.ship.leak",
            "formulamine.discover.diff",
            "formulamine.verify.measure",
        ),
        settings=(services.settings.measure,),
        data_files=(TEMPLATE_FILE, RULES_FILE),
        workers=services.settings.workers.judge_workers,
    )


@month_asset(
    "problem_statements",
    StatementInput,
    version=PROBLEM_STATEMENTS_VERSION,
    group="ship",
    description="What an agent is told: from what stood before the fix and from what was measured.",
)
def problem_statements(context: dg.AssetExecutionContext, run: MonthRun) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Statements."""
    return advance_month(context, run, problem_statements_step(run.services))


@month_asset(
    "published_release",
    ReleaseInput,
    version=PUBLISHED_RELEASE_VERSION,
    group="ship",
    description="What provably got faster: every gate recomputed, then a dataset folder written whole.",
)
def published_release(context: dg.AssetExecutionContext, run: MonthRun) -> dg.MaterializeResult:  # type: ignore[type-arg]
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
        month, passed, funnel=ended(month, services), open_items=sorted(still_open), versions=versions(services)
    )
    folder = release_folder(services, month)
    now = datetime.now(UTC)

    def step_run(item: ReleaseInput) -> Outcome:
        gate = gates[item.pr_id]
        if isinstance(gate, Held):
            return Failed(gate.reason, gate.detail)
        return Done(
            PublishedRelease(
                released=True, publishable=gate.publishable, release_version=release.version, published_at=now
            )
        )

    step = Step(
        asset="published_release",
        version=PUBLISHED_RELEASE_VERSION,
        reads=ReleaseInput,
        run=step_run,
        reasons=ReleaseReason,
        sources=("formulamine.ship.release", "formulamine.ship.statements", "formulamine.ship.leak"),
        settings=(services.settings.measure, services.settings.release),
        outside={"release_version": release.version, "gate": _gates_digest(gates)},
    )
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


def _gates_digest(gates: Mapping[str, ReleasedRow | Held]) -> str:
    """Names what is held: so a pull request that passes now is not reused as one that was held."""
    return "; ".join(f"{key}: {gate.reason}" for key, gate in sorted(gates.items()) if isinstance(gate, Held))


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


def versions(services: Services) -> dict[str, str]:
    """Versions of everything that decided a release."""
    steps = {
        "repositories": REPOSITORIES_VERSION,
        "pull_requests": PULL_REQUESTS_VERSION,
        "candidate_prs": CANDIDATE_PRS_VERSION,
        "classifications": CLASSIFICATIONS_VERSION,
        "env_payloads": ENV_PAYLOADS_VERSION,
        "images": IMAGES_VERSION,
        "speedup_measurements": SPEEDUP_MEASUREMENTS_VERSION,
        "problem_statements": PROBLEM_STATEMENTS_VERSION,
        "published_release": PUBLISHED_RELEASE_VERSION,
    }
    settings = services.settings
    groups = (settings.sieve, settings.resolve, settings.build, settings.measure, settings.release)
    return {
        "formulamine": version("formulamine"),
        "python": platform.python_version(),
        "git": services.git.version(),
        "uv": services.resolver.version,
        "polars": version("polars"),
        "dagster": version("dagster"),
        "protocol": protocol.VERSION,
        "judge_rules": load_rules().version,
        **{f"step.{name}": number for name, number in steps.items()},
        **{f"setting.{name}": str(value) for group in groups for name, value in group.model_dump().items()},
    }


def statements_tell_nothing(month: str, services: Services) -> Found:
    """No rendered statement tells its fix, and each extracted sentence stands in its source."""
    wrong = []
    rows = joined("published_release", month, services.tables)
    for row in rows:
        fix = fix_of(
            row["repo"],
            row["url"],
            row["base_sha"],
            row["patch_sha256"],
            row["core_files"],
            services.git,
            services.blobs,
        )
        wrong += [f"{row['pr_id']} tells {leak!r}" for leak in fix.leaks(row["statement"])]
        wrong += [
            f"{row['pr_id']}: {part!r} does not stand in its source"
            for part in row["parts"]
            if part not in row["statement"] or not stands_in(part, row["title"], row["body"])
        ]
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
