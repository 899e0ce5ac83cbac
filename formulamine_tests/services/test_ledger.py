"""The ledger on SQLite: what is written is read back, by whoever, after whatever."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from formulamine.services.ledger import CHUNK, Entry, Ledger, LedgerError

WRITER = textwrap.dedent(
    """
    import sys
    from datetime import UTC, datetime
    from formulamine.services.ledger import Entry, Ledger
    name, count = sys.argv[2], int(sys.argv[3])
    print("ready", flush=True)
    sys.stdin.readline()
    ledger = Ledger(sys.argv[1])
    for n in range(count):
        ledger.record(Entry("images", f"{name}-{n}", "f", "done", name, datetime.now(UTC), 1.0, 0.0, record={"n": n}))
        print(n, flush=True)
    """
)


def entry(**changes: Any) -> Entry:
    known: dict[str, Any] = {
        "step": "images", "item": "o__r-1", "fingerprint": "f", "status": "done", "run_id": "run",
        "recorded_at": datetime(2024, 3, 1, tzinfo=UTC), "seconds": 1.0, "cost_usd": 0.0,
    }  # fmt: skip
    return Entry(**{**known, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{path}")
    yield ledger
    ledger.close()


def found(ledger: Ledger, one: Entry) -> Entry | None:
    return ledger.find(one.step, {one.item: one.fingerprint}).get(one.item)


FULL = entry(
    status="failed",
    reason="timeout",
    detail="line one\nline two 🐍 'quoted' \\xff",
    record={"text": "ü", "list": [1, 2.5, None, {"deep": [True]}], "time": "2024-02-03T04:05:06Z"},
    records={"a": {"n": 1}, "b": {"n": None}},
    settled=False,
    infrastructure=True,
    until=datetime(2024, 3, 2, 1, 2, 3, 456789, tzinfo=UTC),
    recorded_at=datetime(2024, 3, 1, 23, 59, 59, 999999, tzinfo=UTC),
    seconds=1234.5678,
    cost_usd=0.0123,
    attempts=3,
    parts={"step version": "1", "field n": "2"},
)


class TestRoundTrip:
    def test_every_field_comes_back(self, ledger: Ledger) -> None:
        defaults = entry()
        same = [name for name, value in vars(FULL).items() if value == getattr(defaults, name)]
        assert same == ["step", "item", "fingerprint", "run_id"], "the sample leaves no other field at its default"
        ledger.record(FULL)
        assert found(ledger, FULL) == FULL

    def test_defaults_come_back(self, ledger: Ledger) -> None:
        ledger.record(entry())
        assert found(ledger, entry()) == entry()

    def test_nothing_and_empty_stay_apart(self, ledger: Ledger) -> None:
        ledger.record(entry(record={}, records={}))
        ledger.record(entry(item="o__r-2"))
        read = ledger.find("images", {"o__r-1": "f", "o__r-2": "f"})
        assert (read["o__r-1"].record, read["o__r-1"].records) == ({}, {})
        assert (read["o__r-2"].record, read["o__r-2"].records) == (None, None)

    def test_numbers_without_bound_come_back(self, ledger: Ledger) -> None:
        one = entry(record={"ci_high": float("inf"), "ci_low": float("-inf")})
        ledger.record(one)
        assert found(ledger, one) == one

    def test_another_time_zone_is_the_same_moment(self, ledger: Ledger) -> None:
        there = timezone(timedelta(hours=5, minutes=30))
        one = entry(recorded_at=datetime(2024, 3, 1, 2, tzinfo=there), until=datetime(2024, 3, 1, 4, tzinfo=there))
        ledger.record(one)
        read = found(ledger, one)
        assert read is not None
        assert (read.recorded_at, read.until) == (one.recorded_at, one.until)
        assert read.recorded_at.tzinfo is not None

    def test_everything_is_there_for_the_next_process(self, ledger: Ledger, path: Path) -> None:
        ledger.record(FULL)
        ledger.close()
        assert found(Ledger(f"sqlite:///{path}"), FULL) == FULL


class TestKeys:
    def test_the_same_key_is_written_over_whole(self, ledger: Ledger) -> None:
        ledger.record(FULL)
        ledger.record(entry(run_id="second"))
        assert found(ledger, FULL) == entry(run_id="second")
        assert len(ledger.history("o__r-1")) == 1

    @pytest.mark.parametrize("other", [{"step": "env_payloads"}, {"item": "o__r-2"}, {"fingerprint": "g"}])
    def test_step_item_and_fingerprint_are_the_key(self, ledger: Ledger, other: dict[str, str]) -> None:
        second = entry(**other, detail="second")
        ledger.record(entry())
        ledger.record(second)
        assert found(ledger, entry()) == entry()
        assert found(ledger, second) == second

    def test_an_outcome_is_found_under_exactly_its_item(self, ledger: Ledger) -> None:
        """Two items of equal inputs have one fingerprint."""
        ledger.record(entry(item="o__r-2"))
        assert ledger.find("images", {"o__r-1": "f"}) == {}
        assert ledger.find("images", {"o__r-2": "f", "o__r-1": "f"}) == {"o__r-2": entry(item="o__r-2")}

    @pytest.mark.parametrize("count", [0, CHUNK, 3 * CHUNK + 1])
    def test_any_number_of_items_is_found(self, ledger: Ledger, path: Path, count: int) -> None:
        rows = [(f"i{n}", f"f{n}") for n in range(count)]
        with sqlite3.connect(path) as connection:  # one transaction: a commit each would take a minute
            connection.executemany(
                "insert into outcomes (step, item, fingerprint, status, detail, settled, infrastructure, run_id,"
                " recorded_at, seconds, cost_usd, attempts)"
                " values ('images', ?, ?, 'done', '', 1, 0, 'run', '2024-03-01 00:00:00.000000', 1, 0, 1)",
                rows,
            )
        wanted = {**dict(rows), "never": "seen"}
        assert set(ledger.find("images", wanted)) == {item for item, _ in rows}

    def test_history_tells_all_outcomes_of_an_item_oldest_first(self, ledger: Ledger) -> None:
        times = [datetime(2024, 3, day, tzinfo=UTC) for day in (3, 1, 2)]
        for number, time_ in enumerate(times):
            ledger.record(entry(fingerprint=str(number), recorded_at=time_))
        ledger.record(entry(item="o__r-2"))
        assert [one.recorded_at.day for one in ledger.history("o__r-1")] == [1, 2, 3]


class TestOpening:
    def refusal(self, url: str) -> str:
        with pytest.raises(LedgerError) as told:
            Ledger(url)
        assert "\n" not in str(told.value)
        return str(told.value)

    def test_a_ledger_of_another_version_is_refused_in_one_line(self, ledger: Ledger, path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("update ledger_schema set version = 99")
        told = self.refusal(f"sqlite:///{path}")
        assert "schema 99" in told
        assert str(path) in told
        assert "FORMULAMINE_HOME" in told

    def test_a_refused_ledger_is_not_changed(self, ledger: Ledger, path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("update ledger_schema set version = 99")
        self.refusal(f"sqlite:///{path}")
        with sqlite3.connect(path) as connection:
            assert connection.execute("select version from ledger_schema").fetchall() == [(99,)]

    def test_a_file_that_is_no_database_is_refused(self, path: Path) -> None:
        path.write_bytes(b"no database " * 100)
        assert "not a database" in self.refusal(f"sqlite:///{path}")
        assert path.read_bytes().startswith(b"no database")

    @pytest.mark.parametrize("url", ["nonsense", "sqlite", "nosuchdb://host/x"])
    def test_a_url_that_is_none_is_refused_by_the_name_of_its_setting(self, url: str) -> None:
        assert "FORMULAMINE_LEDGER_URL" in self.refusal(url)

    def test_a_folder_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        assert "unable to open" in self.refusal(f"sqlite:///{tmp_path}/not/there/ledger.sqlite")

    def test_no_password_is_told(self) -> None:
        assert "hunter2" not in self.refusal("postgresql+psycopg2://me:hunter2@127.0.0.1:9/x")

    def test_readers_do_not_wait_for_writers(self, ledger: Ledger, path: Path) -> None:
        ledger.record(entry())
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("begin immediate")
        started = time.monotonic()
        assert found(ledger, entry()) == entry()
        assert time.monotonic() - started < 1
        writer.close()


class Writers:
    """Processes that write to one ledger, all from the same moment on."""

    def __init__(self, path: Path, names: list[str], count: int) -> None:
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, f"sqlite:///{path}", name, str(count)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
            )
            for name in names
        ]  # fmt: skip
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "ready\n"
        for process in self.processes:
            process.stdin.write("go\n")  # type: ignore[union-attr]

    def ended(self) -> list[tuple[int, str]]:
        ended = [(process, process.communicate(timeout=60)) for process in self.processes]
        return [(process.returncode, errors) for process, (_, errors) in ended]


def test_processes_may_open_a_new_ledger_and_write_to_it_at_once(path: Path) -> None:
    writers = Writers(path, ["a", "b", "c"], 10)
    assert writers.ended() == [(0, "")] * 3
    wanted = {f"{name}-{n}": "f" for name in "abc" for n in range(10)}
    assert set(Ledger(f"sqlite:///{path}").find("images", wanted)) == set(wanted)


def test_a_killed_writer_leaves_a_readable_ledger_with_all_that_it_had_recorded(path: Path) -> None:
    seed = int.from_bytes(os.urandom(4))
    rng, recorded = random.Random(seed), 0
    for attempt in range(3):
        (writer,) = Writers(path, [f"run{attempt}"], 100_000).processes
        assert writer.stdout is not None
        last = writer.stdout.readline()
        time.sleep(rng.uniform(0, 0.15))
        os.kill(writer.pid, signal.SIGKILL)
        last = [last, *writer.stdout.readlines()][-1]
        writer.communicate()
        recorded = int(last) + 1
        ledger = Ledger(f"sqlite:///{path}")
        read = ledger.find("images", {f"run{attempt}-{n}": "f" for n in range(recorded)})
        assert {one.record["n"] for one in read.values() if one.record} == set(range(recorded)), f"seed {seed}"
        ledger.record(entry(item=f"after-{attempt}"))
        ledger.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


def test_an_entry_is_changed_as_a_copy() -> None:
    one = entry()
    other = one.with_(status="failed", reason="timeout")
    assert (one.status, other.status, other.reason) == ("done", "failed", "timeout")
    assert dataclasses.replace(other, status="done", reason=None) == one
