"""The sample repository: the history of `january.py` and `february.py`, written as git commits.

Here belongs how a history becomes commits, in a way that gives the same commit ids on every machine. What the sample
holds is told in the two modules named after months; how its pull requests end is in `expected.toml`.
"""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path

from formulamine.demo.february import FEBRUARY, MARCH
from formulamine.demo.history import Change, Person, Style, applied
from formulamine.demo.january import JANUARY, MARA

REPOSITORY = "formulamine/sample"
MONTH = "2024-02"
HISTORY = (*JANUARY, *FEBRUARY, *MARCH)

# GitHub itself commits what is merged by its button.
_GITHUB = Person("GitHub", "noreply@github.com", "web-flow")


@dataclass(frozen=True)
class Sample:
    """A sample repository on disk."""

    path: Path
    """The bare repository."""
    head_sha: str
    """The last commit of `main`, in March."""
    repo: str = REPOSITORY
    month: str = MONTH


@dataclass(frozen=True)
class Ending:
    """Where a pull request of the sample must end."""

    title: str
    asset: str
    status: str
    reason: str | None = None


def write_sample(path: Path) -> Sample:
    """Write the sample as a bare repository. Writing it again over itself changes nothing."""
    # Named by configuration, which versions of git that do not know a setting pass over. No template means no hooks.
    defaults = ("-c", "init.defaultBranch=main", "-c", "init.defaultObjectFormat=sha1")
    _git(*defaults, "init", "--quiet", "--bare", "--template=", str(path))
    _git("-C", str(path), "fast-import", "--quiet", "--force", stdin=b"".join(_stream()))
    return Sample(path, _git("-C", str(path), "rev-parse", "refs/heads/main").strip())


@functools.cache
def commit_ids() -> frozenset[str]:
    """Return the ids of all the sample's commits, by which its trees are recognized as ours."""
    with tempfile.TemporaryDirectory(prefix="formulamine-sample-") as folder:
        sample = write_sample(Path(folder, "sample.git"))
        return frozenset(_git("-C", str(sample.path), "rev-list", sample.head_sha).split())


def expected_endings() -> dict[int, Ending]:
    """Return how each pull request of the month must end, by its number."""
    text = resources.files(__package__).joinpath("expected.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)["pull_request"]
    return {row.pop("number"): Ending(**row) for row in rows}


def _git(*arguments: str, stdin: bytes = b"") -> str:
    """Run git without the configuration and the variables of this machine, which could change what is written."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(
        ["git", *arguments], input=stdin, env=environment, check=True, stdout=subprocess.PIPE
    ).stdout.decode()


def _stream() -> Iterator[bytes]:
    """Yield the history in the language of `git fast-import`."""
    tree: dict[str, str] = {}
    tip = mark = 0
    # Where a branch forks: one commit behind what it is merged into, as branches do in a repository that lives.
    fork_tree: dict[str, str] = {}
    fork = 0
    for change in HISTORY:
        branch = None
        if change.style is Style.MERGE:
            mark += 1
            branch = mark
            written = change.when - timedelta(hours=2)
            message = f"{change.title}\n\n{change.body}"
            head_tree = applied(fork_tree, change)
            yield _commit(mark, change.author, change.author, written, message, _files(fork_tree, head_tree), fork)
        mark += 1
        fork, fork_tree = tip, tree
        tree = applied(tree, change)
        author = MARA if change.style is Style.MERGE else change.author
        committer = change.author if change.style is Style.PUSH else _GITHUB
        files = _files(fork_tree, tree)
        yield _commit(mark, author, committer, change.when, _message(change), files, tip, branch)
        tip = mark


def _message(change: Change) -> str:
    """Return the message under which a change lands, as GitHub writes it."""
    match change.style:
        case Style.MERGE:
            subject = (
                f"Merge pull request #{change.number} from {change.author.login}/{change.branch}\n\n{change.title}"
            )
        case Style.SQUASH:
            subject = f"{change.title} (#{change.number})"
        case Style.PUSH:
            subject = change.title
    return f"{subject}\n\n{change.body}".strip()


def _files(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Return the files that are new or different; the sample never deletes one."""
    return {path: text for path, text in after.items() if before.get(path) != text}


def _commit(
    mark: int,
    author: Person,
    committer: Person,
    when: datetime,
    message: str,
    files: Mapping[str, str],
    parent: int,
    second_parent: int | None = None,
) -> bytes:
    """Return one commit. All are written to `main`, whose last one stays: a merged branch leaves no reference."""
    seconds = int(when.timestamp())
    lines = [
        b"commit refs/heads/main",
        b"mark :%d" % mark,
        f"author {author.name} <{author.email}> {seconds} {author.zone}".encode(),
        f"committer {committer.name} <{committer.email}> {seconds} {author.zone}".encode(),
        _data(f"{message}\n"),
    ]
    if parent:
        lines.append(b"from :%d" % parent)
    if second_parent:
        lines.append(b"merge :%d" % second_parent)
    for path, text in sorted(files.items()):
        lines += [f"M 100644 inline {path}".encode(), _data(text)]
    return b"\n".join(lines) + b"\n"


def _data(text: str) -> bytes:
    content = text.encode()
    return b"data %d\n%s" % (len(content), content)
