"""Months as windows, and which can be asked for."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from formulamine.discover.months import MonthError, month_window, parse_month

NOW = datetime(2024, 3, 15, tzinfo=UTC)


def test_a_window_is_half_open() -> None:
    assert month_window("2024-02") == (datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC))
    assert month_window("2023-12")[1] == datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        *("", "2024-2", "2024-13", "2024-00", "2024-02-01", "02-2024", "2024-02\n", "٢٠٢٤-02"),
        *("0000-01", "2014-12", "2024-03", "2024-04", "9999-12"),
    ],
)
def test_months_that_cannot_be_asked_for(text: str) -> None:
    with pytest.raises(MonthError) as caught:
        parse_month(text, NOW)
    assert "\n" not in str(caught.value)


def test_months_that_can() -> None:
    assert parse_month("2015-01", NOW) == "2015-01"
    assert parse_month("2024-02", NOW) == "2024-02"
    # The first of March in Tokyo, still February in UTC.
    with pytest.raises(MonthError):
        parse_month("2024-02", datetime(2024, 3, 1, 5, tzinfo=timezone(timedelta(hours=9))))
