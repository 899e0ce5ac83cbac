"""Questions about a month and about one pull request, answered from the tables.

Here belong the `spine` view (one row per pull request with its status at every asset), the funnel and the story of one
pull request. Nothing here computes an outcome, and nothing here knows Dagster.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl

from formulamine.services.store import Tables
from formulamine.tables import TABLES, Status


@dataclass(frozen=True)
class AssetCount:
    """How one asset's rows of a month ended."""

    asset: str
    rows: int
    status: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    cost_usd: float = 0.0


class UnknownMonth(Exception):
    """Nothing was ever made of a month."""


class UnknownPullRequest(Exception):
    """No table has this pull request."""


def funnel(month: str, tables: Tables) -> list[AssetCount]:
    """How many came how far, asset by asset; assets never made are left out.

    Raises:
        UnknownMonth: no asset of the month was made.
    """
    counts = []
    for name in TABLES:
        frame = tables.read(name, month)
        if frame is None:
            continue
        counts.append(
            AssetCount(
                asset=name,
                rows=frame.height,
                status=_counted(frame, "status"),
                reasons=_counted(frame, "reason"),
                seconds=round(float(frame["seconds"].sum()), 3),
                cost_usd=round(float(frame["cost_usd"].sum()), 6),
            )
        )
    if not counts:
        raise UnknownMonth(f"nothing was made of {month} yet: run `formulamine month {month}`")
    return counts


def spine(month: str, tables: Tables) -> pl.DataFrame:
    """One row per pull request: its status and reason at every asset, and where it ended.

    Columns: pr_id, one column an asset ("done", "rejected (reason)", null where it did not come), last.
    """
    import duckdb

    names = [name for name in TABLES if name != "repositories" and tables.read(name, month) is not None]
    if "pull_requests" not in names:
        return pl.DataFrame(schema={"pr_id": pl.String(), "last": pl.String()})
    paths = {name: str(tables.path(name, month)).replace("'", "''") for name in names}
    told = "status || coalesce(' (' || reason || ')', '')"
    joins = "".join(
        f" left join (select pr_id, {told} as {name} from read_parquet('{paths[name]}')) using (pr_id)"
        for name in names[1:]
    )
    last = "coalesce(" + ", ".join(f"'{name} ' || {name}" for name in reversed(names)) + ")"
    first = f"(select pr_id, {told} as pull_requests from read_parquet('{paths['pull_requests']}'))"
    query = f"select *, {last} as last from (select * from {first}{joins}) order by pr_id"
    with duckdb.connect() as connection:
        view = connection.sql(query)
        return pl.DataFrame(view.fetchall(), schema=dict.fromkeys(view.columns, pl.String()), orient="row")


def trace(pr_id: str, tables: Tables) -> tuple[str, list[dict[str, Any]]]:
    """The story of one pull request: its month, and its row at each asset in order.

    Raises:
        UnknownPullRequest: no month has it.
    """
    for path in sorted(tables.folder.glob("pull_requests/*.parquet")):
        month = path.stem
        frame = tables.read("pull_requests", month)
        if frame is not None and pr_id in set(frame["pr_id"].to_list()):
            return month, _story(pr_id, month, tables)
    owner, _, rest = pr_id.partition("__")
    name, _, number = rest.rpartition("-")
    raise UnknownPullRequest(
        f"no month that was made has {owner}/{name}#{number}: run `formulamine month` for the month it was merged in"
    )


def _story(pr_id: str, month: str, tables: Tables) -> list[dict[str, Any]]:
    story = []
    for name, table in TABLES.items():
        frame = tables.read(name, month)
        if frame is None or table.key != "pr_id":
            continue
        for row in frame.filter(pl.col("pr_id") == pr_id).to_dicts():
            entry: dict[str, Any] = {"asset": name, **row}
            if table.side_name is not None and (side := tables.read(table.side_name, month)) is not None:
                entry[table.side_name] = side.filter(pl.col("pr_id") == pr_id).to_dicts()
            story.append(entry)
    return story


def render_funnel(month: str, counts: list[AssetCount]) -> str:
    """A funnel for a terminal; reasons that do not fit go on below."""
    lines = [f"{month}", f"{'asset':<22}{'rows':>6}{'done':>6}  {'why the rest stopped':<44}{'time':>9}{'cost':>9}"]
    for one in counts:
        told = ", ".join(f"{count}\N{NO-BREAK SPACE}{name}" for name, count in one.reasons.items())
        reasons, *more = [line.replace("\N{NO-BREAK SPACE}", " ") for line in textwrap.wrap(told, 44)] or [""]
        done = one.status.get(Status.DONE, 0)
        lines.append(
            f"{one.asset:<22}{one.rows:>6}{done:>6}  {reasons:<44}{_duration(one.seconds):>9}{one.cost_usd:>8.2f}$"
        )
        lines += [f"{'':<36}{line}" for line in more]
    return "\n".join(lines)


def render_trace(month: str, story: list[dict[str, Any]]) -> str:
    """A story for a terminal."""
    first = story[0]
    lines = [
        f"{first['repo']}#{first['number']}  {first['title']}",
        f"merged {first['merged_at']:%Y-%m-%d %H:%M} ({month})",
    ]
    for row in story:
        told = f"{row['status']} ({row['reason']})" if row["reason"] else row["status"]
        lines.append(f"\n{row['asset']}: {told}  [{_duration(row['seconds'])}, run {row['run_id'][:8]}]")
        for text in ([row["detail"]] if row["detail"] else []) + _highlights(row):
            lines += textwrap.wrap(text, 110, initial_indent="    ", subsequent_indent="      ")
    return "\n".join(_plain(line) for line in lines)


def to_json(value: object) -> str:
    """One JSON object, with times as ISO 8601."""
    return json.dumps(value, indent=2, default=datetime.isoformat)


def _highlights(row: Mapping[str, Any]) -> list[str]:
    """What a person wants to see of a row."""
    match row["asset"]:
        case "pull_requests":
            return [f"by {row['author']}, {row['merge_style']}, {len(row['files'])} files, base {row['base_sha'][:12]}"]
        case "candidate_prs":
            return [f"signals: {'; '.join(row['signals'])}"] if row["signals"] else []
        case "classifications":
            return [f"{row['category']}, {row['difficulty']}: {row['rationale']}"] if row["rationale"] else []
        case "env_payloads" if row["status"] == Status.DONE:
            pins = ", ".join(row["pins"]) or "no pins"
            return [
                f"Python {row['python_version']} ({row['interpreter_source']}), {pins}, as of {row['cutoff'] or 'now'}"
            ]
        case "images" if row["status"] == Status.DONE:
            return [f"{row['backend']}, {row['base_digest'][:27]}, {row['benchmarks_discovered']} benchmarks"]
        case "speedup_measurements" if row["verdict"]:
            counted = f"{row['screened']} screened, {row['kept']} kept, {row['confirmed']} confirmed"
            shown = [counted]
            for one in row.get("benchmark_results", []):
                if one["stage"] != "screen" and one["speedup"] is not None:
                    shown.append(f"{one['stage']}: {one['benchmark']} {_interval(one)} {one['decision']}")
            return shown
        case "problem_statements" if row["statement"]:
            return [line for line in row["statement"].splitlines() if line]
        case "published_release" if row["status"] == Status.DONE:
            return [f"release {row['release_version']}" + ("" if row["publishable"] else ", not publishable")]
        case _:
            return []


def _plain(text: str) -> str:
    """A line without control characters: what a title of a mined repository holds must not drive a terminal."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _interval(one: Mapping[str, Any]) -> str:
    low, high = (f"{one[name]:.3f}" if one[name] is not None else "?" for name in ("ci_low", "ci_high"))
    return f"{one['speedup']:.3f}x [{low}, {high}]"


def _counted(frame: pl.DataFrame, column: str) -> dict[str, int]:
    counts = Counter(frame[column].drop_nulls().to_list())
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f}s"
    minutes = round(seconds / 60)
    return f"{minutes}min" if minutes < 100 else f"{minutes / 60:.1f}h"
