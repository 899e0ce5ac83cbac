"""Sentences of a message or an issue, and whether a sentence stands in its source.

Here belongs taking texts apart. Which sentences are worth having is the matter of `extraction.py`; what is no prose is
said in `statement_rules.toml` (`lines`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

STANDS = 0.75  # FACTS: longest common subsequence of words, of a sentence and its source
SHORTEST = 20  # characters; what is shorter is a fragment ("Thanks!", "See below.")
LONGEST = 1_000  # what is longer is a log or a table
_CODE_BLOCK = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|^(?: {4}|\t)[^\n]*$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'(@])|\n\s*\n|\n(?=\s*(?:[-+]|\d+[.)]) )")
_PART = re.compile(r"(?<=[.!?])\s+|\n\s*\n|\n(?=\s*(?:[-+*>|#]|\d+[.)]) )")
_BULLET = re.compile(r"^(?:[-+]|\d+[.)]) ")
_SPAN = re.compile(r"`[^`]+`")
# What must stand there letter for letter: names with a dot, an underscore or brackets, calls, and numbers.
_EXACT = re.compile(r"[\w.]*[\w)\]](?:\.|_|\[|\()[\w.()\[\]]*|\d[\d.,]*")
_WORD = re.compile(r"[\w']+")
_DENIES = re.compile(r"\b(?:no|not|never|none|nothing|without|cannot|\w+n't)\b", re.IGNORECASE)


def sentences(text: str, no_prose: re.Pattern[str]) -> list[str]:
    """Sentences of a text, each as it stands there but for its line breaks; code blocks are none.

    Args:
        text: Markdown as people write it.
        no_prose: matches lines that are no part of any sentence.
    """
    prose = _CODE_BLOCK.sub("\n\n", _COMMENT.sub("\n\n", text.replace("\r\n", "\n")))
    # What is left out ends a sentence: two halves that stand apart are none of the source.
    lines = ["" if no_prose.match(line) else line for line in prose.split("\n")]
    found = (_BULLET.sub("", folded(part)) for part in _END.split("\n".join(lines)))
    return [sentence for sentence in found if SHORTEST <= len(sentence) <= LONGEST and " " in sentence]


def folded(text: str) -> str:
    """A text on one line."""
    return " ".join(text.split())


def stands_in(sentence: str, source: str) -> bool:
    """Whether a sentence stands in its source: word for word, or nearly.

    Nearly is: in one or two sentences of the source that follow each other, at least STANDS of its words, in their
    order; all code, names and numbers as they are; and no "not" more or less.
    """
    told, text = folded(sentence), folded(source)
    if told and told in text:
        return True
    if any(code not in text for code in _exact(told)):
        return False
    words = _words(told)
    parts = [part for part in (folded(one) for one in _PART.split(source)) if part]
    pairs = [f"{one} {two}" for one, two in pairwise(parts)]
    return bool(words) and any(_near(told, words, one) for one in (*parts, *pairs))


def _near(told: str, words: Sequence[str], part: str) -> bool:
    others = _words(part)
    needed = STANDS * len(words)
    if sum((Counter(words) & Counter(others)).values()) < needed:  # a cheap bound on what follows
        return False
    same_sense = Counter(_denials(told)) == Counter(_denials(part))
    return same_sense and all(code in part for code in _exact(told)) and common(words, others) >= needed


def common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for left in one:
        before = 0
        for place, right in enumerate(other, 1):
            before, row[place] = row[place], before + 1 if left == right else max(row[place], row[place - 1])
    return row[-1]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _denials(text: str) -> Iterable[str]:
    return ("not" for _ in _DENIES.findall(text))


def _exact(text: str) -> list[str]:
    return [*_SPAN.findall(text), *(one.rstrip(".,") for one in _EXACT.findall(_SPAN.sub(" ", text)))]
