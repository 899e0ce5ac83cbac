"""Which sentences of what was written tell the problem, and which the solution.

Here belongs sorting sentences into four sections, by rules (`statement_rules.toml`) or by a model
(`prompts/statement.md`). Only the first two may be shown. Sentences are taken as they stand, never rewritten. What a
sentence gives away besides is `leak.py`'s matter, what becomes of all of it is `statements.py`'s.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from formulamine.services.llm import Answer, Llm, Prompt, Question
from formulamine.ship.issues import Document
from formulamine.ship.sentences import LONGEST, folded, sentences

RULES_FILE = Path(__file__).with_name("statement_rules.toml")
PROMPT_FILE = Path(__file__).with_name("prompts") / "statement.md"
BY_RULES = "rules"
# Characters of a document and of all of them that a model is shown, some 12,000 tokens: long issues end in logs.
DOCUMENT_CHARACTERS, ALL_CHARACTERS = 8_000, 48_000
_RULES = tomllib.loads(RULES_FILE.read_text(encoding="utf-8"))


class Section(StrEnum):
    """What a sentence tells."""

    INITIAL_OBSERVATIONS = "initial_observations"
    TRIAGE = "triage"
    SOLUTION_OVERVIEW = "solution_overview"
    SOLUTION_OBSERVATIONS = "solution_observations"


SHOWN = (Section.INITIAL_OBSERVATIONS, Section.TRIAGE)
SOLUTION = (Section.SOLUTION_OVERVIEW, Section.SOLUTION_OBSERVATIONS)


@dataclass(frozen=True)
class Extracted:
    """A sentence and the document that it is said to stand in; without a section it tells nothing of interest."""

    text: str
    section: Section | None
    document: Document


class Quote(BaseModel):
    """A sentence of a document."""

    model_config = ConfigDict(extra="forbid")

    document: int = Field(description="number of the document that the sentence stands in")
    sentence: str = Field(description="the sentence, copied letter for letter")


class Extraction(BaseModel):
    """Sentences of the documents, each in the section that it belongs to."""

    model_config = ConfigDict(extra="forbid")

    initial_observations: list[Quote] = Field(description="what was seen: what is slow, on which input, how slow")
    triage: list[Quote] = Field(description="what was found out about the cause in the code before the change")
    solution_overview: list[Quote] = Field(description="what was changed, or could be changed")
    solution_observations: list[Quote] = Field(description="what was seen after a change: speedups, new timings")


def _rule(name: str, around: str = "{}") -> re.Pattern[str]:
    return re.compile(around.format(f"(?:{'|'.join(_RULES[name])})"), re.IGNORECASE)


_BEFORE_VERB = r"(?:[\w ./-]+(?:\([^)]*\))?!?\]?:\s*|\[[^\]]*\]\s*)?"
_SEEN = (
    rf"(?!(?:{'|'.join(_RULES['changes'])}))\w+ing\b.*"
    r"\b(?:is|are|was|were|takes?|took|spen[dt]s?|wastes?|costs?|needs?)\b"
)
_NO_PROSE = _rule("lines", r"^\s*{}")
_PROBLEM = _rule("problems")
_CAUSE = _rule("causes")
_ASIDE = (_rule("references"), _rule("ceremony"))
_RESULT = _rule("results")
_SOLUTION = (
    _rule("solutions"),
    # "Avoiding copies" tells what was done, "Merging tables takes 3 s" does not.
    _rule("verbs", rf"^\W*{_BEFORE_VERB}(?!{_SEEN}){{}}\w*\b"),
    _rule("verbs", r"(?:[:;]| -) {}\w*\b"),
)
_PREFIX = _rule("prefixes", r"^{}")
_FEATURE = _rule("features", r"^\W*{}")
_NOTHING_SAID = _rule("nothing_said", r"^\W*(?:\b{}\b\W*)*$")


def split(document: Document) -> list[str]:
    """Sentences of a document; a title is one, however short, without the project's prefix."""
    if document.kind == "title":
        title = _PREFIX.sub("", folded(document.text)).strip()
        return [title] if title and len(title) <= LONGEST else []
    return sentences(document.text, _NO_PROSE)


def tells_solution(sentence: str) -> Section | None:
    """The section of a sentence that by rules tells the solution."""
    if _RESULT.search(sentence):
        return Section.SOLUTION_OBSERVATIONS
    return Section.SOLUTION_OVERVIEW if any(rule.search(sentence) for rule in _SOLUTION) else None


def says_nothing(sentences: Sequence[str]) -> bool:
    """Whether sentences say no more than that something is to be faster."""
    return all(_NOTHING_SAID.match(one) for one in sentences)


def by_rules(documents: Sequence[Document]) -> list[Extracted]:
    """Every sentence of the documents, sorted by keywords."""
    return [
        Extracted(sentence, _section(sentence, document), document)
        for document in documents
        for sentence in split(document)
    ]


def _section(sentence: str, document: Document) -> Section | None:
    if any(rule.search(sentence) for rule in _ASIDE):
        return None
    if told := tells_solution(sentence):
        return told
    if document.kind == "title" and _FEATURE.search(folded(document.text)):
        return Section.SOLUTION_OVERVIEW
    if document.kind != "title" and not _PROBLEM.search(sentence):
        return None
    return Section.TRIAGE if _CAUSE.search(sentence) else Section.INITIAL_OBSERVATIONS


def by_model(llm: Llm, documents: Sequence[Document], item: str) -> tuple[list[Extracted], Answer[Extraction]]:
    """Sentences that a model quotes, and its answer with what that cost.

    Args:
        llm: its chain for "statement" is asked.
        documents: what was written, with nobody named.
        item: whose cost it is.

    Raises:
        LlmError: there is no answer.
        Cancelled: the run was told to end.
    """
    numbered = dict(enumerate(documents, 1))

    def check(answer: Extraction) -> str:
        unknown = {quote.document for section in Section for quote in getattr(answer, section)} - numbered.keys()
        return f"there is no document {min(unknown)}" if unknown else ""

    question = Question(Prompt.load(PROMPT_FILE), question_text(documents), Extraction, item=item, check=check)
    answer = llm.ask(question, llm.models("statement"))
    found = [
        Extracted(sentence, section, numbered[quote.document])
        for section in Section
        for quote in getattr(answer.value, section)
        for sentence in [folded(quote.sentence)[:LONGEST]]
        if sentence
    ]
    return found, answer


def question_text(documents: Sequence[Document]) -> str:
    """What a model is shown."""
    parts = []
    room = ALL_CHARACTERS
    for number, one in enumerate(documents, 1):
        text = one.text[: min(DOCUMENT_CHARACTERS, room)].replace("</document", "< /document")
        room -= len(text)
        parts.append(f'<document number="{number}" kind="{one.kind}">\n{text}\n</document>')
    return "\n\n".join(parts) + "\n"
