"""January: the sample package `tallybook`, as it stands before the demo's month begins.

Here belongs the code that February finds. It is slow where February says so, and only there: each place has one
benchmark. It is pure Python without run-time dependencies, and its metadata is static, so that a build backend of that
month builds it on every later Python too.
"""

from __future__ import annotations

from datetime import UTC, datetime

from formulamine.demo.history import Change, Person, Replace, Style, Write

MARA = Person("Mara Lindqvist", "mara@example.org", "maralind", "+0100")
PRIYA = Person("Priya Nair", "priya@example.org", "pnair", "+0530")

_PYPROJECT = """\
[build-system]
requires = ["flit_core >=3.8,<4"]
build-backend = "flit_core.buildapi"

[project]
name = "tallybook"
version = "1.3.0"
description = "Tables, spans and words, counted in plain Python"
readme = "README.rst"
requires-python = ">=3.11"
authors = [{ name = "Mara Lindqvist", email = "mara@example.org" }]
classifiers = [
    "Intended Audience :: Developers",
    "Programming Language :: Python :: 3",
]
dependencies = []
"""

_ASV = """\
{
    "version": 1,
    "project": "tallybook",
    "repo": ".",
    "branches": ["main"],
    // No "pythons": the package is pure Python, and any interpreter from 3.11 on will do.
    "environment_type": "virtualenv",
    "benchmark_dir": "benchmarks"
}
"""

_README = """\
tallybook
=========

Tables, spans and words, counted in plain Python::

    >>> from tallybook import merge_spans
    >>> merge_spans([(1, 4), (3, 6), (8, 9)])
    [(1, 6), (8, 9)]

The benchmarks are run by `asv <https://asv.readthedocs.io>`_: ``asv run``.
"""

_GUIDE = """\
Getting started
===============

1. Install the package.
2. Read your report with ``parse_row``, line by line.
3. Print what you found with ``render_table``.

The separator between two cells is set in ``tallybook.table``.
"""

_INIT = '''\
"""Tables, spans and words, counted in plain Python."""

from tallybook.series import rolling_mean
from tallybook.spans import find_clashes, merge_spans
from tallybook.table import parse_row, render_table
from tallybook.text import slugify, word_counts
from tallybook.workdays import count_workdays, holidays

__all__ = [
    "count_workdays",
    "find_clashes",
    "holidays",
    "merge_spans",
    "parse_row",
    "render_table",
    "rolling_mean",
    "slugify",
    "word_counts",
]
'''

_SERIES = '''\
"""Series of numbers."""

from collections.abc import Sequence


def rolling_mean(values: Sequence[int], size: int) -> list[float]:
    """Return the mean of each window of ``size`` values that stand side by side."""
    if not 0 < size <= len(values):
        raise ValueError(f"size must be between 1 and {len(values)}")
    total = sum(values[:size])
    means = [total / size]
    for leaving, entering in zip(values, values[size:]):
        total += entering - leaving
        means.append(total / size)
    return means
'''

_SPANS = '''\
"""Half-open spans (start, end): joining them, and finding those that clash."""

from collections.abc import Iterable, Sequence

Span = tuple[int, int]


def merge_spans(spans: Iterable[Span]) -> list[Span]:
    """Join spans that overlap or touch, and return what is left in order."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def find_clashes(bookings: Sequence[Span]) -> list[tuple[Span, Span]]:
    """Return all pairs of bookings that overlap, in order."""
    clashes = []
    for position, booking in enumerate(bookings):
        for other in bookings[position + 1 :]:
            if booking[0] < other[1] and other[0] < booking[1]:
                clashes.append((min(booking, other), max(booking, other)))
    return sorted(clashes)
'''

_TABLE = '''\
"""Tables of plain text: reading a row, and laying rows out in columns."""

SEPARATOR = "|"


def parse_row(line, separator=None):
    """Split a line into cells, without the blanks around them."""
    return [cell.strip() for cell in line.split(separator or SEPARATOR)]


def format_cell(value):
    """Write one value as it stands in a table: numbers with two decimals, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.2f}"
    return str(value)


def render_table(rows, gap="  "):
    """Lay rows of equal length out in columns."""
    widths = [max(len(format_cell(value)) for value in column) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [format_cell(value).ljust(width) for value, width in zip(row, widths)]
        lines.append(gap.join(cells).rstrip())
    return "\\n".join(lines)
'''

STOP_WORDS = """\
a about after all also an and any are as at be because been before but by can could did do does for from had has have
he her his how i if in into is it its just like made many may more most much must no not now of on one only or other
our out over said she should so some such than that the their them then there these they this to under up was we were
what when where which who will with would you your
"""

_TEXT = f'''\
"""Words and names: counting words, and names that are safe in a path."""

import re
import unicodedata
from collections import Counter

_NOT_IN_A_NAME = re.compile(r"[^a-z0-9]+")
_WORD = re.compile(r"[a-z']+")
_STOP_WORDS = """
{STOP_WORDS}"""


def slugify(title: str) -> str:
    """Return a name for a title that is safe in a path: small letters and digits, joined by hyphens."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode("ascii")
    return _NOT_IN_A_NAME.sub("-", plain.lower()).strip("-")


def word_counts(text: str) -> dict[str, int]:
    """Return how often each word stands in a text, the most frequent first and without stop words."""
    stop_words = set(_STOP_WORDS.split())
    counts = Counter(word for word in _WORD.findall(text.lower()) if word not in stop_words)
    return dict(counts.most_common())
'''

_WORKDAYS = '''\
"""Days on which people work."""

from datetime import date, timedelta

_FIXED = ((1, 1), (1, 6), (5, 1), (8, 15), (11, 1), (12, 25), (12, 26))
_AFTER_EASTER = (-2, 1, 39, 50, 60)


def easter(year: int) -> date:
    """Return Easter Sunday, by the method of Meeus, Jones and Butcher."""
    a, b, c = year % 19, year // 100, year % 100
    d = (19 * a + b - b // 4 - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    e = (32 + 2 * (b % 4) + 2 * (c // 4) - d - c % 4) % 7
    f = d + e - 7 * ((a + 11 * d + 22 * e) // 451) + 114
    return date(year, f // 31, f % 31 + 1)


def holidays(year: int) -> frozenset[date]:
    """Return the public holidays of a year."""
    fixed = {date(year, month, day) for month, day in _FIXED}
    return frozenset(fixed | {easter(year) + timedelta(days=days) for days in _AFTER_EASTER})


def count_workdays(start: date, end: date) -> int:
    """Return the number of days from ``start`` until before ``end`` that are no weekend and no holiday."""
    days = (start + timedelta(days=days) for days in range((end - start).days))
    return sum(day.weekday() < 5 and day not in holidays(day.year) for day in days)
'''

_TEST_SPANS = """\
from tallybook import find_clashes, merge_spans


def test_spans_that_overlap_become_one():
    assert merge_spans([(3, 6), (1, 4), (8, 9)]) == [(1, 6), (8, 9)]


def test_each_clash_is_named_once():
    assert find_clashes([(5, 8), (1, 6), (7, 9)]) == [((1, 6), (5, 8)), ((5, 8), (7, 9))]
"""

_TEST_TABLE = """\
from tallybook import parse_row, render_table


def test_cells_lose_the_blanks_around_them():
    assert parse_row("rye ; 3 ", ";") == ["rye", "3"]


def test_columns_are_as_wide_as_their_widest_cell():
    assert render_table([("rye", 3), ("barley", None), ("oat", 1.5)]) == "rye     3\\nbarley\\noat     1.50"
"""

_TEST_WORKDAYS = """\
from datetime import date

from tallybook import count_workdays


def test_a_week_with_a_holiday_has_four_workdays():
    assert count_workdays(date(2024, 4, 1), date(2024, 4, 8)) == 4
"""

_BENCH_TEXT = '''\
"""Words, names and series."""

from tallybook import rolling_mean, slugify, word_counts

WORDS = "The harvest of the year was good, and rye was dearer than barley after it; nobody knows why".split()
TITLES = [f"Über {first} & {second}: a report in three parts" for first in WORDS for second in WORDS[:6]]
TEXT = " ".join(f"{word}{'s' * (turn % 3)}" for turn in range(40) for word in WORDS)
PRICES = [turn * 7919 % 1009 for turn in range(2000)]


def time_slugify():
    for title in TITLES:
        slugify(title)


def time_word_counts():
    word_counts(TEXT)


def time_rolling_mean():
    rolling_mean(PRICES, 28)
'''

_BENCH_TABLE = '''\
"""Reading and writing tables."""

from tallybook import parse_row, render_table


class Report:
    def setup(self):
        self.rows = [(f"field {turn}", turn % 7, turn / 3, turn / 7, None) for turn in range(200)]
        self.lines = [f" field {turn} ; {turn % 7} ; {turn / 3} ; " for turn in range(200)]

    def time_render_table(self):
        render_table(self.rows)

    def time_parse_row(self):
        for line in self.lines:
            parse_row(line, ";")
'''

_BENCH_CALENDAR = '''\
"""Spans and days."""

from datetime import date

from tallybook import count_workdays, find_clashes, merge_spans

BOOKINGS = [(turn * 7919 % 20011, turn * 7919 % 20011 + 5 + turn % 90) for turn in range(300)]
SPANS = [(turn * 7919 % 50000, turn * 7919 % 50000 + turn % 30) for turn in range(1000)]


def time_find_clashes():
    find_clashes(BOOKINGS)


def time_merge_spans():
    merge_spans(SPANS)


def time_count_workdays():
    count_workdays(date(2023, 1, 1), date(2023, 7, 1))
'''

JANUARY = (
    Change(
        datetime(2024, 1, 8, 9, 30, tzinfo=UTC),
        Style.PUSH,
        MARA,
        "Tables, spans, words, series and workdays",
        "Taken out of our reports, so that others can use them.",
        (
            Write("README.rst", _README),
            Write("docs/guide.rst", _GUIDE),
            Write("pyproject.toml", _PYPROJECT),
            Write("src/tallybook/__init__.py", _INIT),
            Write("src/tallybook/series.py", _SERIES),
            Write("src/tallybook/spans.py", _SPANS),
            Write("src/tallybook/table.py", _TABLE),
            Write("src/tallybook/text.py", _TEXT),
            Write("src/tallybook/workdays.py", _WORKDAYS),
            Write("tests/test_spans.py", _TEST_SPANS),
            Write("tests/test_table.py", _TEST_TABLE),
            Write("tests/test_workdays.py", _TEST_WORKDAYS),
        ),
    ),
    Change(
        datetime(2024, 1, 15, 16, 5, tzinfo=UTC),
        Style.PUSH,
        MARA,
        "A benchmark for each module",
        "",
        (
            Write("asv.conf.json", _ASV),
            Write("benchmarks/__init__.py", ""),
            Write("benchmarks/bench_calendar.py", _BENCH_CALENDAR),
            Write("benchmarks/bench_table.py", _BENCH_TABLE),
            Write("benchmarks/bench_text.py", _BENCH_TEXT),
        ),
    ),
    # Merged on the first of February by its author's clock, and in January by UTC, which decides.
    Change(
        datetime(2024, 1, 31, 23, 20, tzinfo=UTC),
        Style.SQUASH,
        PRIYA,
        "Separate cells by a semicolon",
        "Spreadsheets write it, and a bar is a letter in some of our fields.",
        (Replace("src/tallybook/table.py", 'SEPARATOR = "|"', 'SEPARATOR = ";"'),),
        number=30,
    ),
)
