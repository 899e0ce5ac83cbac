"""From the tables before to the next table: join, advance, project.

Here belongs what every asset does around its step: join the `done` rows of all tables before it, advance them, and
write the ledger's answer as a table. It knows no Dagster and no phase.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import polars as pl
from pydantic import ValidationError

from formulamine.items import Entry, RunOptions, Step, Tally, advance
from formulamine.records import Record, Status
from formulamine.services.ledger import Ledger
from formulamine.services.store import StoreError, Tables, content_hash
from formulamine.tables import OUTCOME_SCHEMA, SIDE_SCHEMAS, TABLES, Table, before

In = TypeVar("In", bound=Record)


@dataclass(frozen=True)
class Materialized:
    """A table as it was just written."""

    frame: pl.DataFrame
    data_version: str
    tally: Tally
    side: pl.DataFrame | None = None


def joined(asset: str, month: str, tables: Tables, only: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Rows that an asset works on: `done` in every table before it, with the fields of all of them, or only some.

    Raises:
        StoreError: a table before it is missing or unreadable.
    """
    rows: pl.DataFrame | None = None
    for name in before(asset):
        frame = tables.read(name, month)
        if frame is None:
            raise StoreError(f"{asset} needs {name} of {month}, which was never made: run `formulamine month {month}`")
        fields = [TABLES[name].key, *(f for f in TABLES[name].fields() if f != TABLES[name].key)]
        done = frame.filter(pl.col("status") == Status.DONE).select(fields)
        if rows is None:
            rows = done
        else:
            key = "repo" if name == "pull_requests" else "pr_id"
            rows = rows.join(done, on=key, how="inner", maintain_order="right")
    if rows is None:
        return []
    return (rows if only is None else rows.select(only)).to_dicts()


def materialize(
    step: Step[In],
    items: Sequence[tuple[str, In]],
    month: str,
    *,
    tables: Tables,
    ledger: Ledger,
    options: RunOptions,
    cancelled: threading.Event,
    log: logging.Logger,
) -> Materialized:
    """Advance items one step and write the table that says how each ended."""
    entries, tally = advance(step, items, ledger, options, cancelled=cancelled, log=log)
    table = TABLES[step.asset]
    frame, side = project(table, entries)
    if side is not None and table.side_name is not None:
        tables.write(table.side_name, month, side)
    tables.write(table.name, month, frame)
    return Materialized(frame, content_hash(frame), tally, side)


def inputs(step: Step[In], rows: Sequence[Mapping[str, Any]], month: str) -> list[tuple[str, In]]:
    """Key and input record of each joined row, with just the fields that the step reads.

    A step that visits repositories has one item per repository and month, every other one item per pull request.
    """
    names = list(step.reads.model_fields)
    visits = TABLES[step.asset].previous == "repositories"
    return [
        (
            f"{row['repo']}@{month}" if visits else row["pr_id"],
            step.reads.model_validate({name: row[name] for name in names}),
        )
        for row in rows
    ]


def project(table: Table, entries: Sequence[Entry]) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """The ledger's entries as a table, and as its side table where it has one."""
    rows: list[dict[str, Any]] = []
    side_rows: list[dict[str, Any]] = []
    for entry in entries:
        many = entry.records if entry.records is not None else {entry.item: entry.record}
        for key, record in many.items():
            try:
                checked = None if record is None else table.record.model_validate(record)
            except ValidationError as error:
                raise StoreError(
                    f"the ledger knows {key} at {table.name} with other fields than it has now: "
                    "run the month again with --force"
                ) from error
            values = {} if checked is None else checked.model_dump()
            if table.side_field is not None:
                side_rows += [{**one, "pr_id": key} for one in values.pop(table.side_field, [])]
            identity = key.partition("@")[0] if table.previous is None else key
            rows.append({**values, table.key: identity, **_outcome(entry, len(many))})
    schema = table.schema()
    empty = dict.fromkeys(schema)
    frame = pl.DataFrame([{**empty, **row} for row in rows], schema=schema)
    if table.side_name is None:
        return frame, None
    return frame, pl.DataFrame(side_rows, schema=SIDE_SCHEMAS[table.side_name])


def _outcome(entry: Entry, shared_by: int) -> dict[str, Any]:
    """Outcome columns of a row; where one visit made many rows, its time and cost are shared among them."""
    values: dict[str, Any] = {name: getattr(entry, name) for name in OUTCOME_SCHEMA}
    if entry.records is not None:
        values["detail"] = ""  # it was said of the visit, not of any one row
    return values | {"seconds": entry.seconds / shared_by, "cost_usd": entry.cost_usd / shared_by}
