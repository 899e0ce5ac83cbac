"""The store: tables as Parquet, blobs by hash, locks by `flock`, all under one folder.

Here belong files that are written whole or not at all. What a table says is `tables.py`'s matter; tables can be
deleted at any time, since they are made again from the ledger and the blobs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from formulamine.items import Cancelled
from formulamine.schemas import schema_hash
from formulamine.tables import SIDE_SCHEMAS, TABLES, VOLATILE_COLUMNS

SCHEMA_KEY = "formulamine_schema"
LOCK_POLL_S = 0.1


class StoreError(Exception):
    """Something stored cannot be used; the message says what and the mend."""


class LockHeld(Exception):
    """Another process holds a lock; the message names it."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: aside, flushed to disk, then renamed into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file; it is free again the moment this process ends, however it ends.

    Raises:
        LockHeld: another process has it; its pid is in the message.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise LockHeld(f"{what} is under way in process {holder}: wait for it to end, or stop it") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


@contextlib.contextmanager
def waiting(path: Path, cancelled: threading.Event) -> Iterator[None]:
    """Hold a lock file, waiting for whoever has it.

    Raises:
        Cancelled: the run was told to end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if cancelled.wait(LOCK_POLL_S):
                    raise Cancelled(f"waiting for {path}") from None
        yield


class Blobs:
    """Patches, logs, recipes and raw samples, each under the SHA-256 of its bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, digest: str) -> Path:
        """Where a blob is."""
        return self._folder / digest[:2] / digest

    def put(self, content: bytes) -> str:
        """Keep bytes and return their hash."""
        digest = hashlib.sha256(content).hexdigest()
        path = self.path(digest)
        if not path.exists():
            write_atomically(path, content)
        return digest

    def get(self, digest: str) -> bytes:
        """Bytes of a hash.

        Raises:
            StoreError: they are missing, or no longer what they were.
        """
        path = self.path(digest)
        if not path.exists():
            raise StoreError(f"blob {digest} is missing in {self._folder}: run the month again with --force")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise StoreError(f"blob {digest} in {self._folder} was changed: delete it and run the month with --force")
        return content


class Tables:
    """One Parquet file per table and month."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str, month: str) -> Path:
        """Where a month of a table is."""
        return self.folder / name / f"{month}.parquet"

    def months(self, name: str) -> list[str]:
        """Months of a table, in order."""
        return sorted(path.stem for path in (self.folder / name).glob("*.parquet"))

    def write(self, name: str, month: str, frame: pl.DataFrame) -> None:
        """Write a month of a table, over what was there."""
        schema = table_schema(name)
        if dict(frame.schema) != schema:
            raise TypeError(f"{name}: these are not its columns: {dict(frame.schema)}")
        path = self.path(name, month)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".writing-{os.getpid()}")
        try:
            frame.write_parquet(aside, metadata={SCHEMA_KEY: schema_hash(schema)})
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    def read(self, name: str, month: str) -> pl.DataFrame | None:
        """A month of a table, or None where it was never written.

        Raises:
            StoreError: it was written with other columns, or is damaged.
        """
        path = self.path(name, month)
        if not path.exists():
            return None
        mend = f"delete it and run `formulamine month {month}` again, which rebuilds it from the ledger"
        try:
            written = pl.read_parquet_metadata(path).get(SCHEMA_KEY)
            if written != schema_hash(table_schema(name)):
                raise StoreError(f"{path} was written with another version of the table's schema: {mend}")
            frame = pl.read_parquet(path, glob=False)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise StoreError(f"{path} is damaged ({str(error).splitlines()[0]}): {mend}") from error
        if dict(frame.schema) != table_schema(name):
            raise StoreError(f"{path} does not have the columns of {name}: {mend}")
        return frame


def table_schema(name: str) -> dict[str, pl.DataType]:
    """Columns of a table or side table."""
    return SIDE_SCHEMAS[name] if name in SIDE_SCHEMAS else TABLES[name].schema()


def content_hash(frame: pl.DataFrame) -> str:
    """Hash of what a table says, without when and how its rows came about."""
    content = frame.drop(VOLATILE_COLUMNS, strict=False)
    content = content.sort(content.columns[0]) if content.height else content
    return hashlib.sha256(content.write_json().encode()).hexdigest()
