"""The story of one pull request, as plain data: how it fared at every asset, and why it is in or out.

Here belong gathering what all tables say of one pull request, why it is in or out (the sentences are data, in
`why_not.toml`), and where an unknown one would enter. How it looks is `telling.py`'s matter, what a run would do with
it now is `redo.py`'s, questions about a whole month are `lineage.py`'s. Nothing here computes an outcome, knows
Dagster, or trusts what a pull request says: titles, messages and names of benchmarks are foreign text.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from formulamine import lineage
from formulamine.records import Status
from formulamine.services.store import Tables
from formulamine.settings import Settings
from formulamine.tables import OUTCOME_SCHEMA, TABLES

SENTENCES_FILE = Path(__file__).with_name("why_not.toml")
PR_ID = re.compile(
    r"(?P<owner>[A-Za-z0-9](?:_?[A-Za-z0-9-])*)(?:__|/)(?P<name>[A-Za-z0-9._-]+)[-#](?P<number>[1-9]\d*)"
)
LONGEST_DETAIL = 200  # characters of a detail inside a sentence
NEAREST = 4
_LOG = re.compile(r";? ?log: blob ([0-9a-f]{64})")
# Fields that name a blob, a tree or a release, and what a person calls them.
HASHES = {
    "patch_sha256": "patch", "recipe_hash": "recipe", "manifest_sha256": "manifest", "raw_sha256": "samples",
    "documents_sha256": "documents",
    "base_digest": "base image",
    "measure_digest": "measured image", "release_version": "release",
}  # fmt: skip
# Fields that say which version of something decided.
VERSIONS = (
    *("judge", "prompt_version", "python_version", "interpreter_source", "uv_version", "backend", "machine"),
    *("extracted_by", "extraction_prompt"),
)


class NotFound(lineage.UnknownPullRequest):
    """No table has a pull request. `nearest` are ones that there are, `enters` says where it would have entered."""

    def __init__(self, called: str, nearest: Sequence[str], enters: str) -> None:
        near = f" (nearest: {', '.join(nearest)})" if nearest else ""
        super().__init__(f"no month that was made has {called}{near}: {enters}")
        self.nearest = list(nearest)
        self.enters = enters


@dataclass(frozen=True)
class Chapter:
    """How a pull request fared at one asset. `row` is everything that its table says."""

    asset: str
    status: str
    reason: str | None
    detail: str
    evidence: list[str]
    hashes: dict[str, str]
    versions: dict[str, str]
    fingerprint: str
    run_id: str
    recorded_at: datetime
    seconds: float
    cost_usd: float
    row: dict[str, Any] = field(repr=False)

    @property
    def ended(self) -> str:
        """Status and reason in a word or two."""
        return f"{self.status} ({self.reason})" if self.reason else self.status


@dataclass(frozen=True)
class Story:
    """All that is known of one pull request."""

    pr_id: str
    month: str
    repo: str
    number: int
    title: str
    url: str | None
    """Its page, where the repository is on GitHub."""
    merged_at: datetime
    chapters: list[Chapter]
    benchmarks: list[dict[str, Any]]
    statement: str | None
    next_asset: str | None
    """The asset after the last chapter, if it is done there and there is one."""
    next_made: bool
    """Whether that asset's table of the month exists."""
    asked: dict[str, Any]
    """Today's limits and thresholds, by name."""

    @property
    def last(self) -> Chapter:
        """Where it ended, or is now."""
        return self.chapters[-1]

    @property
    def called(self) -> str:
        """As people write it."""
        return f"{self.repo}#{self.number}"

    def chapter(self, asset: str) -> Chapter | None:
        """Its chapter at an asset that it reached."""
        return next((one for one in self.chapters if one.asset == asset), None)

    def facts(self) -> dict[str, Any]:
        """As plain data, for JSON: each asset with all columns of its row."""
        assets = []
        for one in self.chapters:
            more = {"benchmark_results": self.benchmarks} if one.asset == "speedup_measurements" else {}
            told = {"evidence": one.evidence, "hashes": one.hashes, "versions": one.versions}
            assets.append({"asset": one.asset, **one.row, **more, **told})
        return {
            "pull_request": self.called,
            "month": self.month,
            "why": why_not(self),
            "title": self.title,
            "url": self.url,
            "ended_at": self.last.asset,
            "outcome": self.last.ended,
            "next_asset": self.next_asset,
            "assets": assets,
        }


def pr_id_of(text: str) -> str | None:
    """`owner__name-123` of what a person writes, OWNER/NAME#123 or the same; None where it names no pull request."""
    found = PR_ID.fullmatch(text.strip())
    return f"{found['owner']}__{found['name']}-{found['number']}" if found else None


def tell(pr_id: str, settings: Settings) -> Story:
    """Gather the story of a pull request from the tables.

    Raises:
        NotFound: no table has it.
        StoreError: a table is unreadable.
        RegistryError: no table has it, and the registry is malformed.
    """
    tables = Tables(settings.home / "tables")
    try:
        month, rows = lineage.trace(pr_id, tables)
    except lineage.UnknownPullRequest:
        raise _not_found(pr_id, tables, settings) from None
    first = rows[0]
    repositories = tables.read("repositories", month)
    if repositories is not None:
        rows = [
            {"asset": "repositories", **row} for row in repositories.filter(pl.col("repo") == first["repo"]).to_dicts()
        ] + rows
    chapters = [_chapter(row) for row in rows]
    last = chapters[-1]
    following = next((name for name, table in TABLES.items() if table.previous == last.asset), None)
    following = following if last.status == Status.DONE else None
    by_asset = {row["asset"]: row for row in rows}
    home_page = str(by_asset.get("repositories", {}).get("url", ""))
    groups = (settings.sieve, settings.resolve, settings.build, settings.measure)
    return Story(
        pr_id=pr_id,
        month=month,
        repo=first["repo"],
        number=first["number"],
        title=first["title"],
        url=f"https://github.com/{first['repo']}/pull/{first['number']}" if "github.com" in home_page else None,
        merged_at=first["merged_at"],
        chapters=chapters,
        benchmarks=by_asset.get("speedup_measurements", {}).get("benchmark_results", []),
        statement=by_asset.get("problem_statements", {}).get("statement"),
        next_asset=following,
        next_made=following is not None and tables.path(following, month).exists(),
        asked={name: value for group in groups for name, value in group.model_dump().items()},
    )


def why_not(story: Story) -> str:
    """Why a pull request is in or out, in two sentences for a person, with the number that decided."""
    last = story.last
    if last.status == Status.DONE:
        key = ("any", "waiting" if not story.next_made else "behind") if story.next_asset else ("any", "released")
    else:
        key = ("any", "limit") if last.reason == "limit" else (last.asset, str(last.reason))
    facts = _facts(story)
    return " ".join(_plain(part.format_map(facts)) for part in sentences()[key[0]][key[1]])


@cache
def sentences() -> dict[str, dict[str, list[str]]]:
    """Templates by asset and reason."""
    return tomllib.loads(SENTENCES_FILE.read_text(encoding="utf-8"))


def _facts(story: Story) -> dict[str, Any]:
    """What the templates may name."""
    from formulamine.discover.sieve_rules import load_weights

    last = story.last
    seen: dict[str, Any] = {}
    for chapter in story.chapters:
        seen |= {name: value for name, value in chapter.row.items() if name not in OUTCOME_SCHEMA}
    asked = story.asked
    best, log = _best(story), last.hashes.get("log")
    regressions = seen.get("regressions") or []
    return asked | {
        "pr": f"#{story.number}",
        "repo": story.repo,
        "month": story.month,
        "asset": last.asset,
        "next": story.next_asset,
        "detail": _clipped(_LOG.sub("", last.detail)) or "no more is known",
        "log": f" The log is blob {log}." if log else "",
        "passes_from": f"{load_weights().passes_from:g}",
        "yes_from": f"{load_weights().yes_from:g}",
        "pins": len(seen.get("pins") or []),
        "build_pins": len(seen.get("build_pins") or []),
        "python": seen.get("python_version") or "3",
        "merge_sha": str(seen.get("merge_sha"))[:12],
        "best": f"its best benchmark {best}" if best else "none of its benchmarks ran",
        "best_so_far": f", and its best benchmark {best}" if best else "",
        "worst": f"its benchmark {_came_to(seen)}" if seen.get("speedup") else "no interval is known",
        "asked": f"{asked['min_speedup']:g}x with a lower bound of {asked['min_lower_bound']:g}x is asked for",
        "release": str(seen.get("release_version"))[:12],
        "regressed": f", although {len(regressions)} of its benchmarks got slower" if regressions else "",
        "publishable": ""
        if seen.get("publishable")
        else f", but what was measured on {seen.get('backend')} is not publishable",
    }


def _best(story: Story) -> str:
    """The benchmark that decided: the row's own, else the best one on fresh data, else the best of the screen."""
    measured = story.chapter("speedup_measurements")
    if measured and measured.row["verdict"] == "faster":
        return _came_to(measured.row)
    known = [one for one in story.benchmarks if one["speedup"] is not None and one["stage"] != "control"]
    fresh = [one for one in known if one["stage"] == "confirm"] or known
    return _came_to(max(fresh, key=lambda one: (one["speedup"], one["benchmark"]))) if fresh else ""


def _came_to(row: Mapping[str, Any]) -> str:
    low, high = (f"{row[name]:.2f}x" if row[name] is not None else "any" for name in ("ci_low", "ci_high"))
    return f"{row['benchmark']} came to {row['speedup']:.2f}x (interval {low} to {high})"


def _chapter(row: dict[str, Any]) -> Chapter:
    hashes = {told: row[name] for name, told in HASHES.items() if row.get(name)}
    if log := _LOG.search(row["detail"] or ""):
        hashes["log"] = log[1]
    return Chapter(
        asset=row["asset"],
        status=row["status"],
        reason=row["reason"],
        detail=row["detail"] or "",
        evidence=_evidence(row),
        hashes=hashes,
        versions={name: str(row[name]) for name in VERSIONS if row.get(name)},
        fingerprint=row["fingerprint"],
        run_id=row["run_id"],
        recorded_at=row["recorded_at"],
        seconds=row["seconds"],
        cost_usd=row["cost_usd"],
        row={name: value for name, value in row.items() if name not in ("asset", "benchmark_results")},
    )


def _evidence(row: Mapping[str, Any]) -> list[str]:
    """What a person wants to see of a row, a line each."""
    done = row["status"] == Status.DONE
    match row["asset"]:
        case "repositories" if done:
            return [f"suite {row['benchmark_dir']} of {row['asv_config']} at {row['head_sha'][:12]}"]
        case "pull_requests" if done:
            sides = f"{row['base_sha'][:12]} to {row['merge_sha'][:12]}"
            found = [f"by {row['author']}, {row['merge_style']}, {_counted(row['files'], 'file')}, {sides}"]
            return found + ([f"reverted by {row['reverted_by'][:12]}"] if row["reverted_by"] else [])
        case "candidate_prs" if done:
            return [f"score {row['score']:g}, {row['patch_tokens']} tokens", *row["signals"]]
        case "classifications" if row["rationale"]:
            return [f"{row['category']}, {row['difficulty']}: {row['rationale']}"]
        case "env_payloads" if done:
            return [f"{_counted(row['pins'], 'pin')} as of {row['cutoff'][:10] or 'now'} ({row['cutoff_rung']})"]
        case "images" if done:
            tries = f" at the {row['attempts']}. try" if row["attempts"] > 1 else ""
            told = [f"{row['benchmarks_discovered']} benchmarks, {row['bytes'] / 1e3:,.0f} kB, {row['route']}{tries}"]
            told += [f"otherwise than its payload: {row['adaptation']}"] if row["adaptation"] else []
            return [*told, f"holds: {', '.join(row['rules'])}"]
        case "speedup_measurements" if row["verdict"]:
            counted = f"{row['screened']} screened, {row['kept']} kept, {row['confirmed']} confirmed"
            slower = [f"slower: {name}" for name in row["regressions"]]
            told = [f"{counted}; {row['controls_passed']} of {row['controls']} controls passed", *slower, *_tests(row)]
            return [*told, f"on {row['machine']}, {row['kernel']}, load {row['load_before']:.1f} before"]
        case "problem_statements" if done:
            leaks = [one for one in row["removed"] if one["why"].startswith("leak")]
            left_out = f"{_counted(row['removed'], 'sentence')} left out, {_counted(leaks, 'leak')} among them"
            return [f"from {', '.join(row['sources'])} by {row['extracted_by']}; {left_out}"]
        case "published_release" if done:
            return ["publishable" if row["publishable"] else "not publishable"]
        case _:
            return []


def _tests(row: Mapping[str, Any]) -> list[str]:
    """What the tests of both sides came to, where they were run."""
    before, after = row["tests_before"], row["tests_after"]
    if before is None or after is None:
        return []
    told = [f"{_counted(row['test_files'], 'test file')}: {before['passed']} passed before, {after['passed']} after"]
    told += [f"{row['test_files_left_out']} further test files left out"] if row["test_files_left_out"] else []
    for name in ("broken", "gone", "flaky"):
        told += [f"{name}: {', '.join(row[f'tests_{name}'])}"] if row[f"tests_{name}"] else []
    told += [f"gives back something else: {', '.join(row['returns_differ'])}"] if row["returns_differ"] else []
    return told


def _counted(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}" + ("" if len(things) == 1 else "s")


def _not_found(pr_id: str, tables: Tables, settings: Settings) -> NotFound:
    """Nearest known pull requests, and where this one would have entered."""
    found = PR_ID.fullmatch(pr_id)
    if found is None:
        return NotFound(repr(pr_id), [], "write OWNER/NAME#123")
    repo, number = f"{found['owner']}/{found['name']}", int(found["number"])
    known: dict[str, dict[int, str]] = {}
    for path in sorted(tables.folder.glob("pull_requests/*.parquet")):
        for row in pl.scan_parquet(path).select("repo", "number").drop_nulls().collect().iter_rows():
            known.setdefault(row[0], {})[row[1]] = path.stem
    near: list[str] = []
    if repo in known:
        closest = sorted(known[repo], key=lambda one: (abs(one - number), one))[:NEAREST]
        near = [f"{repo}#{one} in {known[repo][one]}" for one in sorted(closest)]
    else:
        folded = {name.casefold(): name for name in known}
        near = [folded[name] for name in difflib.get_close_matches(repo.casefold(), folded, NEAREST, 0.5)]
    return NotFound(f"{repo}#{number}", near, _enters(repo, number, tables, settings))


def _enters(repo: str, number: int, tables: Tables, settings: Settings) -> str:
    """Where a pull request would have entered, as far as the mirror, the registry and the tables tell."""
    from formulamine.discover.messages import read_landing
    from formulamine.discover.registry import Registry
    from formulamine.services.git import Git, GitError

    registered = {entry.name: entry for entry in Registry(settings.home / "repositories.toml").entries()}
    if repo not in registered or registered[repo].hidden:
        return f"it enters at repositories once {repo} is registered: `formulamine repositories add {repo}=PATH_OR_URL`"
    git = Git(settings.home / "mirrors")
    mirror = git.mirror_path(repo)
    if not mirror.exists():
        return f"{repo} is registered and was never mirrored: run `formulamine month` for the month it was merged in"
    try:
        chain = git.first_parent(mirror)
    except GitError as error:
        return f"the mirror of {repo} cannot be read ({_plain(str(error))}): delete {mirror} and run its month again"
    for commit in reversed(chain):
        landing = read_landing(commit)
        if landing is None or landing.number != number:
            continue
        month = f"{commit.committed_at:%Y-%m}"
        landed = f"it was merged on {commit.committed_at:%Y-%m-%d} as {commit.sha[:12]}"
        stopped = _stopped_before(repo, month, tables)
        if stopped is not None:
            return f"{landed}, but {repo} stopped at {stopped} in {month}: `formulamine funnel {month}` shows why"
        return f"{landed} and enters at pull_requests: run `formulamine month {month}`"
    return (
        f"the mirror of {repo} has no merge of it: if it was merged since, run its month with --refresh; an issue, an "
        "open pull request, or one whose merge does not name its number never enters"
    )


def _stopped_before(repo: str, month: str, tables: Tables) -> str | None:
    """The asset at which a repository stopped in a month, with the reason; None where it did not, or was not tried."""
    for name, column in (("repositories", "repo"), ("pull_requests", "pr_id")):
        frame = tables.read(name, month)
        key = repo if column == "repo" else f"{repo}@{month}"
        rows = [] if frame is None else frame.filter(pl.col(column) == key, pl.col("status") != Status.DONE).to_dicts()
        if rows:
            return f"{name} ({rows[0]['reason']})"
    return None


def _plain(text: str) -> str:
    """One line without what a terminal or a page would act on."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _clipped(text: str) -> str:
    text = _plain(text).rstrip(".;: ")
    return text if len(text) <= LONGEST_DETAIL else text[:LONGEST_DETAIL].rsplit(" ", 1)[0] + " …"
