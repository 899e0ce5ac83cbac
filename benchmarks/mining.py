"""How fast pull requests are mined and sieved, beside PyDriller reading the same merges and git printing their diffs.

The newest merges of a repository are read by `merged_between` and sieved by `CandidateStep`, the steps of
`pull_requests` and `candidate_prs` without ledger and tables. Git prints the same diffs with the same
options in one process: the limit. PyDriller reads the same commits with their modified files. The sides take turns, and
the best turn of each counts, since whatever else the machine does can only add to it. Exits 1 where a bound is missed.

Usage: python benchmarks/mining.py PATH_OF_REPOSITORY [--days 1500] [--rounds 5] [--pydriller-python PYTHON]

PyDriller is not among our dependencies: `python -m venv ENV && ENV/bin/pip install pydriller`, and name ENV/bin/python.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

from formulamine.discover.candidates import CandidateStep
from formulamine.discover.pull_requests import merged_between
from formulamine.discover.sieve import SieveInput
from formulamine.discover.sieve_rules import load_rules
from formulamine.services.git import DIFF, PATCH, Git
from formulamine.services.store import Blobs
from formulamine.settings import Settings

LEAST_OF_PYDRILLER, MOST_OF_GIT = 5.0, 1.5  # times faster than the one, times as long as the other
REPO = "owner/name"  # what it is called does not matter here
# Reads the commits that are on standard input and prints how long that took, without the start of Python.
PYDRILLER = """
import sys, time
from pydriller import Git
shas, repository = sys.stdin.read().split(), Git(sys.argv[1])
started = time.perf_counter()
for sha in shas:
    for file in repository.get_commit(sha).modified_files:
        file.diff, file.added_lines, file.deleted_lines
print(time.perf_counter() - started)
"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--days", type=int, default=1500, help="how far back")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pydriller-python", default=sys.executable, metavar="PYTHON", help="one that has PyDriller")
    asked = parser.parse_args()
    if subprocess.run([asked.pydriller_python, "-c", "import pydriller"], capture_output=True).returncode:
        parser.error(f"{asked.pydriller_python} has no PyDriller: see --help, and name another with --pydriller-python")
    with tempfile.TemporaryDirectory(prefix="formulamine-bench-") as name:
        folder = Path(name)
        git = Git(folder / "mirrors")
        mirror = git.mirror(REPO, git.inspect_source(str(asked.repository)))
        chain = git.first_parent(mirror)
        newest = chain[0].committed_at
        start = newest - timedelta(days=asked.days)
        ours, bare = [], []
        for turn in range(asked.rounds):
            took, shas = mine(folder, chain[0].sha, start, newest, Blobs(folder / f"blobs-{turn}"))
            ours.append(took)
            bare.append(print_diffs(mirror, shas))
        pydriller = read(asked.pydriller_python, mirror, shas)
    return report(len(shas), min(ours), min(bare), pydriller)


def mine(folder: Path, head_sha: str, start: datetime, newest: datetime, blobs: Blobs) -> tuple[float, list[str]]:
    """Seconds of mining and sieving, with nothing kept from the turn before; and the merges."""
    load_rules.cache_clear()  # the rules remember lines
    git, settings = Git(folder / "mirrors"), Settings().sieve
    began = time.perf_counter()
    end = newest + timedelta(seconds=1)
    records, _ = merged_between(git, git.mirror_path(REPO), REPO, head_sha, start, end)
    read_by_sieve = {name for name in SieveInput.model_fields if name != "pr_id"}
    items = [SieveInput(pr_id=key, **one.model_dump(include=read_by_sieve)) for key, one in records.items()]
    step = CandidateStep(git, blobs, settings, {REPO: ""}, {REPO: [item.merge_sha for item in items]})
    with ThreadPoolExecutor(Settings().workers.discover_workers) as pool:  # as `advance` does
        list(pool.map(step, items))
    return time.perf_counter() - began, [one.merge_sha for one in records.values()]


def print_diffs(mirror: Path, shas: Sequence[str]) -> float:
    """Seconds of git alone, its output thrown away."""
    began = time.perf_counter()
    command = ["git", "--git-dir", str(mirror), *DIFF, *PATCH]
    subprocess.run(command, input="".join(f"{sha}\n" for sha in shas).encode(), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def read(python: str, mirror: Path, shas: Sequence[str]) -> float:
    """Seconds of PyDriller, once: it takes long and is far from its bound."""
    command = [python, "-c", PYDRILLER, str(mirror)]
    answer = subprocess.run(command, input=" ".join(shas), stdout=subprocess.PIPE, text=True, check=True)
    return float(answer.stdout)


def report(merges: int, ours: float, bare: float, pydriller: float) -> int:
    """Print, and say by exit code whether both bounds hold."""
    faster, longer = pydriller / ours, ours / bare
    print(f"formulamine  {merges / ours:7.0f} pull requests/s  ({merges} in {ours:.2f} s)")
    print(f"git alone    {merges / bare:7.0f} pull requests/s  formulamine takes {longer:.2f} of its time", end="")
    print(f" (at most {MOST_OF_GIT:g})")
    print(f"PyDriller    {merges / pydriller:7.0f} pull requests/s  formulamine is {faster:.1f} times faster", end="")
    print(f" (at least {LEAST_OF_PYDRILLER:g})")
    return int(faster < LEAST_OF_PYDRILLER or longer > MOST_OF_GIT)


if __name__ == "__main__":
    sys.exit(main())
