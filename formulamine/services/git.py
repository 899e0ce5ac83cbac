"""Mirrors of the repositories that are mined, and what is read from them.

Here belongs what the project asks of git, each as one process for many objects where there are many. How git is kept
from reading or running anything foreign is in `git_process.py` and `git_source.py`; what commits mean (merge, squash,
revert) is `discover`'s matter.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from formulamine.items import Cancelled
from formulamine.records import FileChange
from formulamine.services import git_source
from formulamine.services.git_objects import Commit, Reader, TreeEntry, file_changes, parse_commit, text_of
from formulamine.services.git_patches import KeptPatches
from formulamine.services.git_process import (
    CommandFailed,
    DetachedHead,
    EmptyRepository,
    GitError,
    GitProcess,
    NotARepository,
    RemoteUnreachable,
    ShallowRepository,
    UnreadableRepository,
)
from formulamine.services.git_source import NAME, Source, is_url, name_from_url

__all__ = [
    "NAME",
    "Commit",
    "DetachedHead",
    "EmptyRepository",
    "Git",
    "GitError",
    "NotARepository",
    "RemoteUnreachable",
    "ShallowRepository",
    "Source",
    "TreeEntry",
    "UnreadableRepository",
    "is_url",
    "name_from_url",
]

SOURCE_FILE = "formulamine-source"
LOCK_POLL_S = 0.2
# First parent only, no renames, nothing that .gitattributes or configuration could change, a header for every commit.
DIFF = (
    *("diff-tree", "--stdin", "--always", "--root", "-r", "--diff-merges=first-parent", "--no-renames"),
    *("--no-ext-diff", "--no-textconv", "--no-color"),
)
PATCH = ("--patch", "--binary", "--full-index")
FEWEST_PATCHES = 8  # for one process: git starts in the time of two
# Of the one commit of a checkout: nothing in it tells when and by whom the real one was made.
NOBODY = {
    **{f"GIT_{role}_NAME": "formulamine" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_EMAIL": "formulamine@localhost" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_DATE": "946684800 +0000" for role in ("AUTHOR", "COMMITTER")},
}
# Over any .gitattributes: files hold the bytes that were committed, and stay clean for whatever git a build runs.
ATTRIBUTES = "* -text !eol -ident -filter !working-tree-encoding\n"
_DESCRIBED = re.compile(r"(?P<tag>.+)-\d+-g[0-9a-f]+")


class Git:
    """Bare mirrors in one folder, and what they hold."""

    def __init__(self, mirrors: Path, cancelled: threading.Event | None = None) -> None:
        """Name the folder; it is made when needed.

        Args:
            mirrors: folder of the mirrors.
            cancelled: once set, every git process under way is killed and `Cancelled` raised within a second.
        """
        self._mirrors = mirrors.absolute()
        self._cancelled = cancelled or threading.Event()
        self._process = GitProcess(self._cancelled)
        self._patches = KeptPatches(self._mirrors)

    def version(self) -> str:
        """Version of git, as "2.39.5"."""
        return self._process.run(["--version"], git_dir=Path("/nonexistent")).decode().split()[2]

    def inspect_source(self, path_or_url: str) -> Source:
        """What a path or URL is; a URL is judged by its form, the network is not asked.

        Raises:
            NotARepository, ShallowRepository, EmptyRepository, DetachedHead, UnreadableRepository: it cannot be mined.
        """
        self._mirrors.mkdir(parents=True, exist_ok=True)
        return git_source.inspect(path_or_url, self._process, self._mirrors)

    def mirror_path(self, repo: str) -> Path:
        """Where the mirror of OWNER/NAME is, or will be."""
        return self._mirrors / f"{repo.replace('/', '__')}.git"

    def mirror(self, repo: str, source: Source, refresh: bool = False) -> Path:
        """Mirror of a repository: its default branch and all tags, HEAD on that branch.

        A mirror that is there is returned as it is, unless it is of another source or `refresh` asks for it. Then it
        is brought to what the source holds now; commits that the source has dropped since stay readable by their id.
        The source is only read. Killed at any moment, this leaves no mirror or a whole one.

        Args:
            repo: OWNER/NAME.
            source: where to copy from.
            refresh: ask the source although there is a mirror.

        Raises:
            RemoteUnreachable: a URL did not answer, or not with a repository.
            UnreadableRepository: a local repository is damaged.
            ShallowRepository, EmptyRepository, DetachedHead: a URL's repository cannot be mined.
        """
        if not NAME.fullmatch(repo):
            raise ValueError(f"{repo!r} is no OWNER/NAME")
        final = self.mirror_path(repo)
        self._mirrors.mkdir(parents=True, exist_ok=True)
        with self._locked(final.with_suffix(".lock")) as lock:
            if final.exists():
                if refresh or _source_of(final) != source.location:
                    _remove_leavings(final)
                    self._fetch(final, source, lock)
                return final
            prefix = f".making-{final.name}+"  # a plus is in no name, so it is nobody else's
            for left in self._mirrors.glob(prefix + "*"):
                shutil.rmtree(left)  # of a process that was killed: whoever makes one holds the lock
            making = Path(tempfile.mkdtemp(dir=self._mirrors, prefix=prefix))
            try:
                making.chmod(0o755)
                self._process.run(["init", "--quiet", "--bare", "--template="], git_dir=making)
                self._fetch(making, source, lock)
                making.rename(final)
            except BaseException:
                shutil.rmtree(making, ignore_errors=True)
                raise
        return final

    def open(self, repo: str, location: str) -> Path:
        """The mirror of a repository as it is, or made again from where it came if it was deleted.

        Raises:
            GitError: it is gone, and its source too.
        """
        path = self.mirror_path(repo)
        return path if path.exists() else self.mirror(repo, self.inspect_source(location))

    @contextlib.contextmanager
    def reading(self, repo: str, source: Source) -> Iterator[Path]:
        """A source as a mirror for a while: a local one as it lies there, of any other the mirror.

        Raises:
            GitError: it cannot be read.
        """
        if source.kind == "local":
            with git_source.shadow(Path(source.location), self._mirrors) as stand_in:
                yield stand_in
        else:
            yield self.mirror(repo, source)

    def has_commit(self, mirror: Path, sha: str) -> bool:
        """Whether a mirror holds a commit."""
        answer = self._process.run(["cat-file", "--batch-check"], git_dir=mirror, stdin=f"{sha}\n".encode())
        return answer.split()[1:2] == [b"commit"]

    def held(self, mirror: Path, shas: Sequence[str]) -> set[str]:
        """Those of some ids that are commits of a mirror."""
        answer = self._process.run(["cat-file", "--batch-check"], git_dir=mirror, stdin=_lines(shas))
        return {line.split()[0].decode() for line in answer.splitlines() if line.split()[1:2] == [b"commit"]}

    def default_branch(self, mirror: Path) -> str:
        """Name of the branch that a mirror holds."""
        return self._process.run(["symbolic-ref", "--short", "HEAD"], git_dir=mirror).decode().strip()

    def first_parent(self, mirror: Path, start: str = "HEAD") -> list[Commit]:
        """Commits of the first-parent chain, newest first, from a branch or commit on."""
        arguments = ["rev-list", "--first-parent", "--end-of-options", start, "--"]
        shas = self._process.run(arguments, git_dir=mirror).decode().split()
        commits = self.commits(mirror, shas)
        return [commits[sha] for sha in shas]

    def commits(self, mirror: Path, shas: Sequence[str]) -> dict[str, Commit]:
        """Commits by their full ids.

        Raises:
            UnreadableRepository: one is missing.
        """
        objects = self._objects(mirror, [sha.encode() for sha in shas])
        found: dict[str, Commit] = {}
        for sha, raw in zip(shas, objects, strict=True):
            if raw is None:
                raise UnreadableRepository(f"{mirror} lacks commit {sha}", "run the month with --refresh")
            found[sha] = parse_commit(sha, raw)
        return found

    def subjects(self, mirror: Path, start: str = "HEAD") -> list[tuple[int, str]]:
        """Committer time (seconds since 1970) and first line of the message along a first-parent chain, newest first.

        It is git's own rendering, for counting again what was read from the commit objects.
        """
        arguments = ["log", "-z", "--first-parent", "--format=%ct %B", "--end-of-options", start, "--"]
        entries = text_of(self._process.run(arguments, git_dir=mirror)).split("\0")
        pairs = (entry.partition(" ") for entry in entries if entry)
        return [(int(seconds), message.lstrip("\n").partition("\n")[0].strip()) for seconds, _, message in pairs]

    def changed_files(self, mirror: Path, shas: Sequence[str]) -> dict[str, list[FileChange]]:
        """Files that each commit changes against its first parent (a root commit: against nothing), by path."""
        self.print_patches(mirror, shas)
        return {
            sha: [FileChange(path=path, additions=more, deletions=less) for path, more, less in changes]
            for sha in shas
            for changes in [file_changes(self._patches.get(sha))]
        }

    def patch(self, mirror: Path, sha: str) -> bytes:
        """Patch of a commit as `diffs` describes it; what this process had git print before is not printed again."""
        self.print_patches(mirror, [sha])
        return self._patches.get(sha)

    def print_patches(self, mirror: Path, shas: Sequence[str]) -> None:
        """Have git print and this process keep the patches that it does not keep yet, on all cores."""
        missing = self._patches.missing(dict.fromkeys(shas))
        if not missing:
            return
        size = max(FEWEST_PATCHES, -(-len(missing) // (os.cpu_count() or 1)))
        parts = [missing[start : start + size] for start in range(0, len(missing), size)]

        def keep(part: Sequence[str]) -> None:
            for sha, patch in self.diffs(mirror, part):
                self._patches.put(sha, patch)

        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(keep, parts))

    def diffs(self, mirror: Path, shas: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Patch of each commit against its first parent, which `git apply` applies to that parent.

        Yields:
            Id and patch, in the order asked for; a commit that changes nothing has an empty patch.
        """
        chunks = self._process.stream([*DIFF, *PATCH], git_dir=mirror, stdin=_lines(shas))
        reader = Reader(chunks)
        # A line of a patch never is an id alone: text lines have a prefix, base-85 lines another length.
        for index, sha in enumerate(shas):
            if index == 0:
                reader.exactly(len(sha) + 1)
            following = shas[index + 1 : index + 2]
            yield sha, reader.until_line(following[0].encode()) if following else reader.rest()

    def read_blobs(self, mirror: Path, places: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bytes | None]:
        """Contents of files, by commit and path; None where there is none (a folder's is its tree object)."""
        names = [f"{commit}:{path}".encode("utf-8", "surrogateescape") for commit, path in places]
        return dict(zip(places, self._objects(mirror, names), strict=True))

    def list_tree(self, mirror: Path, commit: str, path: str = "", recursive: bool = True) -> list[TreeEntry]:
        """Entries of a folder of a commit, those of its folders included; none where there is no such folder."""
        arguments = ["ls-tree", "-z", "--full-tree", *(["-r"] if recursive else []), "--end-of-options", commit]
        listing = self._process.run([*arguments, *([f"{path}/"] if path else [])], git_dir=mirror)
        entries = []
        for line in listing.split(b"\0")[:-1]:
            described, _, name = line.partition(b"\t")
            mode, kind, sha = described.decode().split()
            entries.append(TreeEntry(mode, kind, sha, text_of(name)))
        return entries

    def describe_tag(self, mirror: Path, commit: str) -> str | None:
        """Nearest tag with a digit in it (what setuptools_scm looks for) that a commit descends from."""
        arguments = ["describe", "--tags", "--long", "--always", "--match=*[0-9]*", commit]
        described = _DESCRIBED.fullmatch(text_of(self._process.run(arguments, git_dir=mirror)).strip())
        # A name that is no UTF-8 cannot be written again: no version is to be had from it.
        return described["tag"] if described and "\\" not in described["tag"] else None

    def checkout(self, mirror: Path, commit: str, destination: Path, tag: str | None = None) -> None:
        """Write the tree of a commit as a fresh repository with this tree as its only commit.

        Files hold the committed bytes: no filter, line ending or LFS pointer is expanded, no submodule fetched.
        Symlinks are written as they are. There is no remote, no reflog and no object besides the tree's own.

        Args:
            mirror: where the commit is.
            commit: its id.
            destination: a folder that does not exist yet; it appears whole.
            tag: name of a lightweight tag on the commit, from which build tools read a version.

        Raises:
            FileExistsError: the destination exists.
            CommandFailed: the tree cannot be written (it holds a path that git refuses).
        """
        if destination.exists() or destination.is_symlink():
            raise FileExistsError(f"{destination} exists")
        destination.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".making-{destination.name}-"))
        try:
            making.chmod(0o755)
            run, git_dir = self._process.run, making / ".git"
            tree = (
                run(["rev-parse", "--verify", "--end-of-options", f"{commit}^{{tree}}"], git_dir=mirror)
                .decode()
                .strip()
            )
            run(["init", "--quiet", "--template=", "--initial-branch=main"], git_dir=git_dir, work_tree=making)
            (git_dir / "info").mkdir()
            (git_dir / "info" / "attributes").write_text(ATTRIBUTES)
            pack = str(git_dir / "objects" / "pack" / "pack")
            # Run beside the new objects: git renames the pack into place, and the mirror may be on another disk.
            near = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{mirror / "objects"}"'}
            # No deltas are looked for beside the mirror's: xarray's pack is 0.2% larger without, in half of the time.
            run(
                ["pack-objects", "--revs", "--window=0", "--quiet", pack],
                git_dir=git_dir,
                environment=near,
                stdin=_lines([tree]),
            )
            made = run(["commit-tree", "-m", "source", tree], git_dir=git_dir, environment=NOBODY).decode().strip()
            run(["update-ref", "refs/heads/main", made], git_dir=git_dir)
            if tag is not None:
                run(["update-ref", f"refs/tags/{tag}", made], git_dir=git_dir)
            run(["read-tree", "-m", "-u", "HEAD"], git_dir=git_dir, work_tree=making)
            making.rename(destination)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise

    def add_tag(self, tree: Path, tag: str) -> None:
        """Put a lightweight tag on the one commit of what `checkout` wrote."""
        self._process.run(["update-ref", f"refs/tags/{tag}", "refs/heads/main"], git_dir=tree / ".git")

    def _objects(self, mirror: Path, names: Sequence[bytes]) -> Iterator[bytes | None]:
        """Contents of objects from one process, in the order of their names; None for a missing one."""
        stdin = b"".join(name + b"\0" for name in names)
        reader = Reader(self._process.stream(["cat-file", "--batch", "-z"], git_dir=mirror, stdin=stdin))
        for name in names:
            header = reader.line()
            # A name that is not found is repeated as it was given, and may hold newlines of its own.
            for _ in range(name.count(b"\n") if name.startswith(header[:-1]) else 0):
                header += reader.line()
            if header.endswith((b" missing\n", b" ambiguous\n", b" submodule\n")):
                yield None
            else:
                yield reader.exactly(int(header.split()[2]) + 1)[:-1]
        reader.rest()

    def _fetch(self, mirror: Path, source: Source, lock: int) -> None:
        """Bring a mirror to what its source holds."""
        if source.kind == "local":
            if source.ref is None or source.branch is None:
                raise ValueError("a local source comes from inspect_source")
            try:
                with git_source.shadow(Path(source.location), self._mirrors) as stand_in:
                    self._fetch_refs(mirror, str(stand_in), source.ref, source.branch, lock)
            except CommandFailed as error:
                raise git_source.unreadable(source.location, error) from error
        else:
            try:
                branch = self._remote_branch(source.location, mirror)
                self._fetch_refs(mirror, source.location, f"refs/heads/{branch}", branch, lock)
            except CommandFailed as error:
                mend = f"check the URL and the network ({error.mend})"
                raise RemoteUnreachable(f"{source.location} does not answer with a repository", mend) from error
        (mirror / SOURCE_FILE).write_bytes(os.fsencode(source.location))

    def _fetch_refs(self, mirror: Path, location: str, ref: str, branch: str, lock: int) -> None:
        refspecs = [f"+{ref}:refs/heads/{branch}", "+refs/tags/*:refs/tags/*"]
        options = ["--quiet", "--no-tags", "--prune", "--no-write-fetch-head", "--no-recurse-submodules"]
        self._process.run(["fetch", *options, "--", location, *refspecs], git_dir=mirror, keep_open=[lock])
        if (mirror / "shallow").exists():
            raise ShallowRepository(f"{location} is a shallow repository", "give one with the whole history")
        self._process.run(["symbolic-ref", "HEAD", f"refs/heads/{branch}"], git_dir=mirror)

    def _remote_branch(self, url: str, mirror: Path) -> str:
        """Name of a URL's default branch."""
        listing = self._process.run(["ls-remote", "--symref", "--", url, "HEAD"], git_dir=mirror)
        if not listing.strip():
            raise EmptyRepository(f"{url} has no commit on its default branch", "push something")
        match = re.search(rb"^ref: refs/heads/(.+)\tHEAD$", listing, re.MULTILINE)
        if match is None:
            raise DetachedHead(f"{url} has no default branch", "set one on its server")
        return match[1].decode()

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[int]:
        """Hold a lock file, waiting for whoever has it; its descriptor goes to what must not outlive the lock."""
        with path.open("a+b") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self._cancelled.wait(LOCK_POLL_S):
                        raise Cancelled(f"waiting for {path}") from None
            yield file.fileno()


def _lines(shas: Sequence[str]) -> bytes:
    return "".join(f"{sha}\n" for sha in shas).encode()


def _source_of(mirror: Path) -> str | None:
    """Where a mirror was copied from, or None where its first fetch did not end."""
    path = mirror / SOURCE_FILE
    return os.fsdecode(path.read_bytes()) if path.exists() else None


def _remove_leavings(mirror: Path) -> None:
    """Remove what a killed fetch left; whoever fetches holds the mirror's lock, and so do its children."""
    for pattern in ("**/*.lock", "objects/pack/tmp_*", "objects/pack/.tmp-*"):
        for left in mirror.glob(pattern):
            left.unlink()
