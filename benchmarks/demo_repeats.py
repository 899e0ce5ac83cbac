"""Whether the demo's month ends alike however often it is run: each time in a fresh home, with nothing to reuse.

Exits 1 unless every run releases exactly the three real speedups and every pull request ends where `expected.toml`
says. Usage: python benchmarks/demo_repeats.py [--times 20]

How each run ended is kept in FORMULAMINE_HOME under a hash of the sources: a run of this that was ended carries on, and
what ran with other sources does not count. The home of a run that went wrong is left there to be looked at.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

import formulamine
from formulamine.demo.sample import MONTH, REPOSITORY, expected_endings, write_sample
from formulamine.records import Status
from formulamine.settings import Settings
from formulamine.tables import TABLES
from formulamine.verify.calibration import CONFIDENCE, at_most


@dataclass(frozen=True)
class Turn:
    """One run: seconds, the load of the last minute before and after, and what was not as expected."""

    seconds: float
    load_before: float
    load_after: float
    wrong: list[str]

    def told(self) -> str:
        """For people."""
        loads = f"load {self.load_before:4.1f} to {self.load_after:4.1f}"
        return f"{self.seconds:5.0f} s  {loads}  {'; '.join(self.wrong) or 'as expected'}"


def main() -> None:
    """Run what is missing and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    times = parser.parse_args().times
    folder = Settings().home / "demo-repeats" / sources_hash()
    folder.mkdir(parents=True, exist_ok=True)
    turns = kept(folder / "turns.jsonl")[:times]
    for number, turn in enumerate(turns, 1):
        print(f"{number:3} of {times}  {turn.told()}  (kept)")
    for number in range(len(turns) + 1, times + 1):
        turns.append(one_turn(folder, folder / f"home-{number}"))
        with (folder / "turns.jsonl").open("a") as file:
            file.write(json.dumps(asdict(turns[-1])) + "\n")
        print(f"{number:3} of {times}  {turns[-1].told()}", flush=True)
    failed = sum(bool(turn.wrong) for turn in turns)
    print(
        f"{len(turns) - failed} of {len(turns)} runs released exactly the three, and ended as expected: "
        f"another one goes wrong in at most {at_most(failed, len(turns)):.1%} ({CONFIDENCE:.0%} exact binomial bound)"
    )
    sys.exit(1 if failed else 0)


def sources_hash() -> str:
    """Of all files of the package: what was seen with others is no repetition."""
    digest = hashlib.sha256()
    package = Path(formulamine.__file__).parent
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(package)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def kept(path: Path) -> list[Turn]:
    """Runs of earlier times; a last line that was cut off is none."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [Turn(**json.loads(line)) for line in lines]


def one_turn(folder: Path, home: Path) -> Turn:
    """Run the month once in a fresh home, which stays only where something went wrong."""
    sample = folder / "sample.git"
    for left in (home, sample):  # of a run that was ended
        shutil.rmtree(left, ignore_errors=True)
    write_sample(sample)
    before, started = os.getloadavg()[0], time.monotonic()
    wrong = run(home, sample)
    turn = Turn(time.monotonic() - started, before, os.getloadavg()[0], wrong)
    if not wrong:
        shutil.rmtree(home)
    return turn


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
