"""The ledger: the only durable state of items.

Each outcome is one row under (step, item, fingerprint), written as it happens. Here belong reading and writing those
rows; which outcomes may be reused is `items.py`'s matter, and how they become tables is `pipeline.py`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from formulamine.items import Entry

SCHEMA_VERSION = 1
CHUNK = 500  # SQLite takes at most 999 bound variables in one statement

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
)


class LedgerError(Exception):
    """The ledger cannot be used; the message says why and what to do."""


class Ledger:
    """Outcomes in SQLite (write-ahead log) or PostgreSQL, by URL."""

    def __init__(self, url: str) -> None:
        """Open a ledger, creating it if it is new.

        Raises:
            LedgerError: it was written by another version of formulamine.
        """
        self._engine = sa.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _durable_wal)
        _metadata.create_all(self._engine)
        with self._engine.begin() as connection:
            version = connection.scalar(sa.select(_schema.c.version))
            if version is None:
                connection.execute(sa.insert(_schema).values(version=SCHEMA_VERSION))
            elif version != SCHEMA_VERSION:
                place = self._engine.url.render_as_string(hide_password=True)
                raise LedgerError(
                    f"the ledger {place} has schema {version}, this formulamine reads {SCHEMA_VERSION}: "
                    "use the formulamine that wrote it, or another FORMULAMINE_HOME"
                )

    def find(self, step: str, fingerprints: Mapping[str, str]) -> dict[str, Entry]:
        """Outcomes of a step whose item and fingerprint are exactly these, by item."""
        wanted = list(fingerprints.items())
        found: dict[str, Entry] = {}
        with self._engine.connect() as connection:
            for start in range(0, len(wanted), CHUNK):
                keys = [fingerprint for _, fingerprint in wanted[start : start + CHUNK]]
                query = sa.select(_outcomes).where(_outcomes.c.step == step, _outcomes.c.fingerprint.in_(keys))
                for row in connection.execute(query).mappings():
                    if fingerprints.get(row["item"]) == row["fingerprint"]:
                        found[row["item"]] = _entry(row)
        return found

    def record(self, entry: Entry) -> None:
        """Write one outcome, over an earlier one of the same step, item and fingerprint."""
        values = dataclasses.asdict(entry)
        insert = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
        statement = insert(_outcomes).values(values)
        changed = {name: statement.excluded[name] for name in values if name not in ("step", "item", "fingerprint")}
        key = [_outcomes.c.step, _outcomes.c.item, _outcomes.c.fingerprint]
        with self._engine.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=key, set_=changed))

    def history(self, item: str) -> list[Entry]:
        """Every outcome ever recorded of one item, oldest first."""
        query = sa.select(_outcomes).where(_outcomes.c.item == item).order_by(_outcomes.c.recorded_at)
        with self._engine.connect() as connection:
            return [_entry(row) for row in connection.execute(query).mappings()]

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()


def _entry(row: sa.RowMapping) -> Entry:
    values = dict(row)
    for name in ("recorded_at", "until"):
        if values[name] is not None and values[name].tzinfo is None:  # SQLite keeps no time zone; all is UTC
            values[name] = values[name].replace(tzinfo=UTC)
    return Entry(**values)


def _durable_wal(connection: Any, _: Any) -> None:
    """Readers never wait for the writer, and a power cut loses nothing that was recorded."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA busy_timeout=30000")
