"""Labelled pull requests: rows of a JSON Lines file, and labels that maintainers' own prefixes give.

Here belong reading labels and telling what is wrong with a row. What is done with them is in `fit.py` and
`evaluation.py`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

# FACTS: the prefixes by which maintainers say that something is, or is never, performance work.
PERFORMANCE_PREFIX = re.compile(r"(?i)^\W*(?P<prefix>perf)\b\s*(\([^)]*\))?!?\s*[:\]]\s*")
OTHER_PREFIX = re.compile(r"(?i)^\W*(?P<prefix>docs?|tsts?|ci|bld|sty|typ)\b\s*(\([^)]*\))?!?\s*[:\]]\s*")


class Label(BaseModel):
    """What somebody says of one pull request; other fields of its row are not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    is_performance: bool = Field(strict=True)
    merge_sha: str | None = Field(None, pattern=r"^[0-9a-f]{40}$")
    pr_number: int | None = None
    source: str = "unknown"
    """Who says so: the kind by which false positives are counted."""


def read_labels(path: Path) -> tuple[list[Label], list[str]]:
    """Labels of a file, and what is wrong with the rows that are none, one sentence each.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is no text.
    """
    labels, problems = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            labels.append(Label.model_validate(json.loads(line)))
        except json.JSONDecodeError as error:
            problems.append(f"{path.name}:{number}: no JSON ({error.msg} at column {error.colno})")
        except (ValidationError, RecursionError) as error:
            problems.append(f"{path.name}:{number}: {_wrong(error)}")
    return labels, problems


def _wrong(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the row'}: {first['msg']}"


def by_prefix(title: str) -> tuple[bool, str] | None:
    """Whether a title's prefix says that it is performance work, and the prefix; None where it says neither."""
    if found := PERFORMANCE_PREFIX.match(title):
        return True, found["prefix"].upper()
    if found := OTHER_PREFIX.match(title):
        return False, found["prefix"].upper()
    return None
