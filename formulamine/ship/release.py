"""The release: gates recomputed, then a folder written whole.

Here belong the gates that a pull request must pass again, from raw samples and records, and the folder: data, dataset
card, manifest. The folder is a function of its rows: equal content has an equal `release_version`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from string import Template
from typing import Any

import polars as pl

from formulamine.build.recipe import Recipe
from formulamine.schemas import record_schema
from formulamine.services.git import Git
from formulamine.services.store import Blobs, StoreError
from formulamine.settings import MeasureSettings, ReleaseSettings
from formulamine.ship.guard import Documents, guard_of, unfounded
from formulamine.ship.statements import confirmed, names_of, sources_of
from formulamine.tables import BenchmarkResult, OutcomeCounts, Record, Removed, StatementPart
from formulamine.verify.measure import RawBlob, record_of

CARD_FILE = Path(__file__).with_name("dataset_card.md.tmpl")
MANIFEST = "manifest.json"


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
    return ReleasedRow(
        pr_id=item.pr_id,
        repo=item.repo,
        number=item.number,
        title=item.title,
        merged_at=item.merged_at,
        base_sha=item.base_sha,
        merge_sha=item.merge_sha,
        patch=patch.decode("utf-8", "backslashreplace"),
        problem_statement=item.statement,
        statement_sources=sources_of(item.parts),
        category=item.category,
        difficulty=item.difficulty,
        python_version=item.python_version,
        pins=item.pins,
        pins_base=item.pins_base,
        build_pins=item.build_pins,
        backend=item.backend,
        base_image=item.base_digest,
        measure_image=item.measure_digest,
        recipe_hash=item.recipe_hash,
        verdict=item.verdict,
        benchmark=item.benchmark,
        speedup=item.speedup,
        ci_low=item.ci_low,
        ci_high=item.ci_high,
        regressions=item.regressions,
        environment_differs=item.environment_differs,
        machine=item.machine,
        kernel=item.kernel,
        spread=item.spread,
        tests_before=item.tests_before,
        tests_after=item.tests_after,
        tests_gone=item.tests_gone,
        tests_flaky=item.tests_flaky,
        test_files=item.test_files,
        test_files_left_out=item.test_files_left_out,
        returns_differ=item.returns_differ,
        raw_sha256=item.raw_sha256,
        publishable=item.backend in release.environments,
        benchmark_results=again.results,
    )


@dataclass(frozen=True)
class Release:
    """What is to be written, complete; `version` is the hash of its manifest without times."""

    month: str
    files: Mapping[str, bytes]
    manifest: Mapping[str, Any]

    @property
    def version(self) -> str:
        """Hash that equal content shares."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()[:16]


def compose(
    month: str,
    rows: Sequence[ReleasedRow],
    *,
    funnel: Sequence[tuple[str, Mapping[str, int]]],
    open_items: Sequence[str],
    versions: Mapping[str, str],
    calibration: str = "",
) -> Release:
    """Compose a release of the rows that passed.

    Args:
        month: as "2024-02".
        rows: what passed every gate.
        funnel: asset and how many ended how, in the order of the graph.
        open_items: items without an outcome, listed by `--partial`.
        versions: of everything that decided.
        calibration: what is known of the verdict's errors; empty where nobody has calibrated.
    """
    ordered = sorted(rows, key=lambda row: row.pr_id)
    frame = pl.DataFrame([row.model_dump() for row in ordered], schema=record_schema(ReleasedRow))
    data = _parquet(frame)
    card = _card(month, ordered, funnel, open_items, calibration).encode()
    files = {"README.md": card, "data/train.parquet": data}
    manifest = {
        "month": month,
        "rows": len(ordered),
        "empty": not ordered,
        "publishable": bool(ordered) and all(row.publishable for row in ordered),
        "pull_requests": [row.pr_id for row in ordered],
        "open": sorted(open_items),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
        "versions": dict(sorted(versions.items())),
    }
    return Release(month, files, manifest)


def write(release: Release, folder: Path, published_at: datetime) -> bool:
    """Write a release aside and rename it into place; nothing happens where it stands already.

    Returns:
        Whether it was written.
    """
    recover(folder)
    if verify(folder) == [] and read_manifest(folder).get("release_version") == release.version:
        return False
    aside, old = _beside(folder)
    for name, content in release.files.items():
        path = aside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    stamped = {**release.manifest, "release_version": release.version, "published_at": published_at.isoformat()}
    (aside / MANIFEST).write_text(json.dumps(stamped, indent=2, sort_keys=True) + "\n")
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    if old.exists():
        shutil.rmtree(old)
    return True


def recover(folder: Path) -> None:
    """Finish or undo a writing that was killed: between its two renames there is no folder, but both are beside it."""
    aside, old = _beside(folder)
    if not folder.exists():
        for whole in (aside, old):
            if whole.exists() and not verify(whole):
                whole.rename(folder)
                break
    for leftover in (aside, old):
        if leftover.exists():
            shutil.rmtree(leftover)


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where the next release is written, and where the last one waits until that is in place."""
    return folder.with_name(f".{folder.name}.writing"), folder.with_name(f".{folder.name}.old")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a written release; empty where there is none.

    Raises:
        ValueError: it is no JSON object.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    manifest = json.loads(path.read_text())
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} is no JSON object")
    return manifest


def verify(folder: Path) -> list[str]:
    """What is wrong with a written release: files that are missing, changed or not listed, a manifest edited."""
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return [f"{MANIFEST} is no JSON: {error}"]
    if not manifest:
        return [f"{folder} holds no {MANIFEST}"]
    content = {key: value for key, value in manifest.items() if key not in ("release_version", "published_at")}
    if Release("", {}, content).version != manifest.get("release_version"):
        return [f"{MANIFEST} is not what its release_version says"]
    wrong = []
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.is_symlink():
            wrong.append(f"{name} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            wrong.append(f"{name} is not what the manifest says")
    listed = {*manifest["files"], MANIFEST}
    present = {path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    return wrong + [f"{name} is not in the manifest" for name in sorted(map(str, present)) if name not in listed]


def _parquet(frame: pl.DataFrame) -> bytes:
    import io

    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _passing(row: ReleasedRow) -> str:
    """How many of the tests that passed before and were run after pass."""
    if row.tests_before is None or row.tests_after is None:
        return "not run"
    return f"{row.tests_after.passed} ({row.tests_before.passed} before)"


def _card(
    month: str,
    rows: Sequence[ReleasedRow],
    funnel: Sequence[tuple[str, Mapping[str, int]]],
    open_items: Sequence[str],
    calibration: str,
) -> str:
    """The dataset card."""
    table = ["| asset | rows | how they ended |", "|---|---|---|"]
    for asset, counts in funnel:
        most_first = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
        ended = ", ".join(f"{name}: {count}" for name, count in most_first)
        table.append(f"| {asset} | {sum(counts.values())} | {ended or 'nothing arrived'} |")
    listing = [
        f"| {row.repo}#{row.number} | `{_cell(row.benchmark)}` | {row.speedup:.2f}x | {row.ci_low:.2f}x "
        f"| {_passing(row)} | {row.backend}{'' if row.publishable else ', not publishable'} |"
        for row in rows
    ]
    header = "| pull request | benchmark | speedup | lower bound | tests passing after | measured on |"
    verified = "\n".join([header, "|---|---|---|---|---|---|", *listing])
    notes = []
    if not rows:
        notes.append("**This release is empty**: no pull request of this month was measured as faster.")
    if elsewhere := sorted({row.backend for row in rows if not row.publishable}):
        named = " and ".join(f"`{name}`" for name in elsewhere)
        count = sum(not row.publishable for row in rows)
        notes.append(
            f"**Not publishable**: {count} of {len(rows)} rows were measured on the {named} backend, which is none of "
            "RELEASE_ENVIRONMENTS; `publishable` says so of each."
        )
    if open_items:
        notes.append("**Partial**: these had no outcome yet: " + ", ".join(sorted(open_items)) + ".")
    return Template(CARD_FILE.read_text()).substitute(
        month=month,
        notes="\n\n".join(notes),
        funnel="\n".join(table),
        verified=verified if rows else "None.",
        calibration=f"Trials of this protocol, on whichever machine: {calibration}."
        if calibration
        else "The verdict was not calibrated where this was made.",
        machines="\n".join(sorted({f"- {row.machine}, {row.kernel}, {row.backend} backend" for row in rows}))
        or "- nothing was measured as faster",
    )
