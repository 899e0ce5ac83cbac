r"""What commit messages say: which pull request landed, what it reverts, which issues it closes, who is a bot.

Here belongs every rule that reads a message or a name, each as data with where it comes from. It knows no git.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from formulamine.services.git import Commit

# GitHub's squash button and its merge button with "pull request title"; `gh-N` is how numpy and scipy write it.
_SUFFIX = re.compile(r"\s*\((?:#|gh-|GH-)(?P<number>[0-9]{1,9})\)$")
# GitHub's merge button; "Merge PR #N: title" is the scripts of ipython and older matplotlib.
_MERGE = re.compile(r"Merge (?:pull request|PR) #(?P<number>[0-9]{1,9})(?![^\s:]):?\s*(?P<rest>.*)")
# `git revert`, and GitHub's revert button ("Reverts owner/name#12").
_REVERTED_SHA = re.compile(r"\bThis reverts commit\s+([0-9a-f]{40})\b")
_REVERTED_NUMBER = re.compile(r"^Reverts (?:[\w.-]+/[\w.-]+)?#([0-9]{1,9})\b", re.MULTILINE)
_SAYS_REVERT = re.compile(r"\b(?:revert(?:s|ed|ing)?|back(?:s|ed|ing)? out|undo(?:es|ne)?)\b", re.IGNORECASE)
_PARTIAL = re.compile(r"\bpart(?:s|ly|ial|ially)?\b", re.IGNORECASE)
_REVERTED_TITLE = re.compile(r'(?:Revert|Back out) "(?P<title>.*)"$')
# https://docs.github.com/en/issues/tracking-your-work-with-issues/linking-a-pull-request-to-an-issue
_CLOSES = re.compile(
    r"\b(?:close[sd]?|fix(?:e[sd])?|resolve[sd]?):?\s+"
    r"(?:https?://[\w.-]+/(?P<url_repo>[\w.-]+/[\w.-]+)/issues/|(?P<repo>[\w.-]+/[\w.-]+)?#|gh-)(?P<number>[0-9]{1,9})\b",
    re.IGNORECASE,
)
# Accounts that write commits without "[bot]" in their name, as seen in the histories that were mined.
BOTS = frozenset(
    {
        "dependabot",
        "dependabot-preview",
        "pre-commit-ci",
        "pre-commit ci",
        "renovate",
        "renovate bot",
        "renovate-bot",
        "github-actions",
        "github actions",
        "github action",
        "meeseeksmachine",
        "lumberbot-app",
        "pyup-bot",
        "pyup.io bot",
        "allcontributors",
        "imgbot",
        "codecov-io",
        "snyk-bot",
        "greenkeeper",
        "scientific-python-bot",
        "astropy-bot",
        "sympy-bot",
        "dask-bot",
        "pandas-bot",
        "weblate",
    }
)


@dataclass(frozen=True)
class Landing:
    """A pull request as the commit that landed it tells it."""

    number: int
    title: str
    body: str


@dataclass(frozen=True)
class Reverts:
    """What a message says that it takes back."""

    shas: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    title: str | None = None


def read_landing(commit: Commit) -> Landing | None:
    """The pull request that a commit of the first-parent chain landed, or None for a direct push.

    A merge's title is line 1 of its body. Where that is empty (the button's text was edited), its subject stands in.
    """
    if not commit.parents:
        return None  # without a base there is nothing to compare with
    merge = _MERGE.match(commit.subject)
    if merge:
        title, _, body = commit.body.partition("\n")
        if merge["rest"] and not merge["rest"].startswith("from "):  # "Merge PR #12: title"
            title, body = merge["rest"], commit.body
        return Landing(int(merge["number"]), title.strip() or commit.subject, body.strip())
    suffix = _SUFFIX.search(commit.subject)
    if suffix:
        return Landing(int(suffix["number"]), commit.subject[: suffix.start()].strip(), commit.body)
    return None


def reverts(title: str, body: str) -> Reverts:
    """What a message takes back, by commit, by number and by title; nothing where it takes back nothing.

    Only where the whole is a revert: many a squash lists one among its commits, and a hotfix that is merged back quotes
    one of another branch.
    """
    stripped = body.strip()
    if _PARTIAL.search(title) or not (_SAYS_REVERT.search(title) or stripped.startswith("This reverts commit ")):
        return Reverts()
    quoted = _REVERTED_TITLE.match(title)
    numbers = [int(number) for number in _REVERTED_NUMBER.findall(body)]
    reverted = None
    if quoted:
        suffix = _SUFFIX.search(quoted["title"])
        reverted = quoted["title"]
        if suffix:
            numbers.append(int(suffix["number"]))
            reverted = reverted[: suffix.start()].strip()
    return Reverts(tuple(_REVERTED_SHA.findall(body)), tuple(numbers), reverted)


def linked_issues(repo: str, text: str) -> list[str]:
    """Issues that a text closes by GitHub's keywords, as "owner/name#12", in order of mention."""
    found = [f"{match['url_repo'] or match['repo'] or repo}#{int(match['number'])}" for match in _CLOSES.finditer(text)]
    return list(dict.fromkeys(found))


def is_bot(name: str, email: str) -> bool:
    """Whether an author is a program."""
    return "[bot]" in f"{name} {email}".lower() or name.lower() in BOTS
