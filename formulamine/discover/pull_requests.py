"""From a repository's first-parent chain to the pull requests that one month merged.

Here belongs the step that visits a repository and returns its records, and `recount`, which reaches the same totals
by another path. How messages are read (merge, squash, revert, issues, bots) is in `messages.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from formulamine.discover.messages import Landing, is_bot, linked_issues, read_landing, reverts
from formulamine.discover.months import month_window
from formulamine.discover.repositories import SOURCE_FAULTS
from formulamine.items import Done, Failed, Outcome
from formulamine.records import FileChange, PullRequest, Record
from formulamine.services.git import Commit, Git


class PullRequestReason(StrEnum):
    """Why a repository could not be visited."""

    SOURCE_UNAVAILABLE = "source_unavailable"
    HISTORY_REWRITTEN = "history_rewritten"


class VisitedRepository(Record):
    """What the visit needs to know of a repository; the month is the run's."""

    repo: str
    url: str
    head_sha: str


@dataclass(frozen=True)
class Tally:
    """How the first-parent commits of a month divide: each is a pull request, a direct push, or a repeat."""

    commits: int
    pull_requests: int
    direct_pushes: int
    repeats: int
    """Commits under a number that an earlier commit of the chain has, in this month or before."""

    def __str__(self) -> str:
        """In words, for people."""
        return (
            f"{self.commits} first-parent commits: {self.pull_requests} pull requests, "
            f"{self.direct_pushes} direct pushes, {self.repeats} repeats"
        )


def list_pull_requests(item: VisitedRepository, *, month: str, git: Git) -> Outcome:
    """Visit a repository: one record for each pull request that the month merged, keyed by `owner__name-N`.

    Args:
        item: the repository and its last commit before the month's end.
        month: as "2024-02". Commits count by committer time, whatever their order in the chain.
        git: holds the mirror, or makes it again.
    """
    start, end = month_window(month)
    try:
        mirror = git.open(item.repo, item.url)
    except tuple(SOURCE_FAULTS) as error:
        return Failed(PullRequestReason.SOURCE_UNAVAILABLE, str(error), infrastructure=True)
    if not git.has_commit(mirror, item.head_sha):
        gone = f"{item.repo} no longer holds {item.head_sha[:12]}: run the month with --refresh"
        return Failed(PullRequestReason.HISTORY_REWRITTEN, gone, infrastructure=True)
    records, tally = merged_between(git, mirror, item.repo, item.head_sha, start, end)
    return Done(records=records, detail=str(tally))


def merged_between(
    git: Git, mirror: Path, repo: str, head_sha: str, start: datetime, end: datetime
) -> tuple[dict[str, PullRequest], Tally]:
    """Pull requests that a first-parent chain merged in a window, by `owner__name-N`, and how its commits divide.

    Args:
        git: holds the mirror.
        mirror: the repository's mirror.
        repo: its OWNER/NAME.
        head_sha: where the chain begins.
        start: first moment of the window.
        end: first moment after it.
    """
    chain = git.first_parent(mirror, head_sha)[::-1]
    landings = [read_landing(commit) for commit in chain]
    inside = [start <= commit.committed_at < end for commit in chain]
    first: dict[int, int] = {}  # number -> place in the chain
    also: dict[int, list[str]] = {}
    for place, landing in enumerate(landings):
        if landing is not None and first.setdefault(landing.number, place) != place:
            also.setdefault(landing.number, []).append(chain[place].sha)
    merged = sorted(place for place in first.values() if inside[place])
    commits = [chain[place] for place in merged]
    files = git.changed_files(mirror, [commit.sha for commit in commits])
    authors = _authors(git, mirror, commits)
    reverted = _reverted_by(chain, landings)
    records: dict[str, PullRequest] = {}
    for place, commit, author in zip(merged, commits, authors, strict=True):
        landing = landings[place]
        assert landing is not None
        record = _record(repo, commit, landing, author, files[commit.sha], reverted.get(place))
        key = f"{repo.replace('/', '__')}-{landing.number}"
        records[key] = record.model_copy(update={"also": also.get(landing.number, [])})
    direct = sum(here and landing is None for here, landing in zip(inside, landings, strict=True))
    tally = Tally(sum(inside), len(records), direct, sum(inside) - len(records) - direct)
    return records, tally


def recount(git: Git, mirror: Path, head_sha: str, start: datetime, end: datetime) -> Tally:
    """Divide a window's commits again, from git's own rendering of subject and time and a rule written anew.

    Args:
        git: holds the mirror.
        mirror: the repository's mirror.
        head_sha: where the chain begins.
        start: first moment of the window.
        end: first moment after it.
    """
    commits = pull_requests = direct_pushes = repeats = 0
    seen: set[str] = set()
    for place, (seconds, subject) in enumerate(reversed(git.subjects(mirror, head_sha))):
        number = number_in(subject) if place > 0 else None  # the root has no base: it is a push
        if start.timestamp() <= seconds < end.timestamp():
            commits += 1
            if number is None:
                direct_pushes += 1
            elif number in seen:
                repeats += 1
            else:
                pull_requests += 1
        if number is not None:
            seen.add(number)
    return Tally(commits, pull_requests, direct_pushes, repeats)


def number_in(subject: str) -> str | None:
    """Number of the pull request that a subject names, without any regular expression: the second opinion."""
    words = subject.split()
    for start in (["Merge", "pull", "request"], ["Merge", "PR"]):
        if words[: len(start)] == start and len(words) > len(start):
            digits = words[len(start)].removeprefix("#").rstrip(":")
            if words[len(start)].startswith("#") and _is_number(digits):
                return str(int(digits))
    last = words[-1] if words else ""
    inner = last[last.rfind("(") + 1 : -1] if last.endswith(")") and "(" in last else ""
    for mark in ("#", "gh-", "GH-"):
        digits = inner.removeprefix(mark)
        if inner.startswith(mark) and _is_number(digits):
            return str(int(digits))
    return None


def _is_number(digits: str) -> bool:
    return digits.isascii() and digits.isdecimal() and len(digits) < 10


def _authors(git: Git, mirror: Path, commits: Sequence[Commit]) -> list[Commit]:
    """Who wrote each: for a merge the tip of what was merged, since the merge's own author pressed the button."""
    tips = git.commits(mirror, [commit.parents[1] for commit in commits if len(commit.parents) > 1])
    return [tips[commit.parents[1]] if len(commit.parents) > 1 else commit for commit in commits]


def _reverted_by(chain: Sequence[Commit], landings: Sequence[Landing | None]) -> dict[int, str]:
    """Which commits of a chain (oldest first) a later one takes back: place -> id of the latest that does.

    A revert that is itself reverted counts for nothing.
    """
    by_sha = {commit.sha: place for place, commit in enumerate(chain)}
    targets: dict[int, set[int]] = {}
    latest: dict[str | int, int] = {}  # title or number -> the latest place so far
    for place, (commit, landing) in enumerate(zip(chain, landings, strict=True)):
        title = landing.title if landing else commit.subject
        named = reverts(title, landing.body if landing else commit.body)
        found = {by_sha[sha] for sha in named.shas if sha in by_sha}
        found |= {latest[number] for number in named.numbers if number in latest}
        if not found and named.title in latest:
            found.add(latest[named.title])
        targets[place] = {target for target in found if target < place}
        latest[title] = place
        latest[commit.subject] = place
        if landing is not None:
            latest.setdefault(landing.number, place)
    reverted: dict[int, str] = {}
    for place in reversed(range(len(chain))):
        if place not in reverted:
            for target in targets[place]:
                reverted.setdefault(target, chain[place].sha)
    return reverted


def _record(
    repo: str, commit: Commit, landing: Landing, author: Commit, files: list[FileChange], reverted_by: str | None
) -> PullRequest:
    return PullRequest(
        repo=repo,
        number=landing.number,
        title=landing.title,
        body=landing.body,
        author=author.author_name,
        is_bot=is_bot(author.author_name, author.author_email),
        labels=[],
        merged_at=commit.committed_at,
        base_sha=commit.parents[0],
        merge_sha=commit.sha,
        merge_style="merge" if len(commit.parents) > 1 else "squash",
        files=files,
        linked_issues=linked_issues(repo, f"{landing.title}\n{landing.body}"),
        source="git",
        reverted_by=reverted_by,
        also=[],
    )
