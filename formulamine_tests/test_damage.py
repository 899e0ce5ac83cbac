"""A finished month, damaged in one place at a time: `formulamine check` fails and names what was damaged.

The month is real up to its images: real git, sieve, judge and build, without sandbox or index since the code is ours.
Samples are made up, as nothing here asks how fast anything is. Rules of one check alone are tested in their phase.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from formulamine.build.images import ImageInput
from formulamine.items import Done, Entry
from formulamine.pipeline import joined, project
from formulamine.records import PublishedRelease, Record
from formulamine.services.container import Services
from formulamine.services.ledger import Ledger
from formulamine.services.resolver import Interpreter, Resolver
from formulamine.services.store import Tables
from formulamine.settings import Settings
from formulamine.ship.assets import ended, gate_results
from formulamine.ship.gates import ReleasedRow
from formulamine.ship.release import compose, write
from formulamine.ship.statements import StatementInput, StatementStep
from formulamine.tables import TABLES
from formulamine.verify.measure import record_of
from formulamine_tests.build.conftest import interpreters, uv_cache
from formulamine_tests.build.workbench import SERIES, Files, Workbench
from formulamine_tests.build.workbench import project as toy
from formulamine_tests.end_to_end.conftest import in_process
from formulamine_tests.services.histories import History, day
from formulamine_tests.ship.evidence import BODY, FAST, SLOW, TITLE, samples

__all__ = ["interpreters", "uv_cache"]

MONTH = "2024-02"
FASTER, SAME, BROKEN, DOCS = (f"acme__toy-{number}" for number in (7, 9, 10, 8))
NOW = datetime(2024, 3, 1, tzinfo=UTC)
TOUCHED = "src/toy/__init__.py"
Interpreters = dict[str, Interpreter]
Damage = Callable[[Path], str]


def history() -> History:
    """A repository whose February merged what gets faster, what does not, what does not build, and documentation."""
    made = History()
    same = "def work():\n    numbers = range(2000)\n    return sum(number for number in numbers)\n"
    made.commit("Start", day(1, month=1), toy(SLOW))
    changes: list[tuple[str, int, Files]] = [
        (f"Speed up {TITLE} (#7)\n\n{BODY}", 20, {TOUCHED: FAST}),
        ("DOC: say more (#8)", 21, {"docs/index.rst": "more\n"}),
        ("Speed up work() with a generator (#9)", 22, {TOUCHED: same}),
        ("Speed up work() by a cache (#10)", 23, {TOUCHED: "from functools import cache\n" + SLOW}),
    ]
    for message, number, files in changes:
        made.commit(message, day(number), files, start=made.marks)
    made.commit("Later", day(2, month=3), {"news.txt": "later\n"}, start=made.marks)
    return made


class Finisher:
    """Writes what a month's later assets would: outcomes into the ledger, tables from the ledger."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def asset(self, name: str, outcomes: dict[str, Record | tuple[str, str, str]]) -> None:
        """Record each pull request's outcome, a record or (status, reason, detail), and project the table."""
        entries = []
        for key, outcome in outcomes.items():
            known = {"step": name, "item": key, "fingerprint": f"{name} {key}", "run_id": "run", "recorded_at": NOW}
            entry = Entry(**known, status="done", seconds=1.0, cost_usd=0.0)  # type: ignore[arg-type]
            record = outcome if isinstance(outcome, Record) else None
            if isinstance(outcome, tuple):
                entry = entry.with_(status=outcome[0], reason=outcome[1], detail=outcome[2])
            elif getattr(outcome, "verdict", "faster") != "faster":
                entry = entry.with_(status="rejected", reason=getattr(outcome, "verdict", None))
            if record is not None:
                entry = entry.with_(record=record.model_dump(mode="json"))
            entries.append(self.services.ledger.record(entry))
        store(self.services.tables, name, entries)

    def rows(self, name: str, kind: type[Record]) -> dict[str, Any]:
        """Inputs of an asset."""
        rows = joined(name, MONTH, self.services.tables)
        return {row["pr_id"]: kind.model_validate({field: row[field] for field in kind.model_fields}) for row in rows}


def store(tables: Tables, name: str, entries: list[Entry]) -> None:
    frame, side = project(TABLES[name], entries)
    tables.write(name, MONTH, frame)
    if side is not None:
        tables.write(str(TABLES[name].side_name), MONTH, side)


@pytest.fixture(scope="module")
def known_interpreters(interpreters: Interpreters) -> Any:
    """The one interpreter that built, on offer to every run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Resolver, "interpreters", property(lambda _: interpreters))
        yield interpreters


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, known_interpreters: Interpreters, uv_cache: Path) -> Path:
    """A home whose month was carried to its release."""
    folder = tmp_path_factory.mktemp("finished")
    home = folder / "home"
    history().write(folder / "toy.git")
    carried = in_process(home, "month", MONTH, "--repo", f"acme/toy={folder / 'toy.git'}", "--select", "discover,judge")
    assert carried.code == 0, carried.err
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORMULAMINE_HOME", str(home))
        services = Services(Settings())
        finish(services, Workbench(home, known_interpreters, uv_cache=uv_cache))
        services.close()
    return home


def finish(services: Services, bench: Workbench) -> None:
    """Carry a judged month on."""
    month = Finisher(services)
    bench.own_tools()
    base = {
        "python_version": SERIES, "acceptable_pythons": [SERIES], "interpreter_source": "metadata",
        "package_root": ".", "distribution": "toy", "pins": [], "pins_base": [], "build_pins": [],
        "build_environment_variables": [], "cutoff": "2024-02-01", "cutoff_rung": "month_start", "dropped": [],
        "sources": [], "uv_version": "0",
    }  # fmt: skip
    judged = [row["pr_id"] for row in joined("env_payloads", MONTH, services.tables)]
    assert sorted(judged) == sorted([FASTER, SAME, BROKEN])
    month.asset("env_payloads", {key: TABLES["env_payloads"].record.model_validate(base) for key in judged})
    built: dict[str, Record | tuple[str, str, str]] = {}
    for key, item in month.rows("images", ImageInput).items():
        if key == BROKEN:
            log = services.blobs.put(b"error: no way\n")
            built[key] = ("failed", "build_failed", f"build_wheel: error: no way; log: blob {log}")
            continue
        outcome = bench.image_step()(item)
        assert isinstance(outcome, Done), outcome
        assert outcome.record is not None
        built[key] = outcome.record
    month.asset("images", built)
    measured: dict[str, Record | tuple[str, str, str]] = {}
    for row in joined("speedup_measurements", MONTH, services.tables):
        raw = samples(row["pr_id"], row["recipe_hash"], 1.5 if row["pr_id"] == FASTER else 1.0)
        services.blobs.put(raw.to_blob())
        measured[row["pr_id"]] = record_of(raw, services.settings.measure)
    month.asset("speedup_measurements", measured)
    step = StatementStep(services.git, services.blobs, services.settings.measure, services.llm)
    said: dict[str, Record | tuple[str, str, str]] = {}
    for key, item in month.rows("problem_statements", StatementInput).items():
        outcome = step(item)
        assert isinstance(outcome, Done), outcome
        assert outcome.record is not None
        said[key] = outcome.record
    month.asset("problem_statements", said)
    gates = gate_results(joined("published_release", MONTH, services.tables), MONTH, services)
    passed = [gate for gate in gates.values() if isinstance(gate, ReleasedRow)]
    assert [row.pr_id for row in passed] == [FASTER], gates
    release = compose(MONTH, passed, funnel=ended(MONTH, services), open_items=[], versions={})
    row = PublishedRelease(released=True, publishable=False, release_version=release.version, published_at=NOW)
    month.asset("published_release", {FASTER: row})
    write(release, services.settings.home / "release" / MONTH, NOW)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "home", symlinks=True))


def failed(home: Path) -> tuple[int, dict[str, str]]:
    """Exit code, and details of the checks that failed. Dagster's history stays in memory: half of the time is its."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dg.DagsterInstance, "get", dg.DagsterInstance.ephemeral)
        ended = in_process(home, "check", MONTH, "--json")
    assert "Traceback" not in ended.err
    return ended.code, {
        f"{row['asset']}.{row['check']}": row["detail"] for row in json.loads(ended.out)["checks"] if not row["passed"]
    }


def test_undamaged_month_passes(copy: Path) -> None:
    assert failed(copy) == (0, {})


def test_a_month_without_its_cache_passes_since_that_can_be_made_again(copy: Path) -> None:
    shutil.rmtree(copy / "cache")
    shutil.rmtree(copy / "dagster")
    assert failed(copy) == (0, {})


def frame_of(home: Path, name: str) -> pl.DataFrame:
    frame = Tables(home / "tables").read(name, MONTH)
    assert frame is not None
    return frame


def cell(name: str, column: str, value: object, key: str = FASTER) -> Damage:
    def damage(home: Path) -> str:
        frame = frame_of(home, name)
        here = pl.col(TABLES[name].key if name in TABLES else "pr_id") == key
        new = pl.lit(value, dtype=frame.schema[column])
        edited = frame.with_columns(pl.when(here).then(new).otherwise(pl.col(column)).alias(column))
        assert not edited.equals(frame)
        Tables(home / "tables").write(name, MONTH, edited)
        return key

    return damage


def row(name: str, key: str) -> Damage:
    def damage(home: Path) -> str:
        frame = frame_of(home, name)
        kept = frame.filter(pl.col(TABLES[name].key if name in TABLES else "pr_id") != key)
        assert kept.height < frame.height
        Tables(home / "tables").write(name, MONTH, kept)
        return key

    return damage


def column(name: str) -> Damage:
    def damage(home: Path) -> str:
        path = Tables(home / "tables").path(name, MONTH)
        frame = pl.read_parquet(path)
        frame.drop(frame.columns[1]).write_parquet(path, metadata={"formulamine_schema": "older"})
        return f"{name}/{MONTH}.parquet"

    return damage


def table_bytes(name: str) -> Damage:
    def damage(home: Path) -> str:
        Tables(home / "tables").path(name, MONTH).write_bytes(b"PAR1 no")
        return f"{name}/{MONTH}.parquet"

    return damage


def digest_in(home: Path, name: str, column: str, key: str = FASTER) -> str:
    return str(frame_of(home, name).filter(pl.col("pr_id") == key).item(0, column))


def blob(name: str, column: str, *, delete: bool, key: str = FASTER) -> Damage:
    def damage(home: Path) -> str:
        digest = digest_in(home, name, column, key).rpartition(" ")[2]  # a log stands at the end of a detail
        path = home / "blobs" / digest[:2] / digest
        if delete:
            path.unlink()
        else:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        return digest

    return damage


def ledger_record(name: str, field: str, value: object, key: str = FASTER, *, projected: bool) -> Damage:
    def damage(home: Path) -> str:
        with sqlite3.connect(home / "ledger.sqlite") as database:
            asked = "select record from outcomes where step = ? and item = ?"
            (record,) = database.execute(asked, [name, key]).fetchone()
            forged = json.dumps({**json.loads(record), field: value})
            database.execute("update outcomes set record = ? where step = ? and item = ?", [forged, name, key])
        if projected:
            reproject(home, name)
        return key

    return damage


def reproject(home: Path, name: str) -> None:
    """Make a table again from the ledger, as the next run would."""
    ledger = Ledger(f"sqlite:///{home / 'ledger.sqlite'}")
    rows = frame_of(home, name).select("pr_id", "fingerprint").rows()
    store(Tables(home / "tables"), name, list(ledger.find(name, dict(rows)).values()))
    ledger.close()


def ledger_row(name: str, key: str) -> Damage:
    def damage(home: Path) -> str:
        with sqlite3.connect(home / "ledger.sqlite") as database:
            done = database.execute("delete from outcomes where step = ? and item = ?", [name, key])
            assert done.rowcount == 1
        return key

    return damage


def ledger_bytes(home: Path) -> str:
    (home / "ledger.sqlite").write_bytes(b"no database")
    for beside in home.glob("ledger.sqlite-*"):
        beside.unlink()
    return "ledger.sqlite"


def manifest(field: str, value: object) -> Damage:
    def damage(home: Path) -> str:
        path = home / "release" / MONTH / "manifest.json"
        said = json.loads(path.read_text())
        assert said[field] != value
        path.write_text(json.dumps({**said, field: value}))
        return "manifest.json"

    return damage


def forged_manifest(home: Path) -> str:
    """Edited, and given the version that its content now has: only the table still knows the true one."""
    from formulamine.ship.release import Release

    path = home / "release" / MONTH / "manifest.json"
    said = json.loads(path.read_text())
    content = {key: value for key, value in said.items() if key not in ("release_version", "published_at")}
    content["publishable"] = True
    path.write_text(json.dumps({**said, **content, "release_version": Release("", {}, content).version}))
    return "manifest.json"


def release_file(name: str, what: str) -> Damage:
    def damage(home: Path) -> str:
        path = home / "release" / MONTH / name
        if what == "delete":
            path.unlink()
        else:
            with path.open("ab") as file:
                file.write(b"x")
        return name

    return damage


def tree(part: str) -> Damage:
    """A file of a built side, of an environment or of a suite."""

    def damage(home: Path) -> str:
        (touched, *_) = sorted(path for path in (home / "cache").glob(part) if path.is_file())
        with touched.open("a") as file:
            file.write("# touched\n")
        return "no longer what was built"

    return damage


def lost_mirror(home: Path) -> str:
    """The mirror of the repository is gone, and so is where it came from."""
    shutil.rmtree(home / "mirrors" / "acme__toy.git")
    frame = frame_of(home, "repositories")
    Tables(home / "tables").write("repositories", MONTH, frame.with_columns(url=pl.lit(str(home / "nowhere"))))
    return "nowhere"


DAMAGES: dict[str, tuple[Damage, list[str]]] = {
    "verdict": (cell("speedup_measurements", "verdict", "not_faster"), ["speedup_measurements.verdicts_follow"]),
    "speedup": (cell("speedup_measurements", "speedup", 9.0), ["speedup_measurements.verdicts_follow"]),
    "ci_low": (cell("speedup_measurements", "ci_low", 1.499), ["published_release.release_is_whole"]),
    "benchmark result": (cell("benchmark_results", "speedup", 9.0), ["speedup_measurements.verdicts_follow"]),
    "merge_sha": (cell("pull_requests", "merge_sha", "0" * 40), ["pull_requests.as_recorded"]),
    "title": (cell("pull_requests", "title", "Another", DOCS), ["pull_requests.as_recorded"]),
    "statement": (cell("problem_statements", "statement", "Go."), ["published_release.release_is_whole"]),
    "category": (cell("classifications", "category", "scale_platform", SAME), ["classifications.as_recorded"]),
    "cost": (cell("classifications", "cost_usd", 5.0, SAME), ["classifications.as_recorded"]),
    "fingerprint": (cell("images", "fingerprint", "other"), ["images.as_recorded"]),
    "place of the suite": (cell("repositories", "benchmark_dir", "asv", "acme/toy"), ["repositories.suite_exists"]),
    "row of pull_requests": (row("pull_requests", DOCS), ["pull_requests.as_recorded", "candidate_prs.well_formed"]),
    "row in the middle": (row("classifications", SAME), ["classifications.well_formed"]),
    "row at the end": (row("published_release", FASTER), ["published_release.well_formed"]),
    "row of benchmark_results": (row("benchmark_results", SAME), ["speedup_measurements.as_recorded"]),
    "older schema": (column("classifications"), ["classifications.well_formed"]),
    "no table": (table_bytes("images"), ["images.well_formed"]),
    "byte of a patch": (blob("candidate_prs", "patch_sha256", delete=False), ["candidate_prs.patches_kept"]),
    "byte of samples": (
        blob("speedup_measurements", "raw_sha256", delete=False), ["published_release.release_is_whole"],
    ),
    "byte of a log": (blob("images", "detail", delete=False, key=BROKEN), ["images.as_recorded"]),
    "no patch": (blob("candidate_prs", "patch_sha256", delete=True), ["candidate_prs.patches_kept"]),
    "no recipe": (blob("images", "recipe_hash", delete=True), ["images.facts_agree"]),
    "no samples": (
        blob("speedup_measurements", "raw_sha256", delete=True, key=SAME), ["speedup_measurements.verdicts_follow"],
    ),
    "record, projected": (
        ledger_record("speedup_measurements", "ci_low", 1.49, projected=True),
        ["speedup_measurements.verdicts_follow"],
    ),
    "statement in the ledger, projected": (
        ledger_record("problem_statements", "statement", "Go.", projected=True),
        ["published_release.release_is_whole"],
    ),
    "pins in the ledger, projected": (
        ledger_record("env_payloads", "pins", ["alpha==1"], SAME, projected=True), ["images.facts_agree"],
    ),
    "size in the ledger, projected": (
        ledger_record("images", "bytes", 5, SAME, projected=True), ["images.facts_agree"],
    ),
    "record": (ledger_record("classifications", "tokens", 5, SAME, projected=False), ["classifications.as_recorded"]),
    "row of the ledger": (ledger_row("images", SAME), ["images.as_recorded"]),
    "no ledger": (ledger_bytes, [f"{name}.as_recorded" for name in TABLES]),
    "manifest": (manifest("rows", 2), ["published_release.release_is_whole"]),
    "time in the manifest": (
        manifest("published_at", "2020-01-01T00:00:00+00:00"), ["published_release.release_is_recorded"],
    ),
    "forged manifest": (forged_manifest, ["published_release.release_is_recorded"]),
    "card": (release_file("README.md", "touch"), ["published_release.release_is_whole"]),
    "data": (release_file("data/train.parquet", "touch"), ["published_release.release_is_whole"]),
    "no data": (release_file("data/train.parquet", "delete"), ["published_release.release_is_whole"]),
    "extra file": (release_file("data/extra.parquet", "touch"), ["published_release.release_is_whole"]),
    "built package": (tree("sides/*/site/toy/__init__.py"), ["images.facts_agree"]),
    "sources": (tree("sides/*/tree/METADATA"), ["images.facts_agree"]),
    "suite": (tree("suites/*/suite/benchmarks/bench.py"), ["images.facts_agree"]),
    "no mirror": (lost_mirror, ["candidate_prs.patches_kept", "pull_requests.inside_the_window"]),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_found_and_named(copy: Path, what: str) -> None:
    damage, checks = DAMAGES[what]
    named = damage(copy)
    code, found = failed(copy)
    assert code == 1
    assert set(checks) <= set(found), found
    for check in checks:
        assert named in found[check]
