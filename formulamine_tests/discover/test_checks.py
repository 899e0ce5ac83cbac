"""The asset checks of discovery, each with what it must pass and what it must not, on a real history."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from formulamine.checks import well_formed
from formulamine.discover.assets import (
    PASS_RATE_FROM,
    counted_again,
    inside_the_window,
    one_identity,
    pass_rate,
    patches_kept,
    suite_exists,
)
from formulamine.discover.pull_requests import PullRequestReason, VisitedRepository, list_pull_requests
from formulamine.discover.repositories import RegisteredRepository, RepositoryReason, find_suite
from formulamine.discover.sieve import SieveReason
from formulamine.items import Done
from formulamine.orchestration import Found
from formulamine.services.container import Services
from formulamine.services.git import Git
from formulamine.services.store import SCHEMA_KEY, Blobs, Tables
from formulamine.tables import TABLES
from formulamine_tests.build.tables_of import MONTH, month_of, spoiled
from formulamine_tests.end_to_end.runs import usable
from formulamine_tests.test_pipeline import entry, record_of, write

REASONS: dict[str, type[StrEnum]] = {
    "repositories": RepositoryReason, "pull_requests": PullRequestReason, "candidate_prs": SieveReason,
}  # fmt: skip
Check = Callable[[str, Services], Found]


@pytest.fixture
def rows(home: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """Two merged pull requests with their patches kept, as the steps answer for them."""
    usable("One", "Two").write(tmp_path / "source.git")
    git = Git(home / "mirrors")
    source = str(tmp_path / "source.git")
    found = find_suite(RegisteredRepository(repo="acme/toy", source=source, month=MONTH), git=git)
    assert isinstance(found, Done), found
    repository: Any = found.record
    visited = VisitedRepository(repo="acme/toy", url=repository.url, head_sha=repository.head_sha)
    listed = list_pull_requests(visited, month=MONTH, git=git)
    assert isinstance(listed, Done), listed
    records: dict[str, Any] = dict(listed.records or {})
    shas = [one.merge_sha for one in records.values()]
    patches = {sha: Blobs(home / "blobs").put(patch) for sha, patch in git.diffs(git.mirror_path("acme/toy"), shas)}
    return [
        {
            **repository.model_dump(), **one.model_dump(mode="json"), "pr_id": key, "source": one.source,
            "patch_sha256": patches[one.merge_sha],
        }
        for key, one in records.items()
    ]  # fmt: skip


@pytest.fixture
def services(rows: list[dict[str, Any]]) -> Services:
    return month_of({}, rows, "classifications")


def failing(check: Check, services: Services, said: str) -> None:
    found = check(MONTH, services)
    assert not found.passed
    assert not found.warn
    assert said in found.detail


@pytest.mark.parametrize("check", [suite_exists, one_identity, inside_the_window, counted_again, patches_kept])
def test_what_git_says_passes(services: Services, check: Check) -> None:
    found = check(MONTH, services)
    assert found.passed, found.detail


@pytest.mark.parametrize("check", [suite_exists, one_identity, inside_the_window, counted_again, patches_kept])
def test_an_empty_month_passes(home: Path, check: Check) -> None:
    assert check(MONTH, month_of({}, [], "classifications")).passed


@pytest.mark.parametrize(
    "changes", [{"benchmark_dir": "elsewhere"}, {"asv_config": "docs/1.rst"}, {"asv_config": "missing.json"}]
)
def test_a_suite_that_is_not_there_does_not(services: Services, changes: dict[str, Any]) -> None:
    from functools import partial

    from formulamine.checks import answered

    found = partial(answered, suite_exists)(MONTH, spoiled(services, "repositories", **changes))
    assert not found.passed
    assert "acme/toy has no suite" in found.detail or "could not be made" in found.detail


def test_a_suite_that_came_later_does_not(services: Services, rows: list[dict[str, Any]]) -> None:
    mirror = services.git.mirror_path("acme/toy")
    later = services.git.first_parent(mirror)[0].sha
    assert suite_exists(MONTH, spoiled(services, "repositories", head_sha=later)).passed  # March has one too
    listing = services.git.list_tree(mirror, rows[0]["base_sha"], "docs")
    assert not listing
    failing(suite_exists, spoiled(services, "repositories", head_sha=later, benchmark_dir="docs"), "has no suite docs")


def test_one_repository_under_two_names_does_not(home: Path) -> None:
    again = [{"pr_id": f"acme__{name}-1", "repo": f"acme/{name}", "node_id": "R_1"} for name in ("toy", "renamed")]
    failing(one_identity, month_of({}, again, "repositories"), "R_1 stands twice")
    assert one_identity(MONTH, spoiled(month_of({}, again, "repositories"), "repositories", node_id=None)).passed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"merged_at": datetime(2024, 2, 9, tzinfo=UTC)}, "acme__toy-1 was merged at 2024-02-01"),
        ({"base_sha": "0" * 40}, "acme__toy-1 has another base than its first parent"),
    ],
)
def test_another_time_or_base_does_not(services: Services, changes: dict[str, Any], said: str) -> None:
    failing(inside_the_window, spoiled(services, "pull_requests", **changes), said)


def test_a_merge_of_another_month_does_not(rows: list[dict[str, Any]]) -> None:
    services = month_of({}, rows, "classifications")
    mirror = services.git.mirror_path("acme/toy")
    later, base, *_ = services.git.first_parent(mirror)
    changes = {"merge_sha": later.sha, "base_sha": base.sha, "merged_at": later.committed_at}
    failing(inside_the_window, spoiled(services, "pull_requests", **changes), "was merged at 2024-03-02")


def test_a_row_more_or_less_does_not(rows: list[dict[str, Any]]) -> None:
    failing(counted_again, month_of({}, rows[:1], "classifications"), "acme/toy: 1 rows, but 2 first-parent commits")
    more = [*rows, {**rows[0], "pr_id": "acme__toy-9"}]
    failing(counted_again, month_of({}, more, "classifications"), "acme/toy: 3 rows, but 2 first-parent commits")


def test_another_patch_a_changed_and_a_missing_one_do_not(services: Services, rows: list[dict[str, Any]]) -> None:
    other = rows[1]["patch_sha256"]
    failing(patches_kept, spoiled(services, "candidate_prs", patch_sha256=other), "acme__toy-1: the kept patch is not")
    spoiled(services, "candidate_prs", patch_sha256=rows[0]["patch_sha256"])
    path = services.blobs.path(rows[0]["patch_sha256"])
    path.write_bytes(path.read_bytes() + b"x")
    failing(patches_kept, services, f"acme__toy-1 has no patch: blob {rows[0]['patch_sha256']}")
    path.unlink()
    failing(patches_kept, services, "is missing")


@pytest.mark.parametrize(("dropped", "passed"), [(0, False), (6, True), (19, False), (20, False)])
def test_a_pass_rate_out_of_its_band_is_told(home: Path, dropped: int, passed: bool) -> None:
    gone = {"candidate_prs": {"status": "rejected", "reason": "no_core_file", "record": None}}
    rows = [
        {"pr_id": f"acme__toy-{n}", "repo": "acme/toy", **(gone if n < dropped else {})} for n in range(PASS_RATE_FROM)
    ]
    found = pass_rate(MONTH, month_of({}, rows, "candidate_prs"))
    assert (found.passed, found.warn) == (passed, True)
    assert found.detail.startswith(f"{PASS_RATE_FROM - dropped} of {PASS_RATE_FROM} pass")
    assert pass_rate(MONTH, month_of({}, rows[:1], "candidate_prs")).passed  # too few to judge


@pytest.mark.parametrize("name", REASONS)
class TestSchemaRules:
    """`well_formed`, which follows from a table's schema, on the three tables that discovery makes."""

    def check(self, name: str, services: Services) -> Found:
        return well_formed(name, REASONS[name], MONTH, services)

    def path(self, name: str, services: Services) -> Path:
        return services.tables.path(name, MONTH)

    def test_a_good_table_passes(self, services: Services, name: str) -> None:
        assert self.check(name, services).passed

    def test_an_older_schema(self, services: Services, name: str) -> None:
        path = self.path(name, services)
        frame = pl.read_parquet(path)
        frame.drop(frame.columns[2]).write_parquet(path, metadata={SCHEMA_KEY: "older"})
        assert "another version of the table's schema" in self.check(name, services).detail

    def test_a_missing_column_and_a_wrong_type_under_the_right_mark(self, services: Services, name: str) -> None:
        path = self.path(name, services)
        frame, mark = pl.read_parquet(path), pl.read_parquet_metadata(path)[SCHEMA_KEY]
        for other in (frame.drop("seconds"), frame.with_columns(pl.col("seconds").cast(pl.String))):
            other.write_parquet(path, metadata={SCHEMA_KEY: mark})
            found = self.check(name, services)
            assert not found.passed
            assert f"does not have the columns of {name}" in found.detail

    def test_no_table_at_all(self, services: Services, name: str) -> None:
        self.path(name, services).write_bytes(b"PAR1")
        assert "is damaged" in self.check(name, services).detail

    def test_a_key_that_stands_twice(self, services: Services, name: str) -> None:
        frame = pl.read_parquet(self.path(name, services))
        services.tables.write(name, MONTH, pl.concat([frame, frame.head(1)]))
        assert f"{frame.item(0, TABLES[name].key)} stands twice" in self.check(name, services).detail

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"status": "splendid"}, "has status 'splendid'"),
            ({"status": None}, "has status None"),
            ({"status": "rejected"}, "is rejected with reason None"),
            ({"status": "failed", "reason": "odd"}, "is failed with reason 'odd'"),
            ({"reason": "limit"}, "is done with reason 'limit'"),
        ],
    )
    def test_an_unknown_end(self, services: Services, name: str, changes: dict[str, Any], said: str) -> None:
        assert said in self.check(name, spoiled(services, name, **changes)).detail

    def test_done_without_what_a_record_must_have(self, services: Services, name: str) -> None:
        field = {"repositories": "head_sha", "pull_requests": "merge_sha", "candidate_prs": "score"}[name]
        assert f"is done without {field}" in self.check(name, spoiled(services, name, **{field: None})).detail


def test_a_row_that_vanished_and_one_from_nowhere(services: Services) -> None:
    frame = pl.read_parquet(services.tables.path("candidate_prs", MONTH))
    services.tables.write("candidate_prs", MONTH, frame.head(1))
    found = well_formed("candidate_prs", SieveReason, MONTH, services)
    assert found.detail == "acme__toy-2 vanished before candidate_prs"
    stranger = pl.when(pl.col("pr_id") == "acme__toy-2").then(pl.lit("acme__toy-3")).otherwise("pr_id").alias("pr_id")
    services.tables.write("candidate_prs", MONTH, frame.with_columns(stranger))
    found = well_formed("candidate_prs", SieveReason, MONTH, services)
    assert "acme__toy-3 came from nowhere" in found.detail
    assert "acme__toy-2 vanished" in found.detail


def test_a_pull_request_of_a_repository_that_takes_no_part(services: Services) -> None:
    spoiled(services, "repositories", status="rejected", reason="no_benchmark_suite")
    found = well_formed("pull_requests", PullRequestReason, MONTH, services)
    assert "acme__toy-1 came from nowhere" in found.detail


def test_a_visit_that_failed_is_well_formed(home: Path) -> None:
    services = month_of({}, [], "candidate_prs")
    write(services.tables, "repositories", [entry(f"a/r@{MONTH}", record_of(TABLES["repositories"].record, "x"))])
    write(services.tables, "pull_requests", [entry(f"a/r@{MONTH}", status="failed", reason="history_rewritten")])
    assert well_formed("pull_requests", PullRequestReason, MONTH, services).passed


def test_a_word_that_the_schema_does_not_have(services: Services) -> None:
    spoiled(services, "pull_requests", merge_style="octopus")
    found = well_formed("pull_requests", PullRequestReason, MONTH, services)
    assert "acme__toy-1 has merge_style 'octopus'" in found.detail


def test_a_mirror_that_is_gone_is_made_again(services: Services, home: Path) -> None:
    shutil.rmtree(home / "mirrors")
    assert inside_the_window(MONTH, services).passed
    assert isinstance(services.tables, Tables)
