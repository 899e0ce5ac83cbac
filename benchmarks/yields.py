"""How many of labelled commits get both sides built and one benchmark run on each, without any model.

Usage: python benchmarks/yields.py LABELS.jsonl --repo OWNER/NAME=PATH ... [--backend docker] [--only REPO] [--json]

LABELS has lines with repo, pr_number, base_sha and merge_sha. State is kept in FORMULAMINE_HOME as by a month, so that
a run that was stopped carries on. Built means that every rule of `build.facts` passes on both sides and that at least
one benchmark case runs to its end on each.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from formulamine.build.images import ImageInput
from formulamine.build.payloads import PayloadInput
from formulamine.build.recipe import Recipe
from formulamine.build.steps import backend_of, env_payloads_step, images_step
from formulamine.discover.repositories import suite_at
from formulamine.items import Entry, RunOptions, Step, advance
from formulamine.services.container import Services
from formulamine.services.sandbox import Running
from formulamine.settings import Settings
from formulamine.verify.lockstep import Lockstep
from formulamine.verify.measure import MeasureInput, MeasureStep
from formulamine.verify.side import Limits

LOG = logging.getLogger("formulamine")
ELSEWHERE = ("env_payloads: no_interpreter", "images: no_base_image")  # what an interpreter that is not here ends as
TRIED_CASES = 20  # of a suite, evenly spread, until one runs on both sides


def main() -> None:
    """Build what is missing and print the yield."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--repo", action="append", default=[], metavar="OWNER/NAME=PATH")
    parser.add_argument("--backend", choices=["local", "docker"], default="local")
    parser.add_argument("--only", help="rows of this repository")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each row, instead of the summary")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    services = Services(Settings(), arguments.backend)
    try:
        told = list(
            yields(services, arguments.labels, dict(one.split("=", 1) for one in arguments.repo), arguments.only)
        )
    finally:
        services.close()
    for row in told if arguments.json else ():
        print(json.dumps(row))
    if not arguments.json:
        summary(told)


def yields(services: Services, labels: Path, places: dict[str, str], only: str | None) -> list[dict[str, Any]]:
    """One dictionary for each row: repo, pr_number, how far it came (`ended`), and why no further (`detail`)."""
    rows = [json.loads(line) for line in labels.read_text().splitlines() if line.strip()]
    rows = [row for row in rows if row["repo"] in places and only in (None, row["repo"])]
    rows = [{**row, "merge_sha": row["merge_sha"] or row["base_sha"]} for row in rows]  # a commit alone
    told = {name_of(row): {**row, "ended": "built", "detail": ""} for row in rows}
    inputs = payload_inputs(services, rows, places)
    for name in told.keys() - {item.pr_id for item in inputs}:
        told[name]["ended"] = "no suite"
    images = []
    for item, entry in zip(inputs, run(services, env_payloads_step(services), inputs), strict=True):
        if entry.record is None:
            told[item.pr_id] |= {"ended": f"env_payloads: {entry.reason}", "detail": entry.detail}
        else:
            images.append(image_input(item, entry))
    built = run(services, images_step(services), images)
    for item, entry in zip(images, built, strict=True):
        if entry.record is None:
            told[item.pr_id] |= {"ended": f"images: {entry.reason}", "detail": entry.detail}
        elif why := no_benchmark_runs(services, item, entry.record):
            told[item.pr_id] |= {"ended": "no benchmark runs", "detail": why}
    return list(told.values())


def payload_inputs(services: Services, rows: Sequence[dict[str, Any]], places: dict[str, str]) -> list[PayloadInput]:
    """Rows whose merge commit has a suite, in date order."""
    inputs = []
    for row in rows:
        git = services.git
        source = git.inspect_source(places[row["repo"]])
        mirror = git.mirror(row["repo"], source)
        commit = git.commits(mirror, [row["merge_sha"]])[row["merge_sha"]]
        suite = suite_at(git, mirror, commit)
        if isinstance(suite, str):
            LOG.info("%s: %s", name_of(row), suite)
            continue
        inputs.append(
            PayloadInput(
                pr_id=name_of(row), repo=row["repo"], url=source.location, asv_config=suite[0], benchmark_dir=suite[1],
                base_sha=row["base_sha"], merge_sha=row["merge_sha"], merged_at=commit.committed_at,
            )
        )  # fmt: skip
    return sorted(inputs, key=lambda one: one.merged_at)


def image_input(item: PayloadInput, entry: Entry) -> ImageInput:
    """What a build reads, of a row and its payload."""
    payload = {**item.model_dump(), **(entry.record or {})}
    return ImageInput.model_validate({name: payload[name] for name in ImageInput.model_fields})


def run(services: Services, step: Step[Any], items: Sequence[Any]) -> list[Entry]:
    """Outcomes of a step, by the project's own loop and ledger."""
    keyed = [(one.pr_id, one) for one in items]
    options = RunOptions("yields")
    return advance(step, keyed, services.ledger, options, cancelled=services.cancelled, log=LOG)[0]


def no_benchmark_runs(services: Services, item: ImageInput, image: dict[str, Any]) -> str:
    """Why no case of the suite runs to its end on both sides; empty where one does."""
    settings = services.settings.measure
    backend, sandboxes = backend_of(services, services.backend), services.sandboxes_of(services.backend)
    step = MeasureStep(backend, sandboxes, services.blobs, settings, Path(), threading.Event())
    sandbox = sandboxes.for_commits((item.base_sha, item.merge_sha))
    recipe = Recipe.model_validate_json(services.blobs.get(image["recipe_hash"]))
    pair = backend.pair(recipe, item.url, lambda: sandbox, item.pr_id)
    asked = MeasureInput(
        pr_id=item.pr_id, url=item.url, recipe_hash="", import_names=image["import_names"], files=[],
        base_sha=item.base_sha, merge_sha=item.merge_sha, backend=services.backend,
    )  # fmt: skip
    running: list[Running] = []
    base, head = (step.launch(pair, side, asked, 0, sandbox, running) for side in (pair.base, pair.head))
    try:
        with Lockstep(base, head, Limits(), threading.Event()) as lockstep:
            suite = lockstep.discover()
            why = "; ".join(f"{one.module}: {one.error}" for one in suite.problems) or "no case is on both sides"
            for case in suite.cases[:: max(1, len(suite.cases) // TRIED_CASES)]:
                tried = lockstep.advance(case, lockstep.begin(case, "screen"), pairs=1)
                if tried.status == "ok":
                    return ""
                why = f"{case.name}: {tried.status} {tried.detail}"
    finally:
        for one in running:
            one.close()
    return why


def name_of(row: dict[str, Any]) -> str:
    """Identity of a row, as `pr_id` is written."""
    return f"{row['repo'].replace('/', '__')}-{row['pr_number'] or row['base_sha'][:12]}"


def summary(told: Sequence[dict[str, Any]]) -> None:
    """Print the yield of each repository and of all, and failures by class with an example each."""
    for repo in [*sorted({row["repo"] for row in told}), None]:
        of_repo = [row for row in told if repo in (None, row["repo"])]
        built = sum(row["ended"] == "built" for row in of_repo)
        here = sum(row["ended"] not in ELSEWHERE for row in of_repo)
        share = f"{built / here:.0%} of those whose interpreter is here" if here else ""
        print(f"{repo or 'all':24} {built:3} of {len(of_repo):3}  {share}")
    classes = Counter(row["ended"] for row in told if row["ended"] != "built")
    for ended, count in classes.most_common():
        example = next(row for row in told if row["ended"] == ended)
        print(f"{count:4} {ended}, as {name_of(example)}: {' '.join(example['detail'].split())[:200]}")


if __name__ == "__main__":
    main()
