"""February: the month that the demo mines, and the push in March that closes it.

Here belongs what was merged, in order, each with a line on the gate that it is for; `expected.toml` says how each one
ends. A change does what its title says and touches no other benchmark, so that each speedup is seen in one place.
"""

from __future__ import annotations

from datetime import UTC, datetime

from formulamine.demo.history import Change, Person, Replace, Style, Write
from formulamine.demo.january import MARA, PRIYA, STOP_WORDS

TOMAS = Person("Tomás Rivera", "tomas@example.org", "trivera", "-0500")
DEPENDABOT = Person("dependabot[bot]", "49699333+dependabot[bot]@users.noreply.github.com", "dependabot[bot]")

PYPROJECT = "pyproject.toml"
SERIES = "src/tallybook/series.py"
SPANS = "src/tallybook/spans.py"
TABLE = "src/tallybook/table.py"
TEXT = "src/tallybook/text.py"
WORKDAYS = "src/tallybook/workdays.py"


def _merged(day: int, clock: str) -> datetime:
    return datetime.fromisoformat(f"2024-02-{day:02}T{clock}:00").replace(tzinfo=UTC)


_SEARCH_ALL_PAIRS = """\
    for position, booking in enumerate(bookings):
        for other in bookings[position + 1 :]:
            if booking[0] < other[1] and other[0] < booking[1]:
                clashes.append((min(booking, other), max(booking, other)))
"""
_SEARCH_OPEN_BOOKINGS = """\
    open_bookings: list[Span] = []
    for booking in sorted(bookings):
        open_bookings = [earlier for earlier in open_bookings if earlier[1] > booking[0]]
        clashes.extend((earlier, booking) for earlier in open_bookings)
        open_bookings.append(booking)
"""

_FORMAT_TWICE = """\
    widths = [max(len(format_cell(value)) for value in column) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [format_cell(value).ljust(width) for value, width in zip(row, widths)]
"""
_FORMAT_ONCE = """\
    texts = [[format_cell(value) for value in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(*texts)]
    lines = []
    for row in texts:
        cells = [text.ljust(width) for text, width in zip(row, widths)]
"""

_RUNNING_TOTAL = """\
    total = sum(values[:size])
    means = [total / size]
    for leaving, entering in zip(values, values[size:]):
        total += entering - leaving
        means.append(total / size)
"""
_WINDOW_IN_A_DEQUE = """\
    window = deque(values[:size], maxlen=size)
    means = [sum(window) / size]
    for entering in values[size:]:
        window.append(entering)
        means.append(sum(window) / size)
"""

_MERGE_IN_PYTHON = """\
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
"""

_LEAVE_CELLS = Replace(
    TABLE,
    "[cell.strip() for cell in line.split(separator or SEPARATOR)]",
    "line.split(separator or SEPARATOR)",
)

# A local version cannot be uploaded to a public index, so no one can ever publish what this asks for.
_NEED_KERNELS = (
    Replace(PYPROJECT, "dependencies = []", 'dependencies = ["tallybook-kernels ==0.1+local"]'),
    Replace(SPANS, "Iterable, Sequence\n", "Iterable, Sequence\n\nfrom tallybook_kernels import merge_sorted\n"),
    Replace(SPANS, _MERGE_IN_PYTHON, "    return merge_sorted(sorted(spans))\n"),
)

_WHEEL_BACKEND = '''\
"""Build backend: flit, once the stop words are written into a module."""

from pathlib import Path

from flit_core import buildapi
from flit_core.buildapi import (
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)


def _write_stop_words():
    words = Path(__file__).with_name("stop_words.txt").read_text(encoding="utf-8").split()
    module = Path("src", "tallybook", "_stop_words.py")
    module.write_text(f"STOP_WORDS = frozenset({words!r})\\n", encoding="utf-8")


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _write_stop_words()
    return buildapi.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    _write_stop_words()
    return buildapi.build_editable(wheel_directory, config_settings, metadata_directory)
'''

FEBRUARY = (
    # No performance word in the title, no sign of one in the diff.
    Change(
        _merged(1, "08:12"),
        Style.SQUASH,
        PRIYA,
        "TYP: annotate tallybook.table",
        "The other modules are annotated already.",
        (
            Replace(TABLE, '\nSEPARATOR = "', '\nfrom collections.abc import Sequence\n\nSEPARATOR = "'),
            Replace(TABLE, "(line, separator=None):", "(line: str, separator: str | None = None) -> list[str]:"),
            Replace(TABLE, "(value):", "(value: object) -> str:"),
            Replace(TABLE, '(rows, gap="  "):', '(rows: Sequence[Sequence[object]], gap: str = "  ") -> str:'),
        ),
        number=31,
    ),
    # A real speedup that no title gives away. Its body quotes its own fix: that sentence may not reach the statement.
    Change(
        _merged(2, "13:40"),
        Style.MERGE,
        TOMAS,
        "find_clashes on a full calendar",
        "Checking the calendar of our town hall for clashes is slow: with 4,000 bookings, `find_clashes` takes a "
        "quarter of a second, and with twice as many a whole one. What it returns is right and must stay as it is.\n\n"
        "The heart of the change is "
        "`open_bookings = [earlier for earlier in open_bookings if earlier[1] > booking[0]]`.",
        (Replace(SPANS, _SEARCH_ALL_PAIRS, _SEARCH_OPEN_BOOKINGS),),
        number=32,
        branch="full-calendar",
    ),
    # Documentation alone, whatever its title says.
    Change(
        _merged(5, "10:02"),
        Style.SQUASH,
        PRIYA,
        "Speed up the first steps of the guide",
        "Nobody needs four paragraphs before the first table.",
        (
            Replace("docs/guide.rst", "\n1. Install the package.\n2.", "\n``pip install .``, and then:\n\n1."),
            Replace("docs/guide.rst", "3. Print", "2. Print"),
        ),
        number=33,
    ),
    # A bug fix: the title says neither yes nor no, so it is for the judge to see.
    Change(
        _merged(6, "15:31"),
        Style.SQUASH,
        TOMAS,
        "Spans that touch are one span",
        "`merge_spans([(1, 3), (3, 5)])` returned both spans, although they touch, and our reports showed a gap of no "
        "days between them. Its docstring promises one span.\n\nFixes #27.",
        (
            Replace(SPANS, "start < merged[-1][1]", "start <= merged[-1][1]"),
            Replace(
                "tests/test_spans.py",
                "\n\ndef test_each_clash",
                "\n\ndef test_spans_that_touch_become_one():\n    assert merge_spans([(1, 3), (3, 5)]) == [(1, 5)]\n"
                "\n\ndef test_each_clash",
            ),
        ),
        number=34,
    ),
    # A real speedup by caching.
    Change(
        _merged(8, "09:55"),
        Style.MERGE,
        PRIYA,
        "PERF: compute the holidays of a year once",
        "Counting the workdays of half a year takes about a millisecond, and nearly all of it goes into computing the "
        "same holidays again for each day.",
        (
            Replace(WORKDAYS, "timedelta\n\n", "timedelta\nfrom functools import cache\n\n"),
            Replace(WORKDAYS, "def holidays", "@cache\ndef holidays"),
        ),
        number=35,
        branch="holidays-once",
    ),
    # A claim without effect.
    Change(
        _merged(12, "11:20"),
        Style.SQUASH,
        TOMAS,
        "PERF: faster slugify by binding its regular expression once",
        "Looking up `sub` for every title is wasted time.",
        (
            Replace(TEXT, '_NOT_IN_A_NAME = re.compile(r"[^a-z0-9]+")', '_hyphenate = re.compile(r"[^a-z0-9]+").sub'),
            Replace(TEXT, '_NOT_IN_A_NAME.sub("-", plain.lower())', '_hyphenate("-", plain.lower())'),
        ),
        number=36,
    ),
    # A bot moves a pin in a file that belongs to the package.
    Change(
        _merged(13, "05:00"),
        Style.SQUASH,
        DEPENDABOT,
        "Update flit-core requirement from <4,>=3.8 to >=3.9,<4",
        "Updates the requirements on [flit-core](https://github.com/pypa/flit) to permit the latest version.\n\n"
        "---\nupdated-dependencies:\n- dependency-name: flit-core\n  dependency-type: direct:production\n...",
        (Replace(PYPROJECT, "flit_core >=3.8,<4", "flit_core >=3.9,<4"),),
        number=37,
    ),
    # A real speedup of about 1.4.
    Change(
        _merged(15, "17:48"),
        Style.MERGE,
        TOMAS,
        "PERF: render_table formats each cell once",
        "Printing a long report spends most of its time on formatting numbers, and every number is formatted twice: to "
        "measure its column, and to print it.",
        (Replace(TABLE, _FORMAT_TWICE, _FORMAT_ONCE),),
        number=38,
        branch="format-once",
    ),
    # Tests alone, whatever their title says.
    Change(
        _merged(16, "12:15"),
        Style.SQUASH,
        PRIYA,
        "Faster tests of workdays",
        "A week shows as much as a year does.",
        (
            Replace("tests/test_workdays.py", "a_week_with_a_holiday", "an_easter_week"),
            Replace("tests/test_workdays.py", "2024, 4, 8)) == 4", "2024, 4, 6)) == 4"),
        ),
        number=39,
    ),
    # A claim that turns out the wrong way round.
    Change(
        _merged(19, "14:07"),
        Style.SQUASH,
        TOMAS,
        "PERF: rolling_mean keeps its window in a deque",
        "A deque drops its oldest value by itself, so there is nothing to subtract and no second walk over the values.",
        (
            Replace(SERIES, "from collections.abc", "from collections import deque\nfrom collections.abc"),
            Replace(SERIES, _RUNNING_TOTAL, _WINDOW_IN_A_DEQUE),
        ),
        number=40,
    ),
    # A revert, of something that had nothing to do with speed.
    Change(
        _merged(20, "08:30"),
        Style.SQUASH,
        MARA,
        'Revert "Separate cells by a semicolon"',
        "Reverts formulamine/sample#30: the reports of the last years cannot be read any more.",
        (Replace(TABLE, 'SEPARATOR = ";"', 'SEPARATOR = "|"'),),
        number=41,
    ),
    # A requirement that no index has, imported by the package; taken back within the hour.
    Change(
        _merged(22, "16:10"),
        Style.MERGE,
        TOMAS,
        "PERF: merge spans in a compiled kernel",
        "Merging a million spans takes half a second in Python, and a few milliseconds in our kernel.",
        _NEED_KERNELS,
        number=42,
        branch="compiled-kernel",
    ),
    Change(
        _merged(22, "16:52"),
        Style.PUSH,
        MARA,
        "Do without tallybook-kernels for now",
        "It is on no index yet, so that nobody can install us.",
        tuple(edit.undone() for edit in reversed(_NEED_KERNELS)),
    ),
    # A real speedup that breaks a test of the package; mended within the hour.
    Change(
        _merged(23, "09:20"),
        Style.SQUASH,
        TOMAS,
        "PERF: parse_row takes cells as they stand",
        "Hardly any cell has blanks around it, and stripping all of them takes more than half of the time.",
        (_LEAVE_CELLS,),
        number=46,
    ),
    Change(
        _merged(23, "10:05"),
        Style.PUSH,
        MARA,
        "Cells lose the blanks around them again",
        "Our tests say so, and so does the docstring.",
        (_LEAVE_CELLS.undone(),),
    ),
    # Docstrings of the package, by a title that says so.
    Change(
        _merged(26, "10:44"),
        Style.SQUASH,
        PRIYA,
        "DOC: say what word_counts does with ties",
        "",
        (Replace(TEXT, "and without stop words.", "those of a tie as they come, and without stop words."),),
        number=43,
    ),
    # A release.
    Change(
        _merged(28, "09:00"),
        Style.SQUASH,
        MARA,
        "Bump version to 1.4.0",
        "",
        (Replace(PYPROJECT, 'version = "1.3.0"', 'version = "1.4.0"'),),
        number=44,
    ),
    # The wheel cannot be built: the word list was not committed.
    Change(
        _merged(29, "22:40"),
        Style.SQUASH,
        TOMAS,
        "PERF: read the stop words when the wheel is built",
        "`word_counts` splits the list of stop words again for every text, which is slow for the many short ones.",
        (
            Replace(PYPROJECT, '"flit_core.buildapi"', '"wheel_backend"\nbackend-path = ["tools"]'),
            Write("tools/wheel_backend.py", _WHEEL_BACKEND),
            Replace(TEXT, "import Counter\n", "import Counter\n\nfrom tallybook._stop_words import STOP_WORDS\n"),
            Replace(TEXT, f'_STOP_WORDS = """\n{STOP_WORDS}"""\n', ""),
            Replace(TEXT, "    stop_words = set(_STOP_WORDS.split())\n", ""),
            Replace(TEXT, "not in stop_words", "not in STOP_WORDS"),
        ),
        number=45,
    ),
)

# After the month's end, so that February is closed.
MARCH = (
    Change(
        datetime(2024, 3, 2, 10, 15, tzinfo=UTC),
        Style.PUSH,
        MARA,
        "Add the list of stop words",
        "It was left out of #45, and no wheel could be built since.",
        (Write("tools/stop_words.txt", STOP_WORDS),),
    ),
)
