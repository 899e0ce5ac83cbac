"""`advance`: every way to end, what is reused, and what an end from outside leaves behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from formulamine import items
from formulamine.items import Cancelled, Deferred, Done, Failed, Outcome, Rejected, RunOptions, Step, advance
from formulamine.records import Record
from formulamine.services.ledger import Entry, Ledger

LOG = logging.getLogger("formulamine.test")


class Reason(StrEnum):
    UNWANTED = "unwanted"
    BROKEN = "broken"
    LATER = "later"


class Other(StrEnum):
    UNHEARD_OF = "unheard_of"


class Number(Record):
    n: int


class World:
    """A ledger, and a step that answers by what `answers` says of a number and counts how often it was asked."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.asked: Counter[int] = Counter()
        self.answer: Callable[[int], Outcome] = lambda n: Done(Number(n=n * 10))
        self.cancelled = threading.Event()

    def run(self, item: Number) -> Outcome:
        self.asked[item.n] += 1
        return self.answer(item.n)

    def advance(
        self, *numbers: int, limit: int | None = None, force: bool = False, run_id: str = "run", **step: Any
    ) -> list[Entry]:
        entries, self.tally = advance(
            self.step(**step),
            [(f"item-{n}", Number(n=n)) for n in numbers],
            self.ledger,
            RunOptions(run_id, limit, force),
            cancelled=self.cancelled,
            log=LOG,
        )
        return entries

    def step(self, **changes: Any) -> Step[Number]:
        known = {"asset": "images", "version": "1", "reads": Number, "run": self.run, "reasons": Reason, "sources": ()}
        return Step(**{**known, **changes})

    def kept(self, *numbers: int) -> dict[str, Entry]:
        step = self.step()
        return self.ledger.find("images", {f"item-{n}": step.fingerprint(Number(n=n)) for n in numbers})


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(items, "INFRASTRUCTURE_BACKOFF_S", 0.01)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield World(ledger)
    ledger.close()


def in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def of_this_step() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("images")]


class TestOutcomes:
    def test_done_is_an_entry_with_its_record(self, world: World) -> None:
        world.answer = lambda n: Done(Number(n=7), detail="fine", cost_usd=0.5)
        before = datetime.now(UTC)
        (entry,) = world.advance(1)
        assert (entry.step, entry.item, entry.status, entry.reason) == ("images", "item-1", "done", None)
        assert (entry.record, entry.records, entry.detail, entry.cost_usd) == ({"n": 7}, None, "fine", 0.5)
        assert (entry.run_id, entry.attempts, entry.settled, entry.infrastructure) == ("run", 1, True, False)
        assert before <= entry.recorded_at <= datetime.now(UTC)
        assert entry.seconds >= 0
        assert world.kept(1) == {"item-1": entry}

    def test_done_may_fan_out(self, world: World) -> None:
        world.answer = lambda n: Done(records={"a": Number(n=1), "b": Number(n=2)})
        (entry,) = world.advance(1)
        assert (entry.record, entry.records) == (None, {"a": {"n": 1}, "b": {"n": 2}})

    def test_done_may_fan_out_to_nothing(self, world: World) -> None:
        world.answer = lambda n: Done(records={})
        world.advance(1)
        (entry,) = world.advance(1)
        assert (entry.status, entry.records) == ("done", {})
        assert world.asked[1] == 1

    def test_rejected_keeps_reason_detail_and_record(self, world: World) -> None:
        world.answer = lambda n: Rejected(Reason.UNWANTED, "a rule", Number(n=3), cost_usd=0.1)
        (entry,) = world.advance(1)
        assert (entry.status, entry.reason, entry.detail) == ("rejected", "unwanted", "a rule")
        assert (entry.record, entry.cost_usd) == ({"n": 3}, 0.1)
        assert world.kept(1) == {"item-1": entry}

    def test_failed_keeps_its_error(self, world: World) -> None:
        world.answer = lambda n: Failed(Reason.BROKEN, "it broke", record=Number(n=4))
        (entry,) = world.advance(1)
        assert (entry.status, entry.reason, entry.detail, entry.record) == ("failed", "broken", "it broke", {"n": 4})
        assert not entry.infrastructure
        assert world.kept(1) == {"item-1": entry}

    def test_deferred_keeps_when_it_is_due(self, world: World) -> None:
        due = in_an_hour()
        world.answer = lambda n: Deferred(due, Reason.LATER, "rate limit")
        (entry,) = world.advance(1)
        assert (entry.status, entry.reason, entry.detail, entry.until) == ("deferred", "later", "rate limit", due)
        assert world.kept(1) == {"item-1": entry}

    @pytest.mark.parametrize(
        "outcome",
        [
            Rejected(Other.UNHEARD_OF),
            Failed(Other.UNHEARD_OF, "error"),
            Deferred(datetime.now(UTC), Other.UNHEARD_OF),
        ],
    )
    def test_a_reason_that_is_not_the_assets_own_is_an_error(self, world: World, outcome: Outcome) -> None:
        world.answer = lambda n: outcome
        with pytest.raises(ValueError, match="unheard_of"):
            world.advance(1)
        assert world.kept(1) == {}

    def test_entries_come_in_the_order_of_the_items(self, world: World) -> None:
        def slow_first(n: int) -> Outcome:
            time.sleep(0.05 / n)
            return Done(Number(n=n))

        world.answer = slow_first
        world.advance(3)
        entries = world.advance(5, 1, 3, 2, 4, workers=5)
        assert [entry.item for entry in entries] == ["item-5", "item-1", "item-3", "item-2", "item-4"]
        assert (world.tally.reused, world.tally.computed, world.tally.reasons) == (1, 4, {"done": 5})

    def test_no_items_are_no_work(self, world: World) -> None:
        assert world.advance() == []

    def test_workers_work_side_by_side_and_never_more_than_asked(self, world: World) -> None:
        together = threading.Barrier(3, timeout=5)
        world.answer = lambda n: Done(Number(n=together.wait()))
        entries = world.advance(*range(6), workers=3)
        assert sorted(entry.record["n"] for entry in entries if entry.record) == [0, 0, 1, 1, 2, 2]
        assert of_this_step() == []

    def test_thousands_of_items_are_no_burden(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(world.ledger, "record", lambda entry: entry)  # its fsync is not the question
        entries = world.advance(*range(5000), workers=4)
        assert [entry.item for entry in entries] == [f"item-{number}" for number in range(5000)]


class TestReuse:
    @pytest.mark.parametrize(
        "outcome",
        [
            Done(Number(n=1)),
            Rejected(Reason.UNWANTED),
            Failed(Reason.BROKEN, "error"),
            Deferred(in_an_hour(), Reason.LATER),
        ],
        ids=["done", "rejected", "failed", "deferred"],
    )
    def test_what_stands_is_not_asked_again(self, world: World, outcome: Outcome) -> None:
        world.answer = lambda n: outcome
        first = world.advance(1, run_id="first")
        assert world.advance(1, run_id="second") == first
        assert first[0].run_id == "first"
        assert world.asked[1] == 1
        assert (world.tally.reused, world.tally.computed) == (1, 0)

    def test_deferred_is_asked_again_once_due(self, world: World) -> None:
        due = datetime.now(UTC) + timedelta(seconds=0.2)
        world.answer = lambda n: Deferred(due, Reason.LATER)
        world.advance(1)
        time.sleep(0.25)
        world.answer = lambda n: Done(Number(n=1))
        (entry,) = world.advance(1)
        assert (entry.status, entry.until) == ("done", None)

    @pytest.mark.parametrize(
        "outcome",
        [Done(Number(n=1), settled=False), Rejected(Reason.UNWANTED, settled=False)],
        ids=["done", "rejected"],
    )
    def test_what_is_not_settled_is_asked_again(self, world: World, outcome: Outcome) -> None:
        world.answer = lambda n: outcome
        world.advance(1)
        world.advance(1)
        assert world.asked[1] == 2

    def test_refresh_asks_again(self, world: World) -> None:
        world.advance(1)
        world.advance(1, refresh=True)
        assert world.asked[1] == 2

    def test_force_asks_again_and_its_answer_stands(self, world: World) -> None:
        world.advance(1)
        world.answer = lambda n: Rejected(Reason.UNWANTED)
        world.advance(1, force=True)
        assert world.advance(1)[0].status == "rejected"
        assert world.asked[1] == 2

    @pytest.mark.parametrize("change", [{"version": "2"}, {"outside": {"uv": "1.0"}}], ids=["version", "outside"])
    def test_another_fingerprint_is_another_question(self, world: World, change: dict[str, Any]) -> None:
        (old,) = world.advance(1)
        (new,) = world.advance(1, **change)
        assert world.asked[1] == 2
        assert old.fingerprint != new.fingerprint
        assert world.advance(1) == [old], "the older outcome is still known under its own fingerprint"

    def test_infrastructure_gets_three_attempts_a_run_and_more_in_the_next(self, world: World) -> None:
        world.answer = lambda n: Failed(Reason.BROKEN, "no route", infrastructure=True, cost_usd=0.1)
        (entry,) = world.advance(1)
        assert (world.asked[1], entry.attempts, entry.infrastructure) == (3, 3, True)
        assert entry.cost_usd == pytest.approx(0.3), "what retries cost counts"
        world.answer = lambda n: Done(Number(n=1))
        (entry,) = world.advance(1)
        assert (world.asked[1], entry.status, entry.attempts, entry.infrastructure) == (4, "done", 1, False)

    def test_infrastructure_that_recovers_is_done(self, world: World) -> None:
        answers = iter([Failed(Reason.BROKEN, "no route", infrastructure=True), Done(Number(n=5))])
        world.answer = lambda n: next(answers)
        (entry,) = world.advance(1)
        assert (entry.status, entry.attempts) == ("done", 2)

    def test_infrastructure_waits_longer_before_each_attempt(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(items, "INFRASTRUCTURE_BACKOFF_S", 0.1)
        times: list[float] = []

        def failing(n: int) -> Outcome:
            times.append(time.monotonic())
            return Failed(Reason.BROKEN, "no route", infrastructure=True)

        world.answer = failing
        world.advance(1)
        assert 0.1 <= times[1] - times[0] < 0.19
        assert times[2] - times[1] >= 0.2


class TestLimit:
    def test_at_most_so_many_new_items_and_the_rest_show_limit(self, world: World) -> None:
        world.advance(4)
        entries = world.advance(1, 2, 3, 4, limit=1)
        assert [(entry.status, entry.reason) for entry in entries] == [
            ("done", None), ("deferred", "limit"), ("deferred", "limit"), ("done", None),
        ]  # fmt: skip
        assert world.asked == {4: 1, 1: 1}

    def test_limit_is_never_written_to_the_ledger(self, world: World) -> None:
        world.advance(1, 2, limit=0)
        assert world.kept(1, 2) == {}
        assert [entry.status for entry in world.advance(1, 2)] == ["done", "done"]

    @pytest.mark.parametrize(
        "outcome",
        [
            Done(Number(n=1), settled=False),
            Failed(Reason.BROKEN, "no route", infrastructure=True),
            Deferred(datetime.now(UTC) - timedelta(hours=1), Reason.LATER),
        ],
        ids=["unsettled", "infrastructure", "due"],
    )
    def test_limit_does_not_stand_over_an_older_outcome(self, world: World, outcome: Outcome) -> None:
        world.answer = lambda n: outcome
        first = world.advance(1)
        assert world.advance(1, limit=0) == first

    @pytest.mark.parametrize("how", [{"force": True}, {"refresh": True}], ids=["force", "refresh"])
    def test_limit_of_a_forced_run_does_not_stand_over_an_outcome(self, world: World, how: dict[str, Any]) -> None:
        first = world.advance(1, 2)
        entries = world.advance(1, 2, limit=1, **how)
        assert entries[0].recorded_at > first[0].recorded_at
        assert entries[1] == first[1]


class TestEnds:
    def test_an_unforeseen_exception_ends_the_run_with_what_had_ended_in_the_ledger(self, world: World) -> None:
        def third_crashes(n: int) -> Outcome:
            if n == 3:
                raise ZeroDivisionError("a defect of ours")
            return Done(Number(n=n))

        world.answer = third_crashes
        with pytest.raises(ZeroDivisionError, match="a defect of ours"):
            world.advance(1, 2, 3, 4, 5)
        assert set(world.kept(1, 2, 3, 4, 5)) >= {"item-1", "item-2"}
        assert "item-3" not in world.kept(3)
        assert world.cancelled.is_set()
        assert of_this_step() == []

    def test_what_ended_at_the_same_moment_as_a_crash_is_kept(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The main thread is busy with one entry while all the others end, one of them by a crash."""
        record, all_ended = world.ledger.record, threading.Event()

        def slow_record(entry: Entry) -> None:
            assert all_ended.wait(5)
            record(entry)

        def crash_in_the_middle(n: int) -> Outcome:
            if n == 8:
                all_ended.set()
            if n == 4:
                raise ZeroDivisionError
            return Done(Number(n=n))

        monkeypatch.setattr(world.ledger, "record", slow_record)
        world.answer = crash_in_the_middle
        with pytest.raises(ZeroDivisionError):
            world.advance(*range(9))
        assert set(world.kept(*range(8))) == {f"item-{n}" for n in range(8) if n != 4}  # of 8, nobody can say

    def test_a_cancel_ends_within_seconds_and_leaves_no_thread(self, world: World) -> None:
        def until_cancelled(n: int) -> Outcome:
            if n == 1:
                return Done(Number(n=1))
            world.cancelled.wait(60)
            return Failed(Reason.BROKEN, "the sandbox was killed")

        world.answer = until_cancelled
        threading.Timer(0.3, world.cancelled.set).start()
        started = time.monotonic()
        with pytest.raises(Cancelled):
            world.advance(1, 2, 3, 4, workers=2)
        assert time.monotonic() - started < 2
        assert of_this_step() == []
        assert set(world.kept(1, 2, 3, 4)) == {"item-1"}, "what a killed sandbox answers is no outcome"

    def test_an_interrupted_attempt_does_not_count(self, world: World) -> None:
        def interrupted(n: int) -> Outcome:
            world.cancelled.set()
            return Failed(Reason.BROKEN, "killed")

        world.answer = interrupted
        with pytest.raises(Cancelled):
            world.advance(1)
        world.cancelled.clear()
        world.answer = lambda n: Done(Number(n=1))
        (entry,) = world.advance(1)
        assert (entry.status, entry.attempts) == ("done", 1)

    def test_a_cancel_is_seen_while_waiting_for_another_attempt(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(items, "INFRASTRUCTURE_BACKOFF_S", 60.0)
        world.answer = lambda n: Failed(Reason.BROKEN, "no route", infrastructure=True)
        threading.Timer(0.2, world.cancelled.set).start()
        started = time.monotonic()
        with pytest.raises(Cancelled):
            world.advance(1)
        assert time.monotonic() - started < 2
        assert world.kept(1) == {}

    def test_a_ledger_that_cannot_be_written_ends_the_run_and_its_threads(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(entry: Entry) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(world.ledger, "record", full)
        with pytest.raises(OSError, match="No space left"):
            world.advance(*range(20), workers=2)
        assert world.cancelled.is_set()
        assert of_this_step() == []

    def test_ctrl_c_ends_within_seconds_with_what_had_ended_in_the_ledger(self, tmp_path: Path) -> None:
        script = textwrap.dedent(
            """
            import sys, threading
            from formulamine.items import Done
            from formulamine.services.ledger import Ledger
            from formulamine_tests.test_items import Number, World

            world = World(Ledger(sys.argv[1]))
            both_wait = threading.Barrier(2, action=lambda: print("waiting", flush=True))
            def answer(n):
                if n > 2:
                    both_wait.wait(60)
                    world.cancelled.wait(60)
                return Done(Number(n=n))
            world.answer = answer
            try:
                world.advance(1, 2, 3, 4, workers=2)
            except KeyboardInterrupt:
                left = [one.name for one in threading.enumerate() if one is not threading.main_thread()]
                print("interrupted", sorted(world.kept(1, 2, 3, 4)), left, flush=True)
            """
        )
        url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
        process = subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.3)
        interrupted_at = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=10)
        assert rest.splitlines()[-1] == "interrupted ['item-1', 'item-2'] []"
        assert time.monotonic() - interrupted_at < 5
        assert process.returncode == 0


class TestProgress:
    def test_begin_and_end_are_logged_with_rate_and_time_left(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.advance(1)
        with caplog.at_level(logging.INFO, LOG.name):
            world.advance(1, 2, 3)
        first, last = caplog.messages
        assert first == "images: 2 of 3 to do, 1 worker"
        assert last.startswith("images: 2/2, ")
        assert last.endswith("/s, 0 s left")

    def test_progress_is_logged_on_the_way(
        self, world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(items, "PROGRESS_EVERY_S", 0.0)
        with caplog.at_level(logging.INFO, LOG.name):
            world.advance(1, 2, 3)
        assert [line.split(",")[0] for line in caplog.messages[1:]] == ["images: 1/3", "images: 2/3", "images: 3/3"]

    def test_nothing_to_do_says_nothing(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.advance(1)
        caplog.clear()
        with caplog.at_level(logging.INFO, LOG.name):
            world.advance(1)
        assert caplog.messages == []


def test_two_data_files_of_one_name_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="one name"):
        world.step(data_files=(Path("a/rules.toml"), Path("b/rules.toml")))
