"""The schemas of the tables: what every column rests on."""

from __future__ import annotations

import typing
from datetime import datetime

import polars as pl
import pytest

from formulamine.records import FileChange, Record, Repository
from formulamine.schemas import polars_type, record_schema, schema_hash
from formulamine.services.store import table_schema
from formulamine.tables import OUTCOME_SCHEMA, PHASES, SIDE_SCHEMAS, TABLES, VOLATILE_COLUMNS, Table, before, owner_of

# Fields that two tables have; of the joined row each means the first table's, as `owner_of` says.
SHARED = {"limits": "images", "recipe_hash": "images", "sources": "env_payloads"}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
class TestEveryTable:
    def test_every_field_becomes_a_column_of_a_polars_type(self, table: Table) -> None:
        schema = table.schema()
        columns = set(table.record.model_fields) - {table.side_field} | {table.key} | set(OUTCOME_SCHEMA)
        assert set(schema) == columns
        assert all(isinstance(kind, pl.DataType) for kind in schema.values())
        assert pl.DataFrame(schema=schema).schema == schema

    def test_identity_comes_first_and_the_outcome_last(self, table: Table) -> None:
        names = list(table.schema())
        assert names[0] == table.key == ("repo" if table.name == "repositories" else "pr_id")
        assert names[-len(OUTCOME_SCHEMA) :] == list(OUTCOME_SCHEMA)

    def test_no_field_hides_an_outcome_column(self, table: Table) -> None:
        assert not set(table.record.model_fields) & set(OUTCOME_SCHEMA)

    def test_every_field_must_be_written(self, table: Table) -> None:
        """A default would stand silently in rows that an older version wrote."""
        assert all(field.is_required() for field in table.record.model_fields.values())

    def test_its_side_table_has_a_schema(self, table: Table) -> None:
        assert (table.side_name is None) == (table.side_field is None)
        if table.side_name is not None:
            assert set(SIDE_SCHEMAS[table.side_name]) >= {"pr_id"}


def test_the_graph_is_one_line_through_all_phases() -> None:
    names = [name for phase in PHASES.values() for name in phase]
    assert list(TABLES) == names
    assert [table.previous for table in TABLES.values()] == [None, *names[:-1]]


def test_before_names_all_tables_before_one() -> None:
    assert before("repositories") == []
    assert before("classifications") == ["repositories", "pull_requests", "candidate_prs"]


@pytest.mark.parametrize(
    ("field", "asset", "owner"),
    [
        ("repo", "pull_requests", "repositories"),
        ("pr_id", "candidate_prs", "pull_requests"),
        ("title", "published_release", "pull_requests"),
        ("patch_sha256", "classifications", "candidate_prs"),
    ],
)
def test_owner_of_a_field_is_the_first_table_that_has_it(field: str, asset: str, owner: str) -> None:
    assert owner_of(field, asset) == owner


@pytest.mark.parametrize(("field", "asset"), [("nonsense", "images"), ("category", "classifications")])
def test_a_field_that_no_table_before_has_is_an_error(field: str, asset: str) -> None:
    with pytest.raises(KeyError, match=field):
        owner_of(field, asset)


def test_fields_of_two_tables_are_known_ones_and_mean_the_first() -> None:
    owners: dict[str, list[str]] = {}
    for name, table in TABLES.items():
        for field in table.fields():
            owners.setdefault(field, []).append(name)
    shared = {field: names for field, names in owners.items() if len(names) > 1 and field != "repo"}
    assert {field: names[0] for field, names in shared.items()} == SHARED
    assert all(owner_of(field, "published_release") == owner for field, owner in SHARED.items())


def test_volatile_columns_are_columns() -> None:
    assert set(VOLATILE_COLUMNS) < set(OUTCOME_SCHEMA)


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (str, pl.String()),
        (int | None, pl.Int64()),
        (typing.Optional[float], pl.Float64()),  # noqa: UP045
        (typing.Literal["a", "b"], pl.String()),
        (list[str], pl.List(pl.String())),
        (datetime, pl.Datetime("us", "UTC")),
        (list[FileChange], pl.List(pl.Struct({"path": pl.String, "additions": pl.Int64, "deletions": pl.Int64}))),
    ],
)
def test_annotations_have_column_types(annotation: object, kind: pl.DataType) -> None:
    assert polars_type(annotation) == kind


@pytest.mark.parametrize("annotation", [dict[str, str], bytes, object, set[str]])
def test_an_annotation_without_a_column_type_is_an_error(annotation: object) -> None:
    with pytest.raises(TypeError, match="no column type"):
        polars_type(annotation)


def test_a_schema_hash_changes_with_names_types_and_order() -> None:
    schema: dict[str, pl.DataType] = {"a": pl.String(), "b": pl.Int64()}
    others: list[dict[str, pl.DataType]] = [
        {"a": pl.String(), "c": pl.Int64()},
        {"a": pl.String(), "b": pl.Float64()},
        {"b": pl.Int64(), "a": pl.String()},
        {"a": pl.String()},
    ]
    assert len({schema_hash(one) for one in [schema, *others]}) == 5
    assert schema_hash(dict(schema)) == schema_hash(schema)


def test_a_nested_field_changes_the_schema_hash() -> None:
    class Inner(Record):
        x: int

    class Before(Record):
        inner: list[Inner]

    class Wider(Inner):
        y: int

    class After(Record):
        inner: list[Wider]

    # Nested classes of a function cannot be found by name, as annotations of this module are.
    Before.__annotations__["inner"], After.__annotations__["inner"] = list[Inner], list[Wider]
    assert schema_hash(record_schema(Before)) != schema_hash(record_schema(After))


def test_a_record_takes_no_unknown_field_and_does_not_change() -> None:
    with pytest.raises(ValueError, match="surprise"):
        FileChange.model_validate({"path": "a", "additions": 1, "deletions": 0, "surprise": 1})
    change = FileChange(path="a", additions=1, deletions=0)
    with pytest.raises(ValueError, match="frozen"):
        change.path = "b"  # type: ignore[misc]


def test_table_schema_finds_tables_and_side_tables() -> None:
    assert table_schema("images") == TABLES["images"].schema()
    assert table_schema("benchmark_results") == SIDE_SCHEMAS["benchmark_results"]
    assert TABLES["repositories"].record is Repository
