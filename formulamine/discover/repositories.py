"""From a registered repository to one with a benchmark suite, as of a month's end.

Here belongs the step that answers one repository of one month. Which repositories there are is in `registry.py`, what
an ASV configuration says in `asv_config.py`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from formulamine.discover import asv_config
from formulamine.discover.months import month_window
from formulamine.items import Done, Failed, Outcome, Rejected
from formulamine.records import Record, Repository
from formulamine.services.git import (
    Commit,
    DetachedHead,
    EmptyRepository,
    Git,
    GitError,
    NotARepository,
    RemoteUnreachable,
    ShallowRepository,
    TreeEntry,
    UnreadableRepository,
)


class RepositoryReason(StrEnum):
    """Why a repository takes no part in a month."""

    NO_BENCHMARK_SUITE = "no_benchmark_suite"
    NO_HISTORY_YET = "no_history_yet"
    UNREACHABLE = "unreachable"
    NOT_A_REPOSITORY = "not_a_repository"
    SHALLOW_CLONE = "shallow_clone"
    DETACHED_HEAD = "detached_head"
    UNREADABLE = "unreadable"


# Faults of a source. All may be gone next time, so none is settled.
SOURCE_FAULTS: dict[type[GitError], RepositoryReason] = {
    RemoteUnreachable: RepositoryReason.UNREACHABLE,
    NotARepository: RepositoryReason.NOT_A_REPOSITORY,
    ShallowRepository: RepositoryReason.SHALLOW_CLONE,
    DetachedHead: RepositoryReason.DETACHED_HEAD,
    UnreadableRepository: RepositoryReason.UNREADABLE,
}


class RegisteredRepository(Record):
    """A repository of the registry, in one month."""

    repo: str
    source: str
    month: str


def find_suite(item: RegisteredRepository, *, git: Git, refresh: bool = False) -> Outcome:
    """Mirror a repository and find its benchmark suite as of the month's end.

    The source is asked again only if the mirror holds no commit at or after the month's end, or on `refresh`: until
    then later commits of the month may still come, so that the answer is not settled.

    Args:
        item: which repository and month.
        git: keeps the mirror.
        refresh: ask the source in any case.
    """
    _, end = month_window(item.month)
    try:
        source = git.inspect_source(item.source)
        fresh = refresh or not git.mirror_path(item.repo).exists()
        mirror = git.mirror(item.repo, source, refresh)
        commits = git.first_parent(mirror)
        if not fresh and not any(commit.committed_at >= end for commit in commits):
            mirror = git.mirror(item.repo, source, refresh=True)
            commits = git.first_parent(mirror)
    except EmptyRepository as error:
        return Rejected(RepositoryReason.NO_HISTORY_YET, str(error), settled=False)
    except tuple(SOURCE_FAULTS) as error:
        return Failed(SOURCE_FAULTS[type(error)], str(error), infrastructure=True)
    settled = any(commit.committed_at >= end for commit in commits)
    head = next((commit for commit in commits if commit.committed_at < end), None)
    if head is None:
        return Rejected(RepositoryReason.NO_HISTORY_YET, f"first commit: {commits[-1].committed_at:%Y-%m-%d}")
    found = suite_at(git, mirror, head)
    if isinstance(found, str):
        return Rejected(RepositoryReason.NO_BENCHMARK_SUITE, found, settled=settled)
    config, suite = found
    record = Repository(
        node_id=None,
        url=source.location,
        default_branch=git.default_branch(mirror),
        head_sha=head.sha,
        stars=None,
        archived=None,
        fork=None,
        asv_config=config,
        benchmark_dir=suite,
        discovered_by="git",
        aliases=[],
    )
    return Done(record, settled=settled)


def suite_at(git: Git, mirror: Path, commit: Commit) -> tuple[str, str] | str:
    """Paths of the best usable configuration of a commit and of its benchmarks, or in words why there is none."""
    entries = git.list_tree(mirror, commit.sha)
    paths = asv_config.candidates(entries)
    if not paths:
        return f"no {asv_config.CONFIG_NAMES[0]} at {commit.sha[:12]}"
    contents = git.read_blobs(mirror, [(commit.sha, path) for path in paths])
    why = ""
    for (_, path), content in contents.items():
        try:
            suite = asv_config.parse(content or b"").suite(path)
        except asv_config.AsvConfigError as error:
            why = why or f"{path}: {error}"
            continue
        if suite is not None and holds_python(entries, suite):
            return path, suite
        why = why or f"{path}: no Python file in its benchmark_dir {suite or 'outside the repository'}"
    return why


def holds_python(entries: list[TreeEntry], folder: str) -> bool:
    """Whether a folder of a whole tree holds a Python file."""
    prefix = "" if folder == "." else f"{folder}/"
    return any(
        entry.type == "blob" and entry.path.startswith(prefix) and entry.path.endswith(".py") for entry in entries
    )
