"""Questions about a month and about one pull request, answered from the tables.

Here belong the `spine` view (one row per pull request with its status at every asset), the funnel and the story of one
pull request. Nothing here computes an outcome, and nothing here knows Dagster.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl

from formulamine.records import Status
from formulamine.services.store import Tables
from formulamine.tables import TABLES


@dataclass(frozen=True)
class AssetCount:
    """How one asset's rows of a month ended."""

    asset: str
    rows: int
    status: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    cost_usd: float = 0.0


@dataclass(frozen=True)
class Failures:
    """Failed rows of a month, for each of its repositories: by asset, and there by reason, the most frequent first."""

    by_repository: dict[str, dict[str, dict[str, int]]]

    def total(self, repository: str) -> int:
        """How many failed in one repository."""
        return sum(count for reasons in self.by_repository[repository].values() for count in reasons.values())


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


def failures(month: str, tables: Tables) -> Failures:
    """What failed, repository by repository: those with the most failures first, those without any last."""
    found: dict[str, dict[str, Counter[str]]] = {}
    repository_of: dict[str, str] = {}
    for name, table in TABLES.items():
        frame = tables.read(name, month)
        if frame is None:
            continue
        if "repo" in frame.columns and table.key == "pr_id":
            repository_of |= dict(frame.select("pr_id", "repo").filter(pl.col("repo").is_not_null()).iter_rows())
        for key, status, reason in frame.select(table.key, "status", "reason").iter_rows():
            repo = key if table.key == "repo" else repository_of.get(key) or _repository_in(key)
            reasons = found.setdefault(repo, {}).setdefault(name, Counter())
            reasons.update([reason or "unknown"] if status == Status.FAILED else [])
    counted = Failures(
        {
            repo: {name: _by_count(reasons) for name, reasons in assets.items() if reasons}
            for repo, assets in found.items()
        }
    )
    order = sorted(counted.by_repository, key=lambda repo: (-counted.total(repo), repo))
    return Failures({repo: counted.by_repository[repo] for repo in order})


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


def render_failures(found: Failures) -> str:
    """Failures by repository for a terminal; repositories without any are counted in the last line."""
    failed = [repo for repo in found.by_repository if found.total(repo)]
    lines = [f"{'failed, by repository':<22}{'rows':>6}  why"]
    for repo in failed:
        assets = found.by_repository[repo]
        told = "; ".join(
            f"{name}: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            for name, reasons in assets.items()
        )
        total = found.total(repo)
        # A name that is too long for its column moves what follows it.
        lines.append(
            textwrap.fill(
                f"{repo:<22}{total:>6}  {told}", 100, subsequent_indent=" " * 30, break_long_words=False,
                break_on_hyphens=False,
            )
        )  # fmt: skip
    if rest := len(found.by_repository) - len(failed):
        lines.append(f"nothing failed in {rest} {'repository' if rest == 1 else 'repositories'}")
    return "\n".join(lines)


def to_json(value: object) -> str:
    """One JSON object, with times as ISO 8601."""
    return json.dumps(value, indent=2, default=datetime.isoformat)


def _counted(frame: pl.DataFrame, column: str) -> dict[str, int]:
    return _by_count(Counter(frame[column].drop_nulls().to_list()))


def _by_count(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def _repository_in(pr_id: str) -> str:
    """Repository of a pull request that no table names: an owner has no underscore in a row, a name may."""
    return pr_id.rpartition("-")[0].replace("__", "/", 1)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f}s"
    minutes = round(seconds / 60)
    return f"{minutes}min" if minutes < 100 else f"{minutes / 60:.1f}h"
