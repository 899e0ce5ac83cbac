"""What git's processes answer: commits, tree entries, and a stream of them taken apart.

Here belongs reading git's bytes as values. It starts nothing and touches no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

_PERSON = re.compile(rb"(?P<name>.*?) ?<(?P<email>[^>]*)>.*? (?P<time>\d+) [+-]\d+$", re.DOTALL)
_ESCAPE = re.compile(rb'\\([0-7]{3}|[abtnvfr"\\])')
# quote.c of git: what stands after a backslash besides three octal digits.
_LETTERS = dict(zip(b'abtnvfr"\\', b'\a\b\t\n\v\f\r"\\', strict=True))
_LAST_SECOND = 253402300799  # of the year 9999: some clocks are further ahead


@dataclass(frozen=True)
class Commit:
    """One commit; texts are decoded by its own encoding."""

    sha: str
    parents: tuple[str, ...]
    committed_at: datetime
    """Committer time, UTC."""
    author_name: str
    author_email: str
    subject: str
    """First line of the message."""
    body: str
    """The rest of it."""


@dataclass(frozen=True)
class TreeEntry:
    """One entry of a tree."""

    mode: str
    """As git writes it: 100644, 100755, 120000 (symlink), 160000 (submodule), 040000 (folder)."""
    type: str
    """blob, tree or commit (a submodule)."""
    sha: str
    path: str
    r"""From the root of the repository; bytes that are no UTF-8 stand as `\xNN`."""


def parse_commit(sha: str, raw: bytes) -> Commit:
    """A commit from its object. Never fails on text: what cannot be decoded as declared is read as UTF-8 or Latin-1."""
    head, _, message = raw.partition(b"\n\n")
    fields: dict[bytes, list[bytes]] = {}
    for line in head.split(b"\n"):
        if not line.startswith(b" "):  # else it continues a signature
            key, _, value = line.partition(b" ")
            fields.setdefault(key, []).append(value)
    encoding = fields.get(b"encoding", [b"utf-8"])[0].decode("ascii", "replace")
    author, committer = (_PERSON.match(fields.get(role, [b""])[0]) for role in (b"author", b"committer"))
    seconds = min(int(committer["time"]), _LAST_SECOND) if committer else 0  # as git counts a malformed one
    subject, _, body = message.lstrip(b"\n").partition(b"\n")
    return Commit(
        sha=sha,
        parents=tuple(parent.decode() for parent in fields.get(b"parent", [])),
        committed_at=datetime.fromtimestamp(seconds, UTC),
        author_name=_decode(author["name"], encoding) if author else "",
        author_email=_decode(author["email"], encoding) if author else "",
        subject=_decode(subject, encoding).strip(),
        body=_decode(body, encoding).strip(),
    )


def _decode(text: bytes, encoding: str) -> str:
    for candidate in (encoding, "utf-8"):
        try:
            decoded = text.decode(candidate)
            if candidate != "utf-8":
                decoded.encode("utf-8")  # some encodings can write half of a character, which no table can keep
        except (LookupError, ValueError):  # an unknown name, or bytes that are not in it
            continue
        return decoded.replace("\r\n", "\n")  # as GitHub's buttons write bodies
    return text.decode("latin-1")


def text_of(path: bytes) -> str:
    r"""A path or name as text; bytes that are no UTF-8 stand as `\xNN`."""
    return path.decode("utf-8", "backslashreplace")


def file_changes(patch: bytes) -> list[tuple[str, int, int]]:
    """Path, lines added and lines removed of each file in a patch of git without renames, as `--numstat` counts them.

    Git begins every line of content with a blank, a sign or a letter of base 85 without blanks, so that a header is
    where it looks like one. A path whose type changed (a file, once a symlink) has two parts, which are one change.
    """
    changes: dict[str, tuple[int, int]] = {}
    for part in (b"\n" + patch).split(b"\ndiff --git ")[1:]:
        names, _, rest = part.partition(b"\n")
        path = text_of(unquote(names[: len(names) // 2])[2:])  # without renames both names are one, of equal length
        hunks = rest.partition(b"\n@@ ")[2]
        more, less = changes.get(path, (0, 0))
        changes[path] = more + hunks.count(b"\n+"), less + hunks.count(b"\n-")
    return [(path, more, less) for path, (more, less) in changes.items()]


def unquote(name: bytes) -> bytes:
    """Undo git's C-style quoting of a path."""
    if not (len(name) >= 2 and name.startswith(b'"') and name.endswith(b'"')):
        return name
    return _ESCAPE.sub(lambda found: bytes([_byte(found[1])]), name[1:-1])


def _byte(escape: bytes) -> int:
    return _LETTERS[escape[0]] if len(escape) == 1 else int(escape, 8)


class Reader:
    """Lines and counted bytes from pieces as they come."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = bytearray()

    def line(self) -> bytes:
        """The next line with its newline."""
        end = self._find(b"\n")
        return self._take(len(self._buffer) if end is None else end + 1)

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        while len(self._buffer) < size and self._more():
            pass
        if len(self._buffer) < size:
            raise EOFError("git ended in the middle of an object")
        return self._take(size)

    def until_line(self, line: bytes) -> bytes:
        """Everything before the next line that is `line`; that line is read too."""
        if self._starts_with(line + b"\n"):
            self._take(len(line) + 1)
            return b""
        end = self._find(b"\n" + line + b"\n")
        if end is None:
            raise EOFError("git ended before the last commit")
        content = self._take(end + 1)
        self._take(len(line) + 1)
        return content

    def rest(self) -> bytes:
        """Everything that is left; an error of the process shows here."""
        while self._more():
            pass
        return self._take(len(self._buffer))

    def _starts_with(self, text: bytes) -> bool:
        while len(self._buffer) < len(text) and self._more():
            pass
        return self._buffer.startswith(text)

    def _find(self, text: bytes) -> int | None:
        """Where a text begins, reading on until it does; None where it never does."""
        searched = 0
        while (found := self._buffer.find(text, searched)) < 0:
            searched = max(0, len(self._buffer) - len(text))
            if not self._more():
                return None
        return found

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _more(self) -> bool:
        chunk = next(self._chunks, b"")
        self._buffer += chunk
        return bool(chunk)
