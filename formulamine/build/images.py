"""Images: both sides of a pull request, built and found to be what they claim.

Here belongs the step: recipes as the cascade gives them, build, facts, digests, in this order. How a recipe is carried
out is the backend's matter, what must be true of the result is in `facts.py`, which recipes are tried in `cascade.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath

from formulamine.build import cascade, facts, repair
from formulamine.build.backend import Backend
from formulamine.build.cascade import Neighbour, Neighbours
from formulamine.build.failures import MissingSystemPackage
from formulamine.build.pair import Digests
from formulamine.build.reasons import MENDED_OUTSIDE, BuildFailed, ImageReason, PushFailed
from formulamine.build.recipe import Recipe
from formulamine.build.recipe_change import Resolve
from formulamine.items import Deferred, Done, Entry, Failed, Outcome
from formulamine.records import Image, Record
from formulamine.services.docker_engine import EngineError
from formulamine.services.git import Git
from formulamine.services.llm import Llm
from formulamine.services.llm_budget import Spent
from formulamine.services.llm_errors import BudgetSpent, LlmError, NotNow
from formulamine.services.resolver import IndexUnreachable, Resolver
from formulamine.services.sandbox import ChoosesSandbox, NoSandbox, Sandbox
from formulamine.services.store import Blobs
from formulamine.settings import BuildSettings

_log = logging.getLogger(__name__)


class ImageInput(Record):
    """Fields that a build reads."""

    pr_id: str
    repo: str
    url: str
    benchmark_dir: str
    base_sha: str
    merge_sha: str
    merged_at: datetime
    python_version: str
    distribution: str
    package_root: str
    pins: list[str]
    pins_base: list[str]
    build_pins: list[str]
    build_environment_variables: list[str]
    cutoff: str

    def recipe(self) -> Recipe:
        """The recipe that the payload gives."""
        return Recipe(
            repo=self.repo,
            base_sha=self.base_sha,
            merge_sha=self.merge_sha,
            python_version=self.python_version,
            distribution=self.distribution,
            package_root=self.package_root,
            pins=self.pins,
            pins_base=self.pins_base,
            build_pins=self.build_pins,
            environment_variables=dict(line.split("=", 1) for line in self.build_environment_variables),
            benchmark_dir=self.benchmark_dir,
        )


HINTS = ("url", "merged_at", "cutoff")
"""Fields that lead to a recipe that builds, and do not decide what the default one gives."""


@dataclass(frozen=True)
class Built:
    """A recipe that was carried out, and what came of it."""

    recipe: Recipe
    found: facts.PairFacts
    digests: Digests


@dataclass
class _Attempts:
    """The builds of one pull request."""

    step: ImageStep
    item: ImageInput
    count: int = 0
    last: Built | None = None

    def sandbox(self) -> Sandbox:
        return self.step.sandboxes.for_commits((self.item.base_sha, self.item.merge_sha))

    def build(self, recipe: Recipe) -> BuildFailed | None:
        """Build a recipe and look at it; how that failed, or None and then it is `last`."""
        self.count += 1
        step, item = self.step, self.item
        try:
            pair = step.backend.pair(recipe, item.url, self.sandbox, item.pr_id)
            found = facts.verify(
                pair, step.git, item.url, self.sandbox(), step.settings.build_memory_mb, step.environments
            )
            self.last = Built(recipe, found, step.backend.digests(pair))
        except BuildFailed as error:
            return error
        return None

    def build_with_packages(self, recipe: Recipe) -> BuildFailed | None:
        """The same, with the system packages that its log asks for, where the backend can install them."""
        failure = self.build(recipe)
        while (
            isinstance(failure, MissingSystemPackage)
            and self.step.backend.installs_packages
            and not set(failure.packages) <= set(recipe.system_packages)
        ):
            more = sorted({*recipe.system_packages, *failure.packages})
            recipe = recipe.model_copy(update={"system_packages": more})
            failure = self.build(recipe)
        return failure


@dataclass
class ImageStep:
    """Builds pull requests with one backend."""

    git: Git
    backend: Backend
    sandboxes: ChoosesSandbox
    blobs: Blobs
    settings: BuildSettings
    resolver: Resolver
    llm: Llm
    neighbours: Neighbours = field(default_factory=lambda: Neighbours(lambda repo: ()))
    environments: facts.Environments = field(default_factory=facts.Environments)

    def __call__(self, item: ImageInput) -> Outcome:
        """Build both sides of one pull request, or say why that cannot be."""
        attempts = _Attempts(self, item)
        try:
            return self._cascade(item, attempts)
        except PushFailed as error:
            return Failed(ImageReason.PUSH_FAILED, str(error), infrastructure=True)
        except EngineError as error:
            return Failed(ImageReason.ENGINE_FAILED, str(error), infrastructure=True)
        except IndexUnreachable as error:
            return Failed(ImageReason.INDEX_UNREACHABLE, f"the package index: {error}", infrastructure=True)
        except NoSandbox as error:
            return Failed(ImageReason.NO_SANDBOX, str(error), infrastructure=True)
        except NotNow as error:
            reason = ImageReason.BUDGET if isinstance(error, BudgetSpent) else ImageReason.RATE_LIMIT
            return Deferred(error.until, reason, str(error))
        except LlmError as error:
            cost = error.spent.cost_usd or 0.0
            return Failed(ImageReason.MODEL_FAILED, str(error), infrastructure=True, cost_usd=cost)

    def again(self, item: ImageInput, entry: Entry) -> bool:
        """Whether a failed build may succeed with what helped a sibling since."""
        return self.neighbours.learned_since(item.repo, item.merged_at, entry.recorded_at)

    def _cascade(self, item: ImageInput, attempts: _Attempts) -> Outcome:
        default = item.recipe()
        recipe_hash = self.blobs.put(default.to_blob())
        failure: BuildFailed | None = None
        for route, recipe in cascade.candidates(default, self.neighbours.adaptations(item.repo, item.merged_at)):
            stood = self.backend.standing(recipe) is not None
            failure = attempts.build_with_packages(recipe)
            if failure is None:
                return self._done(item, default, "cache" if stood else route, attempts, Spent())
        assert failure is not None
        if not self.llm.models("repair"):
            return self._failed(failure, attempts, "", 0.0)
        repaired = repair.repair(
            self.llm, default, failure, self._build_files(item), attempts.build,
            resolve=self._resolve(item, attempts), item=f"images {item.pr_id}",
        )  # fmt: skip
        if repaired.recipe is not None:
            return self._done(item, default, "llm", attempts, repaired.spent)
        told = f"; a model's {len(repaired.turns)} changes did not help ({repaired.ended}), recipe: blob {recipe_hash}"
        return self._failed(repaired.failure or failure, attempts, told, repaired.spent.cost_usd or 0.0)

    def _failed(self, failure: BuildFailed, attempts: _Attempts, more: str, cost_usd: float) -> Failed:
        log = f"; log: blob {self.blobs.put(failure.log.encode())}" if failure.log else ""
        tries = f"; {attempts.count} builds" if attempts.count > 1 else ""
        settled = failure.reason not in MENDED_OUTSIDE
        return Failed(failure.reason, f"{failure}{log}{tries}{more}", settled=settled, cost_usd=cost_usd)

    def _done(self, item: ImageInput, default: Recipe, route: str, attempts: _Attempts, spent: Spent) -> Done:
        built = attempts.last
        assert built is not None
        change = cascade.adaptation(default, built.recipe)
        self.neighbours.add(Neighbour(item.repo, item.merged_at, datetime.now(UTC), change))
        base, head = built.found.base, built.found.head
        record = Image.model_validate(
            {
                "backend": self.backend.name,
                "base_digest": built.digests.base,
                "measure_digest": built.digests.measure,
                "route": route,
                "recipe_hash": self.blobs.put(built.recipe.to_blob()),
                "adaptation": "" if change.is_empty else change.model_dump_json(exclude_defaults=True),
                "attempts": attempts.count,
                "bytes": built.digests.bytes,
                "import_names": [name for name in head.import_names if name in base.import_names],
                "base_import_path": base.import_path,
                "head_import_path": head.import_path,
                "base_version": base.version,
                "head_version": head.version,
                "pins_installed": len(head.pins),
                "benchmarks_discovered": len(head.benchmarks),
                "benchmarks_in_source": built.found.benchmarks_in_source,
                "suite_import_errors": head.suite_errors,
                "rules": built.found.rules,
                "manifest_sha256": self.blobs.put(built.found.manifest.to_blob()),
                "limits": attempts.sandbox().limits,
            }
        )
        return Done(record, cost_usd=spent.cost_usd or 0.0)

    def _build_files(self, item: ImageInput) -> dict[str, str]:
        """Texts of the build files that the merge commit has, from the package's root and the tree's."""
        roots = dict.fromkeys((PurePosixPath(item.package_root), PurePosixPath()))
        paths = [str(root / name) for root in roots for name in repair.SHOWN_FILES]
        mirror = self.git.open(item.repo, item.url)
        found = self.git.read_blobs(mirror, [(item.merge_sha, path) for path in paths])
        return {path: content.decode("utf-8", "replace") for (_, path), content in found.items() if content is not None}

    def _resolve(self, item: ImageInput, attempts: _Attempts) -> Resolve:
        """Pins as of the day that the payload was resolved for."""

        def resolve(_: str, lines: Sequence[str]) -> list[str]:
            cutoff = datetime.fromisoformat(item.cutoff) if item.cutoff else None
            return self.resolver.compile(lines, item.python_version, cutoff, attempts.sandbox)

        return resolve
