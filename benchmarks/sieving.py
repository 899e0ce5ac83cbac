"""How fast the sieve reads all pull requests of a repository, diffs included, beside PyDriller with a title-only rule.

Ours: merged pull requests from the first-parent chain, each with its diff, through the whole sieve, scores and evidence
included, in one process for each core. PyDriller: the same merges, drawn evenly, their difference from their first
parent as modified files, and one regular expression on the title. Both print pull requests per second and the cores
that they kept busy, and the ratio of both is also told by processor time, which other work on the machine moves less. A
third line is PyDriller without any diff, titles alone. Exits 1 where ours is less than five times faster than the
second.

Usage: python benchmarks/sieving.py PATH_OF_REPOSITORY [--sample 300] [--pydriller-python PYTHON]

PyDriller is not among our dependencies: `python -m venv ENV && ENV/bin/pip install pydriller`, and name ENV/bin/python.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from formulamine.discover.mined import merged_shas, mine
from formulamine.discover.sieve import sieve_by_files
from formulamine.discover.sieve_rules import load_rules
from formulamine.items import Done
from formulamine.services.cores import GARBAGE_EVERY
from formulamine.services.git import Git
from formulamine.settings import Settings, SieveSettings

LEAST = 5.0  # times faster than PyDriller with diffs
REPO = "owner/name"  # what it is called does not matter here
SHARES = 2  # of the commits, for each core: one is at most that much longer at work than the others
# Reads the commits that are on standard input, the title with a rule and, if told so, their diffs; tells its own time.
PYDRILLER = """
import json, os, re, sys, time
from pydriller import Git
rule, diffs = re.compile(sys.argv[2]), sys.argv[3] == "diffs"
shas, repository = sys.stdin.read().split(), Git(sys.argv[1])
started = time.perf_counter()
passed = 0
for sha in shas:
    commit = repository.get_commit(sha)
    if diffs:
        # Of a merge `modified_files` is empty: what it brought is its difference from its first parent.
        for file in repository.diff(commit.parents[0], sha):
            file.diff, file.added_lines, file.deleted_lines
    title = commit.msg.split("\\n\\n", 1)[-1] if commit.merge else commit.msg
    passed += bool(rule.search(title.split("\\n", 1)[0]))
seconds, spent = time.perf_counter() - started, os.times()
print(json.dumps([seconds, spent.user + spent.system + spent.children_user + spent.children_system, passed]))
"""


@dataclass(frozen=True)
class Took:
    """What one side took."""

    count: int
    seconds: float
    cpu_seconds: float
    passed: int

    @property
    def rate(self) -> float:
        """Pull requests per second."""
        return self.count / self.seconds

    def line(self, name: str) -> str:
        """For people."""
        return (
            f"{name:28} {self.rate:7.0f} pull requests/s  ({self.count} in {self.seconds:.1f} s, "
            f"{self.cpu_seconds / self.seconds:.1f} cores busy, {self.passed} pass)"
        )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--sample", type=int, default=300, help="pull requests that PyDriller reads with diffs")
    parser.add_argument("--pydriller-python", default=sys.executable, metavar="PYTHON", help="one that has PyDriller")
    asked = parser.parse_args()
    if subprocess.run([asked.pydriller_python, "-c", "import pydriller"], capture_output=True).returncode:
        parser.error(f"{asked.pydriller_python} has no PyDriller: see --help, and name another with --pydriller-python")
    with tempfile.TemporaryDirectory(prefix="formulamine-bench-") as name:
        git = Git(Path(name))
        with git.reading(REPO, git.inspect_source(str(asked.repository))) as mirror:
            shas = merged_shas(git, mirror)
            drawn = shas[:: max(1, len(shas) // asked.sample)]
            half = len(drawn) // 2
            # PyDriller before and after, since the load of the machine changes: both halves count together.
            first = read(asked.pydriller_python, mirror, drawn[:half], "diffs")
            ours = sieve_all(git, Path(name), mirror)
            second = read(asked.pydriller_python, mirror, drawn[half:], "diffs")
            titles = read(asked.pydriller_python, mirror, drawn, "titles")
    theirs = Took(
        first.count + second.count,
        first.seconds + second.seconds,
        first.cpu_seconds + second.cpu_seconds,
        first.passed + second.passed,
    )
    print(ours.line("formulamine"))
    print(theirs.line("PyDriller, diffs"))
    print(titles.line("PyDriller, titles alone"))
    faster = ours.rate / theirs.rate
    cheaper = theirs.cpu_seconds / theirs.count / (ours.cpu_seconds / ours.count)
    print(
        f"formulamine is {faster:.1f} times faster (at least {LEAST:g}), by processor time {cheaper:.1f} times; ",
        end="",
    )
    print(f"load {os.getloadavg()[0]:.1f}")
    return int(faster < LEAST)


def sieve_all(git: Git, mirrors: Path, mirror: Path) -> Took:
    """All merged pull requests, found, read and sieved."""
    before, began = cpu_seconds(), time.perf_counter()
    shas, settings, cores = merged_shas(git, mirror), Settings().sieve, len(os.sched_getaffinity(0))
    size = max(1, len(shas) // (SHARES * cores))
    shares = [shas[start : start + size] for start in range(0, len(shas), size)]
    with ProcessPoolExecutor(cores, multiprocessing.get_context("fork")) as pool:
        told = list(pool.map(partial(sieve_share, mirrors, mirror, settings), shares))
    seconds = time.perf_counter() - began  # a child's processor time counts once it has ended
    return Took(sum(one for one, _ in told), seconds, cpu_seconds() - before, sum(one for _, one in told))


def sieve_share(mirrors: Path, mirror: Path, settings: SieveSettings, shas: Sequence[str]) -> tuple[int, int]:
    """How many of some commits can be read, and how many of them pass."""
    gc.set_threshold(GARBAGE_EVERY)  # as in the processes of a month
    told = [
        isinstance(sieve_by_files(one.item, one.patch, settings), Done)
        for one in mine(Git(mirrors), mirror, REPO, shas)
    ]
    return len(told), sum(told)


def cpu_seconds() -> float:
    """Of this process and of the children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def read(python: str, mirror: Path, shas: list[str], what: str) -> Took:
    """PyDriller on some merges."""
    rule = next(one.pattern for one in load_rules().signals if one.key == "title performance" and one.pattern)
    command = [python, "-c", PYDRILLER, str(mirror), rule.pattern, what]
    answer = subprocess.run(command, input=" ".join(shas), stdout=subprocess.PIPE, text=True, check=True)
    seconds, cpu, passed = json.loads(answer.stdout)
    return Took(len(shas), seconds, cpu, passed)


if __name__ == "__main__":
    sys.exit(main())
