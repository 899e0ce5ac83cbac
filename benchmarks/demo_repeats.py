"""Whether the demo's month ends alike however often it is run: each time in a fresh home, with nothing to reuse.

Exits 1 unless every run releases exactly the three real speedups and every pull request ends where `expected.toml`
says. Usage: python benchmarks/demo_repeats.py [--times 20]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from formulamine.demo.sample import MONTH, REPOSITORY, expected_endings, write_sample
from formulamine.tables import TABLES, Status


def main() -> None:
    """Run and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    times = parser.parse_args().times
    failed = 0
    with tempfile.TemporaryDirectory(prefix="formulamine-bench-") as folder:
        sample = write_sample(Path(folder, "sample.git")).path
        for turn in range(1, times + 1):
            home = Path(folder, f"home-{turn}")
            started = time.monotonic()
            wrong = run(home, sample)
            failed += bool(wrong)
            load = os.getloadavg()[0]
            took = time.monotonic() - started
            print(
                f"{turn:3} of {times}  {took:5.0f} s  load {load:4.1f}  {'; '.join(wrong) or 'as expected'}", flush=True
            )
    print(f"{times - failed} of {times} runs released exactly the three, and ended as expected")
    sys.exit(1 if failed else 0)


def run(home: Path, sample: Path) -> list[str]:
    """Run the month in a home; what is not as expected."""
    command = [sys.executable, "-m", "formulamine", "month", MONTH, "--repo", f"{REPOSITORY}={sample}"]
    environment = {**os.environ, "FORMULAMINE_HOME": str(home)}
    ended = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if ended.returncode != 0:
        return [f"exit code {ended.returncode}: {(ended.stderr.strip().splitlines() or [''])[-1]}"]
    wrong = []
    for number, expected in expected_endings().items():
        asset, status, reason = ending(home, f"{REPOSITORY.replace('/', '__')}-{number}")
        if (asset, status, reason) != (expected.asset, expected.status, expected.reason):
            wrong.append(f"#{number} ended at {asset} as {status} ({reason})")
    released = pl.read_parquet(home / "release" / MONTH / "data" / "train.parquet")["number"].sort().to_list()
    due = sorted(number for number, one in expected_endings().items() if one.asset == "published_release")
    return wrong + ([f"released {released}"] if released != due else [])


def ending(home: Path, pr_id: str) -> tuple[str, str, str | None]:
    """The last asset that a pull request reached, with status and reason there."""
    last: tuple[str, str, str | None] = ("", "", None)
    for name, table in TABLES.items():
        if table.key != "pr_id":
            continue
        rows = pl.read_parquet(home / "tables" / name / f"{MONTH}.parquet").filter(pl.col("pr_id") == pr_id)
        for row in rows.select("status", "reason").to_dicts():
            last = (name, row["status"], row["reason"])
        if last[1] != Status.DONE:
            break
    return last


if __name__ == "__main__":
    main()
