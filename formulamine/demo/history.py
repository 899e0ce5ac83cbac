"""The words in which a history is told: people, edits, and changes that land on `main`.

Here belongs what a change is and how its edits apply to a tree. What changed, and when, is in `january.py` and
`february.py`; how a history becomes a git repository is in `sample.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True)
class Person:
    """Someone who writes commits, and the zone in which their clock runs."""

    name: str
    email: str
    login: str
    zone: str = "+0000"


class Style(StrEnum):
    """How a change lands on the first-parent chain of `main`."""

    SQUASH = "squash"
    """One commit, whose subject ends in the pull request's number."""
    MERGE = "merge"
    """A merge commit, whose second parent holds the change and whose body begins with the title."""
    PUSH = "push"
    """One commit without a pull request."""


@dataclass(frozen=True)
class Write:
    """A new file."""

    path: str
    text: str

    def apply(self, tree: dict[str, str]) -> None:
        """Add the file to `tree`."""
        if self.path in tree:
            raise ValueError(f"{self.path} is already there")
        tree[self.path] = self.text


@dataclass(frozen=True)
class Replace:
    """One passage of a file, replaced where it stands."""

    path: str
    old: str
    new: str

    def apply(self, tree: dict[str, str]) -> None:
        """Replace the passage in `tree`, in which it must stand exactly once."""
        if tree[self.path].count(self.old) != 1:
            raise ValueError(f"{self.path} does not hold this passage exactly once: {self.old!r}")
        tree[self.path] = tree[self.path].replace(self.old, self.new)

    def undone(self) -> Replace:
        """The edit that takes this one back."""
        return Replace(self.path, self.new, self.old)


@dataclass(frozen=True)
class Change:
    """What lands on `main` at one moment."""

    when: datetime
    """Committer time of the commit on `main`."""
    style: Style
    author: Person
    title: str
    body: str
    edits: tuple[Write | Replace, ...]
    number: int | None = None
    """Number of the pull request; None for a push."""
    branch: str = ""
    """Name of the author's branch, which a merge commit quotes."""


def applied(tree: Mapping[str, str], change: Change) -> dict[str, str]:
    """Return `tree` with the edits of a change."""
    result = dict(tree)
    for edit in change.edits:
        edit.apply(result)
    return result
