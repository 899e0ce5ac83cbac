"""Steps of what ships, put together from services: problem_statements -> published_release.

Here belong each step's version, what decides its answer, and the versions of all that decided a release. What a step
does stands beside this file, and what Dagster makes of it in `assets.py`.
"""

import platform
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version

from formulamine.build.steps import ENV_PAYLOADS_VERSION, IMAGES_VERSION
from formulamine.discover.steps import CANDIDATE_PRS_VERSION, PULL_REQUESTS_VERSION, REPOSITORIES_VERSION
from formulamine.items import Done, Failed, Outcome, Step
from formulamine.judge.rules import load_rules
from formulamine.judge.steps import CLASSIFICATIONS_VERSION
from formulamine.records import PublishedRelease
from formulamine.services.container import Services
from formulamine.ship.extraction import PROMPT_FILE
from formulamine.ship.extraction import RULES_FILE as SECTIONS_FILE
from formulamine.ship.gates import Held, ReleasedRow, ReleaseInput, ReleaseReason
from formulamine.ship.guard import TEMPLATE_FILE
from formulamine.ship.leak import RULES_FILE as LEAKS_FILE
from formulamine.ship.normal import LOOKALIKES_FILE
from formulamine.ship.release import Release
from formulamine.ship.statements import StatementInput, StatementReason, StatementStep
from formulamine.verify import protocol
from formulamine.verify.steps import SPEEDUP_MEASUREMENTS_VERSION

PROBLEM_STATEMENTS_VERSION = "3"
PUBLISHED_RELEASE_VERSION = "3"


def problem_statements_step(services: Services) -> Step[StatementInput]:
    """State the problem of what got faster."""
    return Step(
        asset="problem_statements",
        version=PROBLEM_STATEMENTS_VERSION,
        reads=StatementInput,
        hints=("url",),
        run=StatementStep(services.git, services.blobs, services.settings.measure, services.llm),
        reasons=StatementReason,
        sources=(
            "formulamine.ship.statements",
            "formulamine.discover.diff",
            "formulamine.discover.messages",
            "formulamine.verify.measure",
        ),
        settings=(services.settings.measure,),
        data_files=(TEMPLATE_FILE, SECTIONS_FILE, LEAKS_FILE, LOOKALIKES_FILE, PROMPT_FILE),
        outside={"issues": "none", **services.llm.decides("statement")},
        workers=services.settings.workers.judge_workers,
    )


def published_release_step(
    services: Services, gates: Mapping[str, ReleasedRow | Held], release: Release, now: datetime
) -> Step[ReleaseInput]:
    """Say of each pull request what the gates just said."""

    def run(item: ReleaseInput) -> Outcome:
        gate = gates[item.pr_id]
        if isinstance(gate, Held):
            return Failed(gate.reason, gate.detail)
        return Done(
            PublishedRelease(
                released=True, publishable=gate.publishable, release_version=release.version, published_at=now
            )
        )

    return Step(
        asset="published_release",
        version=PUBLISHED_RELEASE_VERSION,
        reads=ReleaseInput,
        run=run,
        reasons=ReleaseReason,
        sources=(
            "formulamine.ship.release",
            "formulamine.verify.measure",
            "formulamine.verify.outcomes",
        ),
        settings=(services.settings.measure, services.settings.release),
        outside={"release_version": release.version, "gate": _gates_digest(gates)},
    )


def _gates_digest(gates: Mapping[str, ReleasedRow | Held]) -> str:
    """Names what is held: so a pull request that passes now is not reused as one that was held."""
    return "; ".join(f"{key}: {gate.reason}" for key, gate in sorted(gates.items()) if isinstance(gate, Held))


def versions(services: Services) -> dict[str, str]:
    """Versions of everything that decided a release."""
    steps = {
        "repositories": REPOSITORIES_VERSION,
        "pull_requests": PULL_REQUESTS_VERSION,
        "candidate_prs": CANDIDATE_PRS_VERSION,
        "classifications": CLASSIFICATIONS_VERSION,
        "env_payloads": ENV_PAYLOADS_VERSION,
        "images": IMAGES_VERSION,
        "speedup_measurements": SPEEDUP_MEASUREMENTS_VERSION,
        "problem_statements": PROBLEM_STATEMENTS_VERSION,
        "published_release": PUBLISHED_RELEASE_VERSION,
    }
    settings = services.settings
    groups = (settings.sieve, settings.resolve, settings.build, settings.measure, settings.release)
    return {
        "formulamine": version("formulamine"),
        "python": platform.python_version(),
        "git": services.git.version(),
        "uv": services.resolver.version,
        "polars": version("polars"),
        "dagster": version("dagster"),
        "protocol": protocol.VERSION,
        "judge_rules": load_rules().version,
        **{f"step.{name}": number for name, number in steps.items()},
        **{f"setting.{name}": str(value) for group in groups for name, value in group.model_dump().items()},
    }
