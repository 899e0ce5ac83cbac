r"""The repositories that are mined: a file in FORMULAMINE_HOME, and the files and arguments that add to it.

Both files have one form:

    [[repository]]
    name = "pyapp-kit/psygnal"
    source = "https://github.com/pyapp-kit/psygnal"   # a path or URL; a relative path starts at this file's folder

`name` may be left out in a file that is given with `--repositories` where origin or URL tell it. `hidden = true` takes
a repository out of all months without forgetting it. Whether a source can be reached is not known here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from formulamine.services.git import NAME, Git, is_url
from formulamine.services.store import write_atomically

_ROW_HEADER = r"\s*\[\[\s*repository\s*\]\]"
HEADER = (
    "# Written by `formulamine repositories` and `--repo`; see the documentation of formulamine.discover.registry.\n"
)


class RegistryError(Exception):
    """A registry, file or argument that cannot be used; the message is one line with the mend."""


class _Row(BaseModel):
    """One `[[repository]]` as it stands in a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    source: Annotated[str, Field(min_length=1)]
    hidden: bool = False

    @field_validator("name")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        if value is not None and not NAME.fullmatch(value):
            raise ValueError(f"{value!r} is not OWNER/NAME as GitHub writes it")
        return value


class RegistryEntry(_Row):
    """One repository of the registry: OWNER/NAME, an absolute path or a URL, and whether it is left out."""

    name: str


class Registry:
    """The registry file: read whole, written whole or not at all, under a lock."""

    def __init__(self, path: Path) -> None:
        """Name the file; it need not exist."""
        self._path = path

    def entries(self) -> list[RegistryEntry]:
        """All repositories, hidden ones too, in the order in which they came.

        Raises:
            RegistryError: the file is malformed.
        """
        if not self._path.exists():
            return []
        return [entry for _, entry in _read(self._path, RegistryEntry)]

    def visible(self) -> list[RegistryEntry]:
        """The repositories that every month covers."""
        return [entry for entry in self.entries() if not entry.hidden]

    def add(self, added: Iterable[RegistryEntry]) -> None:
        """Add repositories, or bring back and update those that are known: the newest source of a name wins.

        Raises:
            RegistryError: the file is malformed.
        """
        with self._locked():
            known = {entry.name.casefold(): entry for entry in self.entries()}
            known |= {entry.name.casefold(): entry for entry in added}
            self._write(known.values())

    def remove(self, name: str) -> None:
        """Hide a repository; what is known of it stays.

        Raises:
            RegistryError: it is not in the registry, or the file is malformed.
        """
        with self._locked():
            entries = self.entries()
            if name.casefold() not in (entry.name.casefold() for entry in entries):
                raise RegistryError(f"{name} is not in the registry: `formulamine repositories list` shows what is")
            hidden = (entry.name.casefold() == name.casefold() or entry.hidden for entry in entries)
            self._write(entry.model_copy(update={"hidden": hide}) for entry, hide in zip(entries, hidden, strict=True))

    def _write(self, entries: Iterable[RegistryEntry]) -> None:
        lines = [HEADER]
        for entry in entries:
            lines += ["[[repository]]", f"name = {_quoted(entry.name)}", f"source = {_quoted(entry.source)}"]
            lines += ["hidden = true", ""] if entry.hidden else [""]
        write_atomically(self._path, "\n".join(lines).encode())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock beside the file: adding is reading, changing and writing."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # held for milliseconds
            yield


def parse_repo_argument(text: str, git: Git) -> RegistryEntry:
    """What `--repo [OWNER/NAME=]PATH_OR_URL` means.

    Args:
        text: the argument; a relative path starts at the working directory.
        git: looks at the source.

    Raises:
        RegistryError: there is no name, or it is none.
        GitError: the source cannot be mined.
    """
    name, equals, source = text.partition("=")
    if not equals or is_url(text) or Path(text).expanduser().exists():
        return _resolve(None, text, Path.cwd(), git)
    if not NAME.fullmatch(name):
        raise RegistryError(f"{name!r} in {text!r} is no name: write OWNER/NAME=PATH_OR_URL")
    return _resolve(name, source, Path.cwd(), git)


def load_file(path: Path, git: Git) -> list[RegistryEntry]:
    """Repositories of a file given with `--repositories`, in the form that this module's docstring shows.

    Raises:
        RegistryError: it cannot be read, is malformed, or leaves a name open that neither origin nor URL tells.
        GitError: a source cannot be mined.
    """
    entries = []
    for place, row in _read(path, _Row):
        try:
            entry = _resolve(row.name, row.source, path.absolute().parent, git)
        except RegistryError as error:
            raise RegistryError(f"{place}: {error}") from error
        entries.append(entry.model_copy(update={"hidden": row.hidden}))
    return entries


def _resolve(name: str | None, source: str, folder: Path, git: Git) -> RegistryEntry:
    """An entry with its name found and its path absolute."""
    if not source:
        raise RegistryError("no source is given: write OWNER/NAME=PATH_OR_URL")
    location = source if is_url(source) else str(folder / Path(source).expanduser())
    try:
        location.encode()
    except UnicodeEncodeError as error:
        raise RegistryError(f"{location!r} is no UTF-8: give a path that is, as by a symbolic link") from error
    found = git.inspect_source(location)
    name = name or found.name
    if name is None:
        raise RegistryError(f"neither origin nor URL of {source} tells a name: write OWNER/NAME={source}")
    return RegistryEntry(name=name, source=found.location)


_RowType = TypeVar("_RowType", bound=_Row)


def _read(path: Path, kind: type[_RowType]) -> list[tuple[str, _RowType]]:
    """Rows of a file, each with its place in words."""
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise RegistryError(f"{path} cannot be read ({error.strerror}): give a TOML file") from error
    except ValueError as error:  # no UTF-8, or no TOML: that message names line and column
        raise RegistryError(f"{path} is no TOML file, mend or delete it: {error}") from error
    rows = values.pop("repository", [])
    if values or not isinstance(rows, list):
        stray = next(iter(values), "repository")
        line = _line_of(text, rf"\s*\[*\s*{re.escape(stray)}\b", 0)
        raise RegistryError(
            f"{path}, line {line}: {stray!r} is not known here: write [[repository]] with name and source"
        )
    read = []
    for index, row in enumerate(rows):
        place = f"{path}, line {_line_of(text, _ROW_HEADER, index)}"
        try:
            read.append((place, kind.model_validate(row)))
        except ValidationError as error:
            first = error.errors()[0]
            what = ".".join(str(part) for part in first["loc"]) or "this entry"
            raise RegistryError(f"{place}: {what}: {first['msg']}: mend it, or remove the entry") from error
    return read


def _line_of(text: str, pattern: str, index: int) -> int:
    """Number of the line on which a pattern begins a line for the `index`-th time; the last such one if fewer."""
    found = [number for number, line in enumerate(text.splitlines(), 1) if re.match(pattern, line)]
    return found[min(index, len(found) - 1)] if found else 1


def _quoted(text: str) -> str:
    """A TOML string: JSON's, but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
