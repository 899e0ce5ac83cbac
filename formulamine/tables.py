"""The schema of every table: the contract between assets.

A table is one typed record per row plus the columns that every row has (who it is, how it ended, what that cost).
Here belong the tables that the records (`records.py`) make. Which Polars types follow (`schemas.py`), how rows come
about (`items.py`) and where they are kept (`services/store.py`) does not belong here.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any

import polars as pl

from formulamine.records import (
    BenchmarkResultRow,
    CandidatePR,
    Classification,
    EnvPayload,
    Image,
    ProblemStatement,
    PublishedRelease,
    PullRequest,
    Record,
    Repository,
    SpeedupMeasurement,
)
from formulamine.schemas import polars_type, record_schema, schema_hash

IDENTITY_COLUMNS = ("repo", "pr_id")
OUTCOME_SCHEMA: dict[str, pl.DataType] = {
    "status": pl.String(),
    "reason": pl.String(),
    "detail": pl.String(),
    "infrastructure": pl.Boolean(),
    "fingerprint": pl.String(),
    "run_id": pl.String(),
    "recorded_at": pl.Datetime("us", "UTC"),
    "seconds": pl.Float64(),
    "cost_usd": pl.Float64(),
}
# What says when and how a row came about, not what it says: outside the data version, or every run would look new.
VOLATILE_COLUMNS = ("fingerprint", "detail", "run_id", "recorded_at", "seconds", "cost_usd")

# What a clock, a load or the moment of a run decided, or what quotes such a value: two honest runs of the same month
# may differ in these columns, and in no other that is not volatile.
MEASURED_COLUMNS: dict[str, tuple[str, ...]] = {
    "speedup_measurements": (
        "benchmark", "speedup", "ci_low", "ci_high", "kept", "confirmed", "controls_passed", "raw_sha256",
        "load_before", "load_after", "spread", "tests_flaky",
    ),
    "benchmark_results": (
        "status", "detail", "number", "rounds", "speedup", "ci_low", "ci_high", "base_seconds", "head_seconds",
        "wall_speedup", "decision", "clock", "mode", "other_mode", "other_speedup", "base_value", "head_value",
    ),
    "images": ("route", "attempts"),
    "problem_statements": ("statement",),
    "published_release": ("release_version", "published_at"),
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """One table: its record class, the table whose `done` rows it answers, and a side table if it has one."""

    name: str
    record: type[Record]
    previous: str | None
    side_field: str | None = None
    """A list field of the record that is written as a table of its own instead."""
    side_name: str | None = None

    @property
    def key(self) -> str:
        """Name of the column that identifies a row."""
        return "repo" if self.previous is None else "pr_id"

    def fields(self) -> dict[str, Any]:
        """Field names and annotations that become columns."""
        hints = typing.get_type_hints(self.record)
        return {name: hints[name] for name in self.record.model_fields if name != self.side_field}

    def schema(self) -> dict[str, pl.DataType]:
        """Polars schema of the whole table: identity, record, outcome."""
        columns: dict[str, pl.DataType] = {self.key: pl.String()}
        columns |= {name: polars_type(annotation) for name, annotation in self.fields().items()}
        return columns | OUTCOME_SCHEMA

    def schema_hash(self) -> str:
        """Hash that changes with any column's name, order or type."""
        return schema_hash(self.schema())


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table("repositories", Repository, None),
        Table("pull_requests", PullRequest, "repositories"),
        Table("candidate_prs", CandidatePR, "pull_requests"),
        Table("classifications", Classification, "candidate_prs"),
        Table("env_payloads", EnvPayload, "classifications"),
        Table("images", Image, "env_payloads"),
        Table(
            "speedup_measurements", SpeedupMeasurement, "images", side_field="results", side_name="benchmark_results"
        ),
        Table("problem_statements", ProblemStatement, "speedup_measurements"),
        Table("published_release", PublishedRelease, "problem_statements"),
    )
}
PHASES = {
    "discover": ["repositories", "pull_requests", "candidate_prs"],
    "judge": ["classifications"],
    "build": ["env_payloads", "images"],
    "verify": ["speedup_measurements"],
    "ship": ["problem_statements", "published_release"],
}
SIDE_SCHEMAS = {"benchmark_results": record_schema(BenchmarkResultRow)}


def before(name: str) -> list[str]:
    """Names of the tables before a table, first one first."""
    chain: list[str] = []
    previous = TABLES[name].previous
    while previous is not None:
        chain.insert(0, previous)
        previous = TABLES[previous].previous
    return chain


def owner_of(field: str, asset: str) -> str:
    """Name of the table before `asset` that has a record field.

    Raises:
        KeyError: no table before `asset` has it.
    """
    for name in before(asset):
        if field in TABLES[name].record.model_fields or field == TABLES[name].key:
            return name
    raise KeyError(f"no table before {asset} has a field {field!r}")
