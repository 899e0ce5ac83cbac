"""The gates that a pull request must pass again before it is released, from raw samples and records.

Here belongs what holds one back, and the row that is released of one that passes. What becomes of the rows is in
`release.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from formulamine.build.recipe import Recipe
from formulamine.records import BenchmarkResult, OutcomeCounts, Record, Removed, StatementPart
from formulamine.services.git import Git
from formulamine.services.store import Blobs, StoreError
from formulamine.settings import MeasureSettings, ReleaseSettings
from formulamine.ship.guard import Documents, guard_of, unfounded
from formulamine.ship.statements import confirmed, names_of, sources_of
from formulamine.verify.measure import RawBlob, record_of

# What raw samples say again, and a row must say too.
MEASURED = (
    "verdict", "benchmark", "speedup", "ci_low", "ci_high", "regressions", "environment_differs", "machine", "kernel",
    "spread", "tests_before", "tests_after", "tests_broken", "tests_gone", "tests_flaky", "test_files",
    "test_files_left_out", "returns_differ",
)  # fmt: skip


class ReleaseReason(StrEnum):
    """The gate at which a pull request was held."""

    VERDICT_DIFFERS = "verdict_differs"
    NOT_FASTER_ENOUGH = "not_faster_enough"
    TESTS_BROKEN = "tests_broken"
    EVIDENCE_MISSING = "evidence_missing"
    RECIPE_DIFFERS = "recipe_differs"
    PATCH_DIFFERS = "patch_differs"
    LEAK = "leak"
    NOT_IN_SOURCE = "not_in_source"


class ReleaseInput(Record):
    """Fields that the gates and the released row read."""

    pr_id: str
    repo: str
    url: str
    number: int
    title: str
    body: str
    merged_at: datetime
    base_sha: str
    merge_sha: str
    core_files: list[str]
    patch_sha256: str
    category: str
    difficulty: str
    python_version: str
    pins: list[str]
    pins_base: list[str]
    build_pins: list[str]
    backend: str
    base_digest: str
    measure_digest: str
    recipe_hash: str
    verdict: str
    benchmark: str | None
    speedup: float | None
    ci_low: float | None
    ci_high: float | None
    regressions: list[str]
    environment_differs: bool
    raw_sha256: str
    machine: str
    kernel: str
    spread: float | None
    tests_before: OutcomeCounts | None
    tests_after: OutcomeCounts | None
    tests_broken: list[str]
    tests_gone: list[str]
    tests_flaky: list[str]
    test_files: list[str]
    test_files_left_out: int
    returns_differ: list[str]
    statement: str
    parts: list[StatementPart]
    removed: list[Removed]
    documents_sha256: str


class ReleasedRow(Record):
    """One row of `data/train.parquet`."""

    pr_id: str
    repo: str
    number: int
    title: str
    merged_at: datetime
    base_sha: str
    merge_sha: str
    patch: str
    problem_statement: str
    statement_sources: list[str]
    category: str
    difficulty: str
    python_version: str
    pins: list[str]
    pins_base: list[str]
    build_pins: list[str]
    backend: str
    base_image: str
    measure_image: str
    recipe_hash: str
    verdict: str
    benchmark: str
    speedup: float
    ci_low: float
    ci_high: float | None
    regressions: list[str]
    environment_differs: bool
    machine: str
    kernel: str
    spread: float | None
    tests_before: OutcomeCounts | None
    tests_after: OutcomeCounts | None
    tests_gone: list[str]
    tests_flaky: list[str]
    test_files: list[str]
    test_files_left_out: int
    returns_differ: list[str]
    raw_sha256: str
    publishable: bool
    benchmark_results: list[BenchmarkResult]


@dataclass(frozen=True)
class Held:
    """A pull request that does not pass, and where."""

    reason: ReleaseReason
    detail: str


def pass_gates(
    item: ReleaseInput, git: Git, blobs: Blobs, measure: MeasureSettings, release: ReleaseSettings
) -> ReleasedRow | Held:
    """Recompute every gate of a pull request from its raw samples and records.

    Returns:
        The row to release, or the first gate that it does not pass.
    """
    try:
        raw = RawBlob.model_validate_json(blobs.get(item.raw_sha256))
        recipe = Recipe.model_validate_json(blobs.get(item.recipe_hash))
        patch = blobs.get(item.patch_sha256)
        written = Documents.model_validate_json(blobs.get(item.documents_sha256))
        again = record_of(raw, measure)
    except (StoreError, ValueError, TypeError, KeyError) as error:
        return Held(ReleaseReason.EVIDENCE_MISSING, f"{type(error).__name__}: {error}")
    if (raw.pr_id, raw.recipe_hash, raw.backend) != (item.pr_id, item.recipe_hash, item.backend):
        other = f"{raw.pr_id} on {raw.backend} with recipe {raw.recipe_hash[:12]}"
        return Held(ReleaseReason.EVIDENCE_MISSING, f"the raw samples are those of {other}")
    for name in MEASURED:
        if getattr(again, name) != getattr(item, name):
            said, found = getattr(item, name), getattr(again, name)
            return Held(ReleaseReason.VERDICT_DIFFERS, f"{name} is {said}, raw samples say {found}")
    if (
        item.verdict != "faster"
        or item.speedup is None
        or item.ci_low is None
        or item.benchmark is None
        or item.speedup < measure.min_speedup
        or item.ci_low < measure.min_lower_bound
    ):
        return Held(ReleaseReason.NOT_FASTER_ENOUGH, f"{item.verdict}, {item.speedup} with lower bound {item.ci_low}")
    if again.tests_before is None:
        return Held(ReleaseReason.EVIDENCE_MISSING, "its tests were never run")
    if again.tests_broken:
        return Held(ReleaseReason.TESTS_BROKEN, ", ".join(again.tests_broken))
    for name in ("repo", "base_sha", "merge_sha", "python_version", "pins", "pins_base", "build_pins"):
        if getattr(recipe, name) != getattr(item, name):
            return Held(ReleaseReason.RECIPE_DIFFERS, f"{name} is not what was built")
    mirror = git.open(item.repo, item.url)
    if dict(git.diffs(mirror, [item.merge_sha])).get(item.merge_sha) != patch:
        return Held(ReleaseReason.PATCH_DIFFERS, "the patch is not the merge commit's")
    guard = guard_of(item.repo, item.url, item.base_sha, item.merge_sha, item.patch_sha256, item.core_files, git, blobs)
    if wrong := unfounded(item.parts, item.statement, item.title, item.body, written, guard.people):
        return Held(ReleaseReason.NOT_IN_SOURCE, wrong[0])
    faster = names_of(confirmed(blobs, item.raw_sha256, measure))
    if leaks := guard.told(item.statement, item.removed, faster):
        return Held(ReleaseReason.LEAK, "; ".join(map(str, leaks[:5])))
    same = ReleasedRow.model_fields.keys() & ReleaseInput.model_fields.keys()
    return ReleasedRow.model_validate(
        {
            **{name: getattr(item, name) for name in same},
            "patch": patch.decode("utf-8", "backslashreplace"),
            "problem_statement": item.statement,
            "statement_sources": sources_of(item.parts),
            "base_image": item.base_digest,
            "measure_image": item.measure_digest,
            "publishable": item.backend in release.environments,
            "benchmark_results": again.results,
        }
    )
