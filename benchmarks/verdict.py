"""The verdict beside `asv continuous` with its defaults, on the same pair, machine and benchmarks, in turns.

Usage: python benchmarks/verdict.py OWNER/NAME=PATH MERGE_SHA --asv PATH/TO/asv [--bench REGEX] [--trials 3] [--same]

Builds a merge commit and its first parent for both tools, then measures in turns and prints what each listed as faster,
what each took for measuring alone, and the load. ASV builds and installs too: only the time between its lines
"Benchmarking" and the next build counts. --same puts an empty commit in place of the merge, so that whatever is listed
is false. Ours is measured once with all benchmarks and once with impact selection. Exits 1 where the median of ours is
above 35% of ASV's, or above 15% with selection.

ASV is run from an environment of its own, with the same interpreter and the same pins in its own virtual environment.
State is kept in FORMULAMINE_HOME as by a month, so that what was built stands.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yields import image_input, payload_inputs, run

from formulamine.build.pair import Pair
from formulamine.build.recipe import Recipe
from formulamine.build.steps import backend_of, env_payloads_step, images_step
from formulamine.services.container import Services
from formulamine.services.sandbox import Running
from formulamine.settings import Settings
from formulamine.verify import protocol
from formulamine.verify.lockstep import Lockstep
from formulamine.verify.measure import MeasureInput, MeasureStep
from formulamine.verify.side import Launch, Limits

ALL_SHARE, SELECTED_SHARE = 0.35, 0.15  # bounds of the issue, on a repository of 30 benchmarks and more
AUTHOR = ["-c", "user.name=formulamine", "-c", "user.email=formulamine@example.invalid"]


@dataclass(frozen=True)
class Reading:
    """One measurement by one tool: seconds of measuring alone, what it lists, and the load before."""

    tool: str
    seconds: float
    faster: tuple[str, ...]
    slower: int
    load: float


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo", metavar="OWNER/NAME=PATH")
    parser.add_argument("commit", metavar="MERGE_SHA")
    parser.add_argument("--asv", required=True, type=Path)
    parser.add_argument("--bench", default="", help="of benchmarks by name, as ASV understands it")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--same", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    name, _, place = arguments.repo.partition("=")
    services = Services(Settings(), "local")
    readings: list[Reading] = []
    try:
        with tempfile.TemporaryDirectory(prefix="verdict-") as folder:
            clone = Path(folder, "clone")
            base, head = commits(place, arguments.commit, clone, arguments.same)
            pair, asked = built(services, name, clone, base, head)
            conf = asv_conf(Path(folder), clone, pair)
            for trial in range(arguments.trials):
                for reading in (
                    ours(services, pair, asked, arguments.bench, trial, select=False),
                    ours(services, pair, asked, arguments.bench, trial, select=True),
                    asvs(arguments.asv, conf, pair, arguments.bench),
                ):
                    readings.append(reading)
                    listed = ", ".join(reading.faster) or "nothing"
                    print(
                        f"{reading.tool:14} {reading.seconds:7.1f} s  load {reading.load:5.2f}  faster: {listed}; "
                        f"{reading.slower} slower",
                        flush=True,
                    )
    finally:
        services.close()
    sys.exit(0 if summary(readings) else 1)


def summary(readings: Sequence[Reading]) -> bool:
    """Print medians, and whether both shares keep their bounds."""
    of = {tool: [one for one in readings if one.tool == tool] for tool in ("asv continuous", "ours", "ours, selected")}
    theirs = statistics.median(one.seconds for one in of["asv continuous"])
    fine = True
    for tool, bound in (("ours", ALL_SHARE), ("ours, selected", SELECTED_SHARE)):
        share = statistics.median(one.seconds for one in of[tool]) / theirs
        fine = fine and share <= bound
        print(f"{tool}: {share:.0%} of ASV's {theirs:.0f} s (bound {bound:.0%})")
    for tool, several in of.items():
        listed = sum(bool(one.faster) for one in several)
        print(f"{tool}: something faster in {listed} of {len(several)}")
    return fine


def commits(place: str, merge: str, clone: Path, same: bool) -> tuple[str, str]:
    """Clone, and give the commit before and after."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(clone), *AUTHOR, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    subprocess.run(["git", "clone", "--quiet", "--shared", place, str(clone)], check=True)
    merge, base = git("rev-parse", merge), git("rev-parse", f"{merge}^1")
    if same:
        git("checkout", "--quiet", "--detach", base)
        git("commit", "--quiet", "--allow-empty", "-m", "Nothing")
        merge = git("rev-parse", "HEAD")
    git("checkout", "--quiet", "-B", "measured", merge)
    return base, merge


def built(services: Services, repo: str, clone: Path, base: str, head: str) -> tuple[Pair, MeasureInput]:
    """Both commits, by our own steps."""
    row = {"repo": repo, "pr_number": 0, "base_sha": base, "merge_sha": head}
    [item] = payload_inputs(services, [row], {repo: str(clone)})
    [payload] = run(services, env_payloads_step(services), [item])
    if payload.record is None:
        sys.exit(f"env_payloads: {payload.reason}: {payload.detail}")
    image_item = image_input(item, payload)
    [image] = run(services, images_step(services), [image_item])
    if image.record is None:
        sys.exit(f"images: {image.reason}: {image.detail}")
    recipe = Recipe.model_validate_json(services.blobs.get(image.record["recipe_hash"]))
    sandbox = services.sandboxes.for_commits((base, head))
    pair = backend_of(services, "local").pair(recipe, item.url, lambda: sandbox, item.pr_id)
    return pair, MeasureInput(
        pr_id=item.pr_id, url=item.url, recipe_hash=image.record["recipe_hash"], base_sha=base, merge_sha=head,
        import_names=image.record["import_names"], backend="local",
    )  # fmt: skip


@contextmanager
def launches(services: Services, pair: Pair, asked: MeasureInput, seed: int) -> Iterator[tuple[Launch, Launch]]:
    """Launches of both sides, ended at the end."""
    running: list[Running] = []
    sandboxes = services.sandboxes
    step = MeasureStep(
        backend_of(services, "local"), sandboxes, services.blobs, services.settings.measure, Path(), threading.Event()
    )
    sandbox = sandboxes.for_commits((asked.base_sha, asked.merge_sha))
    try:
        base, head = (step.launch(pair, side, asked, seed, sandbox, running) for side in (pair.base, pair.head))
        yield base, head
    finally:
        for one in running:
            one.close()


def ours(services: Services, pair: Pair, asked: MeasureInput, bench: str, seed: int, *, select: bool) -> Reading:
    """By the protocol, with the start of its processes, discovery and tracing."""
    load = os.getloadavg()[0]
    with launches(services, pair, asked, seed) as (base, head):
        only = None
        if bench:
            with Lockstep(base, head, Limits(), threading.Event()) as lockstep:
                only = [case.name for case in lockstep.discover().cases if re.search(bench, case.name)]
        measured = protocol.measure(base, head, seed=seed, only=only, select=select)
    found = [one.benchmark for one in measured.results if one.decision == "faster"]
    tool = "ours, selected" if select else "ours"
    return Reading(tool, measured.seconds, tuple(found), len(measured.verdict.regressions), load)


def asv_conf(folder: Path, clone: Path, pair: Pair) -> Path:
    """ASV's configuration: the suite that we measure too, and our pins."""
    conf = folder / "asv.conf.json"
    pins = dict(pin.split("==") for pin in pair.recipe.pins)
    settings: dict[str, Any] = {
        "version": 1, "project": pair.recipe.repo, "repo": str(clone), "branches": ["measured"],
        "environment_type": "virtualenv", "pythons": [pair.recipe.python_version],
        "benchmark_dir": str(pair.suite_parent / pair.suite), "env_dir": str(folder / "env"),
        "results_dir": str(folder / "results"), "matrix": {"req": {name: [of] for name, of in pins.items()}},
        "build_command": ["python -m pip wheel --no-deps -w {build_cache_dir} {build_dir}"],
    }  # fmt: skip
    conf.write_text(json.dumps(settings))
    return conf


def asvs(asv: Path, conf: Path, pair: Pair, bench: str) -> Reading:
    """By `asv continuous`; only what lies between a line that says it measures and one that says it builds counts."""
    load = os.getloadavg()[0]
    command = [str(asv), "--config", str(conf), "continuous", pair.base.commit, pair.head.commit]
    environment = {**os.environ, "PATH": f"{pair.base.interpreter.path.parent}:{os.environ['PATH']}"}
    subprocess.run([str(asv), "--config", str(conf), "machine", "--yes"], check=True, capture_output=True)
    seconds, since, lines = 0.0, None, []
    process = subprocess.Popen(
        [*command, *(["--bench", bench] if bench else [])], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment, cwd=conf.parent,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())
        now = time.monotonic()
        if since is not None and re.search(r"(For \S+ commit|Building|Installing|SIGNIFICANTLY|^\| )", line):
            seconds, since = seconds + now - since, None
        if re.search(r"Benchmarking |Running \(", line) and since is None:
            since = now
    code = process.wait()
    seconds += time.monotonic() - since if since is not None else 0.0
    if code not in (0, 1) or not seconds:  # 1: something got slower
        sys.exit(f"asv ended with {code}: " + "\n".join(lines[-20:]))
    rows = [line.split("|") for line in lines if re.match(r"\| [-+]", line)]
    faster = tuple(row[-2].strip() for row in rows if row[1].strip() == "-")
    return Reading("asv continuous", seconds, faster, len(rows) - len(faster), load)


if __name__ == "__main__":
    main()
