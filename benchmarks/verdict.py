"""The verdict beside `asv continuous` with its defaults: same pair, machine, sandbox and benchmarks, in turns.

Usage: python benchmarks/verdict.py OWNER/NAME=PATH MERGE_SHA --asv PATH/TO/bin/asv [--bench REGEX] [--importable]
       [--trials 3] [--same]

Builds a merge commit and its first parent, then measures in turns and prints what each tool listed as faster, what it
took, and the load. Both measure the same built packages with the same suite and interpreter, in the sandbox and without
network; ASV gets them by an environment type of ours (`asv_plugin`), so that it neither builds nor installs. Seconds
are of measuring alone. Ours are all there are: start of both sides, discovery, tracing, rounds, verdict. ASV's are
those from its line "Running ... total benchmarks" on, without its own start and discovery, which are printed apart.

--importable leaves out the modules of the suite that do not import without network, for both. --same puts an empty
commit in place of the merge, so that whatever is listed is false. Ours is measured once with all benchmarks and once
with impact selection. Exits 1 where the median of ours is above 35% of ASV's, or above 15% with selection.

What was built and read is kept in FORMULAMINE_HOME: a run that was ended carries on with the next reading.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from throughput import stages
from yields import image_input, payload_inputs, run

from formulamine.build.cache import key_of
from formulamine.build.pair import Pair, Side
from formulamine.build.recipe import Recipe
from formulamine.build.steps import backend_of, env_payloads_step, images_step
from formulamine.services.container import Services
from formulamine.services.sandbox import Command, Running
from formulamine.services.store import waiting
from formulamine.settings import Settings
from formulamine.verify import protocol
from formulamine.verify.calibration import at_most
from formulamine.verify.lockstep import Lockstep, Suite
from formulamine.verify.machine import machine_class
from formulamine.verify.measure import MeasureInput, MeasureStep
from formulamine.verify.side import Launch, Limits

ALL_SHARE, SELECTED_SHARE = 0.35, 0.15  # bounds of the issue, on a repository of 30 benchmarks and more
ASV, OURS, SELECTED = "asv continuous", "ours", "ours, selected"
PLUGIN = Path(__file__).with_name("asv_plugin")
AUTHOR = ["-c", "user.name=formulamine", "-c", "user.email=formulamine@example.invalid"]
SAY_EVERY_S = 30.0
ASV_S = 24 * 3600.0
NAMED = 5  # benchmarks that are named where the two tools have not the same


@dataclass(frozen=True)
class Reading:
    """One measurement by one tool: seconds of measuring alone, what it lists, and the load before and after."""

    tool: str
    trial: int
    seconds: float
    faster: list[str]
    slower: list[str]
    load: list[float]
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds by stage, as far as the tool tells."""

    def told(self) -> str:
        """For people."""
        spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in self.stages.items())
        return (
            f"{self.trial + 1} {self.tool:14} {self.seconds:7.1f} s  load {self.load[0]:.1f} to {self.load[1]:.1f}  "
            f"faster: {', '.join(self.faster) or 'nothing'}; slower: {', '.join(self.slower) or 'nothing'}  ({spent})"
        )


@dataclass(frozen=True)
class Bench:
    """What both tools measure: the built pair with its suite, and the folder in which ASV works."""

    services: Services
    pair: Pair
    asked: MeasureInput
    folder: Path

    @property
    def lock(self) -> Path:
        """What whoever measures on this machine holds."""
        return self.services.settings.home / "locks" / "measuring.lock"


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo", metavar="OWNER/NAME=PATH")
    parser.add_argument("commit", metavar="MERGE_SHA")
    parser.add_argument("--asv", required=True, type=Path)
    parser.add_argument("--bench", default="", help="of benchmarks by name, as ASV understands it")
    parser.add_argument("--importable", action="store_true", help="leave out modules that do not import")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--same", action="store_true", help="an empty commit in place of the merge")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    name, _, place = arguments.repo.partition("=")
    services = Services(Settings(), "local")
    asked = [name, arguments.commit, arguments.bench, arguments.importable, arguments.same]
    folder = services.settings.home / "verdict" / key_of("verdict", protocol.VERSION, machine_class(), *asked)
    readings = kept(folder)
    try:
        if len(readings) < 3 * arguments.trials:
            folder.mkdir(parents=True, exist_ok=True)
            base, head = commits(place, arguments.commit, folder / "clone", arguments.same)
            bench = built(services, name, folder, base, head)
            bench, suite = shared(bench, arguments.importable)
            cases = [case.name for case in (*suite.cases, *suite.others) if re.search(arguments.bench, case.name)]
            if not cases:
                sys.exit(f"no benchmark is named like {arguments.bench!r}")
            print(f"{base[:12]} against {head[:12]}: {len(cases)} cases, of benchmarks of time and others", flush=True)
            write_asv_conf(bench)
            for reading in missing(bench, arguments, cases, readings):
                readings.append(reading)
                with (folder / "readings.jsonl").open("a") as file:
                    file.write(json.dumps(asdict(reading)) + "\n")
                print(reading.told(), flush=True)
            clean(folder)
    finally:
        services.close()
    print(f"readings are kept in {folder}: delete it to measure anew")
    sys.exit(0 if summary(readings) else 1)


def kept(folder: Path) -> list[Reading]:
    """Readings of earlier runs; a last line that was cut off is none."""
    path = folder / "readings.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    readings = [Reading(**json.loads(line)) for line in lines]
    for reading in readings:
        print(reading.told())
    return readings


def missing(
    bench: Bench, arguments: argparse.Namespace, cases: list[str], readings: Sequence[Reading]
) -> Iterator[Reading]:
    """Take the readings that are not there yet, one tool after the other in each trial."""
    known = {(one.tool, one.trial) for one in readings}
    tools: dict[str, Callable[[int], Reading]] = {
        OURS: lambda trial: ours(bench, cases, trial, select=False),
        SELECTED: lambda trial: ours(bench, cases, trial, select=True),
        ASV: lambda trial: asvs(bench, arguments.asv, arguments.bench, cases, trial),
    }
    for trial in range(arguments.trials):
        for tool, read in tools.items():
            if (tool, trial) not in known:
                with waiting(bench.lock, bench.services.cancelled):
                    yield read(trial)


def clean(folder: Path) -> None:
    """Leave the readings, and what ASV printed."""
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name in ("asv.conf.json", "prebuilt.py"):
            entry.unlink()


def summary(readings: Sequence[Reading]) -> bool:
    """Print medians, and whether both shares keep their bounds."""
    of = {tool: [one for one in readings if one.tool == tool] for tool in (ASV, OURS, SELECTED)}
    theirs = statistics.median(one.seconds for one in of[ASV])
    fine = True
    for tool, bound in ((OURS, ALL_SHARE), (SELECTED, SELECTED_SHARE)):
        seconds = statistics.median(one.seconds for one in of[tool])
        fine = fine and seconds / theirs <= bound
        print(f"{tool}: {seconds:.0f} s, {seconds / theirs:.0%} of ASV's {theirs:.0f} s (bound {bound:.0%})")
    for tool, several in of.items():
        faster, slower = sum(bool(one.faster) for one in several), sum(bool(one.slower) for one in several)
        either = sum(bool(one.faster or one.slower) for one in several)
        print(
            f"{tool}: something faster in {faster} of {len(several)}, slower in {slower}, either in {either} "
            f"(95% bound {at_most(either, len(several)):.0%})"
        )
    return fine


def commits(place: str, merge: str, clone: Path, same: bool) -> tuple[str, str]:
    """Clone, and give the commit before and after."""
    shutil.rmtree(clone, ignore_errors=True)

    def git(*arguments: str, **variables: str) -> str:
        command = ["git", "-C", str(clone), *AUTHOR, *arguments]
        environment = {**os.environ, **variables}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    subprocess.run(["git", "clone", "--quiet", "--shared", "--no-checkout", place, str(clone)], check=True)
    merge, base = git("rev-parse", merge), git("rev-parse", f"{merge}^1")
    if same:
        date = git("show", "--no-patch", "--format=%cI", base)  # the same commit in every run
        merge = git(
            "commit-tree", f"{base}^{{tree}}", "-p", base, "-m", "Nothing",
            GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date,
        )  # fmt: skip
    git("update-ref", "refs/heads/measured", merge)
    git("symbolic-ref", "HEAD", "refs/heads/measured")
    git("remote", "remove", "origin")  # a mirror would follow its default branch, which lacks the empty commit
    return base, merge


def built(services: Services, repo: str, folder: Path, base: str, head: str) -> Bench:
    """Both commits, by our own steps."""
    clone = folder / "clone"
    services.git.mirror(repo, services.git.inspect_source(str(clone)), refresh=True)
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
    asked = MeasureInput(
        pr_id=item.pr_id, url=item.url, recipe_hash=image.record["recipe_hash"], base_sha=base, merge_sha=head,
        import_names=image.record["import_names"], files=[], backend="local",
    )  # fmt: skip
    return Bench(services, pair, asked, folder)


def shared(bench: Bench, importable: bool) -> tuple[Bench, Suite]:
    """A suite that both tools can use, and what is in it: ASV discovers nothing where one module does not import."""
    suite = discovered(bench)
    failed = {one.module: one.error for one in suite.problems if one.side != "both"}
    if not failed:
        return bench, suite
    for module, error in sorted(failed.items()):
        print(f"{'left out: ' if importable else ''}{module} does not import: {' '.join(error.split())[:160]}")
    if not importable:
        sys.exit("ASV ends where a module of the suite does not import: --importable leaves such modules out")
    bench = without(bench, sorted(failed))
    suite = discovered(bench)
    if left := [one.module for one in suite.problems if one.side != "both"]:
        sys.exit(f"{', '.join(left)}: still does not import")
    return bench, suite


def without(bench: Bench, modules: Sequence[str]) -> Bench:
    """The same with a copy of the suite that lacks modules."""
    parent = bench.folder / "suite"
    shutil.rmtree(parent, ignore_errors=True)
    shutil.copytree(bench.pair.suite_parent, parent, symlinks=True)
    for module in modules:
        path = parent.joinpath(*module.split("."))
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.with_suffix(".py").unlink()

    def at(side: Side) -> Side:
        return replace(side, seen=replace(side.seen, suite_parent=str(parent)))

    pair = bench.pair
    return replace(bench, pair=replace(pair, suite_parent=parent, base=at(pair.base), head=at(pair.head)))


def discovered(bench: Bench) -> Suite:
    """What both sides have to measure."""
    with launches(bench, 0) as (base, head), Lockstep(base, head, Limits(), threading.Event()) as lockstep:
        return lockstep.discover()


@contextmanager
def launches(bench: Bench, seed: int) -> Iterator[tuple[Launch, Launch]]:
    """Launches of both sides, ended at the end."""
    running: list[Running] = []
    services, pair, asked = bench.services, bench.pair, bench.asked
    step = MeasureStep(
        backend_of(services, "local"), services.sandboxes, services.blobs, services.settings.measure, Path(),
        threading.Event(),
    )  # fmt: skip
    sandbox = services.sandboxes.for_commits((asked.base_sha, asked.merge_sha))
    try:
        base, head = (step.launch(pair, side, asked, seed, sandbox, running) for side in (pair.base, pair.head))
        yield base, head
    finally:
        for one in running:
            one.close()


def ours(bench: Bench, cases: list[str], trial: int, *, select: bool) -> Reading:
    """By the protocol, with the start of its processes, discovery and tracing."""
    before, tool, said = os.getloadavg()[0], SELECTED if select else OURS, time.monotonic()

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            print(f"  {tool}: {stage} {done}/{total}", file=sys.stderr, flush=True)

    with launches(bench, trial) as (base, head):
        measured = protocol.measure(base, head, seed=trial, only=cases, select=select, progress=progress)
    if measured.raw.reason:
        sys.exit(f"{tool}: {measured.raw.reason}: {measured.raw.detail}")
    spent = stages(measured.raw)
    selection = measured.raw.selection
    if select:
        print(
            f"  selection: {selection.mode} {selection.why}, {len(selection.reached)} reached, "
            f"{selection.excluded} excluded, {len(selection.sampled)} of them measured",
            file=sys.stderr,
        )
    return Reading(
        tool, trial, measured.seconds, [one.benchmark for one in measured.results if one.decision == "faster"],
        list(measured.verdict.regressions), [before, os.getloadavg()[0]],
        {**spent, "rest": max(0.0, measured.seconds - sum(spent.values()))},
    )  # fmt: skip


def write_asv_conf(bench: Bench) -> None:
    """ASV's configuration: the suite that we measure too, and a repository of the two commits for their names."""
    pair, folder = bench.pair, bench.folder
    git_dir, head = folder / "measured.git", pair.head.commit
    shutil.rmtree(git_dir, ignore_errors=True)
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=measured", str(git_dir)], check=True)
    fetch = ["git", "-C", str(git_dir), "-c", "uploadpack.allowAnySHA1InWant=true", "fetch", "--quiet", "--depth=2"]
    subprocess.run([*fetch, f"file://{folder / 'clone'}", f"{head}:refs/heads/measured"], check=True)
    settings: dict[str, Any] = {
        "version": 1, "project": pair.recipe.repo, "repo": str(git_dir), "branches": ["measured"],
        "environment_type": "prebuilt", "plugins": [".prebuilt"], "pythons": [pair.recipe.python_version],
        "benchmark_dir": str(pair.suite_parent / pair.suite), "env_dir": str(folder / "env"),
        "results_dir": str(folder / "results"),
    }  # fmt: skip
    (folder / "asv.conf.json").write_text(json.dumps(settings))
    shutil.copy(PLUGIN / "prebuilt.py", folder)  # ASV looks for it in the folder where it runs


def asv_command(bench: Bench, asv: Path, regex: str) -> Command:
    """`asv continuous` in the sandbox, which sees what is built, and writes into our folder alone."""
    pair, folder = bench.pair, bench.folder
    sides = {
        side.commit: {"python": side.seen.python, "path": [side.seen.site, side.seen.tools]}
        for side in (pair.base, pair.head)
    }
    environment = asv.absolute().parent.parent
    interpreter = (environment / "bin" / "python").resolve().parent.parent
    selected = ["--bench", regex] if regex else []
    script = 'asv=$1; shift; "$asv" machine --yes >/dev/null && exec "$asv" continuous "$@" 2>&1'
    readable = {environment, interpreter, pair.suite_parent, pair.tools}
    for side in (pair.base, pair.head):
        readable |= {side.interpreter.prefix, side.environment, side.tree.parent}
    return Command(
        ["/bin/sh", "-c", script, "sh", str(asv.absolute()), *selected, pair.base.commit, pair.head.commit],
        readable=tuple(path for path in sorted(readable) if not path.is_relative_to(folder)),
        writable=(folder,),
        environment={
            **pair.recipe.environment_variables,
            "VERDICT_SIDES": json.dumps(sides),
            "PYTHONUNBUFFERED": "1",
        },
        cwd=folder,
        timeout_s=ASV_S,
        memory_mb=bench.services.settings.measure.measure_memory_mb,
    )


def asvs(bench: Bench, asv: Path, regex: str, cases: list[str], trial: int) -> Reading:
    """By `asv continuous`, which starts without results of an earlier trial."""
    shutil.rmtree(bench.folder / "results", ignore_errors=True)
    commits_of = (bench.asked.base_sha, bench.asked.merge_sha)
    before, said, lines = os.getloadavg()[0], time.monotonic(), []
    started, discovered_at = time.monotonic(), 0.0
    running = bench.services.sandboxes.for_commits(commits_of).start(asv_command(bench, asv, regex))
    try:
        assert running.process.stdout is not None
        for raw in running.process.stdout:
            lines.append(raw.decode("utf-8", "replace").rstrip())
            if re.search(r"Running \d+ total benchmarks", lines[-1]):
                discovered_at = time.monotonic()
            if time.monotonic() - said > SAY_EVERY_S:
                said = time.monotonic()
                print(f"  {ASV}: {lines[-1].strip()}", file=sys.stderr, flush=True)
        code = running.process.wait()
    finally:
        running.close()
    ended = time.monotonic()
    (bench.folder / f"asv-{trial + 1}.log").write_text("\n".join(lines))
    if code not in (0, 1) or not discovered_at:  # 1: something got slower
        sys.exit(f"{ASV} ended with {code}: " + "\n".join(lines[-20:]))
    same_cases(cases, asv_cases(bench.folder / "results", regex))
    faster, slower = changed(lines)
    apart = {"its start and discovery, not counted": discovered_at - started}
    return Reading(ASV, trial, ended - discovered_at, faster, slower, [before, os.getloadavg()[0]], apart)


def changed(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """What the table of `asv continuous` lists as faster and as slower."""
    rows = [line.strip().strip("|").split("|", 4) for line in lines if re.match(r"\| [-+] ", line)]
    faster, slower = ([row[4].strip() for row in rows if row[0].strip() == sign] for sign in "-+")
    return faster, slower


def asv_cases(results: Path, regex: str) -> list[str]:
    """What ASV discovered and selected, by the names that it prints."""
    names = []
    for name, benchmark in json.loads((results / "benchmarks.json").read_text()).items():
        if isinstance(benchmark, dict):  # beside a number of the format
            combinations = itertools.product(*benchmark["params"])
            names += [f"{name}({', '.join(one)})" if one else name for one in combinations]
    return [name for name in names if re.search(regex, name)]


def same_cases(ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Say whether both tools had the same benchmarks."""
    if {*ours} == {*theirs}:
        print(f"  both tools have the same {len({*ours})} cases", file=sys.stderr)
    for tool, only in (("ours", {*ours} - {*theirs}), (ASV, {*theirs} - {*ours})):
        if only:
            print(f"  {len(only)} cases are only with {tool}: {', '.join(sorted(only)[:NAMED])} ...")


if __name__ == "__main__":
    main()
