"""What one pull request's statement may not hold, put together from its patch, its base tree and its history.

Here belong gathering that, and asking all of it of a text at once. The step asks it of sentences and of what it
rendered; the release's gate and the asset check ask it again of what was recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from formulamine.discover.diff import parse_patch
from formulamine.records import Record, Removed, StatementPart
from formulamine.services.git import Git
from formulamine.services.store import Blobs
from formulamine.ship.extraction import SOLUTION
from formulamine.ship.identity import People, StandIns
from formulamine.ship.issues import Document
from formulamine.ship.leak import MAX_FILE_BYTES, Base, Fix, Leak
from formulamine.ship.sentences import stands_in

TEMPLATE_FILE = Path(__file__).with_name("statement.md.jinja")
BATCH = 256  # files of a base tree read at a time
_BRANCH = re.compile(r"Merge pull request #\d+ from [\w-]+/(\S+)")


class Documents(Record):
    """The blob of what a statement was taken from, as it was written."""

    documents: list[Document]

    def hidden(self, people: People) -> list[Document]:
        """The same with nobody named, each person alike in all of them."""
        stand_ins = StandIns(people)
        return [one.model_copy(update={"text": stand_ins.hide(one.text)}) for one in self.documents]


@dataclass(frozen=True)
class Guard:
    """What must not be told of one pull request."""

    fix: Fix
    people: People

    def leaks(self, text: str, solution: Iterable[str] = (), allowed: Iterable[str] = ()) -> list[Leak]:
        """All that a text tells, sorted; empty where it tells nothing.

        Args:
            text: as it would be shown.
            solution: sentences that were found to tell the solution.
            allowed: what may stand there all the same: names of confirmed benchmarks.
        """
        for name in sorted(allowed, key=len, reverse=True):
            text = text.replace(name, "...")
        return sorted([*self.fix.leaks(text, solution), *self.people.leaks(text)])

    def told(self, statement: str, removed: Sequence[Removed], allowed: Iterable[str]) -> list[Leak]:
        """All that a rendered statement tells, sentences of the solution among it."""
        return self.leaks(statement, [one.text for one in removed if one.why in SOLUTION], allowed)


def guard_of(
    repo: str, url: str, base_sha: str, merge_sha: str, patch_sha256: str, core_files: list[str], git: Git, blobs: Blobs
) -> Guard:
    """A pull request's guard, from its patch, the whole base tree and the first-parent history up to its merge.

    The template's words are everybody's too.
    """
    mirror = git.open(repo, url)
    places = [(base_sha, entry.path) for entry in git.list_tree(mirror, base_sha) if entry.type == "blob"]

    def texts() -> Iterator[str]:
        yield TEMPLATE_FILE.read_text()
        yield repo
        for start in range(0, len(places), BATCH):
            for content in git.read_blobs(mirror, places[start : start + BATCH]).values():
                if content is not None and len(content) <= MAX_FILE_BYTES and b"\0" not in content:
                    yield content.decode("utf-8", "replace")

    base = Base.of(texts())
    history = git.first_parent(mirror, merge_sha)
    merged = history[0]
    tips = git.commits(mirror, list(merged.parents[1:])).values()
    branch = _BRANCH.match(merged.subject)
    fix = Fix.of(
        parse_patch(blobs.get(patch_sha256)),
        core_files,
        base,
        shas=[merge_sha, base_sha, *merged.parents],
        branches=[branch[1]] if branch else [],
    )
    return Guard(fix, People.of([*history, *tips], base))


def unfounded(
    parts: Sequence[StatementPart], statement: str, title: str, body: str, recorded: Documents, people: People
) -> list[str]:
    """Parts of a statement that no document says, and documents that are not the pull request's own.

    Args:
        parts: what was extracted, as recorded.
        statement: the rendered text, in which each part must stand.
        title: of the pull request.
        body: of the pull request.
        recorded: what it was taken from.
        people: authors, whom stand-ins replaced.
    """
    own = {"title": title, "message": body}
    wrong = [
        f"{one.kind} is not the pull request's" for one in recorded.documents if own.get(one.kind, one.text) != one.text
    ]
    texts = recorded.hidden(people)
    for part in parts:
        source = [one.text for one in texts if one.kind == part.kind]
        if part.text not in statement or not any(stands_in(part.text, one) for one in source):
            wrong.append(f"{part.text!r} does not stand in its source")
    return wrong
