"""Images: both sides of a pull request, built and found to be what they claim.

Here belongs the step: recipe, build, facts, digests, in this order. How a recipe is carried out is the backend's
matter (`local.py`), what must be true of the result is in `facts.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from formulamine.build import facts
from formulamine.build.local import LocalBackend
from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine.build.recipe import Recipe
from formulamine.items import Done, Failed, Outcome
from formulamine.services.git import Git
from formulamine.services.resolver import IndexUnreachable
from formulamine.services.sandbox import NoSandbox, Sandbox, Sandboxes
from formulamine.services.store import Blobs
from formulamine.settings import BuildSettings
from formulamine.tables import Image, Record


class ImageInput(Record):
    """Fields that a build reads."""

    pr_id: str
    repo: str
    url: str
    benchmark_dir: str
    base_sha: str
    merge_sha: str
    python_version: str
    distribution: str
    package_root: str
    pins: list[str]
    pins_base: list[str]
    build_pins: list[str]
    build_environment_variables: list[str]

    def recipe(self) -> Recipe:
        """The recipe of this pull request."""
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


@dataclass
class ImageStep:
    """Builds pull requests with one backend."""

    git: Git
    backend: LocalBackend
    sandboxes: Sandboxes
    blobs: Blobs
    settings: BuildSettings

    def __call__(self, item: ImageInput) -> Outcome:
        """Build both sides of one pull request, or say why that cannot be."""
        recipe = item.recipe()
        recipe_hash = self.blobs.put(recipe.to_blob())

        def sandbox() -> Sandbox:
            return self.sandboxes.for_commits((item.base_sha, item.merge_sha))

        try:
            pair = self.backend.pair(recipe, item.url, sandbox)
            base, head = (
                facts.side_facts(pair, side, sandbox(), self.settings.build_memory_mb)
                for side in (pair.base, pair.head)
            )
            leaked = facts.head_in_base(pair, facts.head_only(self.git, item.repo, item.url, recipe))
            if leaked:
                raise BuildFailed(ImageReason.HEAD_IN_BASE, f"content of head stands in {', '.join(leaked[:5])}")
        except BuildFailed as error:
            log = f"; log: blob {self.blobs.put(error.log.encode())}" if error.log else ""
            # Somebody may install what this machine lacks, which no fingerprint tells.
            return Failed(error.reason, f"{error}{log}", settled=error.reason != ImageReason.SYSTEM_PACKAGE)
        except IndexUnreachable as error:
            return Failed(ImageReason.INDEX_UNREACHABLE, f"the package index: {error}", infrastructure=True)
        except NoSandbox as error:
            return Failed(ImageReason.NO_SANDBOX, str(error), infrastructure=True)
        base_digest, base_bytes = facts.base_digest(pair)
        measure_digest, _ = facts.measure_digest(pair)
        return Done(
            Image(
                backend="local",
                base_digest=base_digest,
                measure_digest=measure_digest,
                route="default",
                recipe_hash=recipe_hash,
                attempts=1,
                bytes=base_bytes,
                import_names=[name for name in head.import_names if name in base.import_names],
                base_import_path=base.import_path,
                head_import_path=head.import_path,
                base_version=base.version,
                head_version=head.version,
                pins_installed=len(head.pins),
                benchmarks_discovered=len(head.benchmarks),
                suite_import_errors=head.suite_errors,
                limits=sandbox().limits,
            )
        )
