r"""Git patches: which paths a patch changes, and the lines it adds and removes.

Here belongs reading a patch as `git diff-tree -p` and GitHub write it. What the lines mean (`sieve.py`), and asking git
for them, does not belong here. Hunks are read by the counts in their headers, so that a line of content that looks like
a header is content. Paths and lines are text: bytes that are no UTF-8 stand as `\xNN`, as everywhere in the tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FILE = b"diff --git "
_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_ESCAPE = re.compile(rb'\\([0-7]{3}|[abtnvfr"\\])')
_QUOTED = rb'"(?:[^"\\]|\\.)*"'
_TWO_NAMES = re.compile(rb"(%b|.+) (%b|.+)" % (_QUOTED, _QUOTED), re.DOTALL)
# quote.c of git: what stands after a backslash besides three octal digits.
_LETTERS = dict(zip(b'abtnvfr"\\', b'\a\b\t\n\v\f\r"\\', strict=True))
_NOWHERE = b"/dev/null"


class DiffError(ValueError):
    """The patch is cut short or is none of git's."""


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


def parse_patch(patch: bytes) -> tuple[FileDiff, ...]:
    """Read a patch.

    Args:
        patch: output of `git diff-tree -p` or the like, with git's prefixes `a/` and `b/`; what stands before the
            first file (a commit message) is passed over.

    Returns:
        One entry per file, in the order of the patch.

    Raises:
        DiffError: a hunk ends early, or a file's header cannot be read.
    """
    lines = patch.split(b"\n")
    files = []
    at = 0
    while at < len(lines):
        if lines[at].startswith(_FILE):
            one, at = _file(lines, at)
            files.append(one)
        else:
            at += 1
    return tuple(files)


def _file(lines: list[bytes], at: int) -> tuple[FileDiff, int]:
    """One file's part, which starts at line `at`, and the line after it."""
    old, path = _names(lines[at])
    added: list[str] = []
    removed: list[str] = []
    binary = new = deleted = False
    at += 1
    while at < len(lines) and not lines[at].startswith(_FILE):
        line = lines[at]
        at += 1
        if hunk := _HUNK.match(line):
            at = _hunk(lines, at, int(hunk[1] or b"1"), int(hunk[2] or b"1"), added, removed)
        elif line.startswith((b"rename from ", b"copy from ")):
            old = _unquote(line.split(b" from ", 1)[1])
        elif line.startswith((b"rename to ", b"copy to ")):
            path = _unquote(line.split(b" to ", 1)[1])
        elif line.startswith(b"--- ") and (name := _named(line)) is not None:
            old = name
        elif line.startswith(b"+++ ") and (name := _named(line)) is not None:
            path = name
        new |= line.startswith(b"new file mode ")
        deleted |= line.startswith(b"deleted file mode ")
        binary |= line.startswith((b"Binary files ", b"GIT binary patch"))
    if not old or not path:
        raise DiffError(f"no path in {_text(lines[at - 1])[:200]!r}")
    return FileDiff(_text(path), _text(old), tuple(added), tuple(removed), binary, new, deleted), at


def _hunk(lines: list[bytes], at: int, before: int, after: int, added: list[str], removed: list[str]) -> int:
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


def _names(header: bytes) -> tuple[bytes | None, bytes | None]:
    """Both names of `diff --git a/x b/x`; None where they differ unquoted, as in a rename, which says them again."""
    names = header[len(_FILE) :]
    middle = len(names) // 2
    if names[middle : middle + 1] == b" " and names[2:middle] == names[middle + 3 :] and names.startswith(b"a/"):
        return names[2:middle], names[middle + 3 :]
    if b'"' in names and (two := _TWO_NAMES.fullmatch(names)):
        return _unquote(two[1])[2:], _unquote(two[2])[2:]
    return None, None


def _named(line: bytes) -> bytes | None:
    """Name on a `---` or `+++` line without its prefix, None for /dev/null."""
    name = _unquote(line[4:].removesuffix(b"\t"))  # git ends a name with blanks by a tab
    return None if name == _NOWHERE else name[2:]


def _unquote(name: bytes) -> bytes:
    """Undo git's C-style quoting."""
    if not (len(name) >= 2 and name.startswith(b'"') and name.endswith(b'"')):
        return name
    return _ESCAPE.sub(lambda found: bytes([_byte(found[1])]), name[1:-1])


def _byte(escape: bytes) -> int:
    return _LETTERS[escape[0]] if len(escape) == 1 else int(escape, 8)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")
