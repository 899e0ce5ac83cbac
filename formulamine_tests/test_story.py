"""The story of one pull request: what is told, why it is in or out, and what a run would do with it now."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import pkgutil
import re
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

import formulamine
from formulamine import story, telling
from formulamine.demo.sample import MONTH, REPOSITORY, write_sample
from formulamine.discover.registry import Registry, RegistryEntry
from formulamine.discover.sieve_rules import load_weights
from formulamine.items import Done, Failed, Outcome, Rejected, RunOptions, Step
from formulamine.lineage import to_json
from formulamine.pipeline import inputs, joined, materialize
from formulamine.plan import STEPS
from formulamine.records import (
    BenchmarkResult,
    EnvPayload,
    Image,
    OutcomeCounts,
    ProblemStatement,
    PublishedRelease,
    Removed,
    SpeedupMeasurement,
)
from formulamine.redo import changes, redo
from formulamine.services.container import Services
from formulamine.services.resolver import Interpreter, Resolver
from formulamine.settings import Settings
from formulamine.ship.gates import ReleaseReason
from formulamine.tables import TABLES

LOG = "ab" * 32
NO_INTERPRETERS: dict[str, Interpreter] = {}
PERFORMANCE = ("formulamine__sample-32", "formulamine__sample-36", "formulamine__sample-45")


def pr(number: int) -> str:
    return f"formulamine__sample-{number}"


def measured(number: int) -> Outcome:
    """What the measurement of a pull request might have come to."""
    speedup = 8.6 if number == 32 else 1.01
    one = BenchmarkResult(
        benchmark="bench_text.time_`slugify`", kind="time", stage="confirm", mode="steady", status="ok", detail="",
        number=9, rounds=4, speedup=speedup, ci_low=speedup * 0.9, ci_high=speedup * 1.1, base_seconds=1e-3,
        head_seconds=1e-3, wall_speedup=speedup, decision="faster" if number == 32 else "dropped", clock="cpu",
            other_mode="", other_speedup=None, unit="seconds", base_value=None, head_value=None,
    )  # fmt: skip
    faster = number == 32
    counts = OutcomeCounts(passed=7, failed=0, errors=1, skipped=0, not_run=0)
    record = SpeedupMeasurement(
        verdict="faster" if faster else "not_faster", benchmark=one.benchmark if faster else None,
        speedup=one.speedup if faster else None, ci_low=one.ci_low if faster else None,
        ci_high=one.ci_high if faster else None, regressions=["bench.time_other"] if faster else [], screened=8, kept=4,
        confirmed=int(faster), selection="all", selection_why="", reached=None, excluded=0, skipped=0,
        failed_to_import=[], controls=2, controls_passed=0,
        **dict.fromkeys(("tests_before", "tests_after"), counts if faster else None),
        tests_broken=[], tests_gone=["test_a.py::test_b"] if faster else [], tests_flaky=[], test_files=["test_a.py"],
        test_files_left_out=3, returns_differ=["bench.time_x"] if faster else [],
        kernel="Linux 6.1", measured_on="local", spread=0.02,
        environment_differs=False, recipe_hash="c" * 64, raw_sha256="d" * 64, machine="a machine", load_before=0.0,
        load_after=0.0, limits=[], results=[one],
    )  # fmt: skip
    reason = steps_reason("speedup_measurements", "not_faster")
    return Done(record) if faster else Rejected(reason, "", record)


def steps_reason(asset: str, name: str) -> StrEnum:
    return REASONS[asset](name)


def answer(asset: str, number: int) -> Outcome:
    """Made-up outcomes of the assets that need more than git."""
    match asset:
        case "env_payloads":
            return Done(EnvPayload(
                python_version="3.12", acceptable_pythons=["3.12"], interpreter_source="requires_python",
                package_root=".", distribution="tallybook", pins=["a==1"], pins_base=[], build_pins=[],
                build_environment_variables=[], cutoff="2024-02-01", cutoff_rung="month_start", dropped=[], sources=[],
                uv_version="0.9",
            ))  # fmt: skip
        case "images" if number == 45:
            return Failed(steps_reason(asset, "build_failed"), f"build_wheel: no stop_words.txt; log: blob {LOG}")
        case "images":
            return Done(Image(
                backend="local", base_digest="tree:sha256:1", measure_digest="tree:sha256:2", route="default",
                recipe_hash="c" * 64, attempts=1, bytes=1200, import_names=["tallybook"], base_import_path="",
                head_import_path="", base_version="1", head_version="1", pins_installed=1, benchmarks_discovered=8,
                benchmarks_in_source=8, adaptation="", rules=["commits"], manifest_sha256="0" * 64,
                suite_import_errors=[], limits=[],
            ))  # fmt: skip
        case "speedup_measurements":
            return measured(number)
        case "problem_statements":
            text = "# A slow path\n\nIt is slow ![x](http://x/y.png).\n"
            return Done(ProblemStatement(
                statement=text, sources=["measured"], parts=[], fidelity=1.0,
                removed=[Removed(text="Use a | <dict>.", why="leak: name")], documents_sha256="d" * 64,
                extracted_by="rules", extraction_prompt="", extraction_tokens=0,
            ))  # fmt: skip
        case _:
            return Done(PublishedRelease(
                released=True, publishable=False, release_version="e" * 64,
                published_at=datetime(2024, 3, 1, tzinfo=UTC),
            ))  # fmt: skip


def services_of(home: Path) -> Services:
    settings = Settings()
    assert settings.home == home
    made = Services(settings)
    made.resolver.__dict__["interpreters"] = NO_INTERPRETERS
    return made


def carry(step: Step[Any], items: list[tuple[str, Any]], services: Services) -> None:
    materialize(
        step, items, MONTH, tables=services.tables, ledger=services.ledger, options=RunOptions("run-of-the-test"),
        cancelled=services.cancelled, log=logging.getLogger("test"),
    )  # fmt: skip


def make_month(home: Path) -> None:
    """The demo's month: discovered and judged for good, built and measured by hand."""
    sample = write_sample(home / "sample.git").path
    Registry(home / "repositories.toml").add([RegistryEntry(name=REPOSITORY, source=str(sample))])
    services = services_of(home)
    for asset, make in STEPS.items():
        step = make(services, MONTH)
        if asset == "repositories":
            item = step.reads(repo=REPOSITORY, source=str(sample), month=MONTH)
            carry(step, [(f"{REPOSITORY}@{MONTH}", item)], services)
            continue
        rows = joined(asset, MONTH, services.tables)
        if asset not in ("pull_requests", "candidate_prs", "classifications"):
            rows = [row for row in rows if row["pr_id"] in PERFORMANCE]
            step = dataclasses.replace(
                step, run=lambda item, asset=asset: answer(asset, int(item.pr_id.rpartition("-")[2]))
            )
        carry(step, inputs(step, rows, MONTH), services)
    release = dataclasses.replace(
        STEPS["problem_statements"](services, MONTH), asset="published_release", reasons=ReleaseReason,
        run=lambda item: answer("published_release", 32),
    )  # fmt: skip
    carry(release, inputs(release, joined("published_release", MONTH, services.tables), MONTH), services)
    services.close()


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the month, to be read only."""
    home = tmp_path_factory.mktemp("story") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORMULAMINE_HOME", str(home))
        patch.chdir(home.parent)
        make_month(home)
    return home


@pytest.fixture
def settings(month: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings on that month."""
    monkeypatch.setenv("FORMULAMINE_HOME", str(month))
    monkeypatch.setattr(Resolver, "interpreters", NO_INTERPRETERS)
    return Settings()


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    made = Services(settings)
    yield made
    made.close()


def all_reasons() -> dict[str, type[StrEnum]]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home:
        patch.setenv("FORMULAMINE_HOME", home)
        patch.setattr(Resolver, "interpreters", NO_INTERPRETERS)
        patch.setattr("formulamine.discover.steps.joined", lambda *_, **__: [])
        services = Services(Settings())
        found = {asset: make(services, MONTH).reasons for asset, make in STEPS.items()}
        services.close()
    return found | {"published_release": ReleaseReason}


REASONS = all_reasons()


def test_every_reason_has_two_sentences_and_every_sentence_a_reason() -> None:
    told = {asset: set(reasons) for asset, reasons in story.sentences().items() if asset != "any"}
    assert told == {asset: {str(reason) for reason in reasons} for asset, reasons in REASONS.items()}
    assert all(len(parts) == 2 for reasons in story.sentences().values() for parts in reasons.values())
    assert REASONS.keys() == TABLES.keys()


def test_no_enum_of_reasons_is_forgotten() -> None:
    found = set()
    for module in pkgutil.walk_packages(formulamine.__path__, "formulamine."):
        if not module.name.endswith(("__main__", ".harness", ".probe", ".backend_hooks")):
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, type) and issubclass(value, StrEnum) and value.__name__.endswith("Reason"):
                    found.add(value)
    assert found == set(REASONS.values())


@pytest.mark.parametrize(("asset", "reason"), [(asset, str(one)) for asset, all_ in REASONS.items() for one in all_])
def test_every_reason_is_told_with_its_detail(settings: Settings, asset: str, reason: str) -> None:
    found = story.tell(pr(36), settings)
    detail = "7 of 9\x1b[31m; log: blob " + LOG
    last = dataclasses.replace(found.last, asset=asset, reason=reason, status="failed", detail=detail)
    told = story.why_not(dataclasses.replace(found, chapters=[*found.chapters[:-1], last]))
    assert "{" not in told
    assert told.isprintable()
    assert told.endswith(".")
    assert ".." not in told
    assert any(letter.isdigit() for letter in told)
    assert reason in ("not_faster", "slower", "not_faster_enough") or "7 of 9" in told or asset == "published_release"


def test_why_a_pull_request_is_out_names_the_number_that_decided(settings: Settings) -> None:
    assert story.why_not(story.tell(pr(36), settings)) == (
        "#36 was measured and is not faster: its best benchmark bench_text.time_`slugify` came to 1.01x "
        "(interval 0.91x to 1.11x). 1.05x with a lower bound of 1.02x is asked for."
    )
    assert "2 of tests" not in story.why_not(story.tell(pr(39), settings))
    assert "only 1 of tests: tests/test_workdays.py" in story.why_not(story.tell(pr(39), settings))
    assert f"yes from {load_weights().yes_from:g}" in story.why_not(story.tell(pr(34), settings))
    assert f"The log is blob {LOG}." in story.why_not(story.tell(pr(45), settings))


def test_why_a_pull_request_is_in(settings: Settings) -> None:
    told = story.why_not(story.tell(pr(32), settings))
    assert told.startswith("#32 is in release eeeeeeeeeeee of 2024-02: its best benchmark")
    assert "although 1 of its benchmarks got slower" in told
    assert "not publishable" in told


def test_a_pull_request_on_its_way_says_what_comes_next(
    month: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shutil.copytree(month, tmp_path / "copy")
    monkeypatch.setenv("FORMULAMINE_HOME", str(home))
    for name in ("problem_statements", "published_release"):
        (home / "tables" / name / f"{MONTH}.parquet").unlink()
    waiting = story.tell(pr(32), Settings())
    assert "it is done at speedup_measurements, and problem_statements of 2024-02 was not made yet" in story.why_not(
        waiting
    )
    behind = dataclasses.replace(waiting, next_made=True)
    assert "brings the tables up to date" in story.why_not(behind)


def test_a_story_has_every_asset_with_all_that_decided(settings: Settings) -> None:
    found = story.tell(pr(32), settings)
    assert [chapter.asset for chapter in found.chapters] == list(TABLES)
    assert found.chapter("candidate_prs").hashes.keys() == {"patch"}  # type: ignore[union-attr]
    assert found.chapter("images").hashes["recipe"] == "c" * 64  # type: ignore[union-attr]
    assert found.chapter("speedup_measurements").hashes["samples"] == "d" * 64  # type: ignore[union-attr]
    assert found.chapter("classifications").versions["judge"] == "rules"  # type: ignore[union-attr]
    assert all(len(chapter.fingerprint) == 64 and chapter.run_id for chapter in found.chapters)
    assert story.tell(pr(45), settings).last.hashes == {"log": LOG}
    data = json.loads(to_json(found.facts()))
    assert data["why"].startswith("#32 is in release")
    assert [one["asset"] for one in data["assets"]] == list(TABLES)
    assert data["assets"][6]["benchmark_results"][0]["decision"] == "faster"


@pytest.mark.parametrize("text", ["formulamine/sample#32", "formulamine__sample-32", " formulamine/sample#32 "])
def test_a_pull_request_is_named_in_two_ways(text: str) -> None:
    assert story.pr_id_of(text) == pr(32)


@pytest.mark.parametrize("text", ["", "32", "sample#32", "a/b#0", "a/b#x", "a/b/c#1", "a/b#1\n#2", "../b#1", "a/b #1"])
def test_what_names_no_pull_request_is_none(text: str) -> None:
    assert story.pr_id_of(text) is None


def unknown(pr_id: str, settings: Settings) -> story.NotFound:
    with pytest.raises(story.NotFound) as caught:
        story.tell(pr_id, settings)
    assert "\n" not in str(caught.value)
    return caught.value


def test_an_unknown_one_of_another_month_is_found_in_the_mirror(settings: Settings) -> None:
    found = unknown(pr(30), settings)
    assert found.nearest[0] == "formulamine/sample#31 in 2024-02"
    assert found.enters.startswith("it was merged on 2024-01-31 as ")
    assert found.enters.endswith("enters at pull_requests: run `formulamine month 2024-01`")


def test_an_unknown_number_never_enters(settings: Settings) -> None:
    assert "the mirror of formulamine/sample has no merge of it" in unknown(pr(4000), settings).enters


def test_an_unknown_repository_is_compared_by_name(settings: Settings) -> None:
    found = unknown("Formulamine__sampel-3", settings)
    assert found.nearest == ["formulamine/sample"]
    assert "formulamine repositories add Formulamine/sampel=" in found.enters


def test_foreign_text_neither_draws_nor_steers(settings: Settings) -> None:
    title = "\x1b]0;x\x07 ![x](http://evil/x.png) <img src=x> | [a](javascript:b) `c` \u202e"
    found = dataclasses.replace(story.tell(pr(32), settings), title=title)
    terminal = telling.for_terminal(found)
    assert all(letter.isprintable() or letter == "\n" for letter in terminal)
    page = re.sub(r"\\.", "", telling.whole(found))  # without what is escaped
    assert "<img" not in page
    assert "[a](" not in page
    assert page.count("![") == page.count("(data:image/svg+xml;base64,") == 1


def test_a_page_tells_everything(settings: Settings, services: Services) -> None:
    found = story.tell(pr(32), settings)
    page = telling.whole(found, redo(found.pr_id, found.repo, found.month, services))
    assert "(/runs/run-of-the-test)" in page
    assert "# A slow path" in page
    assert all(chapter.fingerprint[:12] in page for chapter in found.chapters)
    assert "gates again from raw samples" in page
    assert len(telling.summary(found)) < 1000  # or the UI hides it behind a click


def actions(number: int, services: Services) -> dict[str, str]:
    return {one.asset: f"{one.action}: {one.why}" for one in redo(pr(number), REPOSITORY, MONTH, services)}


def test_nothing_is_redone_while_nothing_changed(services: Services) -> None:
    told = actions(32, services)
    assert [name for name, what in told.items() if not what.startswith("reused")] == ["published_release"]
    assert "setting min_speedup 1.05" in told["speedup_measurements"]
    assert actions(36, services)["published_release"] == "not reached: it stops at speedup_measurements"


def test_a_setting_that_changed_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMULAMINE_MIN_SPEEDUP", "1.2")
    services = Services(Settings())
    told = actions(32, services)
    services.close()
    assert told["images"].startswith("reused")
    assert told["speedup_measurements"] == "recomputed: changed: setting min_speedup (then 1.05, now 1.2)"
    assert told["problem_statements"] == "depends: its input is what comes out of speedup_measurements"


def test_a_step_version_that_changed_is_named(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("formulamine.judge.steps.CLASSIFICATIONS_VERSION", "9")
    assert actions(32, services)["classifications"] == "recomputed: changed: step version (then 2, now 9)"


def test_a_data_file_that_changed_is_named(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judge_rules.toml").write_text("other")
    monkeypatch.setattr("formulamine.judge.steps.RULES_FILE", tmp_path / "judge_rules.toml")
    told = actions(32, services)["classifications"]
    assert told.startswith("recomputed: changed: data file judge_rules.toml (then ")


def test_a_field_that_changed_is_named(services: Services) -> None:
    step = STEPS["env_payloads"](services, MONTH)
    row = next(one for one in joined("env_payloads", MONTH, services.tables) if one["pr_id"] == pr(32))
    ((_, then),) = inputs(step, [row], MONTH)
    ((_, now),) = inputs(step, [{**row, "base_sha": "f" * 40}], MONTH)
    recorded = next(entry for entry in services.ledger.history(pr(32)) if entry.step == "env_payloads")
    assert changes(step, then, recorded) == []
    (told,) = changes(step, now, recorded)
    assert told.startswith("field base_sha (then ")


def test_what_failed_for_infrastructure_is_tried_again(
    month: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORMULAMINE_HOME", str(shutil.copytree(month, tmp_path / "copy")))
    services = Services(Settings())
    image = next(entry for entry in services.ledger.history(pr(32)) if entry.step == "images")
    services.ledger.record(image.with_(status="failed", reason="no_sandbox", infrastructure=True, record=None))
    told = actions(32, services)
    services.close()
    assert told["images"] == "tried again: it failed for infrastructure (no_sandbox)"
    assert told["speedup_measurements"].startswith("depends")


def test_a_hidden_repository_is_not_visited(
    month: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shutil.copytree(month, tmp_path / "copy")
    monkeypatch.setenv("FORMULAMINE_HOME", str(home))
    Registry(home / "repositories.toml").remove(REPOSITORY)
    services = Services(Settings())
    told = redo(pr(32), REPOSITORY, MONTH, services)
    services.close()
    assert [(one.asset, one.action) for one in told] == [("repositories", "not reached")]
    assert "once formulamine/sample is registered" in unknown(pr(30), Settings()).enters
