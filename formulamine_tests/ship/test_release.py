import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from formulamine.build.recipe import Recipe
from formulamine.items import Done, Outcome, Rejected
from formulamine.records import ProblemStatement, Removed, StatementPart
from formulamine.schemas import record_schema
from formulamine.settings import MeasureSettings
from formulamine.ship.gates import Held, ReleasedRow, ReleaseReason
from formulamine.ship.release import (
    MANIFEST,
    Release,
    compose,
    read_manifest,
    recover,
    verify,
    write,
)
from formulamine.ship.statements import StatementInput, StatementReason, StatementStep
from formulamine.verify.measure import record_of
from formulamine_tests.build.workbench import Workbench
from formulamine_tests.ship.evidence import MEASURE, SLOW, Evidence, evidence, no_models, raw, runs_of_tests, samples

NOW = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def good(bench: Workbench) -> Evidence:
    return evidence(bench)


def held(found: ReleasedRow | Held) -> str:
    assert isinstance(found, Held), found
    return found.reason


def row_of(made: Evidence) -> ReleasedRow:
    gate = made.gate()
    assert isinstance(gate, ReleasedRow), gate
    return gate


def composed(*rows: ReleasedRow, open_items: list[str] | None = None, month: str = "2024-02") -> Release:
    funnel = [("pull_requests", {"done": 9}), ("candidate_prs", {"done": 3, "rejected (no_core_file)": 6})]
    return compose(month, rows, funnel=funnel, open_items=open_items or [], versions={"formulamine": "0"})


def test_what_is_right_passes_and_says_everything(good: Evidence) -> None:
    row = row_of(good)
    assert (row.verdict, row.benchmark, row.publishable) == ("faster", "bench.time_work", False)
    assert row.patch.startswith("diff --git a/src/toy/__init__.py")
    assert {one.stage for one in row.benchmark_results} == {"screen", "confirm", "control"}
    assert "bench.time_work" in row.problem_statement
    assert "gauss" not in row.problem_statement
    assert row.statement_sources == ["title", "message", "measured"]


def test_only_the_named_environments_are_publishable(good: Evidence) -> None:
    gate = good.gate(environments="docker, local")
    assert isinstance(gate, ReleasedRow)
    assert gate.publishable


NEVER_SAID = StatementPart(section="triage", kind="message", text="This was never said by anybody.")
REPORTED = Removed(text="Summing up a long list takes most of the time of a report.", why="solution_overview")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"verdict": "not_faster"}, ReleaseReason.VERDICT_DIFFERS),
        ({"speedup": 9.0}, ReleaseReason.VERDICT_DIFFERS),
        ({"ci_low": 1.49999}, ReleaseReason.VERDICT_DIFFERS),
        ({"ci_high": None}, ReleaseReason.VERDICT_DIFFERS),
        ({"benchmark": "bench.time_same"}, ReleaseReason.VERDICT_DIFFERS),
        ({"regressions": ["bench.time_same"]}, ReleaseReason.VERDICT_DIFFERS),
        ({"environment_differs": True}, ReleaseReason.VERDICT_DIFFERS),
        ({"machine": "a better one"}, ReleaseReason.VERDICT_DIFFERS),
        ({"tests_after": None}, ReleaseReason.VERDICT_DIFFERS),
        ({"tests_gone": ["tests/test_toy.py::test_more"]}, ReleaseReason.VERDICT_DIFFERS),
        ({"backend": "docker"}, ReleaseReason.EVIDENCE_MISSING),
        ({"raw_sha256": "0" * 64}, ReleaseReason.EVIDENCE_MISSING),
        ({"recipe_hash": "0" * 64}, ReleaseReason.EVIDENCE_MISSING),
        ({"patch_sha256": "0" * 64}, ReleaseReason.EVIDENCE_MISSING),
        ({"pins": ["alpha==2.0"]}, ReleaseReason.RECIPE_DIFFERS),
        ({"pins_base": ["alpha==2.0"]}, ReleaseReason.RECIPE_DIFFERS),
        ({"build_pins": ["alpha==2.0"]}, ReleaseReason.RECIPE_DIFFERS),
        ({"python_version": "3.99"}, ReleaseReason.RECIPE_DIFFERS),
        ({"merge_sha": "0" * 40}, ReleaseReason.RECIPE_DIFFERS),
        ({"base_sha": "0" * 40}, ReleaseReason.RECIPE_DIFFERS),
        ({"repo": "acme/other"}, ReleaseReason.RECIPE_DIFFERS),
        ({"parts": [NEVER_SAID]}, ReleaseReason.NOT_IN_SOURCE),
        ({"documents_sha256": "0" * 64}, ReleaseReason.EVIDENCE_MISSING),
        ({"removed": [REPORTED]}, ReleaseReason.LEAK),
        ({"body": "", "title": ""}, ReleaseReason.NOT_IN_SOURCE),
        ({"statement": "Make it faster."}, ReleaseReason.NOT_IN_SOURCE),
        ({"statement": "gauss_formula", "parts": []}, ReleaseReason.LEAK),
        ({"statement": "x\ngauss_formula  = 1999 *\n2000 // 2", "core_files": [], "parts": []}, ReleaseReason.LEAK),
    ],
)
def test_an_edited_row_is_held(good: Evidence, change: dict[str, object], reason: ReleaseReason) -> None:
    assert held(good.with_(**change).gate()) == reason


def test_samples_of_another_pull_request_are_found_out(bench: Workbench, good: Evidence) -> None:
    other = evidence(bench, speedup=3.0, number=8)
    values = {name: getattr(other.item, name) for name in ("raw_sha256", "speedup", "ci_low", "ci_high")}
    assert held(good.with_(**values).gate()) == ReleaseReason.EVIDENCE_MISSING


def test_samples_that_are_no_samples_are_found_out(bench: Workbench, good: Evidence) -> None:
    for forged in (
        b"{}",
        b"[",
        good.raw.model_copy(update={"measurement": "{}"}).to_blob(),
        good.raw.model_copy(update={"measurement": "[1]"}).to_blob(),
        good.raw.model_copy(update={"control": ["no"]}).to_blob(),
    ):
        assert held(good.with_(raw_sha256=bench.blobs.put(forged)).gate()) == ReleaseReason.EVIDENCE_MISSING


def test_a_blob_that_was_changed_is_found_out(good: Evidence) -> None:
    for digest in (good.item.raw_sha256, good.item.recipe_hash, good.item.patch_sha256):
        path = good.blobs.path(digest)
        content = path.read_bytes()
        path.write_bytes(content.replace(b"1", b"2", 1))
        assert held(good.gate()) == ReleaseReason.EVIDENCE_MISSING
        path.write_bytes(content)
    row_of(good)


def test_what_is_not_faster_enough_is_held(bench: Workbench, good: Evidence) -> None:
    assert held(good.gate(MeasureSettings(min_speedup=2.0))) == ReleaseReason.VERDICT_DIFFERS
    slow = samples(good.item.pr_id, good.item.recipe_hash, speedup=1.0)
    values = {"raw_sha256": bench.blobs.put(slow.to_blob()), "verdict": "not_faster"}
    values |= dict.fromkeys(("benchmark", "speedup", "ci_low", "ci_high"))
    assert held(good.with_(**values).gate()) == ReleaseReason.NOT_FASTER_ENOUGH


@pytest.mark.parametrize("hidden", [False, True])
def test_what_breaks_a_test_is_held_though_its_row_says_otherwise(
    bench: Workbench, good: Evidence, hidden: bool
) -> None:
    raw = good.raw.model_copy(update={"tests": runs_of_tests("failed").model_dump_json()})
    again = record_of(raw, MEASURE)
    assert again.tests_broken == ["tests/test_toy.py::test_more"]
    said = {"raw_sha256": bench.blobs.put(raw.to_blob()), "tests_after": again.tests_after}
    item = good.with_(**said, tests_broken=[] if hidden else again.tests_broken)
    assert held(item.gate()) == (ReleaseReason.VERDICT_DIFFERS if hidden else ReleaseReason.TESTS_BROKEN)


def test_what_was_never_tested_is_held(bench: Workbench, good: Evidence) -> None:
    raw = good.raw.model_copy(update={"tests": ""})
    again = record_of(raw, MEASURE)
    names = ("tests_before", "tests_after", "tests_broken", "tests_gone", "tests_flaky", "test_files")
    values = {name: getattr(again, name) for name in names}
    item = good.with_(raw_sha256=bench.blobs.put(raw.to_blob()), **values)
    assert held(item.gate()) == ReleaseReason.EVIDENCE_MISSING


def test_a_recipe_of_something_else_is_found_out(bench: Workbench, good: Evidence) -> None:
    recipe = Recipe.model_validate_json(bench.blobs.get(good.item.recipe_hash))
    edited = bench.blobs.put(recipe.model_copy(update={"pins": []}).to_blob())
    assert held(good.with_(recipe_hash=edited, pins=[]).gate()) == ReleaseReason.EVIDENCE_MISSING


def test_a_patch_of_something_else_is_found_out(bench: Workbench, good: Evidence) -> None:
    patch = bench.blobs.get(good.item.patch_sha256).replace(b"gauss_formula", b"other_formula")
    assert held(good.with_(patch_sha256=bench.blobs.put(patch)).gate()) == ReleaseReason.PATCH_DIFFERS


def test_where_nothing_usable_was_written_the_statement_says_what_was_measured(bench: Workbench) -> None:
    made = evidence(bench, title="Use gauss_formula", body="Closes #3\n\n- [x] tests")
    assert row_of(made).statement_sources == ["measured"]
    assert made.item.parts == []
    assert "What was reported" not in made.item.statement
    assert "`bench.time_work`" in made.item.statement


def test_the_words_of_the_template_are_no_leak(bench: Workbench) -> None:
    fast = "def work():\n    faster = 1999 * 2000 // 2\n    benchmarks = tests = faster\n    return tests\n"
    row_of(evidence(bench, fast=fast))


def stated(bench: Workbench, made: Evidence, **changes: object) -> Outcome:
    said = {name: getattr(made.item, name) for name in StatementInput.model_fields}
    step = StatementStep(bench.git, bench.blobs, MEASURE, no_models(bench.home))
    return step(StatementInput.model_validate(said | changes))


def test_a_benchmark_that_is_called_as_the_fix_is_allowed(bench: Workbench, good: Evidence) -> None:
    told = samples(good.item.pr_id, good.item.recipe_hash, measured=raw(**{"bench.time_work('gauss_formula')": 2.0}))
    outcome = stated(bench, good, raw_sha256=bench.blobs.put(told.to_blob()))
    assert isinstance(outcome, Done)
    assert isinstance(outcome.record, ProblemStatement)
    assert "`bench.time_work('gauss_formula')`" in outcome.record.statement


def test_sentences_that_tell_a_line_only_together_reject_the_row(bench: Workbench) -> None:
    made = evidence(bench, fast=SLOW.replace("total + number", "number * number // 2"), number=9)
    outcome = stated(bench, made, title="`total = number *`", body="`number // 2` takes 3 s to compute here.")
    assert isinstance(outcome, Rejected)
    assert outcome.reason == StatementReason.LEAK
    assert "line: total = number * number // 2" in outcome.detail


def test_equal_content_is_an_equal_release_and_nothing_is_written_again(good: Evidence, tmp_path: Path) -> None:
    folder = tmp_path / "release" / "2024-02"
    row = row_of(good)
    assert write(composed(row), folder, NOW)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert composed(row).version == composed(row_of(good)).version
    assert not write(composed(row_of(good)), folder, datetime.now(UTC))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert read_manifest(folder)["published_at"] == NOW.isoformat()


def test_other_content_is_another_release(good: Evidence, tmp_path: Path) -> None:
    folder = tmp_path / "2024-02"
    row = row_of(good)
    write(composed(row), folder, NOW)
    changed = composed(row.model_copy(update={"category": "uncategorized"}))
    assert changed.version != composed(row).version
    assert write(changed, folder, NOW)
    assert verify(folder) == []
    assert read_manifest(folder)["release_version"] == changed.version
    assert sorted(path.name for path in tmp_path.iterdir() if "2024-02" in path.name) == ["2024-02"]


def test_the_order_of_rows_is_no_content(bench: Workbench) -> None:
    one, two = row_of(evidence(bench)), row_of(evidence(bench, number=8))
    assert composed(one, two).version == composed(two, one).version


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "README.md").write_text("other"), "README.md is not what the manifest says"),
        (lambda folder: (folder / "README.md").unlink(), "README.md is missing"),
        (lambda folder: (folder / "data" / "train.parquet").write_bytes(b""), "train.parquet is not what"),
        (lambda folder: (folder / "more.txt").write_text("x"), "more.txt is not in the manifest"),
        (lambda folder: (folder / "data" / ".hidden").write_text("x"), "data/.hidden is not in the manifest"),
        (lambda folder: (folder / "link").symlink_to("/nowhere"), "link is not in the manifest"),
        (lambda folder: (folder / "folder").symlink_to("/etc"), "folder is not in the manifest"),
        (lambda folder: (folder / MANIFEST).unlink(), "holds no manifest.json"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "is no JSON"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "is no JSON"),
        (lambda folder: (folder / MANIFEST).write_bytes(b"\xff"), "is no JSON"),
        (lambda folder: edit_manifest(folder, publishable=True), "is not what its release_version says"),
        (lambda folder: edit_manifest(folder, files=[]), "is not what its release_version says"),
        (lambda folder: edit_manifest(folder, files={}), "is not what its release_version says"),
        (lambda folder: edit_manifest(folder, release_version="0"), "is not what its release_version says"),
    ],
)
def test_whatever_was_done_to_a_release_is_found_and_written_anew(
    good: Evidence, tmp_path: Path, spoil: object, said: str
) -> None:
    folder = tmp_path / "2024-02"
    release = composed(row_of(good))
    write(release, folder, NOW)
    assert callable(spoil)
    spoil(folder)
    assert any(said in wrong for wrong in verify(folder)), verify(folder)
    assert write(release, folder, NOW)
    assert verify(folder) == []


def test_a_linked_copy_is_no_file_of_the_release(good: Evidence, tmp_path: Path) -> None:
    folder = tmp_path / "2024-02"
    write(composed(row_of(good)), folder, NOW)
    (folder / "README.md").rename(tmp_path / "elsewhere.md")
    (folder / "README.md").symlink_to(tmp_path / "elsewhere.md")
    assert verify(folder) == ["README.md is missing"]


def test_an_empty_release_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "2024-02"
    write(composed(), folder, NOW)
    manifest = read_manifest(folder)
    assert (manifest["empty"], manifest["rows"], manifest["publishable"]) == (True, 0, False)
    assert "This release is empty" in (folder / "README.md").read_text()
    assert dict(pl.read_parquet(folder / "data" / "train.parquet").schema) == record_schema(ReleasedRow)


def test_a_partial_release_lists_what_is_open(good: Evidence, tmp_path: Path) -> None:
    folder = tmp_path / "2024-02"
    write(composed(row_of(good), open_items=["acme__toy-9", "acme__toy-8"]), folder, NOW)
    assert read_manifest(folder)["open"] == ["acme__toy-8", "acme__toy-9"]
    assert "**Partial**: these had no outcome yet: acme__toy-8, acme__toy-9." in (folder / "README.md").read_text()


def test_the_card_has_funnel_machine_and_what_may_not_be_published(good: Evidence, tmp_path: Path) -> None:
    row = row_of(good).model_copy(update={"benchmark": "bench.time_it('a|b')"})
    card = composed(row).files["README.md"].decode()
    assert "| candidate_prs | 9 | rejected (no_core_file): 6, done: 3 |" in card
    assert "- a machine, 2 cores, Linux 6.1, local backend" in card
    assert "1 of 1 rows were measured on the `local` backend" in card
    assert "| 2 (2 before) | local, not publishable |" in card
    assert "**Not publishable**" in card
    assert f"| {row.repo}#7 | `bench.time_it('a\\|b')` | 1.50x |" in card
    assert card.startswith("---\nconfigs:")
    publishable = row.model_copy(update={"publishable": True})
    assert "Not publishable" not in composed(publishable).files["README.md"].decode()


def test_the_dataset_loads_with_the_declared_columns(good: Evidence, tmp_path: Path) -> None:
    folder = tmp_path / "2024-02"
    row = row_of(good)
    write(composed(row), folder, NOW)
    frame = pl.read_parquet(folder / "data" / "train.parquet")
    assert dict(frame.schema) == record_schema(ReleasedRow)
    assert [ReleasedRow.model_validate(one) for one in frame.to_dicts()] == [row]
    duckdb = pytest.importorskip("duckdb")
    rows = duckdb.sql(
        f"select unnest(benchmark_results, recursive := true) from '{folder}/data/train.parquet'"
    ).fetchall()
    assert len(rows) == len(row.benchmark_results)


def test_the_dataset_loads_with_datasets(good: Evidence, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "2024-02"
    row = row_of(good)
    write(composed(row), folder, NOW)
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["pr_id"] == row.pr_id
    assert len(loaded[0]["benchmark_results"]) == len(row.benchmark_results)


@pytest.mark.parametrize("moment", ["old waits, new is whole", "old waits, new is half", "new is half", "old is left"])
def test_a_writing_that_was_killed_leaves_a_release(good: Evidence, tmp_path: Path, moment: str) -> None:
    folder, aside, old = (tmp_path / name for name in ("2024-02", ".2024-02.writing", ".2024-02.old"))
    row = row_of(good)
    first, second = composed(row), composed(row.model_copy(update={"category": "uncategorized"}))
    write(second, aside.with_name("made"), NOW)
    write(first, folder, NOW)
    if moment == "old is left":
        folder.rename(old)
        aside.with_name("made").rename(folder)
    else:
        aside.with_name("made").rename(aside)
        if "half" in moment:
            (aside / "README.md").unlink()
        if "old waits" in moment:
            folder.rename(old)
    recover(folder)
    expected = second if moment in ("old waits, new is whole", "old is left") else first
    assert verify(folder) == []
    assert read_manifest(folder)["release_version"] == expected.version
    assert not aside.exists()
    assert not old.exists()


def test_killed_at_any_moment_the_next_run_has_the_old_or_the_new_release(good: Evidence, tmp_path: Path) -> None:
    folder = tmp_path / "release" / "2024-02"
    row = row_of(good)
    program = """
        import itertools, sys
        from datetime import UTC, datetime
        from pathlib import Path
        from formulamine.ship.gates import ReleasedRow
        from formulamine.ship.release import compose, write
        row = ReleasedRow.model_validate_json(sys.stdin.read())
        releases = [compose("2024-02", [row.model_copy(update={"category": str(n)})], funnel=[], open_items=[],
                            versions={}) for n in range(2)]
        print("ready", flush=True)
        for release in itertools.cycle(releases):
            write(release, Path(sys.argv[1]), datetime.now(UTC))
        """
    draw = random.Random(7)
    for _ in range(2):
        argv = [sys.executable, "-c", textwrap.dedent(program), str(folder)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            assert writer.stdin is not None
            assert writer.stdout is not None
            writer.stdin.write(row.model_dump_json().encode())
            writer.stdin.close()
            writer.stdout.readline()
            while not folder.parent.exists():
                time.sleep(0.001)
            time.sleep(0.02 + draw.random() * 0.05)
            os.kill(writer.pid, signal.SIGKILL)
        recover(folder)
        assert verify(folder) == []
        assert [path.name for path in folder.parent.iterdir()] == ["2024-02"]
