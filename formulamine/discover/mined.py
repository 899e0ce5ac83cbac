"""Pull requests as the sieve reads them, straight from a mirror: for fitting, evaluation and benchmarks.

Here belongs going from a mirror's history, or from a list of its commits, to what the step of `candidate_prs` gets.
Months, tables and the ledger have no part in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from formulamine.discover.messages import Landing, is_bot, read_landing
from formulamine.discover.sieve import SieveInput
from formulamine.records import FileChange
from formulamine.services.git import Commit, Git, GitError
from formulamine.services.git_objects import file_changes

AT_ONCE = 5000  # commits read by one process; their messages are held together, of their patches one


@dataclass(frozen=True)
class Mined:
    """One merged pull request, or one commit that stands for it, with its patch."""

    item: SieveInput
    patch: bytes


def merged_shas(git: Git, mirror: Path) -> list[str]:
    """Commits of the first-parent chain that landed a pull request, newest first, each number once."""
    first: dict[int, str] = {}
    for commit in reversed(git.first_parent(mirror)):
        landing = read_landing(commit)
        if landing is not None:
            first.setdefault(landing.number, commit.sha)
    return list(reversed(first.values()))


def mine(git: Git, mirror: Path, repo: str, shas: Sequence[str]) -> Iterator[Mined]:
    """Commits as the sieve reads them; those of which the mirror lacks a part (a partial clone) are left out.

    A commit that landed no pull request, as one of several that a label names, is read by its own message.
    """
    for start in range(0, len(shas), AT_ONCE):
        batch = shas[start : start + AT_ONCE]
        commits = git.commits(mirror, batch)
        for sha, patch in _patches(git, mirror, batch):
            yield Mined(_input(repo, commits[sha], patch), patch)


def _patches(git: Git, mirror: Path, shas: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Patches of the commits that can be read, as git prints them; it ends at one that cannot, and is started again."""
    while shas:
        printed = 0
        try:
            for found in git.diffs(mirror, shas):
                printed += 1
                yield found
        except GitError:
            # The first one that did not come may be whole, and only the one after it missing.
            if printed == 0 and len(shas) > 1:
                yield from _patches(git, mirror, shas[:1])
            printed = max(printed, 1)
        shas = shas[printed:]


def _input(repo: str, commit: Commit, patch: bytes) -> SieveInput:
    landing = read_landing(commit) or Landing(0, commit.subject, commit.body)
    return SieveInput(
        pr_id=f"{repo.replace('/', '__')}-{landing.number or commit.sha[:12]}",
        repo=repo,
        base_sha=commit.parents[0] if commit.parents else "",
        merge_sha=commit.sha,
        title=landing.title,
        body=landing.body,
        author=commit.author_name,
        is_bot=is_bot(commit.author_name, commit.author_email),
        files=[FileChange(path=path, additions=more, deletions=less) for path, more, less in file_changes(patch)],
    )
