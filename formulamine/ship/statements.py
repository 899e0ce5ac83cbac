"""Problem statements: what an agent is told, from what stood before the fix and from what was measured.

Here belongs choosing sentences (by `statement_rules.toml`) and rendering the template (`statement.md.tmpl`). Sentences
are taken as they stand or left out, never rewritten. What counts as telling the fix is `leak.py`'s matter.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
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
RULES_FILE = Path(__file__).with_name("statement_rules.toml")
SHORTEST_SENTENCE = 20  # characters; what is shorter is a fragment ("Thanks!", "See below.")
BATCH = 256  # files of a base tree read at a time
_CODE_BLOCK = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|^(?: {4}|\t)[^\n]*$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_RULES: dict[str, list[str]] = tomllib.loads(RULES_FILE.read_text(encoding="utf-8"))


def _rule(name: str, around: str = "{}") -> re.Pattern[str]:
    return re.compile(around.format(f"(?:{'|'.join(_RULES[name])})"), re.IGNORECASE)


_NO_PROSE = _rule("lines", r"^\s*{}")
_PROBLEM = _rule("problems")
_UNWANTED = (
    _rule("references"),
    _rule("ceremony"),
    _rule("solutions"),
    _rule("verbs", r"^\W*(?:[\w ./-]+(?:\([^)]*\))?!?\]?:\s*|\[[^\]]*\]\s*)?{}\w*\b"),
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'(])|\n\s*\n|\n(?=\s*(?:[-+]|\d+[.)]) )")
_BULLET = re.compile(r"^(?:[-+]|\d+[.)]) ")


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
        title = item.title.strip()
        sources = (["title"] if title in kept else []) + (["message"] if set(kept) - {title} else [])
        return Done(
            ProblemStatement(
                statement=statement, sources=[*sources, "measured"], parts=kept, fidelity=1.0, removed=removed
            )
        )


def fix_of(repo: str, url: str, base_sha: str, patch_sha256: str, core_files: list[str], git: Git, blobs: Blobs) -> Fix:
    """What only the fix has, from its patch and the whole base tree; the template's words are everybody's too."""
    mirror = git.open(repo, url)
    places = [(base_sha, entry.path) for entry in git.list_tree(mirror, base_sha) if entry.type == "blob"]

    def texts() -> Iterator[str]:
        yield TEMPLATE_FILE.read_text()
        for start in range(0, len(places), BATCH):
            for content in git.read_blobs(mirror, places[start : start + BATCH]).values():
                if content is not None and len(content) <= MAX_FILE_BYTES and b"\0" not in content:
                    yield content.decode("utf-8", "replace")

    return Fix.of(parse_patch(blobs.get(patch_sha256)), core_files, texts())


def choose(title: str, body: str, leaks: Callable[[str], list[str]]) -> tuple[list[str], list[str]]:
    """Sentences of title and body that tell the problem and not the fix, and those that were left out."""
    kept: list[str] = []
    removed: list[str] = []
    for sentence in filter(None, dict.fromkeys([title.strip(), *sentences(body)])):
        aside = sentence != title.strip() and not _PROBLEM.search(sentence)
        unwanted = aside or any(rule.search(sentence) for rule in _UNWANTED) or leaks(sentence)
        (removed if unwanted else kept).append(sentence)
    return kept, removed


def sentences(body: str) -> list[str]:
    """Sentences of a message, each as it stands there but for its line breaks; code blocks are none."""
    prose = _CODE_BLOCK.sub("\n\n", _COMMENT.sub("\n\n", body.replace("\r\n", "\n")))
    # What is left out ends a sentence: two halves that stand apart are none of the source.
    lines = ["" if _NO_PROSE.match(line) else line for line in prose.split("\n")]
    found = (_BULLET.sub("", " ".join(part.split())) for part in _SENTENCE_END.split("\n".join(lines)))
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
