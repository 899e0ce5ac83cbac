"""The release: a folder written whole.

Here belongs the folder: data, dataset card, manifest. It is a function of its rows: equal content has an equal
`release_version`. Which rows are in it is decided in `gates.py`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from string import Template
from typing import Any

import polars as pl

from formulamine.schemas import record_schema
from formulamine.ship.gates import ReleasedRow

CARD_FILE = Path(__file__).with_name("dataset_card.md.tmpl")
MANIFEST = "manifest.json"


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
