"""Items: one way to do work.

An item is one row of one table on its way to the next. Here belong the four ways in which a step can end, the step
itself with its fingerprint, and `advance`, the only loop in the project that visits items. What steps do, where their
outcomes are kept and how they are shown does not belong here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

from formulamine.records import Record, Status

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second, and funnel and lineage need none of it
    from formulamine.services.ledger import Ledger

LIMIT_REASON = "limit"
INFRASTRUCTURE_ATTEMPTS = 3
INFRASTRUCTURE_BACKOFF_S = 2.0  # doubles: 2 s, 4 s. Long enough for a dropped connection, short beside a build.
POLL_S = 0.1  # how long a cancel may wait to be seen
PROGRESS_EVERY_S = 10.0
SHORT = 40  # characters of a fingerprint's part that are kept as they are

In = TypeVar("In", bound=Record)


class Cancelled(Exception):
    """The run was told to end; what was under way did not count."""


@dataclass(frozen=True)
class Done:
    """The item goes on, as one record or, where a step fans out, as many under their own keys."""

    record: Record | None = None
    records: Mapping[str, Record] | None = None
    detail: str = ""
    cost_usd: float = 0.0
    settled: bool = True
    """False where the world may still answer otherwise: such an outcome is not reused."""


@dataclass(frozen=True)
class Rejected:
    """A rule says that the item is not wanted."""

    reason: StrEnum
    detail: str = ""
    record: Record | None = None
    cost_usd: float = 0.0
    settled: bool = True


@dataclass(frozen=True)
class Failed:
    """We could not find out. `infrastructure` means that the fault is not the item's, so a later try may differ."""

    reason: StrEnum
    error: str
    infrastructure: bool = False
    record: Record | None = None
    cost_usd: float = 0.0
    settled: bool = True
    """False where the machine may answer otherwise once somebody has mended it: not reused, and no item is open."""


@dataclass(frozen=True)
class Deferred:
    """Not yet: tried again once `until` has passed."""

    until: datetime
    reason: StrEnum
    detail: str = ""


Outcome = Done | Rejected | Failed | Deferred


@dataclass(frozen=True)
class Entry:
    """One outcome. `record` is what the item became, `records` the same by key where a step fans out."""

    step: str
    item: str
    fingerprint: str
    status: str
    run_id: str
    recorded_at: datetime
    seconds: float
    cost_usd: float
    reason: str | None = None
    detail: str = ""
    record: dict[str, Any] | None = None
    records: dict[str, dict[str, Any]] | None = None
    settled: bool = True
    infrastructure: bool = False
    until: datetime | None = None
    attempts: int = 1
    parts: dict[str, str] | None = None
    """What the fingerprint was made of, by name; long values as a short hash. Says later which part changed."""

    def with_(self, **changes: Any) -> Entry:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class Step(Generic[In]):
    """A plain function of one joined row, with everything that decides its answer."""

    asset: str
    version: str
    """Raised whenever the function's answer may change; a test compares it with the sources."""
    reads: type[In]
    """Record of the fields that the function reads, and no others: they are in the fingerprint."""
    run: Callable[[In], Outcome]
    reasons: type[StrEnum]
    sources: tuple[str, ...]
    """Modules whose change asks for a new version."""
    settings: tuple[BaseModel, ...] = ()
    data_files: tuple[Path, ...] = ()
    outside: Mapping[str, str] = field(default_factory=dict)
    """What decides besides: versions of uv and git, interpreters on offer, machine class."""
    hints: tuple[str, ...] = ()
    """Fields that say where or how fast, not what: they are read, and are not in the fingerprint."""
    workers: int = 1
    refresh: bool = False
    """Ask the world again although the outcome is settled."""
    again: Callable[[In, Entry], bool] | None = None
    """Whether a failed item may end otherwise by what the step has learned of others since; asked before and after."""

    def __post_init__(self) -> None:
        if len({path.name for path in self.data_files}) < len(self.data_files):
            raise ValueError(f"{self.asset}: two data files of one name would be one in the fingerprint")

    def parts(self, item: In) -> dict[str, str]:
        """Everything that is in a fingerprint, by name; long values as a short hash."""
        named = {"step version": self.version}
        named |= {f"field {name}": _short(value) for name, value in self._decides(item).items()}
        for group in self.settings:
            named |= {f"setting {name}": str(value) for name, value in group.model_dump(mode="json").items()}
        named |= {f"data file {path.name}": _short(path.read_bytes().hex()) for path in self.data_files}
        return named | {f"outside {name}": str(value) for name, value in self.outside.items()}

    def _decides(self, item: In) -> dict[str, Any]:
        """Fields of an item that decide its answer."""
        return item.model_dump(mode="json", exclude=set(self.hints))

    def fingerprint(self, item: In) -> str:
        """Hash of everything that decides this step's answer for one item."""
        parts = {
            "asset": self.asset,
            "version": self.version,
            "reads": self._decides(item),
            "settings": {type(group).__name__: group.model_dump(mode="json") for group in self.settings},
            "data": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.data_files},
            "outside": dict(self.outside),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class RunOptions:
    """How one run treats items; none of it is in a fingerprint."""

    run_id: str
    limit: int | None = None
    force: bool = False


@dataclass
class Tally:
    """What one `advance` did, for logs and metadata."""

    reused: int = 0
    computed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def advance(
    step: Step[In],
    items: Sequence[tuple[str, In]],
    ledger: Ledger,
    options: RunOptions,
    *,
    cancelled: threading.Event,
    log: logging.Logger,
) -> tuple[list[Entry], Tally]:
    """Carry every item of a table one step.

    Args:
        step: what to do.
        items: key and input of each item; keys are unique.
        ledger: where outcomes are looked up and written, each as it happens.
        options: limit, force and the run's id.
        cancelled: set to end early.
        log: progress with rate and time left goes here.

    Returns:
        One entry per item, in the order of `items`, and what was reused and computed.

    Raises:
        Cancelled: the run was told to end. What had ended is in the ledger.
        Exception: whatever a step raises unforeseen ends the run, with what had ended in the ledger.
    """
    fingerprints = {key: step.fingerprint(item) for key, item in items}
    known = ledger.find(step.asset, fingerprints)
    now = datetime.now(UTC)
    inputs = dict(items)
    entries = {
        key: one
        for key, one in known.items()
        if not options.force and reusable(one, step.refresh, now) and not _worth_again(step, inputs[key], one)
    }
    tally = Tally(reused=len(entries))
    todo = [(key, item) for key, item in items if key not in entries]
    if options.limit is not None:
        for key, _ in todo[options.limit :]:
            # Not an outcome, so not in the ledger; an older outcome of the same fingerprint still shows.
            entries[key] = known.get(key) or _limit_entry(step.asset, key, fingerprints[key], options.run_id)
        todo = todo[: options.limit]

    def keep(entry: Entry) -> None:
        entries[entry.item] = ledger.record(entry)  # as it will be read back, so that a second run sees the same
        tally.computed += 1

    _compute(step, todo, fingerprints, options.run_id, keep, cancelled, log, total=len(items))
    if second := [(key, item) for key, item in items if _worth_again(step, item, entries[key])]:
        tally.reused -= len({key for key, _ in second} - {key for key, _ in todo})
        _compute(step, second, fingerprints, options.run_id, keep, cancelled, log, total=len(items))
    ordered = [entries[key] for key, _ in items]
    tally.reasons.update(f"{entry.status}({entry.reason})" if entry.reason else entry.status for entry in ordered)
    return ordered, tally


def _worth_again(step: Step[In], item: In, entry: Entry) -> bool:
    return entry.status == Status.FAILED and step.again is not None and step.again(item, entry)


def reusable(entry: Entry, refresh: bool, now: datetime) -> bool:
    """Whether an outcome of the same fingerprint stands, or the item is to be computed again."""
    if entry.status == Status.DEFERRED:
        return entry.until is not None and entry.until > now
    return entry.settled and not entry.infrastructure and not refresh


def _compute(
    step: Step[In],
    todo: Sequence[tuple[str, In]],
    fingerprints: Mapping[str, str],
    run_id: str,
    keep: Callable[[Entry], None],
    cancelled: threading.Event,
    log: logging.Logger,
    total: int,
) -> None:
    """Run a step over items on threads, keeping each entry as it ends.

    The main thread only polls, so that a cancel is seen at once. On any exception here (a cancel, Ctrl-C, a step's
    unforeseen error, a ledger that cannot be written) the workers are told to end and are waited for, and what had
    ended by then is kept too.
    """
    if not todo:
        return
    started = last_report = time.monotonic()
    workers = "1 worker" if step.workers == 1 else f"{step.workers} workers"
    log.info("%s: %d of %d to do, %s", step.asset, len(todo), total, workers)
    pool = ThreadPoolExecutor(max_workers=step.workers, thread_name_prefix=step.asset)
    ended: queue.SimpleQueue[Future[Entry]] = queue.SimpleQueue()
    try:
        for key, item in todo:
            future = pool.submit(_attempt, step, key, item, fingerprints[key], run_id, cancelled)
            future.add_done_callback(ended.put)
        for finished in range(1, len(todo) + 1):
            keep(_next(ended, cancelled).result())
            if time.monotonic() - last_report > PROGRESS_EVERY_S or finished == len(todo):
                last_report = time.monotonic()
                rate, left = finished / (last_report - started), len(todo) - finished
                log.info("%s: %d/%d, %.2f/s, %.0f s left", step.asset, finished, len(todo), rate, left / rate)
    except BaseException:
        cancelled.set()
        pool.shutdown(wait=True, cancel_futures=True)
        while not ended.empty():
            if not (future := ended.get()).cancelled() and future.exception() is None:
                keep(future.result())
        raise
    pool.shutdown()


def _next(ended: queue.SimpleQueue[Future[Entry]], cancelled: threading.Event) -> Future[Entry]:
    """The next item to end."""
    while not cancelled.is_set():
        with contextlib.suppress(queue.Empty):
            return ended.get(timeout=POLL_S)
    raise Cancelled("the run was told to end")


def _attempt(step: Step[In], key: str, item: In, fingerprint: str, run_id: str, cancelled: threading.Event) -> Entry:
    """One item's outcome, after at most three tries where infrastructure fails."""
    started, cost_usd, attempts = time.monotonic(), 0.0, 0
    while True:
        if cancelled.is_set():
            raise Cancelled(key)
        outcome = step.run(item)
        attempts += 1
        cost_usd += 0.0 if isinstance(outcome, Deferred) else outcome.cost_usd
        again = isinstance(outcome, Failed) and outcome.infrastructure and attempts < INFRASTRUCTURE_ATTEMPTS
        if not again:
            break
        cancelled.wait(INFRASTRUCTURE_BACKOFF_S * 2 ** (attempts - 1))
    if cancelled.is_set():
        raise Cancelled(key)  # what a killed sandbox answered is no outcome
    entry = _entry(step, key, fingerprint, run_id, outcome, time.monotonic() - started, cost_usd, attempts)
    return entry.with_(parts=step.parts(item))


def _entry(
    step: Step[In],
    key: str,
    fingerprint: str,
    run_id: str,
    outcome: Outcome,
    seconds: float,
    cost_usd: float,
    attempts: int,
) -> Entry:
    """A ledger entry for an outcome, its reason checked against the asset's own."""
    common = Entry(
        step=step.asset,
        item=key,
        fingerprint=fingerprint,
        status=Status.DONE,
        run_id=run_id,
        recorded_at=datetime.now(UTC),
        seconds=seconds,
        cost_usd=cost_usd,
        attempts=attempts,
    )
    match outcome:
        case Done(record, records, detail, _, settled):
            many = None if records is None else {name: one.model_dump(mode="json") for name, one in records.items()}
            return common.with_(record=_json(record), records=many, detail=detail, settled=settled)
        case Rejected(reason, detail, record, _, settled):
            known = step.reasons(reason)
            return common.with_(
                status=Status.REJECTED, reason=known, detail=detail, record=_json(record), settled=settled
            )
        case Failed(reason, error, infrastructure, record, _, settled):
            known = step.reasons(reason)
            return common.with_(
                status=Status.FAILED, reason=known, detail=error, record=_json(record), infrastructure=infrastructure,
                settled=settled,
            )  # fmt: skip
        case Deferred(until, reason, detail):
            return common.with_(status=Status.DEFERRED, reason=step.reasons(reason), detail=detail, until=until)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= SHORT else hashlib.sha256(text.encode()).hexdigest()[:12]


def _json(record: Record | None) -> dict[str, Any] | None:
    return None if record is None else record.model_dump(mode="json")


def _limit_entry(asset: str, key: str, fingerprint: str, run_id: str) -> Entry:
    return Entry(
        step=asset,
        item=key,
        fingerprint=fingerprint,
        status=Status.DEFERRED,
        reason=LIMIT_REASON,
        detail="beyond --limit of this run",
        run_id=run_id,
        recorded_at=datetime.now(UTC),
        seconds=0.0,
        cost_usd=0.0,
    )
