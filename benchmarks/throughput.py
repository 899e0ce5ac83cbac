"""How many pull requests of a month are measured in an hour, what one takes, and which stage dominates.

Usage: FORMULAMINE_HOME=... python benchmarks/throughput.py MONTH [--survivors 200]

Reads what a month has left behind, its tables and raw samples, and measures nothing itself. A stage's seconds are those
between the ends of rounds, as the raw samples have them: what comes before the first round's end is the start of both
sides, discovery and tracing; what comes after the last one is tests of what got faster, and waiting for the machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from formulamine.services.store import Blobs, StoreError, Tables
from formulamine.settings import Settings, SettingsError
from formulamine.tables import TABLES
from formulamine.verify.measure import RawBlob
from formulamine.verify.raw import RawMeasurement

MEASURED = "speedup_measurements"
FIRST, REST = "until the first round's end", "after the last round"
STAGES = {("screen", 1): "screening", ("confirm", 1): "confirmation", ("confirm", 2): "second session"}
CONTROL = "control (A/A)"


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("month")
    parser.add_argument("--survivors", type=int, default=200, help="pull requests to extrapolate to")
    arguments = parser.parse_args()
    try:
        settings = Settings()
        tables = Tables(settings.home / "tables")
        frames = {name: tables.read(name, arguments.month) for name in TABLES}
    except (SettingsError, StoreError) as error:
        sys.exit(str(error))
    measured = frames[MEASURED]
    rows = [] if measured is None else measured.filter(pl.col("raw_sha256").is_not_null()).to_dicts()
    if not rows:
        sys.exit(f"{settings.home}: nothing was measured in {arguments.month}")
    seconds = {name: frame["seconds"].to_list() for name, frame in frames.items() if frame is not None}
    blobs = Blobs(settings.home / "blobs")
    told = [spent(row["seconds"], RawBlob.model_validate_json(blobs.get(row["raw_sha256"]))) for row in rows]
    print("\n".join([*assets(seconds), "", *measurements(rows, told, arguments.survivors)]))


def assets(seconds: Mapping[str, Sequence[float]]) -> list[str]:
    """What each asset took, of all its rows."""
    lines = [f"{'asset':22} {'rows':>5} {'total s':>9} {'median s':>9} {'90% s':>9}"]
    for name, of in seconds.items():
        if of:
            lines.append(f"{name:22} {len(of):5} {sum(of):9.1f} {statistics.median(of):9.2f} {ninth(of):9.2f}")
    return lines


def measurements(rows: Sequence[Mapping[str, Any]], told: Sequence[Mapping[str, float]], survivors: int) -> list[str]:
    """Pull requests an hour, what one took, where that went, and what so many `survivors` would take."""
    seconds = [float(row["seconds"]) for row in rows]
    total, mean = sum(seconds), statistics.mean(seconds)
    loads = [float(row["load_before"]) for row in rows]
    lines = [
        f"{len(rows)} measured in {total:.0f} s: {3600 / mean:.1f} an hour, one at a time",
        f"a pull request: median {statistics.median(seconds):.0f} s, 90% {ninth(seconds):.0f} s, "
        f"most {max(seconds):.0f} s; load before {min(loads):.1f} to {max(loads):.1f}",
        f"benchmark cases screened: median {statistics.median(row['screened'] for row in rows):.0f}, "
        f"most {max(row['screened'] for row in rows)}; selected by impact in "
        f"{sum(row['selection'] == 'impact' for row in rows)} of {len(rows)}",
    ]
    stages: Counter[str] = Counter()
    for one in told:
        stages.update(one)
    lines += [f"  {stage:28} {of:8.0f} s  {of / total:4.0%}" for stage, of in stages.most_common()]
    # The mean, since a sum is asked for: few slow suites make most of it.
    return [*lines, f"{survivors} survivors at that mean of {mean:.0f} s: {survivors * mean / 3600:.1f} h"]


def spent(seconds: float, raw: RawBlob) -> dict[str, float]:
    """Seconds of one measured pull request by stage; they add up to `seconds`."""
    by_stage = Counter(stages(RawMeasurement.from_json(raw.measurement)))
    for control in raw.control:
        by_stage[CONTROL] += sum(stages(RawMeasurement.from_json(control)).values())
    by_stage[REST] += max(0.0, seconds - by_stage.total())
    return dict(by_stage)


def stages(raw: RawMeasurement) -> dict[str, float]:
    """Seconds of one measurement by stage, up to the end of its last round."""
    ends = sorted(
        (one.at, STAGES.get((case.stage, one.session), case.stage)) for case in raw.cases for one in case.rounds
    )
    by_stage: Counter[str] = Counter()
    before = 0.0
    for index, (at, stage) in enumerate(ends):
        by_stage[stage if index else FIRST] += at - before
        before = at
    return dict(by_stage)


def ninth(values: Iterable[float]) -> float:
    """The value that nine in ten do not exceed."""
    ordered = sorted(values)
    return ordered[-(-9 * len(ordered) // 10) - 1]


if __name__ == "__main__":
    main()
