"""Ledger and Dagster's storage on PostgreSQL, beside the same on SQLite: what is kept, and what is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from formulamine import doctor_probes
from formulamine.demo.sample import MONTH, REPOSITORY, write_sample
from formulamine.doctor import Examination, State
from formulamine.items import Entry
from formulamine.month import POSTGRES_VARIABLE, seed_dagster_home, try_postgres
from formulamine.services.ledger import Ledger, LedgerError
from formulamine.services.store import Tables, content_hash
from formulamine.settings import Settings, SettingsError
from formulamine_tests.services.postgres import PASSWORD, QUOTED_PASSWORD, Cluster, cluster, why_no_postgres

ASSETS = ("repositories", "pull_requests", "candidate_prs", "classifications")
TOKYO = timezone(timedelta(hours=9))


@pytest.fixture(scope="module")
def postgres() -> Iterator[Cluster]:
    if reason := why_no_postgres():
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    with cluster() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a ledger that is not there yet, on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    running: Cluster = request.getfixturevalue("postgres")
    return running.new_database("timezone = 'Asia/Tokyo'")


def entry(item: str = "a__b-1", fingerprint: str = "f", **changes: object) -> Entry:
    when = datetime(2024, 2, 3, 4, 5, 6, 789012, UTC)
    return Entry("images", item, fingerprint, "done", "run", when, 1.25, 0.5).with_(**changes)


def test_what_is_recorded_reads_back_the_same(url: str) -> None:
    record = {"zeta": 1, "alpha": [{"x": None, "y": [1.5, True, "π 🜁"]}], "big": 2**60, "empty": {}}
    kept = entry(record=record, records={"b-2": {"n": 1}, "a-1": {"n": 2}}, detail="line\nπ", attempts=3)
    one = Ledger(url)
    assert one.record(kept) == kept
    assert Ledger(url).find("images", {"a__b-1": "f"}) == {"a__b-1": kept}
    [read] = one.history("a__b-1")
    assert list(read.record or {}) == list(record)
    assert list(read.records or {}) == ["b-2", "a-1"]  # their order is the order of rows


def test_times_are_utc_whatever_the_session_says(url: str) -> None:
    one = Ledger(url)
    until = datetime(2024, 2, 3, 0, 30, tzinfo=TOKYO)
    one.record(entry(status="deferred", until=until))
    [read] = one.history("a__b-1")
    assert (read.until, read.recorded_at) == (until, entry().recorded_at)
    assert read.until is not None
    assert (read.until.utcoffset(), read.recorded_at.utcoffset()) == (timedelta(0), timedelta(0))


def test_a_later_outcome_stands_over_an_earlier_one(url: str) -> None:
    one = Ledger(url)
    one.record(entry(status="failed", reason="timeout", detail="x", infrastructure=True))
    one.record(entry(record={"n": 1}))
    one.record(entry(fingerprint="g", record={"n": 2}))
    assert one.find("images", {"a__b-1": "f"})["a__b-1"] == entry(record={"n": 1})
    assert len(one.history("a__b-1")) == 2


def test_no_record_is_null_and_not_the_word_null(url: str) -> None:
    one = Ledger(url)
    one.record(entry())
    with one._engine.connect() as connection:
        query = "select count(*) from outcomes where record is null and records is null"
        assert connection.scalar(sa.text(query)) == 1


def test_more_keys_than_one_statement_takes(url: str) -> None:
    one = Ledger(url)
    wanted = {f"a__b-{number}": f"f{number}" for number in range(1203)}
    known = [f"a__b-{number}" for number in (0, 499, 500, 999, 1000, 1202)]
    for item in known:
        one.record(entry(item, wanted[item]))
    assert set(one.find("images", wanted)) == set(known)
    assert one.find("images", dict.fromkeys(wanted, "other")) == {}


def test_text_that_a_database_refuses_is_kept_as_an_escape(url: str) -> None:
    one = Ledger(url)
    foreign = "a\x00b \ud800 \udcff c:\\x00 😀"
    kept = one.record(entry(detail=foreign, record={"k\x00": [foreign]}, records={"i": {"n": foreign}}))
    shown = r"a\x00b \ud800 \udcff c:\x00 😀"
    assert (kept.detail, kept.record, kept.records) == (shown, {r"k\x00": [shown]}, {"i": {"n": shown}})
    assert one.find("images", {"a__b-1": "f"})["a__b-1"] == kept


def test_many_may_open_a_new_ledger_at_once_and_write(url: str) -> None:
    gate = threading.Barrier(8)

    def write(writer: int) -> None:
        gate.wait()
        one = Ledger(url)
        for number in range(25):
            one.record(entry(f"w{writer}-{number}", "f"))
            one.record(entry("shared", "f", detail=str(writer)))
        one.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    wanted = {f"w{writer}-{number}": "f" for writer in range(8) for number in range(25)} | {"shared": "f"}
    assert set(Ledger(url).find("images", wanted)) == set(wanted)


@pytest.mark.parametrize(
    "bad",
    [
        "secret-word", "postgresql+psycopg2://u:secret@host:secret-port/db", "postgres://u:secret-word@host/db",
        "mysql://u:secret-word@host/db", "postgresql+asyncpg://u:secret-word@host/db",
    ],
)  # fmt: skip
def test_a_bad_url_is_one_line_that_tells_no_secret(bad: str) -> None:
    with pytest.raises(LedgerError, match=r"^FORMULAMINE_LEDGER_URL .*: mend it, or leave it out$") as told:
        Ledger(bad)
    with pytest.raises(SettingsError, match=rf"^{POSTGRES_VARIABLE} .*: write postgresql") as also_told:
        try_postgres(bad)
    assert "secret" not in f"{told.value}{also_told.value}"


@pytest.mark.postgres
def test_no_server_and_a_wrong_password_are_one_line_that_tells_no_secret(postgres: Cluster) -> None:
    for bad in (postgres.url(port=1), postgres.url(password="wrong-secret"), postgres.url() + "?password=wrong-secret"):
        for opened, name, fault in (
            (Ledger, "FORMULAMINE_LEDGER_URL", LedgerError),
            (try_postgres, POSTGRES_VARIABLE, SettingsError),
        ):
            with pytest.raises(fault) as told:
                opened(bad)
            message = str(told.value)
            assert name in message
            assert "\n" not in message
            assert not re.search(rf"secret|{re.escape(PASSWORD)}|{QUOTED_PASSWORD}", message)


@pytest.mark.postgres
def test_a_restarted_server_costs_no_outcome_and_a_gone_one_says_so(postgres: Cluster) -> None:
    one = Ledger(postgres.new_database())
    one.record(entry())
    postgres.stop()
    try:
        with pytest.raises(LedgerError, match=r"does not answer .*: start its server and run the same command again"):
            one.record(entry(fingerprint="g"))
    finally:
        postgres.start()
    one.record(entry(fingerprint="h"))
    assert [kept.fingerprint for kept in one.history("a__b-1")] == ["f", "h"]


@pytest.mark.postgres
def test_dagster_is_told_the_variable_and_never_the_password(
    postgres: Cluster, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")  # seeding sets both: monkeypatch puts them back
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "")
    file = home / "dagster" / "dagster.yaml"
    seed_dagster_home(Settings())
    embedded = file.read_text()
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres.new_database())
    seed_dagster_home(Settings())
    assert yaml.safe_load(file.read_text())["storage"] == {"postgres": {"postgres_url": {"env": POSTGRES_VARIABLE}}}
    assert file.read_text().startswith(embedded)

    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        assert type(instance.run_storage).__name__ == "PostgresRunStorage"
        assert PASSWORD not in str(instance.get_ref().to_dict())  # which stands on command lines of its processes
        assert QUOTED_PASSWORD not in str(instance.get_ref().to_dict())

    monkeypatch.delenv(POSTGRES_VARIABLE)
    with pytest.raises(SettingsError, match="is not set: set it, or move the file away"):
        seed_dagster_home(Settings())


@pytest.mark.postgres
def test_a_configuration_that_a_person_wrote_is_kept(
    postgres: Cluster, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "")
    file = home / "dagster" / "dagster.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("telemetry:\n  enabled: false\n")
    seed_dagster_home(Settings())
    monkeypatch.setenv(POSTGRES_VARIABLE, postgres.new_database())
    with pytest.raises(SettingsError, match="was edited and does not name it"):
        seed_dagster_home(Settings())
    assert file.read_text() == "telemetry:\n  enabled: false\n"


@pytest.mark.postgres
def test_a_month_is_the_same_on_both_databases_and_asks_nothing_twice(postgres: Cluster, tmp_path: Path) -> None:
    write_sample(tmp_path / "sample.git")
    history, outcomes = postgres.new_database(), postgres.new_database()
    on_postgres = {"FORMULAMINE_LEDGER_URL": outcomes, POSTGRES_VARIABLE: history}
    month(tmp_path, "sqlite", {})
    first = month(tmp_path, "postgres", on_postgres)
    again = month(tmp_path, "postgres", on_postgres)

    there, here = Tables(tmp_path / "postgres" / "tables"), Tables(tmp_path / "sqlite" / "tables")
    for name in ASSETS:
        one, other = there.read(name, MONTH), here.read(name, MONTH)
        assert one is not None
        assert other is not None
        assert one.height > 0
        assert content_hash(one) == content_hash(other)
    assert counted(first)[0] == 0
    assert counted(again) == (counted(first)[1], 0)
    [[runs]] = postgres.execute("select count(*) from runs", history.rpartition("/")[2])
    [[rows]] = postgres.execute("select count(*) from outcomes", outcomes.rpartition("/")[2])
    assert (runs, rows) == (2, counted(first)[1])
    assert not list((tmp_path / "postgres").glob("**/*.sqlite")) + list((tmp_path / "postgres").glob("**/*.db"))
    for told in (first, again):
        assert PASSWORD not in told
        assert QUOTED_PASSWORD not in told
    for file in (tmp_path / "postgres").glob("**/*"):
        if file.is_file():
            assert QUOTED_PASSWORD.encode() not in file.read_bytes(), file


def month(folder: Path, home: str, settings: dict[str, str]) -> str:
    """Run the cheap half of the sample's month; what it said."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("FORMULAMINE_", "DAGSTER"))
    }
    repo = f"{REPOSITORY}={folder / 'sample.git'}"
    ended = subprocess.run(
        [sys.executable, "-m", "formulamine", "month", MONTH, "--repo", repo, "--select", ",".join(ASSETS)],
        capture_output=True, text=True, timeout=120, check=False, cwd=folder,
        env=environment | settings | {"FORMULAMINE_HOME": str(folder / home)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


def counted(log: str) -> tuple[int, int]:
    """Outcomes reused and computed, over all assets."""
    found = re.findall(r"\((\d+) reused, (\d+) computed\)", log)
    assert len(found) == len(ASSETS), log
    return sum(int(one) for one, _ in found), sum(int(one) for _, one in found)


@pytest.mark.postgres
def test_doctor_sees_both_databases_and_makes_nothing(
    postgres: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = postgres.new_database()
    monkeypatch.setenv("FORMULAMINE_LEDGER_URL", outcomes)
    monkeypatch.setenv(POSTGRES_VARIABLE, outcomes)
    examination = Examination(Settings(), tmp_path)
    [empty] = doctor_probes.ledger(examination)
    assert (empty.state, "made by the first month" in empty.value) == (State.OK, True)
    assert postgres.execute("select 1 from pg_tables where tablename = 'outcomes'", outcomes.rpartition("/")[2]) == []
    Ledger(outcomes).record(entry())
    [ledger], [history] = doctor_probes.ledger(examination), doctor_probes.dagster_storage(examination)
    assert (ledger.state, ledger.value.endswith(", schema 2, 1 outcomes")) == (State.OK, True)
    assert history.state is State.OK
    for found in (empty, ledger, history):
        assert PASSWORD not in str(found)
        assert QUOTED_PASSWORD not in str(found)
