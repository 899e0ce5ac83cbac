"""A month's tables in a home, as far as a check reads them: what a test gives is in them, the rest is filled up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from formulamine.items import Entry
from formulamine.services.container import Services
from formulamine.services.resolver import Interpreter
from formulamine.settings import Settings
from formulamine.tables import TABLES
from formulamine_tests.test_pipeline import entry, record_of, write

MONTH = "2024-02"
RELEASED = list(TABLES)


def month_of(interpreters: dict[str, Interpreter], rows: Sequence[dict[str, Any]], until: str) -> Services:
    """Services on a home with every table up to one.

    Args:
        interpreters: that the machine has.
        rows: one per pull request, the fields of all tables together; `pr_id` and `repo` are among them. What is left
            out is filled up. A dictionary under the name of a table replaces its entry's `status` and the like.
        until: last table.
    """
    services = Services(Settings())
    services.resolver.__dict__["interpreters"] = interpreters
    for name in RELEASED[: RELEASED.index(until) + 1]:
        table = TABLES[name]
        entries: dict[str, Entry] = {}
        for row in rows:
            record = record_of(table.record, row["pr_id"])
            record |= {key: value for key, value in row.items() if key in record}
            checked = table.record.model_validate(record).model_dump(mode="json")
            key = row["repo"] if table.previous is None else row["pr_id"]
            if table.previous == "repositories":
                made = entry(f"{row['repo']}@{MONTH}", None, records={key: checked})
            else:
                made = entry(f"{key}@{MONTH}" if table.previous is None else key, checked)
            entries[made.item + key] = made.with_(**row.get(name, {}))
        write(services.tables, name, list(entries.values()))
    return services


def spoiled(services: Services, name: str, **changes: Any) -> Services:
    """Rewrite every row of a table with other values, as whoever edits a Parquet file would."""
    import polars as pl

    frame = services.tables.read(name, MONTH)
    assert frame is not None
    lists = {key: [value] * frame.height for key, value in changes.items()}
    columns = [pl.Series(key, values, dtype=frame.schema[key]) for key, values in lists.items()]
    services.tables.write(name, MONTH, frame.with_columns(columns))
    return services
