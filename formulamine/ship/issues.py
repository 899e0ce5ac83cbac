"""What was written before a fix was proposed: the issues behind a pull request, and when it came.

Here belong typed issues and comments, what a source of them must answer, and which of what it has may be looked at.
Where issues come from is the matter of whoever implements `IssueSource`; without one there are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Literal, Protocol

from formulamine.discover.messages import linked_issues
from formulamine.records import Record

DEPTH = 2  # an issue that an issue refers to; what that one refers to is another matter
MOST_ISSUES = 20  # of one pull request: a list of everything ("umbrella issue") tells of nothing
# "#12", "gh-12", "owner/name#12" and addresses of issues; those of pull requests are none.
_REFERENCE = re.compile(
    r"https?://[\w.-]+/(?P<url_repo>[\w.-]+/[\w.-]+)/issues/(?P<url_number>[1-9]\d{0,8})\b"
    r"|(?<![\w/&#-])(?:(?P<repo>[\w.-]+/[\w.-]+)?#|gh-)(?P<number>[1-9]\d{0,8})\b",
    re.IGNORECASE,
)
Kind = Literal["title", "message", "issue", "comment"]


class Comment(Record):
    """A comment of an issue."""

    created_at: datetime
    edited_at: datetime | None
    """The last time; None where it stands as it was written."""
    body: str


class Issue(Record):
    """An issue with all its comments. What stands behind a number may turn out to be a pull request."""

    name: str
    """OWNER/NAME#NUMBER."""
    title: str
    created_at: datetime
    edited_at: datetime | None
    """The last time that title or body were changed; None where they stand as they were written."""
    body: str
    is_pull_request: bool
    comments: list[Comment]


class Proposal(Record):
    """When a fix was proposed, and what its host links to it."""

    proposed_at: datetime
    """When the pull request was created or its first commit was written, whichever is earlier."""
    closes: list[str]
    """Issues that the host itself shows as closed by it, as OWNER/NAME#NUMBER."""


class IssueSource(Protocol):
    """Where issues come from."""

    def proposal(self, repo: str, number: int) -> Proposal | None:
        """When a pull request was proposed and what it closes; None where the source does not know it.

        Raises:
            IssuesUnreachable: a later try may differ.
        """

    def issue(self, name: str) -> Issue | None:
        """An issue by OWNER/NAME#NUMBER; None where there is none, or none that everybody may read.

        Raises:
            IssuesUnreachable: a later try may differ.
        """


class IssuesUnreachable(Exception):
    """The source of issues does not answer; the message is one line."""


class NoIssues:
    """The source of a run that has none: pull requests are known from git alone."""

    def proposal(self, repo: str, number: int) -> Proposal | None:
        """Nothing is known."""
        return None

    def issue(self, name: str) -> Issue | None:
        """There is none."""
        return None


class Document(Record):
    """A text that was written before the fix, or with it."""

    kind: Kind
    name: str
    """Whose it is, as OWNER/NAME#NUMBER; empty of the pull request itself."""
    text: str


def documents(repo: str, number: int, title: str, body: str, source: IssueSource) -> list[Document]:
    """Everything that a statement may be taken from: title and message, then issues with their comments.

    Title and message were written with the fix, so that only observations may be taken from them. Of issues, what was
    written or edited after the fix was proposed is left out.

    Args:
        repo: OWNER/NAME.
        number: of the pull request.
        title: of the pull request.
        body: of the pull request.
        source: of issues.

    Raises:
        IssuesUnreachable: the source does not answer.
    """
    found = [Document(kind="title", name="", text=title), Document(kind="message", name="", text=body)]
    proposal = source.proposal(repo, number)
    if proposal is not None:
        first = [*linked_issues(repo, f"{title}\n{body}"), *proposal.closes, *references(repo, f"{title}\n{body}")]
        for issue in _reported(f"{repo}#{number}", first, proposal.proposed_at, source):
            if _stood(issue.created_at, issue.edited_at, proposal.proposed_at):
                found.append(Document(kind="issue", name=issue.name, text=f"{issue.title}\n\n{issue.body}"))
            found += [
                Document(kind="comment", name=issue.name, text=one.body)
                for one in issue.comments
                if _stood(one.created_at, one.edited_at, proposal.proposed_at)
            ]
    return [one for one in found if one.text.strip()]


def references(repo: str, text: str) -> list[str]:
    """What a text refers to, as OWNER/NAME#NUMBER, in order of mention; which of them are issues is not known yet."""
    found = [
        f"{match['url_repo'] or match['repo'] or repo}#{int(match['url_number'] or match['number'])}"
        for match in _REFERENCE.finditer(text)
    ]
    return list(dict.fromkeys(found))


def _reported(own: str, first: list[str], proposed_at: datetime, source: IssueSource) -> Iterator[Issue]:
    """Issues within reach, nearest first, each once; a pull request is none, and leads nowhere."""
    seen = {own.casefold()}
    level = first
    for _ in range(DEPTH):
        following: list[str] = []
        for name in level:
            if name.casefold() in seen or len(seen) > MOST_ISSUES:
                continue
            seen.add(name.casefold())
            issue = source.issue(name)
            if issue is None or issue.is_pull_request or issue.created_at >= proposed_at:
                continue
            yield issue
            told = [issue.body] if _stood(issue.created_at, issue.edited_at, proposed_at) else []
            told += [one.body for one in issue.comments if _stood(one.created_at, one.edited_at, proposed_at)]
            following += references(name.partition("#")[0], "\n".join(told))
        level = following


def _stood(created_at: datetime, edited_at: datetime | None, proposed_at: datetime) -> bool:
    """Whether a text stood as it is when the fix was proposed."""
    return max(created_at, edited_at or created_at) < proposed_at
