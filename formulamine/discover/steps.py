"""Steps of discovery, put together from services: repositories -> pull_requests -> candidate_prs.

Here belong each step's version and what decides its answer. What a step does stands beside this file, and what Dagster
makes of it in `assets.py`.
"""

from collections import defaultdict
from functools import partial

from formulamine.discover.candidates import CandidateStep
from formulamine.discover.pull_requests import PullRequestReason, VisitedRepository, list_pull_requests
from formulamine.discover.registry import Registry
from formulamine.discover.repositories import RegisteredRepository, RepositoryReason, find_suite
from formulamine.discover.sieve import SieveInput, SieveReason
from formulamine.discover.sieve_rules import RULES_FILE, WEIGHTS_FILE
from formulamine.items import Step
from formulamine.pipeline import joined
from formulamine.services.container import Services

REPOSITORIES_VERSION = "1"
PULL_REQUESTS_VERSION = "1"
CANDIDATE_PRS_VERSION = "3"


def registered(services: Services, month: str) -> list[tuple[str, RegisteredRepository]]:
    """Items of a month: every repository of the registry."""
    entries = Registry(services.settings.home / "repositories.toml").visible()
    return [
        (f"{entry.name}@{month}", RegisteredRepository(repo=entry.name, source=entry.source, month=month))
        for entry in entries
    ]


def repositories_step(services: Services, refresh: bool) -> Step[RegisteredRepository]:
    """Mirror registered repositories and find their suites."""
    return Step(
        asset="repositories",
        version=REPOSITORIES_VERSION,
        reads=RegisteredRepository,
        run=partial(find_suite, git=services.git, refresh=refresh),
        reasons=RepositoryReason,
        sources=("formulamine.discover.repositories", "formulamine.discover.asv_config"),
        outside={"git": services.git.version()},
        workers=services.settings.workers.discover_workers,
        refresh=refresh,
    )


def pull_requests_step(services: Services, month: str) -> Step[VisitedRepository]:
    """Visit each repository and list what the month merged."""
    return Step(
        asset="pull_requests",
        version=PULL_REQUESTS_VERSION,
        reads=VisitedRepository,
        hints=("url",),
        run=partial(list_pull_requests, month=month, git=services.git),
        reasons=PullRequestReason,
        sources=("formulamine.discover.pull_requests", "formulamine.discover.messages", "formulamine.discover.months"),
        outside={"month": month, "git": services.git.version()},
        workers=services.settings.workers.discover_workers,
    )


def candidate_prs_step(services: Services, month: str) -> Step[SieveInput]:
    """Sieve pull requests by title, body and diff."""
    merges: dict[str, list[str]] = defaultdict(list)
    mirrors: dict[str, str] = {}
    for row in joined("candidate_prs", month, services.tables, only=("repo", "url", "merge_sha")):
        merges[row["repo"]].append(row["merge_sha"])
        mirrors[row["repo"]] = row["url"]
    run = CandidateStep(
        git=services.git,
        blobs=services.blobs,
        settings=services.settings.sieve,
        mirrors=mirrors,
        cores=services.cores,
        merges=merges,
    )
    return Step(
        asset="candidate_prs",
        version=CANDIDATE_PRS_VERSION,
        reads=SieveInput,
        run=run,
        reasons=SieveReason,
        sources=(
            "formulamine.discover.candidates",
            "formulamine.discover.sieve",
            "formulamine.discover.sieve_rules",
            "formulamine.discover.signals",
            "formulamine.discover.syntax",
            "formulamine.discover.syntax_signals",
            "formulamine.discover.patterns",
            "formulamine.discover.diff",
        ),
        settings=(services.settings.sieve,),
        data_files=(RULES_FILE, WEIGHTS_FILE),
        outside={"git": services.git.version()},
        workers=services.settings.workers.discover_workers,
    )
