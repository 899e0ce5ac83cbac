"""What a run of the month would do with one pull request now, and why.

Here belongs asking the ledger, step by step, as `advance` would: is there an outcome under today's fingerprint? Where
there is none, what changed is told as far as it is known. Nothing here runs a step or writes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError

from formulamine.items import Entry, Step, reusable
from formulamine.pipeline import inputs
from formulamine.records import Record, Status
from formulamine.services.container import Services
from formulamine.tables import TABLES

Action = Literal["reused", "recomputed", "tried again", "depends", "not reached"]


@dataclass(frozen=True)
class Redo:
    """What would happen at one asset."""

    asset: str
    action: Action
    why: str


def redo(pr_id: str, repo: str, month: str, services: Services) -> list[Redo]:
    """What a run of the month would do with a pull request at each asset, in order.

    Args:
        pr_id: the pull request.
        repo: its repository, OWNER/NAME.
        month: the month that has it.
        services: of today; their settings and versions are compared with those of the past.

    Raises:
        StoreError: a table that a step looks at is missing or unreadable.
        LedgerError: the ledger cannot be opened.
    """
    from formulamine.discover.registry import Registry
    from formulamine.plan import STEPS

    entries = Registry(services.settings.home / "repositories.toml").visible()
    registered = next((entry for entry in entries if entry.name == repo), None)
    if registered is None:
        return [Redo("repositories", "not reached", f"{repo} is not in the registry any more, or hidden there")]
    known: dict[str, Any] = {"repo": repo, "source": registered.source, "month": month, "pr_id": pr_id}
    history = [*services.ledger.history(f"{repo}@{month}"), *services.ledger.history(pr_id)]
    told: list[Redo] = []
    for asset in TABLES:
        if asset not in STEPS:
            told.append(Redo(asset, "recomputed", "every run computes its gates again from raw samples and records"))
            continue
        answer, record = _one(STEPS[asset](services, month), known, pr_id, month, services, history)
        told.append(answer)
        if record is None:
            stopped = answer.action == "reused"
            why = f"it stops at {asset}" if stopped else f"its input is what comes out of {asset}"
            rest = list(TABLES)[list(TABLES).index(asset) + 1 :]
            return told + [Redo(name, "not reached" if stopped else "depends", why) for name in rest]
        known |= record
    return told


def _one(
    step: Step[Any], known: Mapping[str, Any], pr_id: str, month: str, services: Services, history: list[Entry]
) -> tuple[Redo, dict[str, Any] | None]:
    """What would happen at one asset, and the record that goes on if it is known."""
    ((key, item),) = (
        [
            (
                f"{known['repo']}@{month}",
                step.reads.model_validate({name: known[name] for name in step.reads.model_fields}),
            )
        ]
        if step.asset == "repositories"
        else inputs(step, [known], month)
    )
    earlier = [entry for entry in history if entry.step == step.asset and entry.item == key]
    fingerprint = step.fingerprint(item)
    entry = next((one for one in earlier if one.fingerprint == fingerprint), None)
    if entry is None:
        why = f"changed: {'; '.join(changes(step, item, earlier[-1]))}" if earlier else "it was never computed"
        return Redo(step.asset, "recomputed", why), None
    if not reusable(entry, step.refresh, datetime.now(UTC)):
        return Redo(step.asset, "tried again", _tried_again(entry)), None
    decided = ", ".join(f"{name} {value}" for name, value in step.parts(item).items() if not name.startswith("field "))
    return Redo(step.asset, "reused", f"nothing changed since {entry.recorded_at:%Y-%m-%d}: {decided}"), _record(
        entry, pr_id
    )


def _tried_again(entry: Entry) -> str:
    """Why an outcome of the same fingerprint does not stand."""
    if entry.status == Status.DEFERRED:
        return f"it was deferred ({entry.reason}) and is due"
    if entry.infrastructure:
        return f"it failed for infrastructure ({entry.reason})"
    return "the world may answer otherwise by now"


def _record(entry: Entry, pr_id: str) -> dict[str, Any] | None:
    """Fields that an outcome adds to its row; None where the row ends there."""
    found = entry.record if entry.records is None else entry.records.get(pr_id)
    if entry.status != Status.DONE or found is None:
        return None
    try:
        return TABLES[entry.step].record.model_validate(found).model_dump()
    except ValidationError:
        return None


def changes(step: Step[Any], item: Record, entry: Entry) -> list[str]:
    """Which parts of a fingerprint are not what they were when an outcome was recorded."""
    now, then = step.parts(item), entry.parts or {}
    names = [name for name in {**now, **then} if now.get(name) != then.get(name)]
    return [f"{name} (then {then.get(name, 'none')}, now {now.get(name, 'none')})" for name in names]
