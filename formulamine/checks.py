"""Checks that follow from the tables' schemas: the same for every asset.

Here belong the rules that hold for any table, and what makes a rule a check that always answers. A rule of one asset
stands in its phase; how answers look is in `report.py`.
"""

from __future__ import annotations

import logging
import re
import typing
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Any

import polars as pl

from formulamine.items import LIMIT_REASON, Cancelled
from formulamine.orchestration import CheckBody, Found, month_check
from formulamine.pipeline import joined, project
from formulamine.records import Status
from formulamine.services.container import Services
from formulamine.services.store import StoreError
from formulamine.tables import TABLES, Table

QUOTED = 60  # characters of a value that differs
_NAMED_BLOB = re.compile(r"\bblob ([0-9a-f]{64})\b")
log = logging.getLogger("formulamine")


def rule(asset: str, name: str, body: CheckBody, description: str, *, warns: bool = False) -> Any:
    """An asset check of a month that always answers; blocking unless it warns."""
    return month_check(asset, name, partial(answered, body), description, warns=warns)


def table_rules(asset: str, reasons: type[StrEnum], description: str) -> list[Any]:
    """The checks that follow from an asset's schema."""
    return [
        rule(asset, "well_formed", partial(well_formed, asset, reasons), description),
        rule(asset, "as_recorded", partial(as_recorded, asset), "Rows are the ledger's; blobs they name are whole."),
    ]


def answered(body: CheckBody, month: str, services: Services) -> Found:
    """What a check found; one that cannot be made has not passed, and the others are still made."""
    try:
        return body(month, services)
    except Cancelled:
        raise
    except Exception as error:
        log.debug("a check could not be made", exc_info=True)
        return Found(False, f"could not be made, {type(error).__name__}: {error}")


def read_table(name: str, month: str, services: Services) -> pl.DataFrame:
    """A month of a table that must be there.

    Raises:
        LookupError: it was never made.
        StoreError: it is damaged, or was written with other columns.
    """
    frame = services.tables.read(name, month)
    if frame is None:
        raise LookupError(f"{name} of {month} was never made: run `formulamine month {month}`")
    return frame


def done_rows(name: str, month: str, services: Services) -> pl.DataFrame:
    """The `done` rows of a month of a table."""
    return read_table(name, month, services).filter(pl.col("status") == Status.DONE)


def well_formed(name: str, reasons: type[StrEnum], month: str, services: Services) -> Found:
    """Every row is known, unique, ended in one of the ways there are, and answers one `done` row before it."""
    table = TABLES[name]
    try:
        frame = read_table(name, month, services)
        side = read_table(table.side_name, month, services) if table.side_name else None
    except StoreError as error:  # other columns or types than the schema's, or no table at all
        return Found(False, str(error))
    wrong: list[str] = []
    keys = frame[table.key]
    wrong += [f"{key} stands twice" for key in keys.filter(keys.is_duplicated()).unique().to_list()]
    known = {None} | set(reasons) | {LIMIT_REASON}
    for row in frame.select(table.key, "status", "reason", "recorded_at").to_dicts():
        if row["status"] not in set(Status):
            wrong.append(f"{row[table.key]} has status {row['status']!r}")
        if (row["reason"] is None) != (row["status"] == Status.DONE) or row["reason"] not in known:
            wrong.append(f"{row[table.key]} is {row['status']} with reason {row['reason']!r}")
    required = [field for field, kind in table.fields().items() if type(None) not in typing.get_args(kind)]
    done = frame.filter(pl.col("status") == Status.DONE)
    wrong += [
        f"{key} is done without {field}" for field in required for key in done.filter(done[field].is_null())[table.key]
    ]
    wrong += _unknown_words(table, frame)
    wrong += _strangers(table, frame, month, services)
    if side is not None:
        without = sorted(set(side["pr_id"].to_list()) - set(keys.to_list()), key=str)
        wrong += [f"{key} of {table.side_name} came from nowhere" for key in without]
    return Found.of(wrong, fine=f"{frame.height} rows")


def _unknown_words(table: Table, frame: pl.DataFrame) -> list[str]:
    """Values that a column of few words does not have."""
    wrong = []
    for field, kind in table.fields().items():
        if typing.get_origin(kind) is typing.Literal:
            odd = frame.filter(frame[field].is_not_null() & ~frame[field].is_in(list(typing.get_args(kind))))
            wrong += [f"{key} has {field} {value!r}" for key, value in odd.select(table.key, field).rows()]
    return wrong


def _strangers(table: Table, frame: pl.DataFrame, month: str, services: Services) -> list[str]:
    """Rows before this table that it does not answer, and rows that answer none."""
    if table.previous is None:
        return []
    found = set(frame[table.key].to_list())
    if table.previous == "repositories":  # a visit may find nothing, so none can be missed here
        known = set(done_rows("repositories", month, services)["repo"].to_list())
        asked = {row["pr_id"]: _item(table, row, month) for row in frame.select("pr_id", "repo").to_dicts()}
        return [f"{key} came from nowhere" for key, item in asked.items() if item.partition("@")[0] not in known]
    expected = {row["pr_id"] for row in joined(table.name, month, services.tables)}
    wrong = [f"{key} vanished before {table.name}" for key in sorted(expected - found)]
    return wrong + [f"{key} came from nowhere" for key in sorted(found - expected, key=str)]


def as_recorded(name: str, month: str, services: Services) -> Found:
    """Every row is what the ledger says of it, cell for cell, and every blob that it names is there and whole."""
    table = TABLES[name]
    frame = read_table(name, month, services)
    # What --limit defers is written nowhere but in the table.
    rows = [row for row in frame.to_dicts() if (row["status"], row["reason"]) != (Status.DEFERRED, LIMIT_REASON)]
    asked = {_item(table, row, month): str(row["fingerprint"]) for row in rows}
    recorded, side = project(table, list(services.ledger.find(name, asked).values()))
    wrong = _differences(table, rows, {row[table.key]: row for row in recorded.to_dicts()})
    if side is not None and table.side_name is not None:
        stored = read_table(table.side_name, month, services)
        for key in recorded[table.key].to_list():
            if not stored.filter(pl.col("pr_id") == key).equals(side.filter(pl.col("pr_id") == key)):
                wrong.append(f"{key}: its {table.side_name} are not what the ledger says")
    for row in rows:
        named = {row[field] for field in table.fields() if field.endswith("_sha256") or field == "recipe_hash"}
        for digest in sorted((named - {None}) | set(_NAMED_BLOB.findall(row["detail"] or ""))):
            try:
                services.blobs.get(digest)
            except StoreError as error:
                wrong.append(f"{row[table.key]}: {error}")
    return Found.of(wrong, fine=f"{len(rows)} rows are the ledger's")


def _item(table: Table, row: Mapping[str, Any], month: str) -> str:
    """Item of a row in the ledger: a repository in a month, or a pull request."""
    if table.previous is None:
        return f"{row['repo']}@{month}"
    if table.previous == "repositories" and row["repo"] is not None:
        return f"{row['repo']}@{month}"
    return str(row["pr_id"])  # of a visit that failed it is the item itself


def _differences(
    table: Table, rows: Sequence[Mapping[str, Any]], recorded: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Where rows and what was recorded of them part."""
    wrong = []
    for row in rows:
        key = row[table.key]
        if key not in recorded:
            wrong.append(f"{key} stands in {table.name} and not in the ledger")
            continue
        for field, value in recorded[key].items():
            if row[field] != value:
                wrong.append(f"{key}: {field} is {_quoted(row[field])}, the ledger says {_quoted(value)}")
    missing = sorted(set(recorded) - {row[table.key] for row in rows})
    return wrong + [f"{key} stands in the ledger and not in {table.name}" for key in missing]


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= QUOTED else f"{text[: QUOTED - 3]}..."
