"""Does a text tell the fix? Looked for in the rendered text, whatever it was made from.

A leak is a line that the fix adds, the same line with one name changed, or a name that it introduces. Lines and names
that stand in the base tree are no leak: whoever gets the task sees them anyway. So is what no statement may hold
whatever its fix: numbers, links, commits, branches, timings that give away how much there is to gain
(`leak_rules.toml`), and sentences that were found to tell the solution. Here belongs finding leaks; persons, hosts and
homes are `identity.py`'s matter, leaving sentences out is `statements.py`'s.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from keyword import kwlist
from pathlib import Path

from formulamine.discover.diff import FileDiff
from formulamine.ship.normal import loose, squeezed, strict, tokens, unfenced, unmarked, visible, word, words

RULES_FILE = Path(__file__).with_name("leak_rules.toml")
# FACTS: trivial lines match everything, so only these say something.
MIN_CHARACTERS = 12
MIN_TOKENS = 3
MIN_STRICT = 8  # characters of a line without quoting
MIN_LOOSE = 10  # characters of a line without the signs that a loose comparison ignores
MIN_NAME = 4  # shorter names (i, fn, key) are words of any text,
MIN_QUOTED_NAME = 2  # unless they are quoted as code
MIN_SPLIT_NAME = 8  # characters of a name that is found in spite of a line break inside of it
MIN_SENTENCE = 20  # characters of a sentence of the solution; shorter ones ("Done.") are no sentences of anything
SAME_WORDS = 5  # of a comment or docstring that is told with another word in it,
SAME_QUOTED = 2  # and of one that is quoted as code
MAX_FILE_BYTES = 1_000_000  # larger text files are data
_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORD = re.compile(r"\w+")
_NAME = re.compile(r"[^\W\d]\w*")
_ENDS = ",;:"  # what a line of code ends with, and whoever quotes it leaves out
_CODE = frozenset("=()[]{}:.@%&")
_KEYWORDS = frozenset(one.casefold() for one in (*kwlist, "cdef", "cpdef", "cimport", "nogil"))
_STATEMENT = re.compile(r"\s*(?:import|from|return|yield|raise|global|nonlocal|del|class|def|c(?:p?def|import))\b")
_QUOTED = re.compile(
    r"^[ \t>]*(?:`{3,}|~{3,})[^\n]*\n(.*?)(?:^[ \t>]*(?:`{3,}|~{3,})|\Z)|`([^`\n]+)`|^(?: {4}|\t)([^\n]+)$", re.M | re.S
)
_STRING = re.compile(
    r"""\b[rbuf]{0,2}(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'""", re.I
)
_COMMENT = re.compile(r"(?:^|\s)(?:#|//|/\*).*$")
_LINE_BREAK = re.compile(r"-?\n[\s>]*")
_DECORATOR = re.compile(r"@([^\W_]+)")  # of a strict form
_HASH = re.compile(r"\b[0-9a-f]{7,40}\b", re.IGNORECASE)


class Rule(StrEnum):
    """What a text tells."""

    LINE = "line"
    RENAMED_LINE = "renamed_line"
    NAME = "name"
    COMMIT = "commit"
    BRANCH = "branch"
    NUMBER = "number"
    LINK = "link"
    TIMING = "timing"
    SOLUTION = "solution"
    PERSON = "person"
    MAIL = "mail"
    HOST = "host"
    HOME = "home"


@dataclass(frozen=True, order=True)
class Leak:
    """One thing that a text tells: by which rule, and the words."""

    rule: Rule
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


def _patterns() -> list[tuple[Rule, re.Pattern[str]]]:
    rules = tomllib.loads(RULES_FILE.read_text(encoding="utf-8"))
    kinds = {
        Rule.NUMBER: "numbers", Rule.LINK: "links", Rule.COMMIT: "commits", Rule.BRANCH: "branches",
        Rule.TIMING: "timings",
    }  # fmt: skip
    return [
        (kind, re.compile(one.replace("DURATION", rules["duration"]), re.IGNORECASE))
        for kind, name in kinds.items()
        for one in rules[name]
    ]


_PATTERNS = _patterns()


@dataclass(frozen=True)
class Base:
    """What everybody sees: lines and words of the base tree."""

    lines: frozenset[str]
    """In their squeezed form."""
    strict_lines: frozenset[str]
    loose_lines: frozenset[str]
    words: frozenset[str]
    small_words: frozenset[str]
    """Words, and parts of names, in small letters: none of them is a person's name and nothing else."""
    decorators: frozenset[str]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Base:
        """Read a tree's texts."""
        lines: set[str] = set()
        found: set[str] = set()
        for text in texts:
            seen = visible(text)
            lines.update(map(squeezed, seen.splitlines()))
            found.update(_WORD.findall(seen))
        return cls(
            frozenset(lines),
            frozenset(map(strict, lines)),
            frozenset(map(unmarked, lines)),
            frozenset(map(word, found)),
            frozenset(part for one in found for part in one.split("_") if part.islower()),
            frozenset(match[1] for line in lines if (match := _DECORATOR.match(line))),
        )


@dataclass(frozen=True)
class Fix:
    """What only the fix has. Lines and names stand as the patch has them, by the forms in which they are looked for."""

    lines: Mapping[str, str]
    exact_lines: Mapping[str, str]
    """Those that base has with other quoting, or that are little else: looked for with theirs."""
    loose_lines: Mapping[str, str]
    shapes: Mapping[tuple[str, ...], Sequence[tuple[list[str], str]]]
    names: Mapping[str, str]
    shas: frozenset[str]
    branches: frozenset[str]
    base: Base = field(repr=False)

    @classmethod
    def of(
        cls,
        diffs: Iterable[FileDiff],
        core_files: Iterable[str],
        base: Base,
        shas: Iterable[str] = (),
        branches: Iterable[str] = (),
    ) -> Fix:
        """What a patch adds to a base tree.

        Args:
            diffs: the parsed patch.
            core_files: paths outside tests, documentation and benchmarks: names introduced elsewhere tell nothing.
            base: what everybody sees.
            shas: full ids of commits that no text may name, however short.
            branches: names of the branches that were merged.
        """
        core = set(core_files)
        lines: dict[str, str] = {}
        exact: dict[str, str] = {}
        names: dict[str, str] = {}
        for one in diffs:
            for line in one.added:
                folded, seen = " ".join(line.split()), visible(line)
                if _telling(folded) and squeezed(seen) not in base.lines:
                    if strict(seen) in base.strict_lines or len(strict(seen)) < MIN_STRICT:
                        exact[squeezed(seen)] = folded
                    else:
                        lines[strict(seen)] = folded
                if one.path in core:
                    names |= {word(name): name for name in _identifiers(visible(line))}
        loosened: dict[str, str] = {}
        shapes: dict[tuple[str, ...], list[tuple[list[str], str]]] = {}
        for form, folded in lines.items():
            bare = unmarked(form).rstrip(_ENDS)
            if len(bare) >= MIN_LOOSE and not base.loose_lines & {bare, *(bare + end for end in _ENDS)}:
                loosened[bare] = folded
            told = tokens(visible(folded).rstrip(f"{_ENDS} "))
            if len(told) >= MIN_TOKENS:
                shapes.setdefault(_shape(told), []).append((told, folded))
        names = {form: name for form, name in names.items() if form and form not in base.words}
        own = {one for one in branches if len(one) >= MIN_SPLIT_NAME and word(one) not in base.words}
        return cls(lines, exact, loosened, shapes, names, frozenset(shas), frozenset(own), base)

    def leaks(self, text: str, solution: Iterable[str] = ()) -> list[Leak]:
        """What a text tells, sorted; empty where it tells nothing.

        Args:
            text: as it would be shown.
            solution: sentences that were found to tell the solution.
        """
        seen = visible(text)
        bare = unfenced(seen)
        lines = self._lines(seen, bare)
        found = {Leak(Rule.LINE, line) for line in lines}
        code = "\n".join("".join(groups) for groups in _QUOTED.findall(seen))
        renamed = {*self._renamed(bare, SAME_WORDS), *self._renamed(unfenced(code), SAME_QUOTED)}
        found |= {Leak(Rule.RENAMED_LINE, line) for line in renamed - lines}
        found |= {Leak(Rule.NAME, name) for name in self._names(bare, code)}
        found |= {Leak(Rule.COMMIT, one) for one in _HASH.findall(seen) if self._is_ours(one.lower())}
        found |= {Leak(Rule.BRANCH, one) for one in self.branches if one.casefold() in seen.casefold()}
        flat = " ".join(bare.split())
        found |= {Leak(rule, match[0]) for rule, pattern in _PATTERNS if (match := pattern.search(flat))}
        letters = _letters(bare)
        found |= {Leak(Rule.SOLUTION, one) for one in solution if len(one) >= MIN_SENTENCE and _letters(one) in letters}
        return sorted(found)

    def _lines(self, seen: str, bare: str) -> set[str]:
        """Added lines, however they are broken, quoted or set off."""
        found: set[str] = set()
        for put in (seen, bare):
            exact, bare_form = squeezed(put), strict(put)
            found |= {line for form, line in self.lines.items() if form in bare_form}
            found |= {line for form, line in self.exact_lines.items() if form in exact}
        flat = loose(bare)
        return found | {line for form, line in self.loose_lines.items() if form in flat}

    def _renamed(self, text: str, same: int) -> Iterator[str]:
        """Added lines that stand there with one name changed, unless base has that line too.

        Of prose, `same` words must be the same.
        """
        told = tokens(text)
        for size in {len(shape) for shape in self.shapes}:
            for start in range(len(told) - size + 1):
                window = told[start : start + size]
                for original, line in self.shapes.get(_shape(window), ()):
                    if _one_renamed(original, window, same) and "".join(window) not in self.base.loose_lines:
                        yield line

    def _names(self, bare: str, code: str) -> Iterator[str]:
        """Introduced names, in whichever letters; short ones only where they are quoted as code."""
        told = words(bare)
        quoted = words(code)
        unbroken = words(_LINE_BREAK.sub("", bare))
        for form, name in self.names.items():
            said = form in (told if len(form) >= MIN_NAME else quoted) and len(form) >= MIN_QUOTED_NAME
            if said or (len(form) >= MIN_SPLIT_NAME and form in unbroken):
                yield name

    def _is_ours(self, found: str) -> bool:
        return any(sha.startswith(found) for sha in self.shas)


def _telling(folded: str) -> bool:
    enough = len(folded.replace(" ", "")) >= MIN_CHARACTERS
    return enough and len(_TOKEN.findall(folded)) >= MIN_TOKENS


def _identifiers(line: str) -> Iterator[str]:
    """Identifiers of a line of code; words of comments, strings and docstrings are none."""
    code = _COMMENT.sub("", _STRING.sub(" ", line))
    prose = not _CODE.intersection(code) and not _STATEMENT.match(code) and len(code.split()) > MIN_TOKENS
    if not prose:
        yield from (name for name in _NAME.findall(code) if name.casefold() not in _KEYWORDS)


def _is_name(token: str) -> bool:
    return not token.isdigit() and _NAME.fullmatch(token) is not None and token not in _KEYWORDS


def _shape(told: Sequence[str]) -> tuple[str, ...]:
    """A line's tokens with every name alike."""
    return tuple("name" if _is_name(one) else one for one in told)


def _one_renamed(original: Sequence[str], other: Sequence[str], least: int) -> bool:
    """Whether two lines of one shape differ in one name, everywhere, and share enough to be the same line."""
    changed = {pair for pair in zip(original, other, strict=True) if pair[0] != pair[1]}
    if len(changed) != 1:
        return False
    before, _ = next(iter(changed))
    same = [one for one, two in zip(original, other, strict=True) if one == two and one[0].isalnum()]
    if before in same:
        return False
    if not _CODE.intersection(original):
        return len(same) >= least
    return len(set(same)) > 1 or (len(set(same)) == 1 and len(original) > MIN_TOKENS)


def _letters(text: str) -> str:
    return "".join(one for one in text.casefold() if one.isalnum())
