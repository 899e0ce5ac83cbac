"""The store: whole or not at all, what it was or an error, one at a time."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from formulamine.items import Cancelled
from formulamine.pipeline import project
from formulamine.services import store
from formulamine.services.store import (
    Blobs,
    LockHeld,
    StoreError,
    Tables,
    content_hash,
    exclusive,
    table_schema,
    waiting,
    write_atomically,
)
from formulamine.tables import TABLES
from formulamine_tests.test_pipeline import MONTH, entry, record_of, visit

HOLDER = textwrap.dedent(
    """
    import sys, threading, time
    from pathlib import Path
    from formulamine.services.store import exclusive, waiting
    path = Path(sys.argv[2])
    lock = exclusive(path, "it") if sys.argv[1] == "exclusive" else waiting(path, threading.Event())
    with lock:
        print("held", flush=True)
        sys.stdin.readline()
    """
)
WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from formulamine.services.store import write_atomically
    path, n = Path(sys.argv[1]), 0
    while True:
        n += 1
        write_atomically(path, bytes([n % 256]) * 3_000_000)
        print(n, flush=True)
    """
)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "tables")


class Held:
    """A process of its own that holds a lock."""

    def __init__(self, how: str, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, how, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def let_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.process.wait(timeout=10)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "month.lock"


@pytest.fixture(params=["exclusive", "waiting"])
def held(request: pytest.FixtureRequest, lock: Path) -> Iterator[Held]:
    holder = Held(request.param, lock)
    yield holder
    holder.kill()


class TestWriteAtomically:
    def test_a_file_is_written_over_and_nothing_stands_beside_it(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "folder" / "file"
        write_atomically(path, b"first")
        write_atomically(path, b"second")
        assert path.read_bytes() == b"second"
        assert list(path.parent.iterdir()) == [path]

    def test_what_cannot_be_written_leaves_the_old_file_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        path = tmp_path / "file"
        write_atomically(path, b"old")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_killed_writer_leaves_a_whole_file(self, tmp_path: Path) -> None:
        seed = int.from_bytes(os.urandom(4))
        rng, path = random.Random(seed), tmp_path / "file"
        for _ in range(3):
            writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(rng.uniform(0, 0.1))
            os.kill(writer.pid, signal.SIGKILL)
            last = int([first, *writer.stdout.readlines()][-1])
            writer.communicate()
            content = path.read_bytes()
            assert len(content) == 3_000_000, f"seed {seed}"
            assert len(set(content)) == 1
            assert content[0] in (last % 256, (last + 1) % 256), "what it said to have written, or the one after"


class TestBlobs:
    def test_bytes_come_back_by_their_hash(self, tmp_path: Path) -> None:
        blobs = Blobs(tmp_path)
        content = bytes(range(256)) * 100
        digest = blobs.put(content)
        assert digest == hashlib.sha256(content).hexdigest()
        assert blobs.get(digest) == content
        assert blobs.put(content) == digest
        assert blobs.get(blobs.put(b"")) == b""

    @pytest.mark.parametrize("changed", [b"other", b""], ids=["other", "empty"])
    def test_a_changed_blob_is_an_error_that_names_it(self, tmp_path: Path, changed: bytes) -> None:
        blobs = Blobs(tmp_path)
        digest = blobs.put(b"evidence")
        blobs.path(digest).write_bytes(changed)
        with pytest.raises(StoreError, match=f"{digest}.*was changed.*--force"):
            blobs.get(digest)

    def test_a_missing_blob_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=f"{'0' * 64} is missing.*--force"):
            Blobs(tmp_path).get("0" * 64)

    def test_threads_may_put_the_same_bytes_at_once(self, tmp_path: Path) -> None:
        blobs, digests = Blobs(tmp_path), []
        threads = [threading.Thread(target=lambda: digests.append(blobs.put(b"same" * 10_000))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(digests)) == 1
        assert len(digests) == 8
        assert blobs.get(digests[0]) == b"same" * 10_000


class TestTables:
    def test_nested_columns_come_back(self, tables: Tables) -> None:
        frame, _ = project(TABLES["pull_requests"], [visit("o/r", 1, 2)])
        tables.write("pull_requests", MONTH, frame)
        read = tables.read("pull_requests", MONTH)
        assert read is not None
        assert read.equals(frame)
        assert dict(read.schema) == TABLES["pull_requests"].schema()
        assert read["files"].to_list()[0] == [{"path": "text o/r#1", "additions": 3, "deletions": 3}]

    @pytest.mark.parametrize("name", [*TABLES, "benchmark_results"])
    def test_an_empty_table_comes_back_with_its_columns(self, tables: Tables, name: str) -> None:
        tables.write(name, MONTH, pl.DataFrame(schema=table_schema(name)))
        read = tables.read(name, MONTH)
        assert read is not None
        assert dict(read.schema) == table_schema(name)
        assert [path.name for path in (tables.folder / name).iterdir()] == [f"{MONTH}.parquet"]

    def test_what_was_never_written_is_none(self, tables: Tables) -> None:
        assert tables.read("images", MONTH) is None

    def test_months_are_apart(self, tables: Tables) -> None:
        tables.write("images", MONTH, pl.DataFrame(schema=table_schema("images")))
        assert tables.read("images", "2024-03") is None

    def test_other_columns_are_not_written(self, tables: Tables) -> None:
        frame = pl.DataFrame(schema=table_schema("images"))
        with pytest.raises(TypeError, match="images"):
            tables.write("images", MONTH, frame.drop("attempts"))
        with pytest.raises(TypeError, match="images"):
            tables.write("images", MONTH, frame.cast({"attempts": pl.Int32}))
        assert tables.read("images", MONTH) is None

    @pytest.mark.parametrize(
        "older",
        [
            lambda schema: {name: kind for name, kind in schema.items() if name != "attempts"},
            lambda schema: {**schema, "attempts": pl.String()},
            lambda schema: dict(sorted(schema.items())),
            lambda schema: {("tries" if name == "attempts" else name): kind for name, kind in schema.items()},
        ],
        ids=["lacks one", "other type", "other order", "renamed"],
    )
    def test_a_table_of_an_older_version_is_an_error_and_no_misreading(
        self, tables: Tables, monkeypatch: pytest.MonkeyPatch, older: object
    ) -> None:
        now = table_schema("images")
        with monkeypatch.context() as then:
            then.setattr(store, "table_schema", lambda name: older(now))  # type: ignore[operator]
            tables.write("images", MONTH, pl.DataFrame(schema=older(now)))  # type: ignore[operator]
        with pytest.raises(StoreError, match=r"images/2024-02.parquet was written with another version.*delete it"):
            tables.read("images", MONTH)

    def test_a_table_of_somebody_else_is_an_error(self, tables: Tables) -> None:
        path = tables.path("images", MONTH)
        path.parent.mkdir(parents=True)
        pl.DataFrame(schema=table_schema("images")).write_parquet(path)
        with pytest.raises(StoreError, match="another version"):
            tables.read("images", MONTH)

    def test_a_damaged_table_is_an_error_in_one_line_with_the_mend(self, tables: Tables) -> None:
        records = [entry(f"o__r-{n}", record_of(TABLES["images"].record, str(n))) for n in range(50)]
        frame, _ = project(TABLES["images"], records)
        tables.write("images", MONTH, frame)
        path = tables.path("images", MONTH)
        whole = path.read_bytes()
        damages = [b"", whole[:3], whole[: len(whole) // 2], whole[:-1], whole[100:], b"x" * len(whole)]
        damages += [whole[:place] + bytes(64) + whole[place + 64 :] for place in range(4, len(whole) - 64, 997)]
        told = []
        for damaged in damages:
            path.write_bytes(damaged)
            try:
                read = tables.read("images", MONTH)
            except StoreError as error:
                told.append(str(error))
            else:  # what was hit is an index of pages, which holds nothing of the table
                assert read is not None
                assert read.equals(frame)
        assert len(told) >= len(damages) - 1
        assert all(re.fullmatch(f"{re.escape(str(path))} .*formulamine month {MONTH}.*", line) for line in told)


class TestContentHash:
    def frame(self, *keys: str, **changes: object) -> pl.DataFrame:
        frame, _ = project(
            TABLES["images"], [entry(key, record_of(TABLES["images"].record, key), **changes) for key in keys]
        )
        return frame

    def test_it_ignores_when_and_how_rows_came_about(self) -> None:
        changes = {
            "fingerprint": "other", "detail": "other", "run_id": "other", "seconds": 9.0, "cost_usd": 9.0,
            "recorded_at": datetime(2025, 1, 1, tzinfo=UTC),
        }  # fmt: skip
        assert content_hash(self.frame("a", "b", **changes)) == content_hash(self.frame("a", "b"))

    def test_it_ignores_the_order_of_rows(self) -> None:
        assert content_hash(self.frame("b", "a")) == content_hash(self.frame("a", "b"))

    @pytest.mark.parametrize("change", [{"status": "failed"}, {"reason": "timeout"}, {"infrastructure": True}])
    def test_it_sees_another_outcome(self, change: dict[str, object]) -> None:
        assert content_hash(self.frame("a", **change)) != content_hash(self.frame("a"))

    def test_it_sees_another_value_deep_in_a_column(self) -> None:
        frame = self.frame("a")
        other = frame.with_columns(limits=pl.Series([["other"]]))
        assert content_hash(other) != content_hash(frame)

    def test_it_sees_missing_rows(self) -> None:
        assert len({content_hash(self.frame(*keys)) for keys in ((), ("a",), ("a", "b"))}) == 3


class TestExclusive:
    def test_a_second_process_is_refused_and_told_the_first_ones_pid(self, lock: Path) -> None:
        holder = Held("exclusive", lock)
        with (
            pytest.raises(LockHeld, match=f"^a run of 2024-02 is under way in process {holder.process.pid}: "),
            exclusive(lock, "a run of 2024-02"),
        ):
            pass
        holder.let_go()
        holder.kill()
        with exclusive(lock, "a run"):
            assert lock.read_text() == str(os.getpid())
        assert lock.read_text() == ""

    def test_a_refusal_leaves_the_holders_name(self, lock: Path) -> None:
        with exclusive(lock, "first"):
            for _ in range(2):
                with pytest.raises(LockHeld, match=f"process {os.getpid()}"), exclusive(lock, "second"):
                    pass

    def test_it_is_free_after_an_exception(self, lock: Path) -> None:
        with pytest.raises(ZeroDivisionError), exclusive(lock, "first"):
            raise ZeroDivisionError
        with exclusive(lock, "second"):
            pass

    def test_a_child_process_does_not_hold_it(self, lock: Path) -> None:
        with exclusive(lock, "first"):
            child = subprocess.Popen(["sleep", "30"])
        with exclusive(lock, "second"):
            pass
        child.kill()
        child.wait()


def test_a_lock_is_free_after_kill_9(held: Held, lock: Path) -> None:
    with pytest.raises(LockHeld), exclusive(lock, "a run"):
        pass
    held.kill()
    with exclusive(lock, "a run"):
        assert lock.read_text() == str(os.getpid())


class TestWaiting:
    def test_it_gets_the_lock_once_the_holder_lets_go(self, held: Held, lock: Path) -> None:
        threading.Timer(0.3, held.let_go).start()
        started = time.monotonic()
        with waiting(lock, threading.Event()):
            assert 0.2 < time.monotonic() - started < 5

    def test_it_ends_on_a_cancel(self, held: Held, lock: Path) -> None:
        cancelled = threading.Event()
        threading.Timer(0.2, cancelled.set).start()
        started = time.monotonic()
        with pytest.raises(Cancelled), waiting(lock, cancelled):
            pass
        assert time.monotonic() - started < 2

    def test_threads_of_one_process_take_turns(self, lock: Path) -> None:
        inside, most = [0], [0]

        def work() -> None:
            with waiting(lock, threading.Event()):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.01)
                inside[0] -= 1

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
        assert most == [1]
