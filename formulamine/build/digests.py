"""What identifies a built pair, and what of head may stand in what ships.

Here belong hashes of files in folders, which are read and never run. What must be true of them is asked in `facts.py`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from formulamine.build.folders import line_of
from formulamine.build.pair import Pair
from formulamine.build.recipe import Recipe
from formulamine.services.git import Git

# Differs from one making of the same content to the next: caches, paths of this machine, times.
OUTSIDE_DIGEST = frozenset({"__pycache__", ".git", ".lock", "direct_url.json", "uv_cache.json", "RECORD", "pyvenv.cfg"})
# A file of head that says less than this stands in any tree: an empty __init__.py is no leak. FACTS' bound for a line.
TELLING_CHARACTERS = 12


def base_digest(pair: Pair) -> tuple[str, int]:
    """Digest and bytes of what ships: the base side's environment, package and sources."""
    return digest(_ships(pair))


def measure_digest(pair: Pair) -> tuple[str, int]:
    """Digest and bytes of what measures: what ships, and the head side and the suite beside it."""
    head = [("head/environment", pair.head.environment / "lib"), ("head/site", pair.head.site)]
    return digest([*_ships(pair), *head, ("head/tree", pair.head.tree), ("suite", pair.suite_parent)])


def head_only(git: Git, repo: str, url: str, recipe: Recipe) -> list[str]:
    """SHA-256 of every file content that head has and base does not."""
    mirror = git.open(repo, url)
    base = {entry.sha for entry in git.list_tree(mirror, recipe.base_sha)}
    new = [
        (recipe.merge_sha, entry.path)
        for entry in git.list_tree(mirror, recipe.merge_sha)
        if entry.type == "blob" and entry.sha not in base
    ]
    return [
        hashlib.sha256(content).hexdigest()
        for content in git.read_blobs(mirror, new).values()
        if content is not None and len(b"".join(content.split())) >= TELLING_CHARACTERS
    ]


def head_in_base(pair: Pair, head_only: Sequence[str]) -> list[str]:
    """Paths of what ships whose content is one that only head has, given as SHA-256 of head's changed files."""
    wanted = set(head_only)
    found = []
    for folder in (pair.base.site, pair.base.tree):
        for path in _files(folder):
            if not path.is_symlink() and hashlib.sha256(path.read_bytes()).hexdigest() in wanted:
                found.append(line_of(str(path.relative_to(folder))))
    return sorted(found)


def _ships(pair: Pair) -> list[tuple[str, Path]]:
    """Folders of what ships. Of the environment its `lib`: scripts in `bin` name this machine's paths."""
    return [("environment", pair.base.environment / "lib"), ("site", pair.base.site), ("tree", pair.base.tree)]


def _files(folder: Path) -> Iterator[Path]:
    """Files and links below a folder, without what is no content; links are never followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - OUTSIDE_DIGEST)
        for name in sorted([*names, *(one for one in folders if Path(parent, one).is_symlink())]):
            path = Path(parent, name)
            if name not in OUTSIDE_DIGEST and path.suffix != ".pyc" and (path.is_file() or path.is_symlink()):
                yield path


def digest(folders: Sequence[tuple[str, Path]]) -> tuple[str, int]:
    """`tree:sha256...` over sorted (path, mode, bytes), and how many bytes that is."""
    whole, size = hashlib.sha256(), 0
    for label, folder in folders:
        for path in sorted(_files(folder), key=lambda one: os.fsencode(one)):
            link = path.is_symlink()
            content = os.fsencode(os.readlink(path)) if link else path.read_bytes()
            mode = "link" if link else ("755" if path.stat().st_mode & 0o100 else "644")
            whole.update(f"{label}/{os.fsencode(path.relative_to(folder))!r} {mode} {len(content)}\n".encode())
            whole.update(hashlib.sha256(content).digest())
            size += len(content)
    return f"tree:sha256:{whole.hexdigest()}", size
