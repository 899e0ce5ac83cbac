"""The demo's month as a person gets it, and its second run: everything known, nothing asked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import dagster as dg
import polars as pl
import pytest

from formulamine.month import run_job
from formulamine.services.git import Git
from formulamine.services.resolver import Resolver
from formulamine.services.sandbox import Sandbox
from formulamine.services.store import Tables
from formulamine.settings import MeasureSettings, Settings
from formulamine.tables import TABLES
from formulamine.verify.measure import controlled
from formulamine_tests.end_to_end.conftest import Demo, in_process, undisturbed
from formulamine_tests.end_to_end.runs import MONTH, contents, endings, expected_endings, formulamine, table

pytestmark = pytest.mark.network
RELEASED = [32, 35, 38]


def test_demo_ends_well_and_says_where_the_release_is_and_how_to_open_the_ui(demo: Demo) -> None:
    assert demo.ended.code == 0, demo.ended.err
    assert "Traceback" not in demo.ended.err
    *_, release, ui = demo.ended.out.splitlines()
    assert release == f"release: {demo.home / 'release' / MONTH}"
    assert ui.endswith(f"FORMULAMINE_HOME={demo.home} make dev")


def test_every_line_of_the_demo_is_meant_for_a_person(demo: Demo) -> None:
    told = [line for line in demo.ended.err.splitlines() if line[:1].isdigit() or line.startswith("state is in ")]
    assert demo.ended.err.splitlines() == told
    assert (
        max(len(line) for line in demo.ended.out.splitlines() if not line.startswith(("release: ", "to look "))) <= 100
    )


def test_every_pull_request_ends_exactly_where_expected(demo: Demo) -> None:
    assert endings(demo.home) == expected_endings()


def test_exactly_the_three_real_speedups_are_released(demo: Demo) -> None:
    folder = demo.home / "release" / MONTH
    released = pl.read_parquet(folder / "data" / "train.parquet").sort("number")
    assert released["number"].to_list() == RELEASED
    assert released["verdict"].to_list() == ["faster"] * 3
    assert not any(released["publishable"])
    speedups = dict(released.select("number", "speedup").rows())
    assert speedups[32] >= 3
    assert speedups[35] >= 2
    assert 1.2 <= speedups[38] <= 1.7
    assert all(low >= 1.02 for low in released["ci_low"])


def test_release_folder_is_what_its_manifest_says(demo: Demo) -> None:
    folder = demo.home / "release" / MONTH
    manifest = json.loads((folder / "manifest.json").read_text())
    present = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert set(present) == {"manifest.json", "README.md", "data/train.parquet"}
    assert manifest["files"] == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in present.items() if name != "manifest.json"
    }
    assert (manifest["rows"], manifest["empty"], manifest["open"], manifest["publishable"]) == (3, False, [], False)
    assert manifest["pull_requests"] == [f"formulamine__sample-{number}" for number in RELEASED]
    card = (folder / "README.md").read_text()
    assert "**Not publishable**" in card
    assert all(f"formulamine/sample#{number}" in card for number in RELEASED)
    assert str(demo.home) not in card


def test_benchmark_results_hold_intervals_and_quiet_controls(demo: Demo) -> None:
    results = table(demo.home, "benchmark_results")
    measured = set(table(demo.home, "speedup_measurements")["pr_id"])
    confirmed = results.filter(pl.col("stage") == "confirm")
    assert set(confirmed["pr_id"]) <= measured
    assert confirmed.filter(pl.col("decision").is_in(["faster", "slower"])).height >= 4
    for row in confirmed.filter(pl.col("decision") == "faster").to_dicts():
        assert row["ci_low"] < row["speedup"]
        assert row["ci_high"] is None or row["speedup"] < row["ci_high"]
    controls = results.filter(pl.col("stage") == "control")
    assert set(controls["pr_id"]) == {name for name in measured if controlled(name, MeasureSettings())} != set()
    assert not set(controls["decision"]) & {"faster", "slower"}


def test_statements_tell_no_line_of_the_fix(demo: Demo) -> None:
    statements = dict(table(demo.home, "problem_statements").select("pr_id", "statement").rows())
    assert len(statements) == 3
    first = statements["formulamine__sample-32"]
    assert "find_clashes" in first
    assert "open_bookings" not in first


def test_check_passes_after_the_demo(demo: Demo) -> None:
    ended = formulamine(demo.home, "check", MONTH, "--json")
    answer = json.loads(ended.out)
    assert (ended.code, answer["passed"], [row for row in answer["checks"] if not row["passed"]]) == (0, True, [])
    assert {row["asset"] for row in answer["checks"]} == set(TABLES)


def test_funnel_counts_what_the_tables_hold(demo: Demo) -> None:
    answer = json.loads(formulamine(demo.home, "funnel", MONTH, "--json").out)
    counts = {one["asset"]: (one["rows"], one["status"].get("done", 0)) for one in answer["assets"]}
    assert counts == {
        "repositories": (1, 1), "pull_requests": (16, 16), "candidate_prs": (16, 9), "classifications": (9, 8),
        "env_payloads": (8, 7), "images": (7, 6), "speedup_measurements": (6, 3), "problem_statements": (3, 3),
        "published_release": (3, 3),
    }  # fmt: skip
    for one in answer["assets"]:
        assert sum(one["status"].values()) == one["rows"]
        assert sum(one["reasons"].values()) == one["rows"] - one["status"].get("done", 0)


def test_lineage_tells_the_whole_story_of_a_released_pull_request(demo: Demo) -> None:
    ended = formulamine(demo.home, "lineage", "formulamine/sample#35", "--json")
    story = json.loads(ended.out)["assets"]
    assert [row["asset"] for row in story] == list(TABLES)
    assert {row["status"] for row in story} == {"done"}
    assert next(row for row in story if row["asset"] == "speedup_measurements")["benchmark_results"]


def test_lineage_says_why_a_measured_pull_request_was_turned_away(demo: Demo) -> None:
    assert "slower" in formulamine(demo.home, "lineage", "formulamine/sample#40").out
    answer = json.loads(formulamine(demo.home, "lineage", "formulamine/sample#40", "--json").out)
    last = answer["assets"][-1]
    assert (last["asset"], last["status"], last["reason"]) == ("speedup_measurements", "rejected", "slower")


def test_what_got_faster_was_tested_on_both_sides(demo: Demo) -> None:
    rows = {row["pr_id"]: row for row in table(demo.home, "speedup_measurements").to_dicts()}
    broken = rows.pop("formulamine__sample-46")
    assert (broken["verdict"], broken["reason"]) == ("faster", "tests_broken")
    assert broken["tests_broken"] == ["tests/test_table.py::test_cells_lose_the_blanks_around_them"]
    assert (broken["tests_after"]["failed"], broken["tests_before"]["failed"]) == (1, 0)
    for row in rows.values():
        assert (row["tests_before"] is not None) == (row["verdict"] == "faster")
        assert row["tests_broken"] == []
        assert row["tests_before"] == row["tests_after"]
        assert row["tests_before"] is None or row["tests_before"]["passed"] >= 1


def test_lineage_says_which_test_a_faster_pull_request_breaks(demo: Demo) -> None:
    told = formulamine(demo.home, "lineage", "formulamine/sample#46").out
    assert "broken: tests/test_table.py::test_cells_lose_the_blanks_around_them" in told
    why = formulamine(demo.home, "lineage", "formulamine/sample#46", "--why-not").out
    assert "breaks tests that passed before" in why


def test_lineage_of_an_unknown_pull_request_ends_with_1_in_one_line(demo: Demo) -> None:
    ended = formulamine(demo.home, "lineage", "formulamine/sample#999")
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (1, "", 1)
    assert "formulamine/sample#999" in ended.err


@pytest.fixture
def nothing_may_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sandbox, remotes, resolver, models and every connection raise when called."""

    def forbidden(what: str) -> Callable[..., NoReturn]:
        def raises(*_: object, **__: object) -> NoReturn:
            raise AssertionError(f"{what} was called")

        return raises

    for owner, name in (
        (Sandbox, "run"), (Sandbox, "start"), (Git, "mirror"), (Git, "_fetch"), (Resolver, "compile"),
        (Resolver, "make_environment"), (socket.socket, "connect"),
    ):  # fmt: skip
        assert hasattr(owner, name)
        monkeypatch.setattr(owner, name, forbidden(f"{owner.__name__}.{name}"))
    for name in ("instructor", "openai", "anthropic"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises


@pytest.mark.usefixtures("nothing_may_be_asked")
@pytest.mark.parametrize("deleted", [[], ["tables"], ["tables", "cache", "release"]], ids=["same", "tables", "trees"])
def test_second_run_reuses_everything_and_asks_nobody(demo_copy: Path, deleted: list[str]) -> None:
    said, manifest = contents(demo_copy), _manifest(demo_copy)
    for name in deleted:
        shutil.rmtree(demo_copy / name)
    with undisturbed():
        os.environ["FORMULAMINE_HOME"] = str(demo_copy)
        evaluations = run_job(Settings(), "month", MONTH, None, {})
        assert all(one.passed for one in evaluations)
        reused = _latest_metadata("reused"), _latest_metadata("computed"), _data_versions()
    assert contents(demo_copy) == said
    assert endings(demo_copy) == expected_endings()
    assert _manifest(demo_copy) == manifest
    rows = {name: table(demo_copy, name).height for name in TABLES} | {"pull_requests": 1}  # one visit, many rows
    assert reused[0] == rows
    assert reused[1] == dict.fromkeys(TABLES, 0)
    assert {name: {said[name]} for name in TABLES} == reused[2]


def _manifest(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "release" / MONTH / "manifest.json").read_text())
    return found


def _latest_metadata(name: str) -> dict[str, object]:
    with dg.DagsterInstance.get() as instance:
        events = {asset: instance.get_latest_materialization_event(dg.AssetKey(asset)) for asset in TABLES}
    return {
        asset: event.asset_materialization.metadata[name].value
        for asset, event in events.items()
        if event is not None and event.asset_materialization is not None
    }


def _data_versions() -> dict[str, set[str]]:
    """Data versions of all materializations of each asset: of the first run and of the second."""
    found: dict[str, set[str]] = {}
    with dg.DagsterInstance.get() as instance:
        for asset in TABLES:
            records = instance.fetch_materializations(dg.AssetKey(asset), limit=10).records
            assert len(records) == 2
            made = [record.asset_materialization for record in records]
            found[asset] = {(one.tags or {})["dagster/data_version"] for one in made if one is not None}
    return found


def test_edited_tables_and_releases_fail_their_checks(demo_copy: Path) -> None:
    measured = table(demo_copy, "speedup_measurements")
    edited = measured.with_columns(speedup=pl.when(pl.col("verdict") == "faster").then(99.0).otherwise("speedup"))
    Tables(demo_copy / "tables").write("speedup_measurements", MONTH, edited)
    with (demo_copy / "release" / MONTH / "README.md").open("a") as card:
        card.write("Hand-picked.\n")
    ended = in_process(demo_copy, "check", MONTH, "--json")
    failed = {f"{row['asset']}.{row['check']}" for row in json.loads(ended.out)["checks"] if not row["passed"]}
    assert ended.code == 1
    assert failed == {
        "speedup_measurements.verdicts_follow",
        "speedup_measurements.as_recorded",
        "published_release.release_is_whole",
    }


def test_edited_verdict_in_the_ledger_is_found_by_the_release(demo_copy: Path) -> None:
    with sqlite3.connect(demo_copy / "ledger.sqlite") as ledger:
        (record,) = ledger.execute(
            "select record from outcomes where step = 'speedup_measurements' and item = 'formulamine__sample-40'"
        ).fetchone()
        forged = json.dumps({**json.loads(record), "verdict": "faster", "speedup": 2.0, "ci_low": 1.9, "ci_high": 2.1})
        ledger.execute(
            "update outcomes set status = 'done', reason = null, record = ? "
            "where step = 'speedup_measurements' and item = 'formulamine__sample-40'",
            [forged],
        )
    before = _manifest(demo_copy)
    ended = in_process(demo_copy, "month", MONTH)
    assert ended.code == 1
    assert ended.errors[-1].startswith("formulamine: ")
    assert _manifest(demo_copy) == before
