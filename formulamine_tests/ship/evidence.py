"""A pull request that passes every gate, with real git, blobs and samples that were made up, to be spoiled by tests."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from formulamine.build.recipe import Recipe
from formulamine.records import ProblemStatement
from formulamine.services.git import Git
from formulamine.services.llm import Llm
from formulamine.services.store import Blobs
from formulamine.settings import LlmSettings, MeasureSettings, ReleaseSettings
from formulamine.ship.gates import Held, ReleasedRow, ReleaseInput, pass_gates
from formulamine.ship.statements import StatementInput, StatementStep
from formulamine.verify.measure import RawBlob, record_of
from formulamine.verify.outcomes import FileRun, RawTests
from formulamine.verify.protocol import RawMeasurement
from formulamine_tests.build.workbench import MERGED, SERIES, Workbench, project
from formulamine_tests.verify.test_protocol import raw, took

SLOW = "def work():\n    total = 0\n    for number in range(2000):\n        total = total + number\n    return total\n"
FAST = "def work():\n    gauss_formula = 1999 * 2000 // 2\n    return gauss_formula\n"
TITLE = "work() on long lists"
BODY = "Summing up a long list takes most of the time of a report.\n\nThe trick is `gauss_formula = 1999 * 2000 // 2`."
MEASURE = MeasureSettings()


@dataclass
class Evidence:
    """One pull request as the gates get it."""

    git: Git
    blobs: Blobs
    item: ReleaseInput
    raw: RawBlob

    def with_(self, **changes: Any) -> Evidence:
        return replace(self, item=self.item.model_copy(update=changes))

    def gate(self, measure: MeasureSettings = MEASURE, environments: str = "docker") -> ReleasedRow | Held:
        return pass_gates(self.item, self.git, self.blobs, measure, ReleaseSettings(release_environments=environments))


def samples(pr_id: str, recipe_hash: str, speedup: float = 1.5, measured: RawMeasurement | None = None) -> RawBlob:
    """Raw samples whose verdict is what this ratio gives."""
    control = RawMeasurement(cases=tuple(replace(case, stage="control") for case in raw(quiet=1.0).cases[1:]))
    return RawBlob(
        pr_id=pr_id, recipe_hash=recipe_hash, backend="local", environment_differs=False, machine="a machine, 2 cores",
        kernel="Linux 6.1", load_before=0.1, load_after=0.2, limits=["network"],
        measurement=(measured or raw(**{"bench.time_work": speedup, "bench.time_same": 1.0})).to_json(),
        control=[control.to_json()], tests=runs_of_tests().model_dump_json(),
    )  # fmt: skip


def no_models(home: Path) -> Llm:
    """Models of a run that has none."""
    return Llm(LlmSettings(), home / "cache", threading.Event())


def runs_of_tests(after: str = "passed") -> RawTests:
    """Runs of one test file, its second test ending after as said."""
    outcomes = {"test_work": "passed", "test_more": "passed"}
    runs = [
        FileRun(side=side, turn=turn, file="tests/test_toy.py", ended="ok", detail="", seconds=1.0,
                outcomes=outcomes | ({"test_more": after} if side == "head" else {}))
        for turn in (1, 2) for side in ("base", "head")
    ]  # fmt: skip
    return RawTests(files=["tests/test_toy.py"], left_out=0, runs=runs)


def evidence(
    bench: Workbench, speedup: float = 1.5, title: str = TITLE, body: str = BODY, number: int = 7, fast: str = FAST
) -> Evidence:
    """Make one."""
    base, merge = bench.repository(project(SLOW), {"src/toy/__init__.py": fast})
    bench.git.mirror(bench.repo, bench.git.inspect_source(bench.url))
    patch = dict(bench.git.diffs(bench.git.mirror_path(bench.repo), [merge]))[merge]
    pr_id = f"{bench.repo.replace('/', '__')}-{number}"
    recipe = Recipe(
        repo=bench.repo, base_sha=base, merge_sha=merge, python_version=SERIES, distribution="toy",
        package_root=".", pins=["alpha==1.0"], pins_base=[], build_pins=[], environment_variables={},
        benchmark_dir="benchmarks",
    )  # fmt: skip
    recipe_hash = bench.blobs.put(recipe.to_blob())
    blob = samples(pr_id, recipe_hash, speedup)
    bench.blobs.put(blob.to_blob())
    record = record_of(blob, MEASURE)
    said = StatementInput(
        pr_id=pr_id, repo=bench.repo, url=bench.url, number=number, title=title, body=body, base_sha=base,
        merge_sha=merge,
        patch_sha256=bench.blobs.put(patch), core_files=["src/toy/__init__.py"], raw_sha256=record.raw_sha256,
    )  # fmt: skip
    stated = StatementStep(bench.git, bench.blobs, MEASURE, no_models(bench.home))(said)
    statement = getattr(stated, "record", None)
    assert isinstance(statement, ProblemStatement), stated
    values = {
        **said.model_dump(), **statement.model_dump(), **record.model_dump(exclude={"results"}), **recipe.model_dump(),
        "number": number, "merged_at": MERGED, "category": "use_better_algorithm", "difficulty": "easy",
        "backend": "local", "base_digest": "tree:sha256:0", "measure_digest": "tree:sha256:1",
        "recipe_hash": recipe_hash,
    }  # fmt: skip
    item = ReleaseInput.model_validate({name: values[name] for name in ReleaseInput.model_fields})
    return Evidence(bench.git, bench.blobs, item, blob)


__all__ = [
    "BODY",
    "FAST",
    "MEASURE",
    "SLOW",
    "TITLE",
    "Evidence",
    "evidence",
    "no_models",
    "raw",
    "runs_of_tests",
    "samples",
    "took",
]
