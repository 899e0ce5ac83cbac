"""From a record class to the Polars schema of its table.

Here belong types of columns and what identifies a schema. Which tables there are is `tables.py`'s matter.
"""

from __future__ import annotations

import hashlib
import json
import types
import typing
from datetime import datetime
from typing import Any, Literal, Union

import polars as pl
from pydantic import BaseModel


def polars_type(annotation: Any) -> pl.DataType:
    """Polars type of a record field's annotation.

    Raises:
        TypeError: the annotation has no counterpart.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return polars_type(inner)
    if origin is Literal:
        return pl.String()
    if origin is list:
        return pl.List(polars_type(arguments[0]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        hints = typing.get_type_hints(annotation)
        return pl.Struct({name: polars_type(hints[name]) for name in annotation.model_fields})
    plain: dict[Any, pl.DataType] = {
        str: pl.String(),
        int: pl.Int64(),
        float: pl.Float64(),
        bool: pl.Boolean(),
        datetime: pl.Datetime("us", "UTC"),
    }
    if annotation not in plain:
        raise TypeError(f"no column type for {annotation!r}")
    return plain[annotation]


def record_schema(record: type[BaseModel]) -> dict[str, pl.DataType]:
    """Polars schema of a record class alone."""
    hints = typing.get_type_hints(record)
    return {name: polars_type(hints[name]) for name in record.model_fields}


def schema_hash(schema: dict[str, pl.DataType]) -> str:
    """Short hash of a schema, kept in the Parquet file's metadata."""
    text = json.dumps([(name, str(dtype)) for name, dtype in schema.items()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
