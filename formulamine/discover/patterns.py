"""Many patterns searched in one text at once.

RE2 reads a text once for all patterns and says which may be found in it; Python's `re` has the last word on those few.
So answers are Python's, and texts in which nothing is found, as are most lines of code, cost one pass.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

import re2

Key = TypeVar("Key", bound=Hashable)

_FLAGS = re.compile(r"^\(\?[a-z]+\)")
_BLANKS = re.compile(r"(\\.|\[(?:\\.|[^\]])*\])|\s+|#.*")  # what (?x) ignores, where group 1 is empty
_LOOKAROUND = re.compile(r"\(\?<?[=!][^()]*\)")
# Text of which RE2 and Python may think otherwise (letters and blanks beyond ASCII): Python alone reads it.
_OTHERWISE = r"[^\t\n\f\r -~]"


class Patterns(Generic[Key]):
    """Patterns by a name of the caller's. Threads may share it."""

    def __init__(self, patterns: Mapping[Key, re.Pattern[str]]) -> None:
        """Compile them.

        Raises:
            ValueError: RE2 cannot read one.
        """
        self._patterns = tuple(patterns.items())
        self._filter = re2.Set.SearchSet()
        try:
            for pattern in patterns.values():
                self._filter.Add(_widened(pattern))
            self._filter.Add(_OTHERWISE)
            self._filter.Compile()
        except re2.error as error:
            raise ValueError(str(error)) from error
        if not self._filter.Match("\0"):
            raise ValueError("too many patterns for the memory of RE2, which then finds none")

    def search(self, text: str) -> Iterator[tuple[Key, re.Match[str]]]:
        """Names of the patterns that are found, in the order in which they were given, with what is found first."""
        return self._found(text, self._filter.Match(text))

    def search_lines(self, lines: Sequence[str]) -> Iterator[tuple[Key, int, re.Match[str]]]:
        """What is found in each of some lines, with the place of the line, in the order of the lines.

        They are read together, then by halves where something may be in them: in most there is nothing.
        """
        text = "\n".join(lines).encode()
        if not lines or not self._filter.Match(text):
            return
        starts = [0, *accumulate(len(line.encode()) + 1 for line in lines)]
        parts = [(0, len(lines))]
        while parts:
            start, end = parts.pop()
            places = self._filter.Match(text[starts[start] : starts[end] - 1])
            if places and end - start > 1:
                middle = (start + end) // 2
                parts += [(middle, end), (start, middle)]
            elif places:
                for key, found in self._found(lines[start], places):
                    yield key, start, found

    def _found(self, text: str, places: Sequence[int] | None) -> Iterator[tuple[Key, re.Match[str]]]:
        """What Python finds of the patterns that RE2 may have found."""
        if not places:
            return
        patterns = self._patterns
        for place in range(len(patterns)) if len(patterns) in places else sorted(places):
            key, pattern = patterns[place]
            if found := pattern.search(text):
                yield key, found


def _widened(pattern: re.Pattern[str]) -> str:
    """A pattern that RE2 can read and that finds whatever the given one does, in any line of a text.

    It may find more: it knows no lookaround, and its lines begin and end anywhere in the text.
    """
    text = _FLAGS.sub("", pattern.pattern)
    if pattern.flags & re.VERBOSE:
        text = _BLANKS.sub(lambda part: part[1] or "", text)
    flags = "".join(letter for letter, flag in (("i", re.I), ("s", re.S)) if pattern.flags & flag)
    return f"(?m{flags})" + _LOOKAROUND.sub("", text)
