"""Months: what "2024-02" means as a window of time, and which months can be asked for.

Here belongs the calendar alone; Dagster's partitions of the same months are in `formulamine/partitions.py`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

FIRST_MONTH = "2015-01"  # ASV's first release is of that year


class MonthError(ValueError):
    """A month that cannot be asked for; the message is one line with the mend."""


def month_window(month: str) -> tuple[datetime, datetime]:
    """Start and end of a month in UTC; the end is the first moment that is no longer in it.

    Args:
        month: as "2024-02".

    Raises:
        MonthError: it is not written so.
    """
    if not re.fullmatch(r"[12][0-9]{3}-(0[1-9]|1[0-2])", month):
        raise MonthError(f"{month!r} is no month: write it as 2024-02")
    year, number = (int(part) for part in month.split("-"))
    end = (year + 1, 1) if number == 12 else (year, number + 1)
    return datetime(year, number, 1, tzinfo=UTC), datetime(*end, 1, tzinfo=UTC)


def parse_month(text: str, now: datetime) -> str:
    """A month that can be asked for.

    Args:
        text: as "2024-02".
        now: a moment with its zone; its month is not over yet.

    Returns:
        The same text.

    Raises:
        MonthError: malformed, before 2015, current or future.
    """
    _, end = month_window(text)
    if text < FIRST_MONTH:
        raise MonthError(f"{text} is before {FIRST_MONTH}: take that month or a later one")
    if end > now:
        raise MonthError(f"{text} is not over yet: take a month before {now.astimezone(UTC):%Y-%m}")
    return text
