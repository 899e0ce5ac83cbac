"""Releases that satisfy requirements, as of which day.

Here belongs the ladder of cutoffs, and the order in which both sides are asked for: together as long as that goes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from packaging.requirements import Requirement

from formulamine.build.wanted import Place, line_of
from formulamine.services.resolver import Resolver, Unresolvable
from formulamine.services.sandbox import Sandbox


def cutoffs_of(merged_at: datetime) -> list[tuple[str, datetime | None]]:
    """Rungs and days, in the order in which they are tried; None for any day."""
    month_start = merged_at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return [("month_start", month_start), ("merge_date", merged_at.astimezone(UTC)), ("relaxed", None)]


def pins_of(
    resolver: Resolver,
    wanted: Sequence[Mapping[str, Place]],
    python: str,
    cutoffs: Sequence[tuple[str, datetime | None]],
    sandbox: Callable[[], Sandbox],
) -> tuple[list[str], list[str], str, datetime | None]:
    """Pins of both sides together at the first cutoff that has some, else of each side on its own.

    Raises:
        Unresolvable: at no cutoff, neither together nor apart.
    """
    head, base = ([*side] for side in wanted)
    failure: Unresolvable | None = None
    for apart in (False, True) if set(head) != set(base) else (False,):
        for rung, cutoff in cutoffs:
            try:
                if apart:
                    both = [resolver.compile(side, python, cutoff, sandbox) for side in (head, base)]
                    return both[0], both[1], rung, cutoff
                return resolver.compile([*head, *base], python, cutoff, sandbox), [], rung, cutoff
            except Unresolvable as error:
                failure = error
    assert failure is not None
    raise failure


def build_pins_of(
    resolver: Resolver,
    lines: Sequence[Requirement],
    python: str,
    cutoffs: Sequence[datetime | None],
    sandbox: Callable[[], Sandbox],
) -> list[str]:
    """Pins of build requirements at the first cutoff that has some.

    Raises:
        Unresolvable: none has.
    """
    wanted = [f"{line_of(one)} ; {one.marker}" if one.marker else line_of(one) for one in lines]
    for cutoff in cutoffs[:-1]:
        with contextlib.suppress(Unresolvable):
            return resolver.compile(wanted, python, cutoff, sandbox)
    return resolver.compile(wanted, python, cutoffs[-1], sandbox)
