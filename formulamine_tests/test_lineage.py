"""Questions about a month and one pull request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from formulamine.cli import main
from formulamine.lineage import (
    AssetCount,
    Failures,
    UnknownMonth,
    UnknownPullRequest,
    failures,
    funnel,
    render_failures,
    render_funnel,
    spine,
    to_json,
    trace,
)
from formulamine.services.store import Tables
from formulamine.tables import TABLES
from formulamine_tests.test_pipeline import MONTH, entry, record_of, repository, visit, write


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """A month of four pull requests: one dropped by the sieve, one not performance, one slower, one released."""
    tables = Tables(tmp_path / "a 'quoted' [folder]*" / "tables")
    records = {name: record_of(table.record, name) for name, table in TABLES.items()}
    write(tables, "repositories", [repository("o/r"), repository("o/gone", "failed")])
    write(tables, "pull_requests", [visit("o/r", 1, 2, 3, 4)])
    write(tables, "candidate_prs", [
        entry("o__r-1", status="rejected", reason="docs_only", detail="only docs"),
        *(entry(f"o__r-{n}", records["candidate_prs"]) for n in (2, 3, 4)),
    ])  # fmt: skip
    write(tables, "classifications", [
        entry("o__r-2", records["classifications"], status="rejected", reason="not_performance", cost_usd=0.25),
        *(entry(f"o__r-{n}", records["classifications"]) for n in (3, 4)),
    ])  # fmt: skip
    for name in ("env_payloads", "images"):
        write(tables, name, [entry(f"o__r-{n}", records[name]) for n in (3, 4)])
    measured = records["speedup_measurements"]
    write(tables, "speedup_measurements", [
        entry("o__r-3", {**measured, "verdict": "slower"}, status="rejected", reason="slower"),
        entry("o__r-4", measured, seconds=400.0),
    ])  # fmt: skip
    for name in ("problem_statements", "published_release"):
        write(tables, name, [entry("o__r-4", records[name])])
    return tables


class TestFunnel:
    def test_it_counts_rows_statuses_reasons_time_and_cost(self, tables: Tables) -> None:
        counts = {one.asset: one for one in funnel(MONTH, tables)}
        assert list(counts) == list(TABLES)
        assert counts["repositories"] == AssetCount(
            "repositories", 2, {"done": 1, "failed": 1}, {"unreachable": 1}, 12.0, 0.6
        )
        assert counts["candidate_prs"].status == {"done": 3, "rejected": 1}
        assert counts["candidate_prs"].reasons == {"docs_only": 1}
        assert counts["classifications"].cost_usd == 0.85
        assert counts["speedup_measurements"].seconds == 406.0

    def test_assets_that_were_never_made_are_left_out(self, tables: Tables) -> None:
        tables.path("images", MONTH).unlink()
        assert "images" not in [one.asset for one in funnel(MONTH, tables)]

    def test_an_empty_table_counts_nothing(self, tmp_path: Path) -> None:
        tables = Tables(tmp_path)
        write(tables, "pull_requests", [])
        assert funnel(MONTH, tables) == [AssetCount("pull_requests", 0)]

    def test_an_unknown_month_is_an_error_that_names_the_mend(self, tables: Tables) -> None:
        with pytest.raises(UnknownMonth, match=r"2023-01.*formulamine month 2023-01"):
            funnel("2023-01", tables)

    def test_a_person_reads_a_line_for_each_asset(self, tables: Tables) -> None:
        lines = render_funnel(MONTH, funnel(MONTH, tables)).splitlines()
        assert lines[0] == MONTH
        assert [line.split()[0] for line in lines[2:]] == list(TABLES)
        assert "1 docs_only" in lines[4]
        assert "7min" in lines[8]


class TestFailures:
    def test_they_are_counted_for_each_repository_most_first(self, tables: Tables) -> None:
        records = {name: record_of(table.record, name) for name, table in TABLES.items()}
        write(tables, "repositories", [repository("o/gone", "failed"), repository("o/r"), repository("a-b/c__d-e")])
        write(tables, "pull_requests", [visit("o/r", 1, 2), visit("a-b/c__d-e", 1, 2, 3, 4)])
        write(tables, "env_payloads", [
            entry("a-b__c__d-e-1", status="failed", reason="unresolvable"),
            entry("o__r-1", status="deferred", reason="limit"),
        ])  # fmt: skip
        write(tables, "images", [
            entry("a-b__c__d-e-2", status="failed", reason="timeout"),
            *(entry(f"a-b__c__d-e-{n}", status="failed", reason="build_failed") for n in (3, 4)),
            entry("o__r-1", status="rejected", reason="limit"), entry("o__r-2", records["images"]),
        ])  # fmt: skip
        found = failures(MONTH, tables).by_repository
        assert found == {
            "a-b/c__d-e": {"env_payloads": {"unresolvable": 1}, "images": {"build_failed": 2, "timeout": 1}},
            "o/gone": {"repositories": {"unreachable": 1}},
            "o/r": {},
        }
        assert list(found) == ["a-b/c__d-e", "o/gone", "o/r"]
        assert list(found["a-b/c__d-e"]["images"]) == ["build_failed", "timeout"]

    def test_a_row_that_no_table_of_pull_requests_has_counts_too(self, tmp_path: Path) -> None:
        tables = Tables(tmp_path)
        write(tables, "images", [entry("my-org__a__b-12", status="failed", reason="timeout")])
        assert failures(MONTH, tables).by_repository == {"my-org/a__b": {"images": {"timeout": 1}}}

    def test_they_are_as_many_as_the_funnel_says(self, tables: Tables) -> None:
        told = failures(MONTH, tables)
        assert sum(map(told.total, told.by_repository)) == sum(
            one.status.get("failed", 0) for one in funnel(MONTH, tables)
        )

    def test_a_person_reads_a_line_for_each_repository(self) -> None:
        found = Failures({"o/r": {"images": {"build_failed": 2, "timeout": 1}}, "o/s": {}, "o/t": {}})
        assert render_failures(found).splitlines()[1:] == [
            "o/r                        3  images: 2 build_failed, 1 timeout",
            "nothing failed in 2 repositories",
        ]
        assert render_failures(Failures({"o/s": {}})).splitlines()[1:] == ["nothing failed in 1 repository"]

    @pytest.mark.parametrize(
        ("repositories", "flag", "shown"), [(2, [], True), (1, [], False), (1, ["--by-repository"], True)]
    )
    def test_the_command_tells_them_of_several_repositories_or_when_asked(
        self, home: Path, repositories: int, flag: list[str], shown: bool
    ) -> None:
        write(Tables(home / "tables"), "repositories", [repository(f"o/r{n}", "failed") for n in range(repositories)])
        told = CliRunner().invoke(main, ["funnel", MONTH, *flag]).output
        assert ("failed, by repository" in told) == shown
        read = json.loads(CliRunner().invoke(main, ["funnel", MONTH, "--json"]).output)
        assert list(read) == ["month", "assets", "by_repository"]
        assert read["by_repository"] == {f"o/r{n}": {"repositories": {"unreachable": 1}} for n in range(repositories)}


class TestSpine:
    def test_one_row_for_each_pull_request_says_how_far_it_came(self, tables: Tables) -> None:
        view = spine(MONTH, tables)
        assert view.columns == ["pr_id", *[name for name in TABLES if name != "repositories"], "last"]
        assert view.select("pr_id", "last").rows() == [
            ("o__r-1", "candidate_prs rejected (docs_only)"),
            ("o__r-2", "classifications rejected (not_performance)"),
            ("o__r-3", "speedup_measurements rejected (slower)"),
            ("o__r-4", "published_release done"),
        ]
        assert view.filter(pr_id="o__r-2").row(0)[:5] == (
            "o__r-2", "done", "done", "rejected (not_performance)", None,
        )  # fmt: skip

    def test_a_month_that_began_only_has_what_there_is(self, tmp_path: Path) -> None:
        tables = Tables(tmp_path)
        write(tables, "pull_requests", [visit("o/r", 7)])
        assert spine(MONTH, tables).rows() == [("o__r-7", "done", "pull_requests done")]

    @pytest.mark.parametrize("month", ["2023-01", MONTH])
    def test_a_month_without_pull_requests_is_empty(self, tmp_path: Path, month: str) -> None:
        tables = Tables(tmp_path)
        write(tables, "pull_requests", [])
        assert spine(month, tables).height == 0


class TestTrace:
    def test_it_tells_each_asset_in_order_with_the_side_table(self, tables: Tables) -> None:
        month, story = trace("o__r-3", tables)
        assert month == MONTH
        assert [row["asset"] for row in story] == list(TABLES)[1:7]
        assert story[-1]["reason"] == "slower"
        (result,) = story[-1]["benchmark_results"]
        assert result["pr_id"] == "o__r-3"

    def test_it_ends_where_the_pull_request_ended(self, tables: Tables) -> None:
        _, story = trace("o__r-1", tables)
        assert [(row["asset"], row["status"]) for row in story] == [
            ("pull_requests", "done"),
            ("candidate_prs", "rejected"),
        ]

    def test_an_unknown_pull_request_is_an_error_in_its_own_words(self, tables: Tables) -> None:
        with pytest.raises(UnknownPullRequest, match="no month that was made has my-org/some-name#12:"):
            trace("my-org__some-name-12", tables)

    def test_a_program_reads_json_with_iso_times(self, tables: Tables) -> None:
        month, story = trace("o__r-4", tables)
        read = json.loads(to_json({"month": month, "assets": story}))
        assert read["assets"][0]["merged_at"] == "2024-02-03T04:05:06.000007+00:00"
        assert read["assets"][-1]["published_at"].startswith("2024-02-03T")
