"""The asset checks of the build, and the one that every table has, each with what it must pass and what it must not."""

import shutil
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest

from formulamine.build.assets import facts_agree, image_yield, no_head_in_base, pins_are_exact, share_resolved
from formulamine.build.pair import Pair
from formulamine.build.payloads import PayloadReason
from formulamine.build.reasons import ImageReason
from formulamine.build.recipe import Recipe
from formulamine.checks import well_formed
from formulamine.items import Done
from formulamine.records import Image
from formulamine.services.container import Services
from formulamine.services.resolver import Interpreter
from formulamine_tests.build.tables_of import MONTH, month_of, spoiled
from formulamine_tests.build.workbench import SERIES, Workbench, project

PAYLOAD: dict[str, Any] = {
    "pr_id": "acme__toy-7", "repo": "acme/toy", "python_version": SERIES, "acceptable_pythons": ["3.7", SERIES],
    "pins": ["alpha==1.0", "beta==2.0"], "pins_base": [], "build_pins": ["tool==1"],
}  # fmt: skip
Interpreters = dict[str, Interpreter]


@pytest.fixture
def here(home: Path, interpreters: Interpreters) -> Interpreters:
    return {SERIES: interpreters[SERIES]}


def test_exact_pins_and_the_first_interpreter_pass(here: Interpreters) -> None:
    assert pins_are_exact(MONTH, month_of(here, [PAYLOAD], "env_payloads")).passed
    assert pins_are_exact(MONTH, month_of(here, [], "env_payloads")).passed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pins": ["alpha>=1.0"]}, "pins are not one exact release each"),
        ({"pins": ["alpha==1.0", "alpha==2.0"]}, "pins are not one exact release each"),
        ({"pins_base": ["alpha"]}, "pins_base are not one exact release each"),
        ({"build_pins": ["tool @ https://example.org/tool.zip"]}, "build_pins are not one exact release each"),
        ({"acceptable_pythons": ["3.7"]}, "is not the first acceptable one here"),
        ({"acceptable_pythons": []}, "is not the first acceptable one here"),
        ({"python_version": "3.7"}, "is not the first acceptable one here"),
        ({"python_version": "3.7"}, "is not within >=3.8"),
    ],
)
def test_inexact_pins_and_another_interpreter_do_not(here: Interpreters, change: dict[str, Any], said: str) -> None:
    found = pins_are_exact(MONTH, month_of(here, [PAYLOAD | change], "env_payloads"))
    assert not found.passed
    assert said in found.detail


@pytest.mark.parametrize(("check", "table"), [(share_resolved, "env_payloads"), (image_yield, "images")])
def test_a_low_share_is_told(here: Interpreters, check: Any, table: str) -> None:
    failed = {table: {"status": "failed", "reason": "timeout", "record": None}}
    rows = [PAYLOAD | {"pr_id": f"acme__toy-{n}"} | (failed if n else {}) for n in range(4)]
    assert not check(MONTH, month_of(here, rows, table)).passed
    assert check(MONTH, month_of(here, rows[:1], table)).passed
    assert check(MONTH, month_of(here, [], table)).passed


def built(home: Path, interpreters: Interpreters, uv_cache: Path) -> tuple[Services, Pair]:
    bench = Workbench(home, interpreters, uv_cache=uv_cache)
    bench.own_tools()
    commits = bench.repository(project(), {"src/toy/__init__.py": "def work(): return 1999000  # the closed form\n"})
    item = bench.simple_input(commits)
    outcome = bench.image_step()(item)
    assert isinstance(outcome, Done), outcome
    image = cast(Image, outcome.record)
    pair = bench.backend.standing(Recipe.model_validate_json(bench.blobs.get(image.recipe_hash)))
    assert pair is not None
    return month_of(interpreters, [{**item.model_dump(), **image.model_dump()}], "images"), pair


def test_rows_recipes_and_trees_agree_until_one_is_touched(
    home: Path, interpreters: Interpreters, uv_cache: Path
) -> None:
    services, pair = built(home, interpreters, uv_cache)
    assert facts_agree(MONTH, services).passed
    assert no_head_in_base(MONTH, services).passed
    module = pair.base.site / "toy" / "__init__.py"
    before = module.read_text()
    module.write_text(before + "# touched\n")
    assert "no longer what was built" in facts_agree(MONTH, services).detail
    assert no_head_in_base(MONTH, services).passed
    shutil.copy(pair.head.site / "toy" / "__init__.py", module)
    found = no_head_in_base(MONTH, services)
    assert not found.passed
    assert "toy/__init__.py holds content of head" in found.detail
    module.write_text(before)
    for change, said in (
        ({"pins_installed": 3}, "3 pins installed, 0 asked for"),
        ({"base_digest": "tree:sha256:0"}, "no longer what was built"),
    ):
        assert said in facts_agree(MONTH, spoiled(services, "images", **change)).detail
    assert "not that of its row" in facts_agree(MONTH, spoiled(services, "env_payloads", pins=["a==1"])).detail
    # Trees are a cache: one that is gone is no contradiction.
    shutil.rmtree(home / "cache")
    assert "no longer what was built" not in facts_agree(MONTH, services).detail


def test_a_well_formed_table_passes(here: Interpreters) -> None:
    services = month_of(here, [PAYLOAD, PAYLOAD | {"pr_id": "acme__toy-8"}], "images")
    assert well_formed("env_payloads", PayloadReason, MONTH, services).passed
    assert well_formed("images", ImageReason, MONTH, services).passed
    assert well_formed("images", ImageReason, MONTH, month_of(here, [], "images")).passed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "splendid"}, "has status 'splendid'"),
        ({"reason": "timeout"}, "is done with reason 'timeout'"),
        ({"status": "failed"}, "is failed with reason None"),
        ({"status": "failed", "reason": "no_interpreter"}, "is failed with reason 'no_interpreter'"),
        ({"pr_id": "acme__toy-8"}, "acme__toy-8 came from nowhere"),
        ({"pr_id": "acme__toy-8"}, "acme__toy-7 vanished before images"),
        ({"recipe_hash": None}, "is done without recipe_hash"),
    ],
)
def test_a_malformed_table_does_not(here: Interpreters, changes: dict[str, Any], said: str) -> None:
    found = well_formed("images", ImageReason, MONTH, spoiled(month_of(here, [PAYLOAD], "images"), "images", **changes))
    assert not found.passed
    assert said in found.detail


def test_a_row_that_stands_twice_is_found(here: Interpreters) -> None:
    services = month_of(here, [PAYLOAD], "images")
    frame = services.tables.read("images", MONTH)
    assert frame is not None
    services.tables.write("images", MONTH, pl.concat([frame, frame]))
    assert "stands twice" in well_formed("images", ImageReason, MONTH, services).detail


def test_a_limit_is_a_way_to_end_everywhere(here: Interpreters) -> None:
    services = spoiled(month_of(here, [PAYLOAD], "images"), "images", status="deferred", reason="limit")
    assert well_formed("images", ImageReason, MONTH, services).passed
