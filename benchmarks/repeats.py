"""Whether a verdict is found again: built pull requests of a month, each measured several times independently.

Usage: FORMULAMINE_HOME=... python benchmarks/repeats.py MONTH [PR_ID ...] [--times 2] [--bench REGEX]

Measures what `formulamine month` has built on the local backend by the protocol, with impact selection as a month does
it, or those benchmarks that --bench finds, where a whole suite takes hours; each time with another seed: of random
inputs, of hashes, of the order of sides. Prints a row for each, and exits 1
where two of a pull request do not agree: they have different verdicts, or a benchmark that both confirmed has in
neither an estimate within the other's interval. Readings are kept in FORMULAMINE_HOME: a run that was ended carries on.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from verdict import Bench, discovered, launches

from formulamine.build.recipe import Recipe
from formulamine.build.steps import backend_of
from formulamine.services.container import Services
from formulamine.services.store import waiting
from formulamine.settings import Settings
from formulamine.verify import protocol
from formulamine.verify.calibrate import built
from formulamine.verify.lockstep import number_of
from formulamine.verify.measure import MeasureInput


@dataclass(frozen=True)
class Reading:
    """One measurement of a pull request.

    `confirmed` has, for each benchmark confirmed as faster or slower, the ratio and the bounds of its interval, which
    are None where a side did not end in time.
    """

    pr_id: str
    time: int
    verdict: str
    reason: str
    benchmark: str
    confirmed: dict[str, list[float | None]]
    screened: int
    selection: str
    seconds: float
    load: list[float]

    def told(self) -> str:
        """For people."""
        found = ", ".join(
            f"{name} {ratio:.2f}x [{bound(low)}, {bound(high)}]"
            for name, (ratio, low, high) in self.confirmed.items()
            if name == self.benchmark and ratio is not None
        )
        share = f"{len(self.confirmed)} confirmed of {self.screened}, {self.selection}"
        machine = f"{self.seconds:.0f} s, load {self.load[0]:.1f} to {self.load[1]:.1f}"
        return f"{self.pr_id:32} {self.time + 1}  {self.verdict} {self.reason} {found}  ({share}, {machine})"


def bound(value: float | None) -> str:
    """A bound for people."""
    return "open" if value is None else f"{value:.2f}"


def main() -> None:
    """Measure what is missing and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("month")
    parser.add_argument("pull_requests", nargs="*", metavar="PR_ID")
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--bench", default="", metavar="REGEX", help="only these benchmarks, without impact selection")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    services = Services(Settings(), "local")
    chosen = f"-{hashlib.sha256(arguments.bench.encode()).hexdigest()[:8]}" if arguments.bench else ""
    path = services.settings.home / "repeats" / f"{arguments.month}-{protocol.VERSION}{chosen}.jsonl"
    path.parent.mkdir(exist_ok=True)
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    readings = [Reading(**json.loads(line)) for line in lines]
    known = {(one.pr_id, one.time) for one in readings}
    try:
        items = built(arguments.month, arguments.pull_requests, services)
        for item, time in itertools.product(items, range(arguments.times)):
            if (item.pr_id, time) not in known:
                reading = measured(services, item, time, arguments.bench)
                readings.append(reading)
                with path.open("a") as file:
                    file.write(json.dumps(asdict(reading)) + "\n")
                print(reading.told(), flush=True)
    finally:
        services.close()
    fine = True
    for item in items:
        of = sorted((one for one in readings if one.pr_id == item.pr_id), key=lambda one: one.time)
        apart = disagreement(of)
        fine = fine and not apart
        print(f"{item.pr_id}: {', '.join(one.verdict for one in of)}: {apart or 'they agree'}")
    sys.exit(0 if fine else 1)


def measured(services: Services, item: MeasureInput, time: int, wanted: str) -> Reading:
    """Measure a pull request, or those benchmarks in whose names a pattern is found, with the seed of this time."""
    recipe = Recipe.model_validate_json(services.blobs.get(item.recipe_hash))
    sandbox = services.sandboxes.for_commits((item.base_sha, item.merge_sha))
    pair = backend_of(services, "local").pair(recipe, item.url, lambda: sandbox, item.pr_id)
    seed, before = number_of("repeats", item.pr_id, time), os.getloadavg()[0]
    bench = Bench(services, pair, item, Path())
    only = [case.name for case in discovered(bench).cases if re.search(wanted, case.name)] if wanted else None
    with waiting(bench.lock, services.cancelled), launches(bench, seed) as (base, head):
        measurement = protocol.measure(base, head, seed=seed, only=only, select=only is None and not recipe.pins_base)
    verdict = measurement.verdict
    return Reading(
        pr_id=item.pr_id,
        time=time,
        verdict=verdict.verdict,
        reason=verdict.reason,
        benchmark=verdict.benchmark,
        confirmed={
            one.benchmark: [one.speedup, one.ci_low, one.ci_high]
            for one in measurement.results
            if one.decision in ("faster", "slower")
        },
        screened=verdict.screened,
        selection=measurement.raw.selection.mode,
        seconds=round(measurement.seconds, 1),
        load=[before, os.getloadavg()[0]],
    )


def disagreement(readings: Sequence[Reading]) -> str:
    """In what measurements of one pull request do not agree; empty where they do."""
    if len({one.verdict for one in readings}) > 1:
        return "the verdicts differ"
    for one, other in itertools.combinations(readings, 2):
        for name in sorted({*one.confirmed} & {*other.confirmed}):
            found = one.confirmed[name], other.confirmed[name]
            if not (inside(*found) or inside(*found[::-1])):
                return f"{name} is {found[0]} and {found[1]}"
    return ""


def inside(one: Sequence[float | None], other: Sequence[float | None]) -> bool:
    """Whether the estimate of one lies in the interval of the other; an open bound holds whatever is beyond it."""
    estimate, (_, low, high) = one[0], other
    return estimate is None or ((low is None or low <= estimate) and (high is None or estimate <= high))


if __name__ == "__main__":
    main()
