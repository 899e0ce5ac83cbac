"""Calibration on built pairs of the user's own choice: which trials are missing, carrying them out, and where they are.

Here belongs what stands between a month's built pull requests and a trial: the pair, the sandbox, the lock of the
machine, and the file of trials in FORMULAMINE_HOME. What a trial is, and what many say, is in `calibration`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from formulamine.build.recipe import Recipe
from formulamine.interrupts import held_back
from formulamine.items import Cancelled
from formulamine.pipeline import inputs, joined
from formulamine.services.container import Backend, Services
from formulamine.services.sandbox import Running, Sandbox
from formulamine.services.store import waiting
from formulamine.settings import Settings
from formulamine.verify import protocol
from formulamine.verify.calibration import NothingToSlow, Trial, trial
from formulamine.verify.lockstep import number_of
from formulamine.verify.machine import machine_class
from formulamine.verify.measure import MeasureInput, MeasureStep
from formulamine.verify.raw import tuples
from formulamine.verify.side import Cancelled as MeasurementCancelled
from formulamine.verify.side import Launch, Limits
from formulamine.verify.steps import speedup_measurements_step

_log = logging.getLogger(__name__)


class UnknownPair(Exception):
    """A pull request that is not built in this month; the message names it."""


@contextlib.contextmanager
def services_of(settings: Settings, backend: Backend, trust: bool) -> Iterator[Services]:
    """Services that a signal ends."""
    from formulamine.demo.sample import commit_ids

    services = Services(settings, backend, trust, is_ours=lambda commit: commit in commit_ids())
    with held_back(services.cancelled):
        try:
            yield services
        finally:
            services.close()


def trials_file(home: Path) -> Path:
    """Where trials are kept, one JSON object a line."""
    return home / "calibration" / "trials.jsonl"


def read_trials(home: Path) -> list[Trial]:
    """All trials of this protocol, whatever the machine; a last line that was cut off is none.

    Raises:
        ValueError, TypeError: another line is no trial.
    """
    path = trials_file(home)
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    fields = [tuples(json.loads(line)) for line in lines]
    return [Trial(**one) for one in fields if one["version"] == protocol.VERSION]


def built(month: str, chosen: Sequence[str], services: Services) -> list[MeasureInput]:
    """Built pull requests of a month; those `chosen` by pr_id, or all.

    Raises:
        StoreError: the month has not come so far.
        UnknownPair: one is not among them.
    """
    step = speedup_measurements_step(services)
    rows = joined(step.asset, month, services.tables)
    items = dict(inputs(step, rows, month))
    if unknown := [name for name in chosen if name not in items]:
        raise UnknownPair(f"{', '.join(unknown)}: not built in {month}")
    return [items[name] for name in chosen or items]


def calibrate(
    items: Sequence[MeasureInput], services: Services, *, ratios: Sequence[float], trials: int, benchmarks: int
) -> Iterator[Trial]:
    """Carry out the trials that are missing, and yield each once it is kept.

    Args:
        items: Built pull requests; each trial takes the next one.
        services: Of this run.
        ratios: What is tried.
        trials: How many of each ratio there shall be on this machine, those of earlier runs included.
        benchmarks: How many cases take part in each; 0 for all.

    Raises:
        Cancelled: The services were.
        SideBroken: A side cannot be used.
    """
    machine, path = machine_class(), trials_file(services.settings.home)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {(one.ratio, one.seed) for one in read_trials(services.settings.home) if one.machine == machine}
    wanted = [(index, ratio) for index in range(trials) for ratio in ratios]
    for index, ratio in wanted:
        item = items[index % len(items)]
        seed = number_of("calibration", item.pr_id, ratio, benchmarks, index)
        if (ratio, seed) in known:
            continue
        try:
            one = _trial(item, services, machine, seed, ratio, benchmarks)
        except NothingToSlow as error:
            _log.warning("%s: %s", item.pr_id, error)
            continue
        with path.open("a") as file:
            file.write(json.dumps(asdict(one)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        yield one


def _trial(item: MeasureInput, services: Services, machine: str, seed: int, ratio: float, benchmarks: int) -> Trial:
    step = speedup_measurements_step(services).run
    assert isinstance(step, MeasureStep)
    settings = services.settings.measure
    limits = Limits(call_seconds=settings.benchmark_timeout_s, total_seconds=settings.measure_timeout_s)
    running: list[Running] = []

    def sandbox() -> Sandbox:
        return step.sandboxes.for_commits((item.base_sha, item.merge_sha))

    recipe = Recipe.model_validate_json(services.blobs.get(item.recipe_hash))
    pair = step.backend.pair(recipe, item.url, sandbox, item.pr_id)

    def make(seed: int, extra_turns: Mapping[str, float]) -> Launch:
        return step.launch(pair, pair.base, item, seed, sandbox(), running, extra_turns)

    try:
        with waiting(step.lock, services.cancelled):
            one, measured = trial(
                make, pair=item.pr_id, machine=machine, seed=seed, ratio=ratio, benchmarks=benchmarks, limits=limits,
                cancelled=services.cancelled,
            )  # fmt: skip
    except MeasurementCancelled as error:
        raise Cancelled(item.pr_id) from error
    finally:
        for left in running:
            left.close()
    return replace(one, raw_sha256=services.blobs.put(measured.raw.to_json().encode()))
