"""Which recipes are tried, what is learned from one that built, and who is tried again because of it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.build.cascade import (
    NEAREST,
    SIBLINGS_WITHIN,
    Adaptation,
    Neighbour,
    Neighbours,
    adaptation,
    adapted,
    candidates,
)
from formulamine.build.images import HINTS, ImageInput, ImageStep
from formulamine.build.reasons import ImageReason
from formulamine.build.recipe import Recipe
from formulamine.items import Deferred, Done, Failed, RunOptions, Step, advance
from formulamine.records import Image
from formulamine.services import llm_requests
from formulamine.services.ledger import Ledger
from formulamine.settings import LlmSettings
from formulamine_tests.build.test_recipe_change import RECIPE, change, setting
from formulamine_tests.build.workbench import MERGED, Workbench, project
from formulamine_tests.llm_server import LlmServer, Says

NAMES = st.sampled_from(["numpy", "cython", "scipy", "wheel"])
VERSIONS = st.sampled_from(["1.0", "2.0", "3.0"])
PINS = st.dictionaries(NAMES, VERSIONS).map(lambda pins: sorted(f"{name}=={v}" for name, v in pins.items()))
WORDS = st.dictionaries(st.sampled_from(["CFLAGS", "OPTION", "WITH"]), VERSIONS)
RECIPES = st.builds(
    lambda pins, base, build, words, settings, packages: RECIPE.model_copy(
        update={
            "pins": pins,
            "pins_base": base,
            "build_pins": build,
            "environment_variables": dict(sorted(words.items())),
            "config_settings": dict(sorted(settings.items())),
            "system_packages": sorted(packages),
        }
    ),
    *(PINS, st.just([]), PINS, WORDS, WORDS, st.sets(st.sampled_from(["libgeos-dev", "zlib1g-dev"]))),
)


@given(RECIPES, RECIPES)
def test_what_was_learned_makes_the_recipe_that_built(default: Recipe, built: Recipe) -> None:
    more = built.model_copy(update={"system_packages": sorted({*default.system_packages, *built.system_packages})})
    learned = adaptation(default, more)
    assert adapted(default, learned) == more
    assert Adaptation.model_validate_json(learned.model_dump_json(exclude_defaults=True)) == learned
    assert adaptation(default, default).is_empty


@given(RECIPES, st.lists(st.builds(adaptation, RECIPES, RECIPES), max_size=5))
def test_each_recipe_is_tried_once_and_the_default_always(default: Recipe, helped: list[Adaptation]) -> None:
    tried = candidates(default, helped)
    assert all(one != other for number, (_, one) in enumerate(tried) for _, other in tried[:number])
    assert [recipe for route, recipe in tried if route == "default"] == [default]
    assert {route for route, _ in tried} <= {"default", "neighbour"}


def neighbour(days: int, change: Adaptation, *, known: datetime = MERGED) -> Neighbour:
    return Neighbour("acme/toy", MERGED + timedelta(days=days), known, change)


GEOS, ZLIB = Adaptation(system_packages=["libgeos-dev"]), Adaptation(system_packages=["zlib1g-dev"])


def test_the_nearest_by_date_come_first_and_no_more_than_ten_are_looked_at() -> None:
    far = [neighbour(100 + number, ZLIB) for number in range(5)]
    near = [neighbour(-number, Adaptation()) for number in range(NEAREST - 1)]
    known = Neighbours(lambda repo: [*far, *near] if repo == "acme/toy" else [])
    known.add(neighbour(-6, GEOS))
    assert known.adaptations("acme/toy", MERGED) == [Adaptation(), GEOS]
    assert known.adaptations("acme/toy", MERGED + timedelta(days=103)) == [ZLIB, Adaptation()]
    assert known.adaptations("acme/other", MERGED) == []


def test_only_what_helped_a_near_sibling_later_is_a_reason_to_try_again() -> None:
    edge = SIBLINGS_WITHIN.days
    later = MERGED + timedelta(hours=1)
    known = Neighbours(lambda repo: [neighbour(edge, GEOS, known=later)])
    assert known.learned_since("acme/toy", MERGED, MERGED)
    assert not known.learned_since("acme/toy", MERGED, later), "it was known when this one failed"
    assert not known.learned_since("acme/toy", MERGED - timedelta(days=1), MERGED), "too far away"
    plain = Neighbours(lambda repo: [neighbour(0, Adaptation(), known=later)])
    assert not plain.learned_since("acme/toy", MERGED, MERGED), "it built as it was"


ALLOWED = """
    def build_wheel(output, settings=None, metadata=None, real=build_wheel):
        if os.environ.get("TOY_WITH_SPEEDUPS") != "0":
            raise RuntimeError("cannot find the speedups library: set TOY_WITH_SPEEDUPS=0 to build without it")
        return real(output)
"""
SETS_IT = Says(change(variables=[setting("TOY_WITH_SPEEDUPS", "0")]).model_dump(mode="json"))
GIVES_UP = Says(change(give_up=True, diagnosis="no idea").model_dump(mode="json"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LlmServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(llm_requests, "BACKOFF_S", 0.02)
    made = LlmServer()
    yield made
    made.close()


@pytest.fixture
def asking(bench: Workbench, server: LlmServer) -> Workbench:
    """A workbench that asks a model."""
    bench.llm = LlmSettings(repair_models="openai:gpt-5-nano", openai_base_url=server.openai_url, repair_turns=2)
    return bench


def image_of(outcome: object) -> Image:
    assert isinstance(outcome, Done), outcome
    assert isinstance(outcome.record, Image)
    return outcome.record


def test_a_model_helps_one_and_its_neighbour_needs_none(asking: Workbench, server: LlmServer) -> None:
    server.then(SETS_IT)
    step = asking.image_step()
    item = asking.simple_input(asking.repository(project(hook=ALLOWED)))
    first = step(item)
    image = image_of(first)
    assert isinstance(first, Done)
    assert (image.route, image.attempts) == ("llm", 2)
    assert json.loads(image.adaptation) == {"environment_variables": {"TOY_WITH_SPEEDUPS": "0"}}
    assert first.cost_usd > 0
    built = Recipe.model_validate_json(asking.blobs.get(image.recipe_hash))
    assert built.environment_variables == {"TOY_WITH_SPEEDUPS": "0"}
    [asked] = server.received
    assert "cannot find the speedups library" in asked.user
    assert "build-backend" in asked.user, "it sees the build files"

    sibling = asking.simple_input(asking.repository(project(hook=ALLOWED, more__txt="another")))
    step.neighbours.add(Neighbour(sibling.repo, MERGED, datetime.now(UTC), adaptation(item.recipe(), built)))
    image = image_of(step(sibling))
    assert (image.route, image.attempts) == ("neighbour", 1)
    assert len(server.received) == 1, "nobody was asked again"


def test_what_stands_already_is_said_to(bench: Workbench) -> None:
    item = bench.simple_input(bench.repository(project()))
    assert image_of(bench.image_step()(item)).route == "default"
    assert image_of(bench.image_step()(item)).route == "cache"


def test_without_a_model_nobody_is_asked(bench: Workbench) -> None:
    outcome = bench.image_step()(bench.simple_input(bench.repository(project(hook=ALLOWED))))
    assert isinstance(outcome, Failed)
    assert outcome.reason == ImageReason.BUILD_FAILED
    assert "builds" not in outcome.error


def test_a_model_that_has_no_idea_leaves_the_failure_as_it_was(asking: Workbench, server: LlmServer) -> None:
    server.then(GIVES_UP)
    outcome = asking.image_step()(asking.simple_input(asking.repository(project(hook=ALLOWED))))
    assert isinstance(outcome, Failed)
    assert outcome.reason == ImageReason.BUILD_FAILED
    assert "no idea" in outcome.error
    assert outcome.cost_usd > 0


def test_a_spent_budget_defers(asking: Workbench, server: LlmServer) -> None:
    asking.llm = asking.llm.model_copy(update={"llm_budget_usd": 0.0})
    outcome = asking.image_step()(asking.simple_input(asking.repository(project(hook=ALLOWED))))
    assert isinstance(outcome, Deferred)
    assert outcome.reason == ImageReason.BUDGET
    assert server.received == []


def carry(step: ImageStep, items: list[ImageInput], ledger: Ledger, run: str) -> list[str]:
    made = Step(
        asset="images", version="1", reads=ImageInput, run=step, reasons=ImageReason, sources=(), hints=HINTS,
        again=step.again,
    )  # fmt: skip
    keyed = [(item.pr_id, item) for item in items]
    entries, _ = advance(
        made, keyed, ledger, RunOptions(run), cancelled=threading.Event(), log=logging.getLogger("test")
    )
    return [f"{entry.status}{entry.record['route'] if entry.record else ''}" for entry in entries]


def test_a_success_tries_failed_siblings_again(asking: Workbench, server: LlmServer, tmp_path: Path) -> None:
    commits = asking.repository(project(hook=ALLOWED))
    first = asking.simple_input(commits)
    second = asking.simple_input(commits, pr_id="acme__toy-8", merged_at=MERGED + timedelta(days=9))
    server.then(GIVES_UP, SETS_IT)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    step = asking.image_step()
    assert carry(step, [first], ledger, "one") == ["failed"]
    assert carry(step, [first], ledger, "two") == ["failed"]
    assert len(server.received) == 1, "a settled failure is reused"
    # The kept answer to the same question is the one that gave up: another parameter makes it another question.
    asking.llm = asking.llm.model_copy(update={"llm_max_output_tokens": 4096})
    step = asking.image_step()
    assert carry(step, [first, second], ledger, "three") == ["donecache", "donellm"], (
        "of the same commits it stood already"
    )
    ledger.close()
