"""Problem statements: what an agent is told, from what stood before the fix and from what was measured.

Here belongs choosing sentences and rendering the template (`statement.md.tmpl`). Sentences are taken as they stand or
left out, never rewritten. What counts as telling the fix is `leak.py`'s matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from string import Template

from formulamine.discover.diff import parse_patch
from formulamine.items import Done, Failed, Outcome
from formulamine.services.git import Git
from formulamine.services.store import Blobs
from formulamine.settings import MeasureSettings
from formulamine.ship.leak import MAX_FILE_BYTES, Fix
from formulamine.tables import ProblemStatement, Record
from formulamine.verify.measure import RawBlob, record_of

TEMPLATE_FILE = Path(__file__).with_name("statement.md.tmpl")
SHORTEST_SENTENCE = 20  # characters; what is shorter is a fragment ("Thanks!", "See below.")
_CODE_BLOCK = re.compile(r"```.*?(?:```|\Z)|^(?: {4}|\t).*$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
# Trailers, checklists, headings and headers of squashed messages: not sentences.
_NO_PROSE = re.compile(
    r"^\s*(?:[A-Z][A-Za-z-]+-by:|Co-authored-by:|[-*] \[[ xX]\]|#{1,6} |\* [a-z]+:|>|\|)", re.MULTILINE
)
_REFERENCE = re.compile(r"https?://|\b[0-9a-f]{7,40}\b|(?:^|\W)#\d+|\bgh-\d+|\bpull request\b|\bPR\b|\bcommit\b", re.I)
# "We now cache it", "This replaces the loop": the fix in words. Said of the code after the change, so never before it.
_SOLUTION = re.compile(
    r"\b(?:this (?:change|patch|commit|adds|avoids|caches|fixes|makes|moves|removes|replaces|speeds|uses)|instead|"
    r"now|by \w+ing|replaced?|rewr[io]te|refactor\w*|switch(?:ed)? to|speed-?ups? of|\d+(?:\.\d+)?x|"
    r"faster (?:than|by))\b",
    re.I,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'(])|\n\s*\n|\n(?=[-*] )")


class StatementReason(StrEnum):
    """Why a pull request has no statement."""

    LEAK = "leak"


class StatementInput(Record):
    """Fields that a statement reads."""

    pr_id: str
    repo: str
    url: str
    title: str
    body: str
    base_sha: str
    merge_sha: str
    patch_sha256: str
    core_files: list[str]
    raw_sha256: str


@dataclass
class StatementStep:
    """States problems of pull requests that were measured as faster."""

    git: Git
    blobs: Blobs
    measure: MeasureSettings

    def __call__(self, item: StatementInput) -> Outcome:
        """State one problem."""
        fix = fix_of(item.repo, item.url, item.base_sha, item.patch_sha256, item.core_files, self.git, self.blobs)
        kept, removed = choose(item.title, item.body, fix.leaks)
        statement = render(item.repo, kept, measured_lines(self.blobs, item.raw_sha256, self.measure))
        leaks = fix.leaks(statement)
        if leaks:
            return Failed(StatementReason.LEAK, f"the rendered text tells the fix: {'; '.join(leaks[:5])}")
        sources = (["title"] if item.title in kept else []) + (["message"] if set(kept) - {item.title} else [])
        return Done(
            ProblemStatement(
                statement=statement, sources=[*sources, "measured"], parts=kept, fidelity=1.0, removed=removed
            )
        )


def fix_of(repo: str, url: str, base_sha: str, patch_sha256: str, core_files: list[str], git: Git, blobs: Blobs) -> Fix:
    """What only the fix has, from its patch and the whole base tree."""
    mirror = git.open(repo, url)
    places = [(base_sha, entry.path) for entry in git.list_tree(mirror, base_sha) if entry.type == "blob"]
    contents = (content for content in git.read_blobs(mirror, places).values() if content is not None)
    texts = (one.decode("utf-8", "replace") for one in contents if len(one) <= MAX_FILE_BYTES and b"\0" not in one)
    return Fix.of(parse_patch(blobs.get(patch_sha256)), core_files, texts)


def choose(title: str, body: str, leaks: Callable[[str], list[str]]) -> tuple[list[str], list[str]]:
    """Sentences of title and body that tell the problem and not the fix, and those that were left out."""
    kept: list[str] = []
    removed: list[str] = []
    for sentence in [title.strip(), *sentences(body)]:
        telling = _SOLUTION.search(sentence) or _REFERENCE.search(sentence) or leaks(sentence)
        (removed if telling else kept).append(sentence)
    return kept, removed


def sentences(body: str) -> list[str]:
    """Sentences of a message, each as it stands there but for its line breaks; code blocks are none."""
    prose = _CODE_BLOCK.sub("\n\n", _COMMENT.sub("", body.replace("\r\n", "\n")))
    lines = [line for line in prose.split("\n") if not _NO_PROSE.match(line)]
    found = (" ".join(part.split()).lstrip("-* ") for part in _SENTENCE_END.split("\n".join(lines)))
    return [sentence for sentence in found if len(sentence) >= SHORTEST_SENTENCE and " " in sentence]


def stands_in(part: str, title: str, body: str) -> bool:
    """Whether an extracted sentence stands in its source, white space apart."""
    return " ".join(part.split()) in " ".join(f"{title} {body}".split())


def measured_lines(blobs: Blobs, raw_sha256: str, settings: MeasureSettings) -> list[str]:
    """What was measured of the slow side, a line each: benchmarks that got faster, and their time before."""
    record = record_of(RawBlob.model_validate_json(blobs.get(raw_sha256)), settings)
    faster = [one for one in record.results if one.stage == "confirm" and one.decision == "faster"]
    return [
        f"- `{one.benchmark}`: {_duration(one.base_seconds)} a call"
        if one.base_seconds is not None
        else f"- `{one.benchmark}`: did not end in time"
        for one in faster
    ]


def render(repo: str, kept: list[str], measured: list[str]) -> str:
    """The statement."""
    reported = "".join(f"\n> {sentence}\n" for sentence in kept)
    template = Template(TEMPLATE_FILE.read_text())
    section = f"\n## What was reported\n{reported}" if kept else ""
    return template.substitute(repo=repo, reported=section, measured="\n".join(measured))


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
