"""Where a repository comes from: a local path or a URL, judged without running anything of it.

Here belongs what is read from a source before it is mirrored. A local repository is never opened by git itself: git
would read its configuration. It is read through a `shadow`, a folder with a configuration of ours whose objects and
refs are the repository's own.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from formulamine.services.git_process import (
    CommandFailed,
    DetachedHead,
    EmptyRepository,
    GitError,
    GitProcess,
    NotARepository,
    ShallowRepository,
    UnreadableRepository,
)

SHADOW_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
ORIGIN_HEAD = "refs/remotes/origin/HEAD"
# owner/name of GitHub. No double underscore in the owner: `owner__name-12` must be readable back.
NAME = re.compile(r"(?!.*__.*/)[A-Za-z0-9][A-Za-z0-9_-]*/(?!\.{1,2}$)[A-Za-z0-9._-]+")
_URL = re.compile(r"(https?|ssh|git|file)://", re.IGNORECASE)
_HOST = r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*@[A-Za-z0-9.-]+|[A-Za-z0-9][A-Za-z0-9.-]*\.[A-Za-z0-9-]+)"
_SCP = re.compile(_HOST + r":(?![:/]/?)(?P<path>.+)")  # git@github.com:owner/name


@dataclass(frozen=True)
class Source:
    """Where a repository comes from."""

    kind: Literal["local", "url"]
    location: str
    """Absolute path of its top folder, or its URL."""
    name: str | None
    """OWNER/NAME as its origin or URL tells; None where they do not."""
    ref: str | None = None
    """Full name of the ref of a local repository's default branch; a URL is not asked before it is mirrored."""
    branch: str | None = None
    """Name of that branch."""


@dataclass(frozen=True)
class _Folders:
    git_dir: Path
    common_dir: Path
    """Where objects and refs are: differs from `git_dir` in a linked work tree."""


def is_url(text: str) -> bool:
    """Whether a text is a URL that git can fetch from (`https://...`, `git@host:owner/name`), not a path."""
    return bool(_URL.match(text)) or (bool(_SCP.fullmatch(text)) and not Path(text).exists())


def name_from_url(url: str) -> str | None:
    """OWNER/NAME of a URL with a host: its last two path parts.

    Returns:
        None for `file://`, for plain paths, and where the last two parts are no such name.
    """
    scp = _SCP.fullmatch(url)
    if _URL.match(url):
        split = urlsplit(url)
        path = unquote(split.path) if split.hostname and split.scheme.lower() != "file" else ""
    else:
        path = scp["path"] if scp else ""
    parts = [part for part in path.split("/") if part]
    name = "/".join(parts[-2:]).removesuffix(".git")
    return name if len(parts) >= 2 and NAME.fullmatch(name) else None


def inspect(text: str, process: GitProcess, scratch: Path) -> Source:
    """What a path or URL is; a URL is judged by its form alone.

    Args:
        text: a path, absolute or relative to the working directory, or a URL.
        process: runs git.
        scratch: folder for what must be written to look at a local repository.

    Raises:
        NotARepository: no repository is there, or the URL cannot be used.
        ShallowRepository: history is cut off.
        EmptyRepository: no commit yet.
        DetachedHead: no default branch.
        UnreadableRepository: damaged, or in a format that is not supported.
    """
    if is_url(text):
        if text.lower().startswith("file://"):
            return inspect(unquote(urlsplit(text).path), process, scratch)
        if _URL.match(text) and urlsplit(text).password is not None:
            raise NotARepository("a URL with a password was given", "public repositories need none, leave it out")
        return Source("url", text, name_from_url(text))
    path = Path(text).expanduser().absolute()
    folders = _folders(path)
    if (folders.common_dir / "shallow").exists():
        raise ShallowRepository(f"{path} is a shallow clone", f"run `git -C '{path}' fetch --unshallow` and try again")
    config = _config(folders.common_dir / "config", process)
    for key, wanted in (("extensions.objectformat", "sha1"), ("extensions.refstorage", "files")):
        if config.get(key, wanted) != wanted:
            raise UnreadableRepository(f"{path} has {key} {config[key]!r}", f"only {wanted!r} is supported, clone anew")
    with shadow(path, scratch) as stand_in:
        ref, branch = _default_branch(path, stand_in, process)
    return Source("local", str(path), name_from_url(config.get("remote.origin.url", "")), ref, branch)


@contextlib.contextmanager
def shadow(path: Path, scratch: Path) -> Iterator[Path]:
    """A bare repository with our configuration and the objects and refs of the one at `path`, which is only read."""
    folders = _folders(path)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".reading-") as made:
        stand_in = Path(made)
        (stand_in / "config").write_text(SHADOW_CONFIG)
        (stand_in / "HEAD").write_bytes((folders.git_dir / "HEAD").read_bytes())
        for name in ("objects", "refs", "packed-refs"):
            target = folders.common_dir / name
            if target.exists():
                (stand_in / name).symlink_to(target.resolve())
        yield stand_in


def _folders(path: Path) -> _Folders:
    """Where the parts of the repository with top folder `path` are, bare or not, a linked work tree included."""
    mend = "give the top folder of a git repository, bare or not, or a URL"
    try:
        if not path.is_dir():
            raise NotARepository(f"{path} is no folder", mend)
        git_dir = path / ".git" if (path / ".git").exists() else path
        if git_dir.is_file():  # a linked work tree or a submodule says where its repository is
            pointer = git_dir.read_text(errors="surrogateescape").removeprefix("gitdir:").strip()
            git_dir = path / pointer
        common = git_dir / "commondir"
        common_dir = git_dir / common.read_text(errors="surrogateescape").strip() if common.is_file() else git_dir
        if not ((git_dir / "HEAD").is_file() and (common_dir / "objects").is_dir() and (common_dir / "refs").is_dir()):
            raise NotARepository(f"{path} is no git repository", mend)
    except OSError as error:
        raise NotARepository(f"{path} cannot be read ({error.strerror})", mend) from error
    return _Folders(git_dir, common_dir)


def _config(path: Path, process: GitProcess) -> dict[str, str]:
    """A local repository's configuration, read as data: no include is followed, nothing in it takes effect."""
    if not path.is_file():
        return {}  # a copied bare repository may have none
    arguments = ["config", "--file", str(path), "--no-includes", "--list", "-z"]
    try:
        listing = process.run(arguments, git_dir=Path("/nonexistent"))
    except CommandFailed as error:
        raise UnreadableRepository(f"{path} is no git configuration ({error.mend})", "mend or clone anew") from error
    pairs = (entry.decode("utf-8", "replace").partition("\n") for entry in listing.split(b"\0") if entry)
    return {key: value for key, _, value in pairs}


def _default_branch(path: Path, stand_in: Path, process: GitProcess) -> tuple[str, str]:
    """Full ref and name of the branch to mine: what origin calls its default where that is known, else HEAD's."""

    def symbolic(ref: str) -> str:
        return process.run(["symbolic-ref", "--quiet", ref], git_dir=stand_in, accept=(0, 1)).decode().strip()

    def exists(ref: str) -> bool:
        found = process.run(["rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"], git_dir=stand_in, accept=(0, 1))
        return bool(found)

    try:
        upstream, head = symbolic(ORIGIN_HEAD), symbolic("HEAD")
        if upstream.startswith("refs/remotes/origin/") and exists(upstream):
            return upstream, upstream.removeprefix("refs/remotes/origin/")
        if not head.startswith("refs/heads/"):
            raise DetachedHead(f"{path} has a detached HEAD", f"run `git -C '{path}' switch BRANCH` and try again")
        if not exists(head):
            raise EmptyRepository(f"{path} has no commit on {head.removeprefix('refs/heads/')}", "commit something")
    except CommandFailed as error:
        raise unreadable(path, error) from error
    return head, head.removeprefix("refs/heads/")


def unreadable(path: Path | str, error: GitError) -> UnreadableRepository:
    """The error for a local repository in which git fails."""
    return UnreadableRepository(
        f"{path} cannot be read ({error.mend})", "clone it anew, whole (without --depth or --filter)"
    )
