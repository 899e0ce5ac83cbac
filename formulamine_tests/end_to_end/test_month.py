"""A month of repositories that need no build: what the tables cover, what an empty release is, what Dagster keeps."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from formulamine.services.ledger import Ledger
from formulamine.tables import TABLES
from formulamine_tests.end_to_end.conftest import in_process, undisturbed
from formulamine_tests.end_to_end.runs import CONFIG, MONTH, Ended, contents, heavy_imports, table, usable
from formulamine_tests.services.histories import History, day


@dataclass(frozen=True)
class Months:
    """Three repositories, added in two runs, and how the runs ended."""

    home: Path
    runs: dict[str, Ended]


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> Months:
    folder = tmp_path_factory.mktemp("months")
    home = folder / "home"
    usable("DOC: one", "DOC: two").write(folder / "first")
    usable("DOC: three").write(folder / "second")
    bare = History()
    start = bare.commit("Start", day(5, month=1), {"p.py": "A = 1\n"})
    start = bare.commit("PERF: faster (#4)", day(4), {"p.py": "A = 2\n"}, start=start)
    bare.commit("A suite, later", day(2, month=3), {"asv.conf.json": CONFIG, "benchmarks/b.py": ""}, start=start)
    bare.write(folder / "without")
    runs = {
        "first": in_process(home, "month", MONTH, "--repo", f"a/first={folder / 'first'}", "--select", "discover"),
        "second": in_process(
            home, "month", MONTH, "--repo", f"b/second={folder / 'second'}", "--repo", f"c/w={folder / 'without'}"
        ),
        "before": in_process(home, "month", "2024-01"),
    }
    return Months(home, runs)


def test_runs_end_well(months: Months) -> None:
    assert {name: (ended.code, ended.errors[-1:]) for name, ended in months.runs.items() if ended.code} == {}


def test_month_covers_repositories_added_one_after_the_other(months: Months) -> None:
    rows = table(months.home, "repositories").select("repo", "status", "reason").sort("repo").rows()
    assert rows == [("a/first", "done", None), ("b/second", "done", None), ("c/w", "rejected", "no_benchmark_suite")]
    assert sorted(table(months.home, "pull_requests")["pr_id"]) == ["a__first-1", "a__first-2", "b__second-1"]
    assert sorted(table(months.home, "candidate_prs")["pr_id"]) == ["a__first-1", "a__first-2", "b__second-1"]


def test_month_without_pull_requests_has_empty_tables_and_an_empty_release_marked_so(months: Months) -> None:
    heights = {name: table(months.home, name, "2024-01").height for name in TABLES}
    assert heights == {**dict.fromkeys(TABLES, 0), "repositories": 3}
    folder = months.home / "release" / "2024-01"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["rows"], manifest["empty"], manifest["publishable"]) == (0, True, False)
    assert "This release is empty" in (folder / "README.md").read_text()
    assert pl.read_parquet(folder / "data" / "train.parquet").height == 0


def test_checks_of_an_empty_month_pass(months: Months) -> None:
    ended = in_process(months.home, "check", "2024-01", "--json")
    answer = json.loads(ended.out)
    assert (ended.code, answer["passed"]) == (0, True)
    assert {row["asset"] for row in answer["checks"]} == set(TABLES)


def test_funnel_is_one_object_of_the_agreed_shape(months: Months) -> None:
    ended = in_process(months.home, "funnel", MONTH, "--json")
    answer = json.loads(ended.out)
    assert ended.err == ""
    assert list(answer) == ["month", "assets", "by_repository"]
    assert [one["asset"] for one in answer["assets"]] == list(TABLES)
    assert {tuple(one) for one in answer["assets"]} == {("asset", "rows", "status", "reasons", "seconds", "cost_usd")}
    first = answer["assets"][0]
    assert (first["rows"], first["status"], first["reasons"]) == (
        3, {"done": 2, "rejected": 1}, {"no_benchmark_suite": 1}
    )  # fmt: skip


def test_funnel_fits_a_terminal(months: Months) -> None:
    assert max(len(line) for line in in_process(months.home, "funnel", MONTH).out.splitlines()) <= 100


def test_lineage_says_where_a_pull_request_stopped_and_why(months: Months) -> None:
    ended = in_process(months.home, "lineage", "a/first#2")
    assert ended.code == 0
    assert ended.out.startswith("a/first#2")
    assert "DOC: two" in ended.out
    assert "no_core_file" in ended.out
    answer = json.loads(in_process(months.home, "lineage", "a/first#2", "--json").out)
    assert [row["asset"] for row in answer["assets"]] == ["repositories", "pull_requests", "candidate_prs"]
    assert answer["assets"][1]["merged_at"] == "2024-02-02T12:00:00+00:00"


@pytest.mark.parametrize(
    "arguments", [["lineage", "a/first#2"], ["lineage", "a/first#2", "--redo"], ["month", MONTH, "--plan"]]
)
def test_questions_import_nothing_heavy(months: Months, arguments: list[str]) -> None:
    assert heavy_imports(months.home, *arguments) == []


def test_dagster_home_holds_runs_as_the_ui_shows_them(months: Months) -> None:
    with undisturbed():
        os.environ["DAGSTER_HOME"] = str(months.home / "dagster")
        with dg.DagsterInstance.get() as instance:
            runs = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": MONTH}))
            assert [(run.job_name, run.status) for run in runs] == [("month", dg.DagsterRunStatus.SUCCESS)] * 2
            whole = runs[0].run_id
            for name in TABLES:
                event = instance.get_latest_materialization_event(dg.AssetKey(name))
                assert event is not None
                assert event.asset_materialization is not None
            records = instance.get_records_for_run(whole).records
            logged = [record.event_log_entry.dagster_event for record in records]
            events = [event for event in logged if event is not None]
            made = {
                event.asset_key.to_user_string(): event.materialization
                for event in events
                if event.is_step_materialization and event.asset_key is not None
            }
            evaluated = [event for event in events if event.event_type_value.endswith("EVALUATION")]
    assert set(made) == set(TABLES)
    rows = {name: one.metadata["dagster/row_count"].value for name, one in made.items()}
    assert rows == {name: table(months.home, name).height for name in TABLES}
    assert "no_core_file" in str(made["candidate_prs"].metadata["outcomes"].value)
    assert {name: one.tags["dagster/data_version"] for name, one in made.items() if one.tags} == {
        name: digest for name, digest in contents(months.home).items() if name in TABLES
    }
    checks = {key.to_user_string() for key in _check_keys()}
    assert {event.asset_check_evaluation_data.asset_check_key.to_user_string() for event in evaluated} == checks


def _check_keys() -> set[dg.AssetCheckKey]:
    from formulamine.definitions import defs

    return set(defs.resolve_asset_graph().asset_check_keys)


def test_limit_defers_and_later_runs_finish(tmp_path: Path, home: Path) -> None:
    usable("DOC: one", "DOC: two", "DOC: three").write(tmp_path / "r")

    refused = in_process(home, "month", MONTH, "--repo", f"a/r={tmp_path / 'r'}", "--limit", "1")
    assert refused.code == 1
    assert "refused, items are open (2 candidate_prs limit)" in refused.errors[-1]
    assert not (home / "release").exists()
    assert sorted(table(home, "candidate_prs")["status"]) == ["deferred", "deferred", "rejected"]
    assert _ledger_rows(home, "candidate_prs") == 1

    partial = in_process(home, "month", MONTH, "--limit", "1", "--partial")
    assert partial.code == 0
    manifest = json.loads((home / "release" / MONTH / "manifest.json").read_text())
    assert len(manifest["open"]) == 1
    assert "**Partial**" in (home / "release" / MONTH / "README.md").read_text()

    whole = in_process(home, "month", MONTH)
    assert whole.code == 0
    assert _ledger_rows(home, "candidate_prs") == 3
    assert json.loads((home / "release" / MONTH / "manifest.json").read_text())["open"] == []


def _ledger_rows(home: Path, step: str) -> int:
    ledger = Ledger(f"sqlite:///{home / 'ledger.sqlite'}")
    try:
        return sum(entry.step == step for number in (1, 2, 3) for entry in ledger.history(f"a__r-{number}"))
    finally:
        ledger.close()
