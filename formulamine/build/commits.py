"""Whether a folder of sources is the commit that it claims to be, and nothing more.

Here belongs comparing files on the host with what git says a commit holds, and looking into the repository that goes
with them: one commit, this tree, no way back to anything else. Nothing that was built is asked.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from formulamine.build.folders import Entry, entries_of, line_of, text_of_file
from formulamine.services.git import Git, GitError, TreeEntry
from formulamine.services.git_objects import text_of

MOST_NAMED = 5  # of the paths that differ
CHUNK_BYTES = 1 << 20
LINK, EXECUTABLE, PLAIN = "120000", "100755", "100644"
# All that Git.checkout writes into .git, and what later versions of git put beside it: no logs, no remotes, no hooks,
# no alternates, no replaced or packed references, no second work tree.
_OWN = re.compile(
    r"HEAD|config|index|description|info/(attributes|exclude)|refs/heads/main|refs/tags/.+"
    r"|objects/[0-9a-f]{2}/[0-9a-f]{38}([0-9a-f]{24})?|objects/pack/pack-[0-9a-f]+\.(pack|idx|rev)"
)
# Of git's configuration: what `git init` writes. Anything else could name a program, a filter or another repository.
_CONFIG = re.compile(
    r"\s*|\[core\]|\s*(repositoryformatversion|filemode|bare|logallrefupdates)\s*=\s*(0|true|false)\s*"
)
_ID = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True)
class Checked:
    """What a checked-out commit turned out to be."""

    wrong: list[str]
    """What differs from one commit of its own; empty where nothing does."""
    tag: str
    """Name of the one tag on it, from which build tools read a version; empty where there is none."""


def checked(git: Git, mirror: Path, commit: str, tree: Path) -> Checked:
    """Compare a folder with a commit: every file, and the repository beside them.

    Args:
        git: what reads the mirror.
        mirror: holds the commit, and was not touched by what was built.
        commit: its id.
        tree: the folder, with its `.git`.
    """
    entries = git.list_tree(mirror, commit)
    wrong = differences(entries, tree)
    if not (tree / ".git").is_dir() or (tree / ".git").is_symlink():
        return Checked([*wrong, "there is no .git"], "")
    tags, more = _repository(git, mirror, commit, tree / ".git", entries)
    return Checked([*wrong, *map(line_of, more)], tags[0] if len(tags) == 1 else "")


def differences(entries: Sequence[TreeEntry], folder: Path) -> list[str]:
    """What a folder, its `.git` aside, holds otherwise than a tree says: path, executable bit, link or bytes.

    Submodules are left out: nobody fetches them.
    """
    sha = _hash_of(entries)
    wanted = Counter((one.path, _mode(one.mode), one.sha) for one in entries if one.type == "blob")
    found = Counter(
        (text_of(os.fsencode(one.relative)), *_seen(one, sha)) for one in entries_of(folder, frozenset({".git"}))
    )
    missing, more = wanted - found, found - wanted
    paths = sorted({path for path, _, _ in [*missing, *more]})
    if not paths:
        return []
    named = line_of(", ".join(paths[:MOST_NAMED]))
    return [f"{len(paths)} paths differ from the commit: {named}"]


def same_folders(one: Path, other: Path) -> list[str]:
    """Paths at which two folders differ in bytes, executable bit or link."""

    def found(folder: Path) -> Counter[tuple[str, str, str]]:
        return Counter((line_of(entry.relative), *_seen(entry, "sha256")) for entry in entries_of(folder))

    first, second = found(one), found(other)
    return sorted({path for path, _, _ in [*(first - second), *(second - first)]})


def _mode(mode: str) -> str:
    """Mode of an entry as a checkout writes it: trees of old hold 100664 too."""
    return mode if mode == LINK else (EXECUTABLE if int(mode, 8) & 0o100 else PLAIN)


def _seen(one: Entry, algorithm: str) -> tuple[str, str]:
    """Mode and blob id of what stands there; neither a file nor a link has no id."""
    if one.is_link:
        target = os.fsencode(os.readlink(one.path))
        return LINK, hashlib.new(algorithm, b"blob %d\0" % len(target) + target).hexdigest()
    if not one.is_file:
        return oct(stat.S_IFMT(one.mode)), ""
    whole = hashlib.new(algorithm, b"blob %d\0" % one.size)
    with one.path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            whole.update(chunk)
    return EXECUTABLE if one.mode & 0o100 else PLAIN, whole.hexdigest()


def _hash_of(entries: Sequence[TreeEntry]) -> str:
    """The hash with which a repository names its objects."""
    return "sha256" if entries and len(entries[0].sha) == 64 else "sha1"


def _repository(
    git: Git, mirror: Path, commit: str, git_dir: Path, entries: Sequence[TreeEntry]
) -> tuple[list[str], list[str]]:
    """Tags of a repository, and what in it is more than one commit of a tree."""
    wrong = list(_beside(git_dir))
    if wrong:  # git is not started on a repository that could tell it to do something
        return [], wrong
    head = (text_of_file(git_dir / "refs" / "heads" / "main") or "").strip()
    tags = []
    for one in entries_of(git_dir / "refs" / "tags"):
        tags.append(line_of(one.relative))
        if (text_of_file(one.path) or "").strip() != head:
            wrong.append(f"tag {one.relative} is on another commit")
    if len(tags) > 1:
        wrong.append(f"{len(tags)} tags")
    if (text_of_file(git_dir / "HEAD") or "").strip() != "ref: refs/heads/main" or not _ID.fullmatch(head):
        return tags, [*wrong, "HEAD is not the one branch"]
    try:
        if git.commits(git_dir, [head])[head].parents:
            wrong.append("its commit has a history")
        if git.read_blobs(git_dir, [(head, "")]) != {(head, ""): git.read_blobs(mirror, [(commit, "")])[commit, ""]}:
            wrong.append("its commit has another tree")
    except (GitError, EOFError) as error:
        return tags, [*wrong, f"its repository cannot be read: {error}"]
    return tags, [*wrong, *_objects(git, mirror, commit, git_dir / "objects", entries, head)]


def _beside(git_dir: Path) -> Iterator[str]:
    """What does not belong into the repository of one commit."""
    for one in entries_of(git_dir):
        if not one.is_file:
            yield f".git/{one.relative} is no plain file"
        elif not _OWN.fullmatch(one.relative):
            yield f".git/{one.relative} is more than one commit needs"
    for line in (text_of_file(git_dir / "config") or "").splitlines():
        if not _CONFIG.fullmatch(line):
            yield f".git/config says {line.strip()}"


def _objects(
    git: Git, mirror: Path, commit: str, objects: Path, entries: Sequence[TreeEntry], head: str
) -> Iterator[str]:
    """Whether the objects are the commit, its tree's own and nothing else, as far as the packs' lists tell."""
    algorithm = _hash_of(entries)
    folders = {str(parent) for one in entries for parent in PurePosixPath(one.path).parents}
    places = [(commit, "" if folder == "." else folder) for folder in sorted(folders | {"."})]
    trees = git.read_blobs(mirror, places)
    wanted = {one.sha for one in entries if one.type == "blob"} | {head}
    for content in trees.values():
        if content is not None:
            wanted.add(hashlib.new(algorithm, b"tree %d\0" % len(content) + content).hexdigest())
    found, damaged = _listed(objects, len(head) // 2)
    if damaged:
        yield damaged
    # A folder whose name is no UTF-8 cannot be asked for: then nothing is known to be too much.
    if found - wanted and None not in trees.values():
        yield f"{len(found - wanted)} objects that are none of the commit's"
    if wanted - found:
        yield f"{len(wanted - found)} objects of the commit are missing"


def _listed(objects: Path, size: int) -> tuple[set[str], str]:
    """Ids of all objects in a folder of git, and what is wrong with its packs."""
    found, damaged = set(), ""
    for one in entries_of(objects):
        folder, _, name = one.relative.partition("/")
        if folder != "pack":
            found.add(folder + name)
        elif one.path.suffix == ".idx":
            index, pack = one.path.read_bytes(), one.path.with_suffix(".pack")
            count = struct.unpack(">I", index[8 + 255 * 4 : 8 + 256 * 4])[0] if len(index) > 8 + 256 * 4 else -1
            start = 8 + 256 * 4
            ids = [index[start + at * size : start + (at + 1) * size].hex() for at in range(max(count, 0))]
            if index[:8] != b"\377tOc\0\0\0\2" or count < 0 or any(len(one) != 2 * size for one in ids[-1:]):
                damaged = "the list of its pack cannot be read"
            elif not pack.exists() or not _pack_agrees(pack, count, index[-2 * size : -size]):
                damaged = "its pack is not what its list says"
            found.update(ids)
        elif one.path.suffix == ".pack" and not one.path.with_suffix(".idx").exists():
            damaged = "a pack without a list"
    return found, damaged


def _pack_agrees(pack: Path, count: int, checksum: bytes) -> bool:
    """Whether a pack holds so many objects and ends with this checksum of all that it holds."""
    size = pack.stat().st_size - len(checksum)
    whole = hashlib.new("sha256" if len(checksum) == 32 else "sha1")
    with pack.open("rb") as file:
        head = file.read(12)
        whole.update(head)
        left = size - len(head)
        while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
            whole.update(chunk)
            left -= len(chunk)
        end = file.read()
    return head[:4] == b"PACK" and head[8:12] == struct.pack(">I", count) and end == checksum == whole.digest()
