"""Dagster assets and checks of the build: env_payloads -> images."""

from typing import Any

import dagster as dg
import polars as pl
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from formulamine.build import digests
from formulamine.build.cascade import Adaptation, adapted
from formulamine.build.images import ImageInput
from formulamine.build.pair import Digests, Pair
from formulamine.build.payloads import PayloadInput, PayloadReason
from formulamine.build.reasons import ImageReason
from formulamine.build.recipe import Recipe
from formulamine.build.steps import (
    ENV_PAYLOADS_VERSION,
    IMAGES_VERSION,
    backend_of,
    env_payloads_step,
    images_step,
)
from formulamine.checks import done_rows, read_table, rule, table_rules
from formulamine.orchestration import Found, MonthRun, advance_month, month_asset
from formulamine.pipeline import joined
from formulamine.services.container import Services
from formulamine.services.store import StoreError

SMALLEST_SHARE_RESOLVED = 0.8  # FACTS: RepoLaunch builds 78% at best; resolving is the easier half
SMALLEST_YIELD = 0.5


@month_asset(
    "env_payloads",
    PayloadInput,
    version=ENV_PAYLOADS_VERSION,
    group="build",
    description="Interpreter and pins of each pull request, as of its day.",
)
def env_payloads(context: dg.AssetExecutionContext, run: MonthRun) -> dg.MaterializeResult[Any]:
    """Resolved environments."""
    return advance_month(context, run, env_payloads_step(run.services))


@month_asset(
    "images",
    ImageInput,
    version=IMAGES_VERSION,
    group="build",
    description="Both sides of each pull request, built in the sandbox and seen from outside to be what they claim.",
)
def images(context: dg.AssetExecutionContext, run: MonthRun) -> dg.MaterializeResult[Any]:
    """Built pull requests."""
    return advance_month(context, run, images_step(run.services))


def pins_are_exact(month: str, services: Services) -> Found:
    """Every pin is one exact release, no name is pinned twice, and the interpreter is the first acceptable one here."""
    wrong = []
    for row in done_rows("env_payloads", month, services).to_dicts():
        for field in ("pins", "pins_base", "build_pins"):
            names = [pin.partition("==")[0] for pin in row[field]]
            if len(set(names)) < len(names) or not all("==" in pin for pin in row[field]):
                wrong.append(f"{row['pr_id']}: {field} are not one exact release each")
        present = [name for name in row["acceptable_pythons"] if name in services.resolver.interpreters]
        if row["python_version"] not in row["acceptable_pythons"] or present[:1] != [row["python_version"]]:
            wrong.append(f"{row['pr_id']}: Python {row['python_version']} is not the first acceptable one here")
        floor, ceiling = services.settings.resolve.min_python, services.settings.resolve.max_python
        allowed = SpecifierSet(f">={floor},<={ceiling}" if ceiling else f">={floor}")
        if Version(row["python_version"]) not in allowed:
            wrong.append(f"{row['pr_id']}: Python {row['python_version']} is not within {allowed}")
    return Found.of(wrong, fine="pins are exact")


def share_resolved(month: str, services: Services) -> Found:
    """Most pull requests have an environment."""
    return _share("env_payloads", SMALLEST_SHARE_RESOLVED, month, services)


def image_yield(month: str, services: Services) -> Found:
    """Most pull requests build."""
    return _share("images", SMALLEST_YIELD, month, services)


def _share(name: str, smallest: float, month: str, services: Services) -> Found:
    frame = read_table(name, month, services)
    done = frame.filter(pl.col("status") == "done").height
    return Found(not frame.height or done / frame.height >= smallest, f"{done} of {frame.height}", True)


def facts_agree(month: str, services: Services) -> Found:
    """What rows say of a build is what its recipe says, and, where its trees still stand, what they hold."""
    wrong = []
    for row in joined("speedup_measurements", month, services.tables):
        try:
            recipe = Recipe.model_validate_json(services.blobs.get(row["recipe_hash"]))
        except (StoreError, ValueError) as error:
            wrong.append(f"{row['pr_id']} has no recipe: {error}")
            continue
        item = ImageInput.model_validate({name: row[name] for name in ImageInput.model_fields})
        change = Adaptation.model_validate_json(row["adaptation"] or "{}")
        if recipe != adapted(item.recipe(), change):
            wrong.append(f"{row['pr_id']}: the recipe is not that of its row")
        if row["pins_installed"] != len(recipe.pins):
            wrong.append(f"{row['pr_id']}: {row['pins_installed']} pins installed, {len(recipe.pins)} asked for")
        backend = backend_of(services, row["backend"])
        pair = backend.standing(recipe)
        digests = Digests(row["base_digest"], row["measure_digest"], row["bytes"])
        if pair is not None and (unlike := backend.unlike(pair, digests)):
            wrong.append(f"{row['pr_id']}: {unlike}")
    return Found.of(wrong, fine="rows, recipes and trees agree")


def no_head_in_base(month: str, services: Services) -> Found:
    """No content that only head has stands in what ships."""
    wrong = []
    rows = joined("speedup_measurements", month, services.tables)
    for name in sorted({row["backend"] for row in rows}):
        backend = backend_of(services, name)
        asked: list[tuple[str, Pair, set[str]]] = []
        for row in rows:
            item = ImageInput.model_validate({field: row[field] for field in ImageInput.model_fields})
            recipe = adapted(item.recipe(), Adaptation.model_validate_json(row["adaptation"] or "{}"))
            if row["backend"] == name and (pair := backend.standing(recipe)) is not None:
                only = digests.head_only(services.git, item.repo, item.url, pair.recipe)
                asked.append((item.pr_id, pair, set(only)))
        for (pr_id, _, _), paths in zip(asked, backend.holding([one[1:] for one in asked]), strict=True):
            wrong += [f"{pr_id}: {path} holds content of head" for path in paths]
    return Found.of(wrong, fine="no byte of head ships")


ASSETS = [env_payloads, images]
CHECKS = [
    *table_rules("env_payloads", PayloadReason, "One row per performance candidate, with a known status and reason."),
    rule("env_payloads", "pins_are_exact", pins_are_exact, "Pins are exact; the first acceptable interpreter."),
    rule("env_payloads", "share_resolved", share_resolved, "The share of resolved ones is high.", warns=True),
    *table_rules("images", ImageReason, "One row per environment, with a known status and reason."),
    rule("images", "facts_agree", facts_agree, "Rows agree with recipes and with the trees that stand."),
    rule("images", "no_head_in_base", no_head_in_base, "No byte of head in what ships."),
    rule("images", "image_yield", image_yield, "The share of built ones is high.", warns=True),
]  # fmt: skip
