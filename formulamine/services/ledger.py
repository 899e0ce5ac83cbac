"""The ledger: the only durable state of items.

Each outcome is one row under (step, item, fingerprint), written as it happens. Here belong reading and writing those
rows; which outcomes may be reused is `items.py`'s matter, and how they become tables is `pipeline.py`'s.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from formulamine.items import Entry
from formulamine.tables import TABLES

SCHEMA_VERSION = 2
TIMES = ("recorded_at", "until")
PAST = 500  # outcomes: enough for a median, and of one season
CHUNK = 500  # SQLite takes at most 999 bound variables in one statement
BUSY_S = 30  # that a writer of SQLite waits for another
BUSY_POLL_S = 0.02
CONNECT_TIMEOUT_S = 10  # of PostgreSQL, which otherwise waits for the network's own limit of minutes
CREATE_LOCK = 0x666F726D  # PostgreSQL's CREATE TABLE IF NOT EXISTS fails where two do it at once
# What one database or another refuses in text: NUL (PostgreSQL), halves of characters (both, and tables too).
_REFUSED = re.compile("[\x00\ud800-\udfff]")

_metadata = sa.MetaData()
_schema = sa.Table("ledger_schema", _metadata, sa.Column("version", sa.Integer, primary_key=True))
_outcomes = sa.Table(
    "outcomes",
    _metadata,
    sa.Column("step", sa.String, primary_key=True),
    sa.Column("item", sa.String, primary_key=True),
    sa.Column("fingerprint", sa.String, primary_key=True),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("record", sa.JSON(none_as_null=True)),
    sa.Column("records", sa.JSON(none_as_null=True)),
    sa.Column("settled", sa.Boolean, nullable=False),
    sa.Column("infrastructure", sa.Boolean, nullable=False),
    sa.Column("until", sa.DateTime(timezone=True)),
    sa.Column("run_id", sa.String, nullable=False),
    sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("cost_usd", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("parts", sa.JSON(none_as_null=True)),
)


class LedgerError(Exception):
    """The ledger cannot be used; the message says why and what to do."""


class Ledger:
    """Outcomes in SQLite (write-ahead log) or PostgreSQL, by URL."""

    def __init__(self, url: str) -> None:
        """Open a ledger, creating it if it is new.

        Raises:
            LedgerError: it cannot be opened, or was written by another version of formulamine.
        """
        try:
            self._engine = engine(url)
        except ValueError as error:
            raise LedgerError(f"FORMULAMINE_LEDGER_URL {error}: mend it, or leave it out") from error
        self._sqlite = self._engine.dialect.name == "sqlite"
        if self._sqlite:
            sa.event.listen(self._engine, "connect", _durable_wal)
        self._insert = sqlite.insert if self._sqlite else postgresql.insert
        insert = self._insert(_outcomes)
        changed = {column.name: insert.excluded[column.name] for column in _outcomes.c if not column.primary_key}
        upsert = insert.on_conflict_do_update(index_elements=list(_outcomes.primary_key), set_=changed)
        # Compiled once: SQLAlchemy does not cache this kind of statement, and compiling takes longer than writing.
        self._upsert = upsert.compile(dialect=self._engine.dialect)
        try:
            version = self._schema_version()
        except sa.exc.DBAPIError as error:
            if "disk is full" in str(error):
                raise
            raise LedgerError(
                f"the ledger {place(self._engine.url)} cannot be opened ({why(error)}): check FORMULAMINE_LEDGER_URL"
            ) from error
        if version != SCHEMA_VERSION:
            raise LedgerError(
                f"the ledger {place(self._engine.url)} has schema {version}, this formulamine reads {SCHEMA_VERSION}: "
                "use the formulamine that wrote it, or another FORMULAMINE_HOME"
            )

    def _schema_version(self) -> int:
        """Version of the tables, which are made where they are missing: by several processes at once, if need be."""
        with self._engine.begin() as connection:
            if not self._sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATE_LOCK)))
            for table in _metadata.sorted_tables:
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
            version: int | None = connection.scalar(sa.select(_schema.c.version))
            if version is None:
                connection.execute(self._insert(_schema).values(version=SCHEMA_VERSION).on_conflict_do_nothing())
        return SCHEMA_VERSION if version is None else version

    def find(self, step: str, fingerprints: Mapping[str, str]) -> dict[str, Entry]:
        """Outcomes of a step whose item and fingerprint are exactly these, by item."""
        wanted = list(fingerprints.items())
        found: dict[str, Entry] = {}
        with self._transaction() as connection:
            for start in range(0, len(wanted), CHUNK):
                keys = [fingerprint for _, fingerprint in wanted[start : start + CHUNK]]
                query = sa.select(_outcomes).where(_outcomes.c.step == step, _outcomes.c.fingerprint.in_(keys))
                for row in connection.execute(query).mappings():
                    if fingerprints.get(row["item"]) == row["fingerprint"]:
                        found[row["item"]] = _entry(row)
        return found

    def record(self, entry: Entry) -> Entry:
        r"""Write one outcome, over an earlier one of the same step, item and fingerprint.

        Returns:
            The entry as it will be read back: where foreign text holds what no database keeps (NUL, half of a
            character), an escape such as `\x00` or `\ud800` stands for it.
        """
        values = {field.name: _kept(getattr(entry, field.name)) for field in dataclasses.fields(entry)}
        values |= {name: values[name] and values[name].astimezone(UTC) for name in TIMES}  # SQLite keeps no time zone
        with self._transaction() as connection:
            connection.execute(self._upsert, values)  # type: ignore[call-overload]  # takes what is compiled, too
        return Entry(**values)

    def history(self, item: str) -> list[Entry]:
        """Every outcome ever recorded of one item, oldest first."""
        # Every step is named because the primary key begins with it: no row of another item is looked at.
        ours = sa.select(_outcomes).where(_outcomes.c.step.in_(TABLES), _outcomes.c.item == item)
        query = ours.order_by(_outcomes.c.recorded_at)
        with self._transaction() as connection:
            return [_entry(row) for row in connection.execute(query).mappings()]

    def past(self, step: str) -> list[tuple[float, float]]:
        """Seconds and cost of the newest outcomes of a step, to tell what the next ones may take."""
        columns = (_outcomes.c.seconds, _outcomes.c.cost_usd)
        query = sa.select(*columns).where(_outcomes.c.step == step)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(_outcomes.c.recorded_at.desc()).limit(PAST)).all()
        return [(float(seconds), float(cost)) for seconds, cost in rows]

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """A connection whose work is committed at the end.

        Raises:
            LedgerError: the server of the ledger went away; a fault of an SQLite file is raised as it is.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
            if self._sqlite:
                raise
            raise LedgerError(
                f"the ledger {place(self._engine.url)} does not answer ({why(error)}): "
                "start its server and run the same command again"
            ) from error


def engine(url: str, timeout_s: int = CONNECT_TIMEOUT_S) -> sa.Engine:
    """An engine for SQLite or PostgreSQL; nothing is opened yet.

    Raises:
        ValueError: it is no such URL; the message goes on after the name of the setting and holds nothing of the URL.
    """
    try:
        parsed = sa.make_url(url)
        if (backend := parsed.get_backend_name()) == "sqlite":
            return sa.create_engine(parsed)
        if backend == "postgresql":
            # Tried before use: a server that was restarted since costs a new connection and no item.
            return sa.create_engine(parsed, pool_pre_ping=True, connect_args={"connect_timeout": timeout_s})
    except (sa.exc.ArgumentError, ImportError, ValueError):  # their words may hold parts of a password
        raise ValueError("is no SQLAlchemy URL") from None
    raise ValueError(f"is of {backend}, which is neither sqlite nor postgresql")


def place(url: sa.URL) -> str:
    """A URL without its password and without its options, which may hold one too."""
    return url.set(query={}).render_as_string(hide_password=True)


def why(error: sa.exc.DBAPIError) -> str:
    """First line of what a database said."""
    return (str(error.orig).strip().splitlines() or [type(error).__name__])[0]


def _entry(row: sa.RowMapping) -> Entry:
    values = dict(row)
    for name in TIMES:
        if values[name] is not None:  # PostgreSQL answers in the time zone of its session
            known = values[name].tzinfo is not None
            values[name] = values[name].astimezone(UTC) if known else values[name].replace(tzinfo=UTC)
    return Entry(**values)


def _kept(value: Any) -> Any:
    """A value with every text in it as all databases keep it."""
    match value:
        case str():
            return _REFUSED.sub(lambda found: found[0].encode("unicode_escape").decode(), value)
        case dict():
            return {_kept(name): _kept(one) for name, one in value.items()}
        case list():
            return [_kept(one) for one in value]
    return value


def _durable_wal(connection: Any, _: Any) -> None:
    """Readers never wait for the writer, and a power cut loses nothing that was recorded."""
    connection.execute(f"PRAGMA busy_timeout={BUSY_S * 1000}")
    until = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Where several turn a new file to it at once, SQLite says so at once instead of waiting.
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(BUSY_POLL_S)
    connection.execute("PRAGMA synchronous=FULL")
