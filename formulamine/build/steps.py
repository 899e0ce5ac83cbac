"""Steps of the build, put together from services: env_payloads -> images.

Here belong each step's version and what decides its answer. What a step does stands beside this file, and what Dagster
makes of it in `assets.py`.
"""

import platform

from formulamine.build.failures import SYSTEM_PACKAGES_FILE
from formulamine.build.images import ImageInput, ImageStep
from formulamine.build.interpreters import INTERPRETERS_FILE
from formulamine.build.local import LocalBackend
from formulamine.build.payloads import PayloadInput, PayloadReason, PayloadStep
from formulamine.build.reasons import ImageReason
from formulamine.items import Step
from formulamine.services.container import Services

ENV_PAYLOADS_VERSION = "3"
IMAGES_VERSION = "3"
MODULES = "formulamine.build."


def local_backend(services: Services) -> LocalBackend:
    """The backend that builds on this machine."""
    cache = services.settings.home / "cache"
    return LocalBackend(cache, services.git, services.resolver, services.settings.build, services.cancelled)


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
            *(MODULES + name for name in ("payloads", "declarations", "interpreters")),
            *(MODULES + name for name in ("local", "failures", "backend_hooks")),
            "formulamine.services.resolver",
            "formulamine.discover.asv_config",
        ),
        settings=(services.settings.resolve, services.settings.build),  # a backend that is asked has a build's limits
        data_files=(INTERPRETERS_FILE, SYSTEM_PACKAGES_FILE),
        outside=_machine(services),
        workers=min(services.settings.workers.resolve_workers, 2 * services.settings.cores),
    )  # fmt: skip


def images_step(services: Services) -> Step[ImageInput]:
    """Build both sides and look at what came out."""
    run = ImageStep(
        git=services.git,
        backend=local_backend(services),
        sandboxes=services.sandboxes,
        blobs=services.blobs,
        settings=services.settings.build,
    )
    return Step(
        asset="images",
        version=IMAGES_VERSION,
        reads=ImageInput,
        hints=("url",),
        run=run,
        reasons=ImageReason,
        sources=tuple(
            MODULES + name
            for name in ("images", "local", "failures", "facts", "probe", "recipe", "backend_hooks", "declarations")
        ),
        settings=(services.settings.build,),
        data_files=(SYSTEM_PACKAGES_FILE,),
        outside={**_machine(services), "backend": "local"},
        workers=min(services.settings.workers.build_workers, services.settings.cores),
    )


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
