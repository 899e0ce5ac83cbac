"""Checks that follow from the tables' schemas: the same for every asset.

Here belong the rules that hold for any table. A rule of one asset stands in its phase.
"""

from __future__ import annotations

import typing
from enum import StrEnum

import polars as pl

from formulamine.items import LIMIT_REASON
from formulamine.orchestration import Found
from formulamine.pipeline import joined
from formulamine.services.container import Services
from formulamine.tables import TABLES, Status


def read_table(name: str, month: str, services: Services) -> pl.DataFrame:
    """A month of a table that must be there.

    Raises:
        LookupError: it was never made.
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
    frame = read_table(name, month, services)
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
    if table.previous is not None and table.previous != "repositories":
        expected = {row["pr_id"] for row in joined(name, month, services.tables)}
        wrong += [f"{key} vanished before {name}" for key in sorted(expected - set(keys.to_list()))]
        wrong += [f"{key} came from nowhere" for key in sorted(set(keys.to_list()) - expected)]
    return Found.of(wrong, fine=f"{frame.height} rows")
