"""What the checks of a month found, told: for a terminal, as JSON for programs, as Markdown for a page of a hosted CI.

Here belongs how answers look, and the one verdict over them. What a check asks stands in the phases and in
`checks.py`; nothing here runs anything. Details quote foreign text: it may neither draw on a page nor steer a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from formulamine.lineage import AssetCount, to_json
from formulamine.records import Status
from formulamine.tables import TABLES
from formulamine.telling import NO_BREAK, duration, markdown, table

if TYPE_CHECKING:  # Dagster takes seconds to import, and telling needs none of it
    from dagster import AssetCheckEvaluation

LONGEST_DETAIL = 300  # characters shown; JSON has all
NOT_MADE = "was not made: the run of checks ended before it"


@dataclass(frozen=True)
class Answer:
    """What one check found."""

    asset: str
    check: str
    passed: bool
    blocking: bool
    detail: str

    @property
    def word(self) -> str:
        """How it ended, in one word."""
        return "ok" if self.passed else ("FAILED" if self.blocking else "warning")


def answers(evaluations: Iterable[AssetCheckEvaluation], expected: Iterable[tuple[str, str]]) -> list[Answer]:
    """One answer for each check that there is, in the order of the graph: one that was not made has failed."""
    found = {}
    for one in evaluations:
        asset, blocking = one.asset_key.to_user_string(), one.severity.value == "ERROR"
        detail = str(one.metadata["detail"].value)
        found[asset, one.check_name] = Answer(asset, one.check_name, one.passed, blocking, detail)
    made = [found.get(key) or Answer(*key, passed=False, blocking=True, detail=NOT_MADE) for key in expected]
    order = {name: place for place, name in enumerate(TABLES)}
    return sorted(made, key=lambda one: (order.get(one.asset, len(order)), one.check))


def passes(found: Sequence[Answer]) -> bool:
    """The verdict, which is that of the job `gates`: no blocking check has failed."""
    return all(one.passed or not one.blocking for one in found)


def as_json(month: str, found: Sequence[Answer]) -> str:
    """One JSON object with every detail whole."""
    checks: list[dict[str, Any]] = [asdict(one) for one in found]
    return to_json({"month": month, "passed": passes(found), "checks": checks})


def for_terminal(found: Sequence[Answer]) -> str:
    """A line for each check."""
    return "\n".join(f"{one.word:<8} {one.asset}.{one.check}: {_short(one.detail)}" for one in found)


def as_markdown(month: str, found: Sequence[Answer], funnel: Sequence[AssetCount] | str) -> str:
    """A page: the verdict, the checks with what failed first, and the month's funnel or why it cannot be told."""
    place = {"FAILED": 0, "warning": 1, "ok": 2}
    ordered = sorted(found, key=lambda one: place[one.word])  # stable: within a word the order of the graph stays
    failed, warned = (sum(one.word == word for one in found) for word in ("FAILED", "warning"))
    counted = f"{len(found)} checks, {failed} failed" + (f", {warned} warned" if warned else "")
    rows = [
        [f"**{one.word}**" if one.word != "ok" else "ok", f"{one.asset}.{one.check}", markdown(_short(one.detail))]
        for one in ordered
    ]
    parts = [
        f"## Checks of {month}: {'passed' if passes(found) else 'failed'}",
        f"{counted}.",
        table(["", "check", "what it found"], [[cells[0], f"`{cells[1]}`", cells[2]] for cells in rows]),
        f"### Funnel of {month}",
        markdown(funnel) if isinstance(funnel, str) else _funnel(funnel),
    ]
    return "\n\n".join(parts) + "\n"


def _funnel(counts: Sequence[AssetCount]) -> str:
    rows = [
        [
            one.asset,
            str(one.rows),
            str(one.status.get(Status.DONE, 0)),
            markdown(", ".join(f"{count} {name}" for name, count in one.reasons.items())),
            duration(one.seconds).replace(" ", NO_BREAK),
            f"{one.cost_usd:.2f}",
        ]
        for one in counts
    ]
    return table(["asset", "rows", "done", "why the rest stopped", "time", "cost, $"], rows)


def _short(text: str) -> str:
    """One line that is not too long."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= LONGEST_DETAIL else f"{line[: LONGEST_DETAIL - 3]}..."
