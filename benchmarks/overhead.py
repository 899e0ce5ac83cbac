"""What Dagster adds to a month with nothing to do: the demo's month, done once, then run again in two ways.

One is `formulamine month`. The other makes the same tables by the same plain functions, in a process that knows no
Dagster runs; both start Python, import the assets and open the ledger. The difference, by asset, is Dagster's share:
runs, events and storage. What the release and the checks compute is ours, but in `formulamine month` alone: the share
is an upper bound. The sides take turns and the best of each counts. Exits 1 above the bound.

Usage: python benchmarks/overhead.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from formulamine.demo.sample import MONTH, REPOSITORY, write_sample
from formulamine.tables import TABLES

MOST_SECONDS = 2.0  # an asset
# What the assets of a month do, without Dagster.
PLAIN = """
import logging, sys, threading
from formulamine.items import RunOptions
from formulamine.pipeline import inputs, joined, materialize
from formulamine.plan import STEPS
from formulamine.discover.steps import registered
from formulamine.services.container import Services
from formulamine.settings import Settings
month, services = sys.argv[1], Services(Settings())
for asset, make in STEPS.items():
    step = make(services, month)
    items = registered(services, month) if asset == "repositories" else inputs(
        step, joined(asset, month, services.tables), month
    )
    made = materialize(
        step, items, month, tables=services.tables, ledger=services.ledger, options=RunOptions("benchmark"),
        cancelled=threading.Event(), log=logging.getLogger("benchmark"),
    )
    assert made.tally.computed == 0, asset
services.close()
"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    month, plain, imports = [], [], []
    with tempfile.TemporaryDirectory(prefix="formulamine-bench-") as folder:
        home = Path(folder, "home")
        write_sample(Path(folder, "sample.git"))
        run(home, "-m", "formulamine", "month", MONTH, "--repo", f"{REPOSITORY}={folder}/sample.git")
        for _ in range(rounds):
            month.append(run(home, "-m", "formulamine", "month", MONTH))
            plain.append(run(home, "-c", PLAIN, MONTH))
            imports.append(run(home, "-c", "import formulamine.definitions"))
    share = (min(month) - min(plain)) / len(TABLES)
    print(f"formulamine month  {min(month):6.2f} s, {min(month) / len(TABLES):.2f} s an asset, all in all")
    print(f"plain functions    {min(plain):6.2f} s")
    print(f"imports alone      {min(imports):6.2f} s, which are in both")
    print(f"Dagster's share    {share:6.2f} s an asset (at most {MOST_SECONDS:g}), its checks included")
    return int(share > MOST_SECONDS)


def run(home: Path, *arguments: str) -> float:
    """Seconds of one Python process."""
    environment = {**os.environ, "FORMULAMINE_HOME": str(home)}
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
