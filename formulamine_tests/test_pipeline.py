"""From tables to the next table: join, advance, project."""

from __future__ import annotations

import logging
import threading
import types
import typing
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from formulamine.checks import well_formed
from formulamine.items import Done, Outcome, Rejected, RunOptions, Step
from formulamine.pipeline import Materialized, inputs, joined, materialize, project
from formulamine.records import Record
from formulamine.services.container import Services
from formulamine.services.ledger import Entry, Ledger
from formulamine.services.store import StoreError, Tables
from formulamine.settings import Settings
from formulamine.tables import TABLES

MONTH = "2024-02"


class Reason(StrEnum):
    UNWANTED = "unwanted"


def sample(annotation: Any, seed: str) -> Any:
    """Some value of an annotation, as a ledger's JSON holds it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return sample(arguments[0], seed)
    if origin is typing.Literal:
        return arguments[0]
    if origin is list:
        return [sample(arguments[0], seed)]
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return record_of(annotation, seed)
    plain = {str: f"text {seed}", int: 3, float: 1.5, bool: True, datetime: "2024-02-03T04:05:06.000007Z"}
    return plain[annotation]


def record_of(kind: type[Record], seed: str, **changes: Any) -> dict[str, Any]:
    """JSON of a record with something in every field."""
    hints = typing.get_type_hints(kind)
    return {name: sample(hints[name], seed) for name in kind.model_fields} | changes


def entry(item: str, record: dict[str, Any] | None = None, **changes: Any) -> Entry:
    known: dict[str, Any] = {
        "step": "images", "item": item, "fingerprint": "f", "status": "done", "run_id": "run", "record": record,
        "recorded_at": datetime(2024, 3, 1, 12, tzinfo=UTC), "seconds": 6.0, "cost_usd": 0.3,
    }  # fmt: skip
    return Entry(**{**known, **changes})


def write(tables: Tables, name: str, entries: list[Entry]) -> None:
    frame, side = project(TABLES[name], entries)
    tables.write(name, MONTH, frame)
    if side is not None:
        tables.write(str(TABLES[name].side_name), MONTH, side)


def repository(name: str, status: str = "done") -> Entry:
    done = record_of(TABLES["repositories"].record, name, url=f"/{name}") if status == "done" else None
    return entry(f"{name}@{MONTH}", done, status=status, reason=None if done else "unreachable")


def visit(repo: str, *numbers: int) -> Entry:
    pull_request = TABLES["pull_requests"].record
    records = {
        f"{repo.replace('/', '__')}-{n}": record_of(pull_request, f"{repo}#{n}", repo=repo, number=n) for n in numbers
    }
    return entry(f"{repo}@{MONTH}", records=records)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "tables")


class TestProject:
    @pytest.mark.parametrize("name", TABLES)
    def test_every_record_comes_back_whole_from_its_table(self, name: str, tables: Tables) -> None:
        table = TABLES[name]
        record = record_of(table.record, "x")
        item = "o/r@2024-02" if name == "repositories" else "o__r-1"
        write(tables, name, [entry(item, record)])
        frame = tables.read(name, MONTH)
        assert frame is not None
        row = frame.row(0, named=True)
        assert row[table.key] == ("o/r" if name == "repositories" else "o__r-1")
        values = {field: row[field] for field in table.fields()}
        if table.side_field is not None:
            side = tables.read(str(table.side_name), MONTH)
            assert side is not None
            values[table.side_field] = [{k: v for k, v in one.items() if k != "pr_id"} for one in side.to_dicts()]
        assert table.record.model_validate(values) == table.record.model_validate(record)

    def test_an_outcome_without_a_record_is_a_row_of_nulls_that_says_why(self) -> None:
        frame, _ = project(
            TABLES["images"], [entry("o__r-1", status="failed", reason="timeout", detail="600 s", infrastructure=True)]
        )
        (row,) = frame.to_dicts()
        assert (row["pr_id"], row["status"], row["reason"], row["detail"]) == ("o__r-1", "failed", "timeout", "600 s")
        assert (row["infrastructure"], row["fingerprint"], row["run_id"]) == (True, "f", "run")
        assert (row["seconds"], row["cost_usd"]) == (6.0, 0.3)
        assert row["recorded_at"] == datetime(2024, 3, 1, 12, tzinfo=UTC)
        assert all(row[field] is None for field in TABLES["images"].fields())

    def test_a_rejection_may_keep_its_record(self) -> None:
        record = record_of(TABLES["classifications"].record, "x", is_performance=False)
        frame, _ = project(
            TABLES["classifications"], [entry("o__r-1", record, status="rejected", reason="not_performance")]
        )
        assert frame.select("status", "is_performance").row(0) == ("rejected", False)

    def test_a_visit_becomes_a_row_for_each_record_that_share_its_time_and_cost(self) -> None:
        frame, _ = project(TABLES["pull_requests"], [visit("o/r", 1, 2, 3), visit("o/empty")])
        assert frame["pr_id"].to_list() == ["o__r-1", "o__r-2", "o__r-3"]
        assert frame["number"].to_list() == [1, 2, 3]
        assert frame["seconds"].to_list() == [2.0, 2.0, 2.0]
        assert frame["cost_usd"].sum() == pytest.approx(0.3)

    def test_a_list_field_goes_to_the_side_table_under_the_pull_requests_id(self) -> None:
        table = TABLES["speedup_measurements"]
        one, other = (record_of(table.record, seed) for seed in ("a", "b"))
        one["results"] = [{**one["results"][0], "benchmark": name} for name in ("time_x", "time_y")]
        frame, side = project(
            table,
            [entry("o__r-1", one), entry("o__r-2", other, status="rejected", reason="slower"), entry("o__r-3", None)],
        )
        assert "results" not in frame.columns
        assert side is not None
        assert side.select("pr_id", "benchmark").rows() == [
            ("o__r-1", "time_x"), ("o__r-1", "time_y"), ("o__r-2", "text b"),
        ]  # fmt: skip

    def test_an_empty_table_has_all_columns(self) -> None:
        frame, side = project(TABLES["speedup_measurements"], [])
        assert dict(frame.schema) == TABLES["speedup_measurements"].schema()
        assert side is not None
        assert side.height == frame.height == 0

    def test_numbers_without_bound_survive(self) -> None:
        record = record_of(TABLES["speedup_measurements"].record, "x", ci_high=float("inf"), ci_low=None)
        frame, _ = project(TABLES["speedup_measurements"], [entry("o__r-1", record)])
        assert frame.select("ci_low", "ci_high").row(0) == (None, float("inf"))

    def test_a_record_of_an_older_version_is_an_error_in_one_line(self) -> None:
        record = record_of(TABLES["images"].record, "x")
        del record["attempts"]
        with pytest.raises(StoreError, match=r"o__r-1 at images .*--force") as told:
            project(TABLES["images"], [entry("o__r-1", record)])
        assert "\n" not in str(told.value)


class TestJoined:
    def test_only_rows_done_in_every_table_before_take_part(self, tables: Tables) -> None:
        candidate = TABLES["candidate_prs"].record
        write(tables, "repositories", [repository("o/r"), repository("o/s"), repository("o/gone", "failed")])
        write(tables, "pull_requests", [visit("o/r", 1, 2, 3), visit("o/s", 1), visit("o/gone", 9)])
        write(tables, "candidate_prs", [
            entry("o__s-1", record_of(candidate, "s1")),
            entry("o__r-3", record_of(candidate, "r3")),
            entry("o__r-2", record_of(candidate, "r2"), status="rejected", reason="docs_only"),
            entry("o__r-1", record_of(candidate, "r1")),
            entry("o__gone-9", record_of(candidate, "g9")),
        ])  # fmt: skip
        rows = joined("classifications", MONTH, tables)
        assert [row["pr_id"] for row in rows] == ["o__s-1", "o__r-3", "o__r-1"]
        assert [(row["repo"], row["url"], row["title"], row["core_files"]) for row in rows] == [
            ("o/s", "/o/s", "text o/s#1", ["text s1"]),
            ("o/r", "/o/r", "text o/r#3", ["text r3"]),
            ("o/r", "/o/r", "text o/r#1", ["text r1"]),
        ]

    def test_the_first_table_joins_nothing(self, tables: Tables) -> None:
        assert joined("repositories", MONTH, tables) == []

    def test_a_table_that_was_never_made_is_an_error_that_names_it(self, tables: Tables) -> None:
        with pytest.raises(StoreError, match=r"classifications needs repositories of 2024-02.*formulamine month"):
            joined("classifications", MONTH, tables)

    def test_a_field_of_two_tables_means_the_first(self, tables: Tables) -> None:
        write(tables, "repositories", [repository("o/r")])
        write(tables, "pull_requests", [visit("o/r", 1)])
        for name in list(TABLES)[2:]:
            write(tables, name, [entry("o__r-1", record_of(TABLES[name].record, name))])
        (row,) = joined("published_release", MONTH, tables)
        assert (row["recipe_hash"], row["limits"]) == ("text images", ["text images"])
        assert row["sources"] == ["text env_payloads"]
        fields = {field for name in list(TABLES)[:-1] for field in TABLES[name].fields()}
        assert fields | {"pr_id"} <= set(row)

    def test_nothing_of_another_month_is_seen(self, tables: Tables) -> None:
        write(tables, "repositories", [repository("o/r")])
        with pytest.raises(StoreError, match="2024-03"):
            joined("pull_requests", "2024-03", tables)


class Read(Record):
    pr_id: str
    title: str


class TestInputs:
    def test_an_item_has_just_the_fields_that_the_step_reads(self) -> None:
        step = Step("images", "1", Read, lambda item: Done(), Reason, ())
        rows = [{"pr_id": "o__r-1", "repo": "o/r", "title": "t", "stars": 7}]
        assert inputs(step, rows, MONTH) == [("o__r-1", Read(pr_id="o__r-1", title="t"))]

    def test_a_visit_is_an_item_of_repository_and_month(self) -> None:
        class Visited(Record):
            repo: str

        step = Step("pull_requests", "1", Visited, lambda item: Done(), Reason, ())
        assert inputs(step, [{"repo": "o/r"}], MONTH) == [("o/r@2024-02", Visited(repo="o/r"))]


class TestMaterialize:
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Ledger:
        return Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")

    def materialize(
        self, tables: Tables, ledger: Ledger, items: list[str], run: Any, run_id: str = "run", **options: Any
    ) -> Materialized:
        step = Step("candidate_prs", "1", Read, run, Reason, ())
        return materialize(
            step, [(key, Read(pr_id=key, title="t")) for key in items], MONTH, tables=tables, ledger=ledger,
            options=RunOptions(run_id, **options), cancelled=threading.Event(), log=logging.getLogger("test"),
        )  # fmt: skip

    @staticmethod
    def judge(item: Read) -> Outcome:
        if item.pr_id.endswith("2"):
            return Rejected(Reason.UNWANTED, "even")
        return Done(TABLES["candidate_prs"].record.model_validate(record_of(TABLES["candidate_prs"].record, "x")))

    def test_the_table_stands_in_the_store_with_a_row_for_each_item(self, tables: Tables, ledger: Ledger) -> None:
        made = self.materialize(tables, ledger, ["o__r-1", "o__r-2"], self.judge)
        read = tables.read("candidate_prs", MONTH)
        assert read is not None
        assert read.equals(made.frame)
        assert read.select("pr_id", "status", "reason").rows() == [
            ("o__r-1", "done", None), ("o__r-2", "rejected", "unwanted"),
        ]  # fmt: skip

    def test_a_deleted_table_is_made_again_from_the_ledger_alone(self, tables: Tables, ledger: Ledger) -> None:
        def never(item: Read) -> Outcome:
            raise AssertionError("the ledger knows this")

        first = self.materialize(tables, ledger, ["o__r-1", "o__r-2"], self.judge)
        tables.path("candidate_prs", MONTH).unlink()
        again = self.materialize(tables, ledger, ["o__r-1", "o__r-2"], never, run_id="second")
        assert again.frame.equals(first.frame)
        assert again.data_version == first.data_version
        assert (again.tally.reused, again.tally.computed) == (2, 0)

    def test_a_row_shows_todays_fingerprint_only(self, tables: Tables, ledger: Ledger) -> None:
        """An item that is gone from the tables before is gone from this one, whatever the ledger knows of it."""
        self.materialize(tables, ledger, ["o__r-1", "o__r-3"], self.judge)
        made = self.materialize(tables, ledger, ["o__r-3"], self.judge)
        assert made.frame["pr_id"].to_list() == ["o__r-3"]

    def test_computing_again_with_the_same_answer_is_no_new_data(self, tables: Tables, ledger: Ledger) -> None:
        first = self.materialize(tables, ledger, ["o__r-1"], self.judge)
        again = self.materialize(tables, ledger, ["o__r-1"], self.judge, run_id="second", force=True)
        assert again.frame["run_id"].to_list() == ["second"]
        assert again.data_version == first.data_version

    def test_another_answer_is_new_data(self, tables: Tables, ledger: Ledger) -> None:
        first = self.materialize(tables, ledger, ["o__r-1"], self.judge)
        other = self.materialize(tables, ledger, ["o__r-1"], lambda item: Rejected(Reason.UNWANTED), force=True)
        assert other.data_version != first.data_version


class TestWellFormed:
    """The check that follows from the schemas alone."""

    def check(self, home: Path, entries: list[Entry]) -> tuple[bool, str]:
        services = Services(Settings())
        write(services.tables, "repositories", [repository("o/r")])
        write(services.tables, "pull_requests", [visit("o/r", 1, 2)])
        write(services.tables, "candidate_prs", entries)
        found = well_formed("candidate_prs", Reason, MONTH, services)
        return found.passed, found.detail

    @staticmethod
    def done(key: str) -> Entry:
        return entry(key, record_of(TABLES["candidate_prs"].record, "x"))

    def test_it_passes_where_each_row_before_is_answered_once(self, home: Path) -> None:
        rejected = entry("o__r-2", status="rejected", reason="unwanted")
        assert self.check(home, [self.done("o__r-1"), rejected]) == (True, "2 rows")

    def test_limit_is_a_reason_of_every_asset(self, home: Path) -> None:
        assert self.check(home, [self.done("o__r-1"), entry("o__r-2", status="deferred", reason="limit")])[0]

    @pytest.mark.parametrize(
        ("second", "told"),
        [
            ({"item": "o__r-1"}, "o__r-1 stands twice"),
            ({"item": "o__r-3"}, "o__r-3 came from nowhere"),
            ({"item": "o__r-3"}, "o__r-2 vanished before candidate_prs"),
            ({"item": "o__r-2", "record": None}, "o__r-2 is done without score"),
            ({"item": "o__r-2", "reason": "unwanted"}, "o__r-2 is done with reason 'unwanted'"),
            ({"item": "o__r-2", "status": "rejected"}, "o__r-2 is rejected with reason None"),
            ({"item": "o__r-2", "status": "rejected", "reason": "odd"}, "o__r-2 is rejected with reason 'odd'"),
            ({"item": "o__r-2", "status": "lost", "reason": "unwanted"}, "o__r-2 has status 'lost'"),
        ],
    )
    def test_it_names_the_row_that_is_wrong(self, home: Path, second: dict[str, Any], told: str) -> None:
        passed, detail = self.check(home, [self.done("o__r-1"), self.done("o__r-2").with_(**second)])
        assert not passed
        assert told in detail

    def test_a_table_that_was_never_made_is_an_error(self, home: Path) -> None:
        with pytest.raises(LookupError, match="formulamine month 2024-02"):
            well_formed("images", Reason, MONTH, Services(Settings()))


def test_joined_rows_have_python_values() -> None:
    frame, _ = project(TABLES["pull_requests"], [visit("o/r", 1)])
    (row,) = frame.to_dicts()
    assert row["merged_at"] == datetime(2024, 2, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert row["merged_at"].tzinfo is not None
    assert row["files"] == [{"path": "text o/r#1", "additions": 3, "deletions": 3}]
    assert isinstance(frame, pl.DataFrame)
