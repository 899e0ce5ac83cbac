r"""Git patches: which paths a patch changes, and the lines it adds and removes.

Here belongs reading a patch as `git diff-tree -p` and GitHub write it. What the lines mean (`sieve.py`), and asking git
for them, does not belong here. Hunks are read by the counts in their headers, so that a line of content that looks like
a header is content. Paths and lines are text: bytes that are no UTF-8 stand as `\xNN`, as everywhere in the tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from formulamine.services.git_objects import unquote

_FILE = b"diff --git "
_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_PLACE = re.compile(r"-(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")
_HUNKS = re.compile(rb"\n" + _HUNK.pattern)
_ADDED, _REMOVED = re.compile(r"\n\+(.*)"), re.compile(r"\n-(.*)")
_QUOTED = rb'"(?:[^"\\]|\\.)*"'
_TWO_NAMES = re.compile(rb"(%b|.+) (%b|.+)" % (_QUOTED, _QUOTED), re.DOTALL)
_NOWHERE = b"/dev/null"


class DiffError(ValueError):
    """The patch is cut short or is none of git's."""


class Lines(NamedTuple):
    """Neighbouring lines of a file, before or afterwards."""

    start: int
    """Number of the first."""
    texts: Sequence[str]
    changed: Sequence[int]
    """Places among them, in order, of those that the patch removes (before) or adds (afterwards)."""


class Hunk(NamedTuple):
    """Neighbouring changes of one file, with the unchanged lines around them."""

    before: Lines
    after: Lines


@dataclass(frozen=True)
class FileDiff:
    """What a patch does to one file."""

    path: str
    """Where the file is afterwards; where it was, if it is deleted."""
    old_path: str
    """Where it was; differs from `path` for a rename or a copy."""
    added: tuple[str, ...] = ()
    """Added lines without their `+` and newline, in order."""
    removed: tuple[str, ...] = ()
    """Removed lines without their `-` and newline, in order."""
    binary: bool = False
    new: bool = False
    deleted: bool = False
    text: str = field(default="", repr=False, compare=False)
    """Its hunks as they stand in the patch."""

    @cached_property
    def hunks(self) -> tuple[Hunk, ...]:
        """The same lines where they stand, with the unchanged ones around them."""
        hunks = []
        for part in self.text.split("\n@@ ")[1:]:
            header, *lines = part.removesuffix("\n").split("\n")
            if found := _PLACE.match(header):
                hunks.append(_hunk(int(found[1]), int(found[2]), lines))
        return tuple(hunks)


def parse_patch(patch: bytes, wanted: Callable[[str], bool] = lambda path: True) -> tuple[FileDiff, ...]:
    """Read a patch.

    Args:
        patch: output of `git diff-tree -p` or the like, with git's prefixes `a/` and `b/`; what stands before the
            first file (a commit message) is passed over.
        wanted: of which paths the lines are read; other files have no entry.

    Returns:
        One entry per wanted file, in the order of the patch.

    Raises:
        DiffError: a hunk ends early, or a file's header cannot be read.
    """
    # Content begins with a blank or a sign, so that a line that begins like a header is one.
    files = (_file(part, wanted) for part in (b"\n" + patch).split(b"\n" + _FILE)[1:])
    return tuple(one for one in files if one is not None)


def _file(part: bytes, wanted: Callable[[str], bool]) -> FileDiff | None:
    """One file's part, from both names on; None where it is not wanted."""
    start = part.find(b"\n@@ ")
    header, hunks = (part, b"") if start < 0 else (part[:start], part[start:])
    names, *lines = header.split(b"\n")
    old, path = _names(names)
    binary = new = deleted = False
    for line in lines:
        if line.startswith((b"rename from ", b"copy from ")):
            old = unquote(line.split(b" from ", 1)[1])
        elif line.startswith((b"rename to ", b"copy to ")):
            path = unquote(line.split(b" to ", 1)[1])
        elif line.startswith(b"--- ") and (name := _named(line)) is not None:
            old = name
        elif line.startswith(b"+++ ") and (name := _named(line)) is not None:
            path = name
        new |= line.startswith(b"new file mode ")
        deleted |= line.startswith(b"deleted file mode ")
        binary |= line.startswith((b"Binary files ", b"GIT binary patch"))
    if not old or not path:
        raise DiffError(f"no path in {_text(names)[:200]!r}")
    if not wanted(_text(path)):
        return None
    text = _text(hunks)
    return FileDiff(_text(path), _text(old), *_changed(hunks, text), binary, new, deleted, text)


def _hunk(old_start: int, new_start: int, lines: list[str]) -> Hunk:
    """A hunk from its lines with their marks."""
    before: list[str] = []
    after: list[str] = []
    removed: list[int] = []
    added: list[int] = []
    for line in lines:
        mark, text = line[:1], line[1:]
        if mark == " " or not mark:  # some mailers drop the blank of an empty line
            before.append(text)
            after.append(text)
        elif mark == "+":
            added.append(len(after))
            after.append(text)
        elif mark == "-":
            removed.append(len(before))
            before.append(text)
    return Hunk(Lines(old_start, before, removed), Lines(new_start, after, added))


def _changed(hunks: bytes, text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lines that a file's hunks add and remove: at once where the counts of all headers agree, else one by one."""
    headers = _HUNKS.findall(hunks)
    if not headers:
        return (), ()
    added, removed = tuple(_ADDED.findall(text)), tuple(_REMOVED.findall(text))
    kept = hunks.count(b"\n ")
    before, after = zip(*headers, strict=True)
    whole = _total(before) == len(removed) + kept and _total(after) == len(added) + kept
    return (added, removed) if whole else _one_by_one(hunks.split(b"\n"))


def _total(counts: tuple[bytes, ...]) -> int:
    return sum(int(count or b"1") for count in counts)


def _one_by_one(lines: list[bytes]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The same from hunks that mailers have been at, or that are broken."""
    added: list[str] = []
    removed: list[str] = []
    at = 0
    while at < len(lines):
        hunk = _HUNK.match(lines[at])
        at += 1
        if hunk:
            at = _collect(lines, at, int(hunk[1] or b"1"), int(hunk[2] or b"1"), added, removed)
    return tuple(added), tuple(removed)


def _collect(lines: list[bytes], at: int, before: int, after: int, added: list[str], removed: list[str]) -> int:
    """Collect a hunk of so many lines before and after, and return the line after it."""
    while before > 0 or after > 0:
        if at >= len(lines):
            raise DiffError(f"a hunk ends {max(before, after)} lines early")
        mark, content = lines[at][:1], lines[at][1:]
        if mark == b"+":
            added.append(_text(content))
            after -= 1
        elif mark == b"-":
            removed.append(_text(content))
            before -= 1
        elif mark in (b" ", b""):  # some mailers drop the blank of an empty line
            before -= 1
            after -= 1
        elif mark != b"\\":  # "\ No newline at end of file" is no line
            raise DiffError(f"no line of a hunk: {_text(lines[at])[:200]!r}")
        at += 1
    if before < 0 or after < 0:
        raise DiffError("a hunk has more lines than its header says")
    return at


def _names(names: bytes) -> tuple[bytes | None, bytes | None]:
    """Both names in `a/x b/x`; None where they differ unquoted, as in a rename, which says them again."""
    middle = len(names) // 2
    if names[middle : middle + 1] == b" " and names[2:middle] == names[middle + 3 :] and names.startswith(b"a/"):
        return names[2:middle], names[middle + 3 :]
    if b'"' in names and (two := _TWO_NAMES.fullmatch(names)):
        return unquote(two[1])[2:], unquote(two[2])[2:]
    return None, None


def _named(line: bytes) -> bytes | None:
    """Name on a `---` or `+++` line without its prefix, None for /dev/null."""
    name = unquote(line[4:].removesuffix(b"\t"))  # git ends a name with blanks by a tab
    return None if name == _NOWHERE else name[2:]


def _text(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")
