"""Does a text tell the fix? Looked for in the rendered text, whatever it was made from.

A leak is a line that the fix adds, or a name that it introduces. Lines and names that stand in the base tree are no
leak: whoever gets the task sees them anyway. Here belongs finding leaks; leaving sentences out is `statements.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from formulamine.discover.diff import FileDiff

# FACTS: trivial lines match everything, so only these say something.
MIN_CHARACTERS = 12
MIN_TOKENS = 3
MIN_NAME = 4  # shorter names (i, fn, key) are words of any text
MAX_FILE_BYTES = 1_000_000  # larger text files are data
_TOKEN = re.compile(r"\w+|[^\w\s]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Definitions, imports, loop variables; targets of assignments; parameters with a default and keywords of calls.
_DEFINED = re.compile(
    r"\bcp?def\b[^(=:]*?([A-Za-z_]\w*)\s*\(|\b(?:def|class|fn|struct|import|as|for)\s+([A-Za-z_]\w*)|"
    r"\b([A-Za-z_]\w*)\s*(?::[^=]*)?=(?!=)"
)


@dataclass(frozen=True)
class Fix:
    """What only the fix has: added lines, with white space folded, and introduced names."""

    lines: frozenset[str]
    names: frozenset[str]

    @classmethod
    def of(cls, diffs: Iterable[FileDiff], core_files: Iterable[str], base_texts: Iterable[str]) -> Fix:
        """What a patch adds to the core files of a base tree.

        Args:
            diffs: the parsed patch.
            core_files: paths outside tests, documentation and benchmarks: names introduced elsewhere tell nothing.
            base_texts: contents of the base tree's text files.
        """
        core = set(core_files)
        base_lines: set[str] = set()
        base_names: set[str] = set()
        for text in base_texts:
            base_lines |= {_folded(line) for line in text.splitlines()}
            base_names |= set(_NAME.findall(text))
        lines, names = set(), set()
        for one in diffs:
            for line in one.added:
                folded = _folded(line)
                if _telling(folded) and folded not in base_lines:
                    lines.add(folded)
                if one.path in core:
                    names |= {name for pair in _DEFINED.findall(line) for name in pair if name}
        return cls(frozenset(lines), frozenset(name for name in names - base_names if len(name) >= MIN_NAME))

    def leaks(self, text: str) -> list[str]:
        """Lines and names of the fix that a text tells, sorted; empty where it tells none."""
        folded = _folded(text)
        words = set(_NAME.findall(text))
        return sorted({line for line in self.lines if line in folded} | (self.names & words))


def _folded(text: str) -> str:
    return " ".join(text.split())


def _telling(folded: str) -> bool:
    enough = len(folded.replace(" ", "")) >= MIN_CHARACTERS
    return enough and len(_TOKEN.findall(folded)) >= MIN_TOKENS
