"""What decides an answer is in the fingerprint of its step, and nothing else is."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import json
import shutil
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from formulamine.items import Step
from formulamine.records import Record
from formulamine.services.container import Services
from formulamine.services.resolver import Resolver
from formulamine.settings import LlmSettings, Paths, Settings, Workers
from formulamine.tables import TABLES, owner_of
from formulamine_tests.record_step_sources import (
    RECORD,
    WITHOUT_STEP,
    digest,
    modules,
    record_of,
    source_of,
    steps,
)
from formulamine_tests.test_pipeline import record_of as sample_of
from formulamine_tests.test_settings import KNOBS

ASSETS = [name for name in TABLES if name not in WITHOUT_STEP]


@functools.cache
def resolver() -> Resolver:
    """One for all: it looks for interpreters by starting each."""
    return Services(Settings()).resolver


def build(home: Path) -> dict[str, Step[Any]]:
    settings = Settings()
    settings.home = home
    services = Services(settings)
    services.resolver = resolver()
    return steps(services)


@pytest.fixture(scope="module")
def every_step(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Step[Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("folder"))
        return build(tmp_path_factory.mktemp("home"))


@pytest.fixture(params=ASSETS)
def step(request: pytest.FixtureRequest, every_step: dict[str, Step[Any]]) -> Step[Any]:
    return every_step[request.param]


def item_of(step: Step[Any]) -> Record:
    item: Record = step.reads.model_validate(sample_of(step.reads, "a"))
    return item


def other_value(annotation: Any, value: Any) -> Any:
    """Another value of the same kind."""
    if typing.get_origin(annotation) is typing.Literal:
        return next(one for one in typing.get_args(annotation) if one != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + "7" if value.endswith("Z") else value + "!"
    if isinstance(value, list):
        return [*value, *value]
    raise TypeError(annotation)


def test_every_asset_has_a_step_here(every_step: dict[str, Step[Any]]) -> None:
    assert list(every_step) == ASSETS


def test_the_same_question_has_the_same_fingerprint(step: Step[Any], tmp_path: Path) -> None:
    again = build(tmp_path / "another home")[step.asset]
    assert again.fingerprint(item_of(step)) == step.fingerprint(item_of(step))


def test_the_version_counts(step: Step[Any]) -> None:
    other = dataclasses.replace(step, version=step.version + ".1")
    assert other.fingerprint(item_of(step)) != step.fingerprint(item_of(step))


def test_every_field_that_the_step_reads_counts(step: Step[Any]) -> None:
    hints = typing.get_type_hints(step.reads)
    sample = sample_of(step.reads, "a")
    known = step.fingerprint(step.reads.model_validate(sample))
    found = {
        name: step.fingerprint(step.reads.model_validate(sample | {name: other_value(hints[name], sample[name])}))
        for name in step.reads.model_fields
    }
    assert {name for name, fingerprint in found.items() if fingerprint == known} == set(step.hints)
    assert len({known, *found.values()}) == 1 + len(found) - len(step.hints)


def test_where_a_repository_is_does_not_count(every_step: dict[str, Step[Any]]) -> None:
    for asset, step in every_step.items():
        if asset != "published_release" and "url" in step.reads.model_fields:
            assert "url" in step.hints, asset


def test_every_field_that_the_step_reads_is_of_a_table_before(step: Step[Any]) -> None:
    if step.asset != "repositories":
        for name in step.reads.model_fields:
            assert owner_of(name, step.asset)


def test_every_named_setting_counts(step: Step[Any]) -> None:
    known = step.fingerprint(item_of(step))
    for place, group in enumerate(step.settings):
        for name in type(group).model_fields:
            other = group.model_copy(update={name: other_value(None, getattr(group, name))})
            groups = (*step.settings[:place], other, *step.settings[place + 1 :])
            assert dataclasses.replace(step, settings=groups).fingerprint(item_of(step)) != known, name


def test_settings_come_from_the_environment_and_no_other_knob_counts(
    every_step: dict[str, Step[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers, paths, and the groups that a step does not name leave its fingerprint alone."""
    monkeypatch.chdir(tmp_path)
    known = {asset: step.fingerprint(item_of(step)) for asset, step in every_step.items()}
    named = {
        asset: {name for group in step.settings for name in type(group).model_fields}
        for asset, step in every_step.items()
    }
    groups = [value for value in vars(Settings()).values() if isinstance(value, BaseModel)]
    for group in groups:
        knobs = [] if isinstance(group, Paths) else list(type(group).model_fields)  # another home is tried above
        with monkeypatch.context() as patch:
            for knob in knobs:
                patch.setenv(f"FORMULAMINE_{knob.upper()}", KNOBS[knob])
            made = build(tmp_path / type(group).__name__)
        changed = {asset for asset, step in made.items() if step.fingerprint(item_of(step)) != known[asset]}
        # Of a group that no step names, what decides comes in by the step's `outside`.
        decides = {"classifications", "images", "problem_statements"} if isinstance(group, LlmSettings) else set()
        assert changed == {asset for asset in made if named[asset] & set(knobs)} | decides, type(group).__name__
        if isinstance(group, Workers):
            assert {asset for asset in made if made[asset].workers != every_step[asset].workers}


def test_every_data_files_bytes_count(step: Step[Any], tmp_path: Path) -> None:
    known = step.fingerprint(item_of(step))
    for place, path in enumerate(step.data_files):
        copy = tmp_path / path.name
        files = (*step.data_files[:place], copy, *step.data_files[place + 1 :])
        shutil.copyfile(path, copy)
        assert dataclasses.replace(step, data_files=files).fingerprint(item_of(step)) == known, "a place is no content"
        copy.write_bytes(path.read_bytes() + b"\n")
        assert dataclasses.replace(step, data_files=files).fingerprint(item_of(step)) != known, path.name


def test_every_data_file_that_the_sources_load_is_named(step: Step[Any]) -> None:
    """Constants of its modules that are paths of data in the package."""
    values = [value for name in modules(step) for value in vars(importlib.import_module(name)).values()]
    paths = [value for value in values if isinstance(value, Path) and value.is_file()]
    assert {path for path in paths if path.suffix != ".py"} <= set(step.data_files)


def test_everything_outside_the_row_counts(step: Step[Any]) -> None:
    known = step.fingerprint(item_of(step))
    for name, value in step.outside.items():
        for outside in ({**step.outside, name: value + "!"}, {k: v for k, v in step.outside.items() if k != name}):
            assert dataclasses.replace(step, outside=outside).fingerprint(item_of(step)) != known, name


def test_how_a_run_treats_items_does_not_count(step: Step[Any]) -> None:
    other = dataclasses.replace(step, workers=step.workers + 7, refresh=not step.refresh)
    assert other.fingerprint(item_of(step)) == step.fingerprint(item_of(step))


def test_no_two_steps_share_a_fingerprint() -> None:
    class Nothing(Record):
        pass

    def of(asset: str) -> str:
        return Step(asset, "1", Nothing, lambda item: None, Any, ()).fingerprint(Nothing())  # type: ignore[arg-type, return-value]

    assert len({of(asset) for asset in TABLES}) == len(TABLES)


def test_what_decides_a_build_or_a_measurement_is_named(every_step: dict[str, Step[Any]]) -> None:
    """DESIGN section 4, by the names that the steps use."""
    assert {"uv", "git", "interpreters"} <= set(every_step["env_payloads"].outside)
    assert {"uv", "git", "interpreters", "backend"} <= set(every_step["images"].outside)
    assert {"machine", "protocol"} <= set(every_step["speedup_measurements"].outside)
    measured = every_step["speedup_measurements"].reads.model_fields
    assert {"recipe_hash", "base_sha", "merge_sha", "backend"} <= set(measured)
    assert not [name for name in measured if name.endswith("_digest")]


class TestSources:
    def test_they_cover_what_runs(self, step: Step[Any]) -> None:
        """Functions in `steps.py` only hand over: what they call is what counts, and `steps.py` has other reasons
        to change.
        """
        run: Any = step.run
        while isinstance(run, functools.partial):
            run = run.func
        defined_in = run.__module__ if isinstance(run, types.FunctionType) else type(run).__module__
        assert defined_in in step.sources or defined_in.endswith(".steps")
        assert step.reads.__module__ in step.sources
        assert step.reasons.__module__ in modules(step)

    def test_they_are_modules_of_ours(self, step: Step[Any]) -> None:
        assert step.sources
        for name in step.sources:
            assert source_of(name).suffix == ".py"
            assert name.startswith("formulamine.")

    def test_a_changed_step_has_a_new_version(self, step: Step[Any]) -> None:
        recorded, today = json.loads(RECORD.read_text())[step.asset], record_of(step)
        if recorded == today:
            return
        changed = sorted(
            name for name in recorded["sources"].keys() | today["sources"].keys()
            if recorded["sources"].get(name) != today["sources"].get(name)
        )  # fmt: skip
        what = ", ".join(changed + ["its columns"] * (recorded["columns"] != today["columns"])) or "its version"
        mend = "python -m formulamine_tests.record_step_sources"
        if recorded["version"] == today["version"]:
            pytest.fail(
                f"{step.asset}: {what} changed under version {today['version']}, so that old outcomes would be reused. "
                f"Raise {step.asset.upper()}_VERSION in the phase's steps.py and run `{mend}`; if no answer can "
                "change, run that alone."
            )
        pytest.fail(f"{step.asset} has version {today['version']} now: run `{mend}`")

    def test_no_step_is_recorded_that_is_gone(self) -> None:
        assert list(json.loads(RECORD.read_text())) == ASSETS


class TestDigest:
    SOURCE = (
        '"""Doc."""\nLIMIT = 3  # files\n"""Of LIMIT."""\ndef f(x):\n    """Doc."""\n    return f"{x}: {LIMIT!r}"\n'
    )

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("# files", "# changed files"),
            ('"""Doc."""\n    return', '"""Another."""\n    return'),
            ('    """Doc."""\n', ""),
            ('"""Of LIMIT."""\n', ""),
            ("def f(x):", "\n\ndef f(\n    x,\n):"),
        ],
    )
    def test_it_ignores_comments_docstrings_and_layout(self, old: str, new: str) -> None:
        assert old in self.SOURCE
        assert digest(self.SOURCE.replace(old, new)) == digest(self.SOURCE)

    @pytest.mark.parametrize(
        ("old", "new"),
        [("3", "4"), ("3", "None"), ("3", "'3'"), ("!r", ""), ("(x)", "(x=None)"), ("(x)", "(*, x)"), ("f(x)", "g(x)")],
    )
    def test_it_sees_what_changes_an_answer(self, old: str, new: str) -> None:
        changed = self.SOURCE.replace(old, new)
        ast.parse(changed)
        assert digest(changed) != digest(self.SOURCE)
