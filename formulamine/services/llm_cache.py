"""Answers that were paid for, and what each request cost, in one SQLite file.

Two tables. `answers`: what a model said, under the hash of model, prompt, parameters and the answer's schema, so that
the same question is not paid twice, by another thread, process or run. `spending`: one row for each reply as it comes
in, read or not, under the item and the question: after a kill the item is still told what was paid for it. The file
may be deleted: answers are then paid again.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from formulamine.services.llm_budget import Spent
from formulamine.services.store import StoreError, waiting

SCHEMA_VERSION = 1
BUSY_S = 30.0
LOCKS = 3  # hexadecimal digits of a question that name its lock file: 4096 files at most
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, answer TEXT NOT NULL, recorded_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spending (
    id INTEGER PRIMARY KEY, item TEXT NOT NULL, question TEXT NOT NULL, model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost_usd REAL, recorded_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS spending_of ON spending (item, question);
"""


class LlmCache:
    """The file of one FORMULAMINE_HOME, for threads and processes."""

    def __init__(self, folder: Path, cancelled: threading.Event) -> None:
        self._path = folder / "llm.sqlite"
        self._locks = folder / "llm-locks"
        self._cancelled = cancelled
        with waiting(self._locks / "schema", cancelled), self._connection() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, SCHEMA_VERSION):
                raise StoreError(f"{self._path} is of another formulamine: delete it, or use another FORMULAMINE_HOME")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_SCHEMA + f"PRAGMA user_version={SCHEMA_VERSION};")

    def alone(self, key: str) -> contextlib.AbstractContextManager[None]:
        """Hold a question, so that whoever asks the same waits for the answer."""
        return waiting(self._locks / key[:LOCKS], self._cancelled)

    def answer(self, key: str) -> str | None:
        """What was answered, as JSON."""
        with self._connection() as connection:
            found = connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def keep(self, key: str, model: str, answer: str) -> None:
        """Keep an answer, over an older one."""
        with self._connection() as connection:
            connection.execute("REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, model, answer, _now()))

    def spend(self, item: str, question: str, model: str, spent: Spent) -> None:
        """Note what one reply cost."""
        columns = "item, question, model, input_tokens, output_tokens, cost_usd, recorded_at"
        row = (item, question, model, spent.input_tokens, spent.output_tokens, spent.cost_usd, _now())
        with self._connection() as connection:
            connection.execute(f"INSERT INTO spending ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def spending(self, item: str, question: str) -> dict[int, Spent]:
        """What an item's replies to one question cost, each under its number."""
        query = "SELECT id, input_tokens, output_tokens, cost_usd FROM spending WHERE item = ? AND question = ?"
        with self._connection() as connection:
            rows = connection.execute(query, (item, question)).fetchall()
        return {number: Spent(1, given, made, cost) for number, given, made, cost in rows}

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection of this thread, whose work is committed at the end.

        Raises:
            StoreError: the file cannot be used.
        """
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=BUSY_S)) as connection, connection:
                connection.execute("PRAGMA synchronous=FULL")  # what is in it was paid for
                yield connection
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be used ({error}): mend the disk, or delete the file") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
