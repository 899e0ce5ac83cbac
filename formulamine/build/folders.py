"""Reading folders that foreign code may have written.

Here belongs looking at what stands there without following a link, without waiting for a pipe and without reading a
device. What it means is asked in `tampering.py` and `commits.py`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from formulamine.services.git_objects import text_of

LARGEST_TEXT = 32 * 2**20  # bytes of a file that is read whole as text: the longest RECORD seen (scipy) has 0.3 MB


@dataclass(frozen=True)
class Entry:
    """One thing in a folder that is no folder."""

    path: Path
    relative: str
    """From the folder on, with slashes; bytes that are no UTF-8 as Python keeps them in names."""
    mode: int
    size: int

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a plain file: no link, pipe, socket or device."""
        return stat.S_ISREG(self.mode)


def entries_of(folder: Path, skip: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """Everything below a folder but folders, by path.

    Args:
        folder: where to begin; where it is a link itself, nothing is found.
        skip: names in this folder, not below it, that are left out.
    """
    if folder.is_symlink():
        return
    for parent, folders, names in os.walk(folder, onerror=_raise):
        top = Path(parent) == folder
        links = [name for name in folders if Path(parent, name).is_symlink()]
        folders[:] = sorted(set(folders) - set(links) - (skip if top else frozenset()))
        for name in sorted([*names, *links], key=os.fsencode):
            if top and name in skip:
                continue
            path = Path(parent, name)
            status = path.lstat()
            yield Entry(path, str(path.relative_to(folder)), status.st_mode, status.st_size)


def text_of_file(path: Path) -> str | None:
    """Text of a plain file; None where there is none, or something else, or one too large to be believed."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_TEXT:
        return None
    return path.read_bytes().decode("utf-8", "replace")


def line_of(text: str) -> str:
    """A text with names in it as one line that any table can keep: names are bytes, and may hold newlines."""
    return " ".join(text_of(os.fsencode(text)).split())


def _raise(error: OSError) -> None:
    raise error
