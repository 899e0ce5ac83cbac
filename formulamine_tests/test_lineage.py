"""Questions about a month and one pull request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from formulamine.lineage import (
    AssetCount,
    UnknownMonth,
    UnknownPullRequest,
    funnel,
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
