"""What a run of the month would do with one pull request now, and why.

Here belongs asking the ledger, step by step, as `advance` would: is there an outcome under today's fingerprint? Where
there is none, what changed is told as far as it is known. Nothing here runs a step or writes anything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError

from formulamine.items import Entry, Step
from formulamine.pipeline import inputs
from formulamine.services.container import Services
from formulamine.tables import TABLES, Record, Status

Action = Literal["reused", "recomputed", "tried again", "depends", "not reached"]


@dataclass(frozen=True)
class Redo:
    """What would happen at one asset."""

    asset: str
    action: Action
    why: str


def steps(services: Services, month: str) -> dict[str, Callable[[], Step[Any]]]:
    """How to make each asset's step of today; the release has none, since its gates are computed in every run."""
    from formulamine.build import assets as build
    from formulamine.discover import assets as discover
    from formulamine.judge import assets as judge
    from formulamine.ship import assets as ship
    from formulamine.verify import assets as verify

    return {
        "repositories": lambda: discover.repositories_step(services, refresh=False),
        "pull_requests": lambda: discover.pull_requests_step(services, month),
        "candidate_prs": lambda: discover.candidate_prs_step(services, month),
        "classifications": lambda: judge.classifications_step(services),
        "env_payloads": lambda: build.env_payloads_step(services),
        "images": lambda: build.images_step(services),
        "speedup_measurements": lambda: verify.speedup_measurements_step(services),
        "problem_statements": lambda: ship.problem_statements_step(services),
    }


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

    entries = Registry(services.settings.home / "repositories.toml").visible()
    registered = next((entry for entry in entries if entry.name == repo), None)
    if registered is None:
        return [Redo("repositories", "not reached", f"{repo} is not in the registry any more, or hidden there")]
    known: dict[str, Any] = {"repo": repo, "source": registered.source, "month": month, "pr_id": pr_id}
    history = [*services.ledger.history(f"{repo}@{month}"), *services.ledger.history(pr_id)]
    told: list[Redo] = []
    makers = steps(services, month)
    for asset in TABLES:
        if asset not in makers:
            told.append(Redo(asset, "recomputed", "every run computes its gates again from raw samples and records"))
            continue
        answer, record = _one(makers[asset](), known, pr_id, month, services, history)
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
        why = f"changed: {'; '.join(changes(step, item, earlier[-1], history))}" if earlier else "it was never computed"
        return Redo(step.asset, "recomputed", why), None
    if again := _tried_again(entry):
        return Redo(step.asset, "tried again", again), None
    decided = ", ".join(f"{name} {value}" for name, value in parts(step, item).items() if not name.startswith("field "))
    return Redo(step.asset, "reused", f"nothing changed since {entry.recorded_at:%Y-%m-%d}: {decided}"), _record(
        entry, pr_id
    )


def _tried_again(entry: Entry) -> str:
    """Why an outcome of the same fingerprint does not stand; empty where it does."""
    if entry.status == Status.DEFERRED:
        due = entry.until is None or entry.until <= datetime.now(UTC)
        return f"it was deferred ({entry.reason}) and is due" if due else ""
    if entry.infrastructure:
        return f"it failed for infrastructure ({entry.reason})"
    return "" if entry.settled else "the world may answer otherwise by now"


def _record(entry: Entry, pr_id: str) -> dict[str, Any] | None:
    """Fields that an outcome adds to its row; None where the row ends there."""
    found = entry.record if entry.records is None else entry.records.get(pr_id)
    if entry.status != Status.DONE or found is None:
        return None
    try:
        return TABLES[entry.step].record.model_validate(found).model_dump()
    except ValidationError:
        return None


def parts(step: Step[Any], item: Record) -> dict[str, str]:
    """Everything that is in a fingerprint, by name; long values as a short hash."""
    named = {"step version": step.version}
    named |= {f"field {name}": _short(value) for name, value in item.model_dump(mode="json").items()}
    for group in step.settings:
        named |= {f"setting {name}": str(value) for name, value in group.model_dump(mode="json").items()}
    named |= {f"data file {path.name}": _short(path.read_bytes().hex()) for path in step.data_files}
    return named | {f"outside {name}": str(value) for name, value in step.outside.items()}


def changes(step: Step[Any], item: Record, entry: Entry, history: list[Entry]) -> list[str]:
    """Which parts of a fingerprint are not what they were.

    Where the ledger does not say what they were, parts are put back to what they may have been (other versions,
    defaults of settings, records that the ledger has of the assets before) until the hash is the recorded one.
    """
    now = parts(step, item)
    then: Mapping[str, str] | None = getattr(entry, "parts", None)
    if then is None:
        guessed = (what for what, guess in _guesses(step, item, history) if guess == entry.fingerprint)
        return [next(guessed, _untold(step))]
    names = [name for name in {**now, **then} if now.get(name) != then.get(name)]
    return [f"{name} (then {then.get(name, 'none')}, now {now.get(name, 'none')})" for name in names]


def _untold(step: Step[Any]) -> str:
    """What is left where nothing that was tried gives the recorded hash."""
    data = [path.name for path in step.data_files]
    left = ["what it read of the row", *data, *step.outside]
    return f"{', '.join(left[:-1])} or {left[-1]} (the ledger keeps a hash only)" if left[1:] else left[0]


def _guesses(step: Step[Any], item: Record, history: list[Entry]) -> Iterator[tuple[str, str]]:
    """What may have changed, with the fingerprint that the past would then have."""
    for version in map(str, range(int(step.version) + 3 if step.version.isdecimal() else 0)):
        if version != step.version:
            what = f"step version (then {version}, now {step.version})"
            yield what, dataclasses.replace(step, version=version).fingerprint(item)
    for place, group in enumerate(step.settings):
        for name, field in type(group).model_fields.items():
            now = getattr(group, name)
            if now != field.default:
                past = (
                    *step.settings[:place],
                    group.model_copy(update={name: field.default}),
                    *step.settings[place + 1 :],
                )
                what = f"setting {name} (then {field.default}, now {now})"
                yield what, dataclasses.replace(step, settings=past).fingerprint(item)
    for name in step.outside:
        fewer = {other: value for other, value in step.outside.items() if other != name}
        yield f"outside {name} (then not asked)", dataclasses.replace(step, outside=fewer).fingerprint(item)
    for older in history:
        for record in [older.record, *(older.records or {}).values()]:
            values = {name: value for name, value in (record or {}).items() if name in step.reads.model_fields}
            changed = sorted(name for name in values if item.model_dump(mode="json")[name] != values[name])
            if changed:
                try:
                    past_item = step.reads.model_validate({**item.model_dump(), **values})
                except ValidationError:
                    continue
                what = f"read field {', '.join(changed)} (as {older.step} had it on {older.recorded_at:%Y-%m-%d})"
                yield what, step.fingerprint(past_item)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 40 else hashlib.sha256(text.encode()).hexdigest()[:12]
