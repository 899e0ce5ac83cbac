"""What a run of a month would do, without doing it: items to visit, reuse and compute, expected time and cost.

Here belongs looking ahead. It goes by the tables as they stand: where an asset has work to do, how many items reach
those after it is not known before, so their numbers are of what is known now.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from formulamine.build.steps import env_payloads_step, images_step
from formulamine.discover.steps import candidate_prs_step, pull_requests_step, registered, repositories_step
from formulamine.items import Step, reusable
from formulamine.judge.steps import classifications_step
from formulamine.pipeline import inputs, joined
from formulamine.services.container import Services
from formulamine.services.store import StoreError
from formulamine.ship.steps import problem_statements_step
from formulamine.verify.steps import speedup_measurements_step

STEPS: dict[str, Callable[[Services, str], Step[Any]]] = {
    "repositories": lambda services, month: repositories_step(services, refresh=False),
    "pull_requests": pull_requests_step,
    "candidate_prs": candidate_prs_step,
    "classifications": lambda services, month: classifications_step(services),
    "env_payloads": lambda services, month: env_payloads_step(services),
    "images": lambda services, month: images_step(services),
    "speedup_measurements": lambda services, month: speedup_measurements_step(services),
    "problem_statements": lambda services, month: problem_statements_step(services),
}


@dataclass(frozen=True)
class Planned:
    """What a run would do at one asset. `seconds` and `cost_usd` are None where the ledger knows no past to go by."""

    asset: str
    visit: int
    reuse: int
    compute: int
    seconds: float | None
    cost_usd: float | None
    known: bool
    """False where an asset before it was never made, so that nothing can be said."""


def plan(month: str, services: Services, *, limit: int | None = None, force: bool = False) -> list[Planned]:
    """What a run of a month would do, asset by asset. Writes nothing and asks nothing of the outside."""
    planned = []
    for asset, make in STEPS.items():
        try:
            step = make(services, month)
            items = registered(services, month) if asset == "repositories" else _items(step, month, services)
        except StoreError:
            planned.append(Planned(asset, 0, 0, 0, None, None, known=False))
            continue
        planned.append(_planned(step, items, services, limit, force))
    return planned


def render(month: str, planned: Sequence[Planned]) -> str:
    """A plan for a terminal."""
    lines = [f"{month}: what a run would do, as far as the tables tell today"]
    lines.append(f"{'asset':<22}{'visit':>7}{'reuse':>7}{'compute':>9}{'time':>10}{'cost':>9}")
    for one in planned:
        if not one.known:
            lines.append(f"{one.asset:<22}  not known before the assets above it are made")
            continue
        seconds = "?" if one.seconds is None else f"{one.seconds:.0f}s"
        cost = "?" if one.cost_usd is None else f"{one.cost_usd:.2f}$"
        lines.append(f"{one.asset:<22}{one.visit:>7}{one.reuse:>7}{one.compute:>9}{seconds:>10}{cost:>9}")
    return "\n".join(lines)


def _items(step: Step[Any], month: str, services: Services) -> list[tuple[str, Any]]:
    return inputs(step, joined(step.asset, month, services.tables), month)


def _planned(
    step: Step[Any], items: Sequence[tuple[str, Any]], services: Services, limit: int | None, force: bool
) -> Planned:
    known = {} if force else services.ledger.find(step.asset, {key: step.fingerprint(item) for key, item in items})
    reuse = sum(reusable(entry, step.refresh, datetime.now(UTC)) for entry in known.values())
    compute = len(items) - reuse if limit is None else min(limit, len(items) - reuse)
    past = services.ledger.past(step.asset)
    return Planned(
        asset=step.asset,
        visit=len(items),
        reuse=reuse,
        compute=compute,
        # Items run side by side; the median, since one build that hung must not stretch every plan.
        seconds=_expected([seconds for seconds, _ in past], compute, step.workers),
        cost_usd=_expected([cost for _, cost in past], compute, 1),
        known=True,
    )


def _expected(past: Sequence[float], compute: int, workers: int) -> float | None:
    if not compute:
        return 0.0
    return statistics.median(past) * compute / workers if past else None
