"""Steps of the build, put together from services: env_payloads -> images.

Here belong each step's version and what decides its answer. What a step does stands beside this file, and what Dagster
makes of it in `assets.py`.
"""

import logging
import platform
from collections.abc import Iterator
from functools import partial

import polars as pl

from formulamine.build.backend import Backend
from formulamine.build.cascade import Adaptation, Neighbour, Neighbours
from formulamine.build.docker import DockerBackend
from formulamine.build.failures import SYSTEM_PACKAGES_FILE
from formulamine.build.images import HINTS, ImageInput, ImageStep
from formulamine.build.interpreters import INTERPRETERS_FILE
from formulamine.build.local import LocalBackend
from formulamine.build.payloads import PayloadInput, PayloadReason, PayloadStep
from formulamine.build.reasons import ImageReason
from formulamine.build.repair import PROMPT_FILE
from formulamine.build.suite_needs import IMPORT_NAMES_FILE
from formulamine.build.tampering import TAMPERING_FILE
from formulamine.items import Step
from formulamine.records import Status
from formulamine.services.container import Backend as BackendName
from formulamine.services.container import Services
from formulamine.services.store import StoreError, Tables

ENV_PAYLOADS_VERSION = "5"
IMAGES_VERSION = "6"
MODULES = "formulamine.build."
IMAGE_SOURCES = (
    "images", "cascade", "backend", "ways", "local", "docker", "pair", "failures", "recipe", "repair", "recipe_change",
    "facts", "compiler_cache", "digests", "probe", "commits", "suite_source", "tampering", "folders", "manifest",
    "wheels", "backend_hooks", "declarations",
)  # fmt: skip

_log = logging.getLogger(__name__)


def local_backend(services: Services) -> LocalBackend:
    """The backend that builds on this machine."""
    cache, settings = services.settings.home / "cache", services.settings
    shared = (cache, services.git, services.resolver, settings.build, settings.disk)
    return LocalBackend(*shared, services.cancelled, settings.build_workers)


def backend_of(services: Services, name: BackendName) -> Backend:
    """A backend by its name."""
    if name == "local":
        return local_backend(services)
    cache, settings = services.settings.home / "cache" / "docker", services.settings
    shared = (cache, services.git, services.resolver, settings.build, settings.disk)
    return DockerBackend(*shared, settings.docker, services.engine, services.cancelled, settings.build_workers)


def env_payloads_step(services: Services) -> Step[PayloadInput]:
    """Resolve interpreters and pins."""
    run = PayloadStep(
        git=services.git,
        resolver=services.resolver,
        backend=local_backend(services),
        sandboxes=services.sandboxes,
        settings=services.settings.resolve,
        scratch=services.scratch,
    )
    return Step(
        asset="env_payloads",
        version=ENV_PAYLOADS_VERSION,
        reads=PayloadInput,
        hints=("url",),
        run=run,
        reasons=PayloadReason,
        sources=(
            *(MODULES + name for name in ("payloads", "wanted", "pinning", "declarations", "interpreters")),
            *(MODULES + name for name in ("package_root", "standing", "answers")),
            *(MODULES + name for name in ("static_setup", "tool_tables", "dependency_groups", "suite_needs")),
            *(MODULES + name for name in ("backend", "local", "failures", "wheels", "backend_hooks")),
            "formulamine.services.resolver",
            "formulamine.discover.asv_config",
        ),
        settings=(services.settings.resolve, services.settings.build),  # a backend that is asked has a build's limits
        data_files=(INTERPRETERS_FILE, IMPORT_NAMES_FILE, SYSTEM_PACKAGES_FILE),
        outside=_machine(services),
        workers=min(services.settings.workers.resolve_workers, 2 * services.settings.cores),
    )  # fmt: skip


def images_step(services: Services) -> Step[ImageInput]:
    """Build both sides and look at what came out."""
    run = ImageStep(
        git=services.git,
        backend=backend_of(services, services.backend),
        sandboxes=services.sandboxes_of(services.backend),
        blobs=services.blobs,
        settings=services.settings.build,
        resolver=services.resolver,
        llm=services.llm,
        neighbours=Neighbours(partial(recorded_neighbours, services.tables)),
    )
    return Step(
        asset="images",
        version=IMAGES_VERSION,
        reads=ImageInput,
        hints=HINTS,
        run=run,
        again=run.again,
        reasons=ImageReason,
        sources=tuple(MODULES + name for name in IMAGE_SOURCES),
        settings=(services.settings.build,),
        data_files=(SYSTEM_PACKAGES_FILE, TAMPERING_FILE, PROMPT_FILE),
        outside={**_machine(services), **_backend(services), **services.llm.decides("repair")},
        workers=services.settings.build_workers,
    )


def recorded_neighbours(tables: Tables, repo: str) -> Iterator[Neighbour]:
    """Built pull requests of a repository in the tables of all months."""
    for month in tables.months("images"):
        try:
            built, merged = tables.read("images", month), tables.read("pull_requests", month)
        except StoreError as error:
            _log.info(
                "no neighbours of %s from %s: %s", repo, month, error
            )  # a hint; the run of that month says it too
            continue
        if built is None or merged is None:
            continue
        done = built.filter(pl.col("status") == Status.DONE).select("pr_id", "adaptation", "recorded_at")
        for row in done.join(merged.filter(pl.col("repo") == repo).select("pr_id", "merged_at"), on="pr_id").to_dicts():
            change = Adaptation.model_validate_json(row["adaptation"] or "{}")
            yield Neighbour(repo, row["merged_at"], row["recorded_at"], change)


def _backend(services: Services) -> dict[str, str]:
    """What decides a build besides the machine: the backend, and what its images stand on."""
    if services.backend == "local":
        return {"backend": "local"}
    docker = services.settings.docker
    return {"backend": "docker", "base_image": docker.base_image, "registry": docker.registry}


def _machine(services: Services) -> dict[str, str]:
    """What decides a build besides the row: uv and its settings, git, the interpreters on offer, the processor."""
    on_offer = ", ".join(sorted(one.version for one in services.resolver.interpreters.values()))
    return {
        "uv": services.resolver.version,
        "uv_settings": services.resolver.settings_hash,
        "git": services.git.version(),
        "interpreters": on_offer,
        "processor": platform.machine(),
    }
