"""Mirrors, and what is read from them."""

import hashlib
import itertools
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from formulamine.items import Cancelled
from formulamine.services.git import (
    DetachedHead,
    EmptyRepository,
    Git,
    GitError,
    NotARepository,
    RemoteUnreachable,
    ShallowRepository,
    UnreadableRepository,
    is_url,
    name_from_url,
)
from formulamine.services.git_objects import parse_commit
from formulamine_tests.services.histories import History, day, git

ODD = b"sp ace/qu\"ote's\nnew\tline/caf\xe9-\xff.py"
ODD_TEXT = "sp ace/qu\"ote's\nnew\tline/caf\\xe9-\\xff.py"


@pytest.fixture
def service(tmp_path: Path) -> Git:
    return Git(tmp_path / "mir rors")


@pytest.fixture
def history() -> History:
    made = History()
    made.commit("start", day(1), {"a.py": "a\n", "b.bin": b"\0\1"})
    return made


def mirrored(service: Git, path: Path) -> Path:
    return service.mirror("o/n", service.inspect_source(str(path)))


def digest(folder: Path) -> str:
    """Every path of a folder with its content and times."""
    lines = []
    for path in sorted(folder.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        lines.append(f"{path} {path.lstat().st_mode} {path.lstat().st_mtime_ns} {content!r}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


# Sources


def test_a_bare_repository_without_config_is_a_source(service: Git, history: History, tmp_path: Path) -> None:
    history.write(tmp_path / "r")
    (tmp_path / "r" / "config").unlink()
    source = service.inspect_source(str(tmp_path / "r"))
    assert (source.kind, source.branch, source.name) == ("local", "main", None)
    assert len(service.first_parent(service.mirror("o/n", source))) == 1


def test_origin_tells_the_name_and_the_default_branch(service: Git, history: History, tmp_path: Path) -> None:
    history.commit("on trunk", day(2), {"c.py": "c"}, branch="trunk", start=1)
    history.commit("mine", day(3), {"d.py": "d"}, start=1)
    shas = history.write(tmp_path / "r", bare=False)
    for arguments in (
        ("remote", "add", "origin", "git@github.com:owner/na.me.git"),
        ("update-ref", "refs/remotes/origin/trunk", shas[2]),
        ("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/trunk"),
        ("checkout", "-q", "--detach"),
    ):
        git(*arguments, at=tmp_path / "r")
    source = service.inspect_source(str(tmp_path / "r"))
    assert (source.name, source.branch) == ("owner/na.me", "trunk")
    mirror = service.mirror("owner/na.me", source)
    assert service.default_branch(mirror) == "trunk"
    assert [commit.sha for commit in service.first_parent(mirror)] == [shas[2], shas[1]]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/pyapp-kit/psygnal", "pyapp-kit/psygnal"),
        ("https://github.com/pyapp-kit/psygnal.git/", "pyapp-kit/psygnal"),
        ("ssh://git@host:22/o/n.git", "o/n"),
        ("git@github.com:o/n", "o/n"),
        ("https://host/only", None),
        ("file:///home/o/n", None),
        ("/home/o/n", None),
        ("../o/n", None),
        ("https://host/o/..", None),
    ],
)
def test_names_of_urls(url: str, name: str | None) -> None:
    assert name_from_url(url) == name


def test_what_is_no_url() -> None:
    assert not any(is_url(text) for text in ("ext::sh -c touch% x", "a.b::x", "/a:b", "./x", "C:/x", "fd::3", "-a@b"))


def test_sources_that_cannot_be_mined(service: Git, history: History, tmp_path: Path) -> None:
    history.commit("second", day(2), {"a.py": "b\n"})
    shas = history.write(tmp_path / "r", bare=False)
    git("clone", "-q", "--depth=1", f"file://{tmp_path / 'r'}", "shallow", at=tmp_path)
    git("init", "-q", "empty", at=tmp_path)
    git("clone", "-q", "r", "detached", at=tmp_path)
    git("checkout", "-q", shas[1], at=tmp_path / "detached")
    git("remote", "remove", "origin", at=tmp_path / "detached")
    git("clone", "-q", "--bare", "r", "odd", at=tmp_path)
    git("config", "extensions.refstorage", "reftable", at=tmp_path / "odd")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for name, kind in {
        "shallow": ShallowRepository,
        "empty": EmptyRepository,
        "detached": DetachedHead,
        "odd": UnreadableRepository,
        "folder": NotARepository,
        "file": NotARepository,
        "nothing": NotARepository,
    }.items():
        with pytest.raises(kind) as caught:
            service.inspect_source(str(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(NotARepository, match="password") as caught:
        service.inspect_source("https://me:secret@host/o/n")
    assert "secret" not in str(caught.value)


def test_a_linked_work_tree_is_a_source(service: Git, history: History, tmp_path: Path) -> None:
    history.write(tmp_path / "r", bare=False)
    git("worktree", "add", "-q", "-b", "side", str(tmp_path / "linked"), at=tmp_path / "r")
    assert service.inspect_source(str(tmp_path / "linked")).branch == "side"


def test_a_damaged_repository_says_so(service: Git, history: History, tmp_path: Path) -> None:
    history.write(tmp_path / "r", bare=False)
    for path in (tmp_path / "r" / ".git" / "objects").rglob("*"):
        if path.is_file():
            path.unlink()
    git("init", "-q", "q", at=tmp_path)
    with pytest.raises(GitError):
        mirrored(service, tmp_path / "r")
    assert not list((tmp_path / "mir rors").glob("*.git"))


# Mirrors


def test_a_mirror_follows_its_source_and_keeps_what_was(service: Git, history: History, tmp_path: Path) -> None:
    history.commit("dropped later", day(2), {"a.py": "x\n"})
    history.tag("v1", 1)
    shas = history.write(tmp_path / "r")
    before = digest(tmp_path / "r")
    mirror = mirrored(service, tmp_path / "r")
    assert digest(tmp_path / "r") == before
    assert git("for-each-ref", "--format=%(refname)", at=mirror).split() == ["refs/heads/main", "refs/tags/v1"]
    git("update-ref", "refs/heads/main", shas[1], at=tmp_path / "r")
    git("tag", "-f", "v1", shas[2], at=tmp_path / "r")
    source = service.inspect_source(str(tmp_path / "r"))
    service.mirror("o/n", source)
    assert len(service.first_parent(mirror)) == 2  # not asked
    service.mirror("o/n", source, refresh=True)
    assert [commit.sha for commit in service.first_parent(mirror)] == [shas[1]]
    assert service.has_commit(mirror, shas[2])
    assert not service.has_commit(mirror, "0" * 40)


def test_another_source_of_the_same_name_is_fetched(service: Git, history: History, tmp_path: Path) -> None:
    history.write(tmp_path / "one")
    history.commit("more", day(2), {"a.py": "x\n"})
    history.write(tmp_path / "two")
    mirrored(service, tmp_path / "one")
    assert len(service.first_parent(mirrored(service, tmp_path / "two"))) == 2


def test_what_a_killed_process_left_is_no_hindrance(service: Git, history: History, tmp_path: Path) -> None:
    history.write(tmp_path / "r")
    left = tmp_path / "mir rors" / ".making-o__n.git+abc"
    left.mkdir(parents=True)
    mirror = mirrored(service, tmp_path / "r")
    assert not left.exists()
    (mirror / "refs" / "heads" / "main.lock").touch()
    (mirror / "objects" / "pack" / "tmp_pack_x").touch()
    new = git("commit-tree", "-m", "x", "-p", "HEAD", "HEAD^{tree}", at=tmp_path / "r")
    git("update-ref", "refs/heads/main", new, at=tmp_path / "r")
    service.mirror("o/n", service.inspect_source(str(tmp_path / "r")), refresh=True)
    assert service.first_parent(mirror)[0].sha == new


def test_killed_at_any_moment_a_mirror_is_whole_or_not_there(tmp_path: Path) -> None:
    history = History()
    for number in range(300):
        history.commit(f"c{number}", day(1), {f"f{number}": os.urandom(20_000)})
    history.write(tmp_path / "r")
    code = (
        "import sys; from pathlib import Path; from formulamine.services.git import Git; g = Git(Path(sys.argv[1]));"
        "print(flush=True); g.mirror('o/n', g.inspect_source(sys.argv[2]))"
    )
    service = Git(tmp_path / "m")
    for milliseconds in (5, 40, 80):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "m"), str(tmp_path / "r")], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(milliseconds / 1000)
        process.kill()
        process.communicate()
        if service.mirror_path("o/n").exists():
            assert len(service.first_parent(service.mirror_path("o/n"))) == 300
    assert len(service.first_parent(mirrored(service, tmp_path / "r"))) == 300
    assert not list((tmp_path / "m").glob(".making*"))


def test_two_at_once_make_one_mirror(service: Git, history: History, tmp_path: Path) -> None:
    history.write(tmp_path / 'it\'s "r"\n$(x)')
    errors: list[BaseException] = []

    def work() -> None:
        try:
            mirrored(service, tmp_path / 'it\'s "r"\n$(x)')
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(service.first_parent(service.mirror_path("o/n"))) == 1


def test_a_remote_is_mirrored_and_an_absent_one_is_unreachable(service: Git, history: History, tmp_path: Path) -> None:
    shas = history.write(tmp_path / "served" / "o" / "n")
    arguments = ["--export-all", f"--base-path={tmp_path / 'served'}", "--listen=127.0.0.1", "--reuseaddr"]
    programs = git("--exec-path", at=tmp_path)
    for port in range(19418, 19428):
        # Not `git daemon`: that leaves a child behind when it is killed.
        daemon = subprocess.Popen([f"{programs}/git-daemon", *arguments, f"--port={port}"], stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        if daemon.poll() is None:
            break
    try:
        source = service.inspect_source(f"git://127.0.0.1:{port}/o/n")
        assert (source.kind, source.name) == ("url", "o/n")
        mirror = service.mirror("o/n", source)
        assert [commit.sha for commit in service.first_parent(mirror)] == shas[1:]
        with pytest.raises(RemoteUnreachable, match="check the URL"):
            service.mirror("o/other", service.inspect_source(f"git://127.0.0.1:{port}/o/other"))
    finally:
        daemon.kill()
        daemon.wait()
    with pytest.raises(RemoteUnreachable) as caught:
        service.mirror("o/n", source, refresh=True)
    assert caught.value.infrastructure
    assert len(service.first_parent(mirror)) == 1


# Reading


def test_commits_are_read_in_any_encoding() -> None:
    def read(message: bytes, encoding: bytes | None = None, person: bytes = b"A <a@b> 5 +0000") -> tuple[str, str]:
        header = b"tree x\nauthor %s\ncommitter %s\n" % (person, person)
        header += b"encoding %s\n" % encoding if encoding else b""
        commit = parse_commit("s", header + b"gpgsig a\n parent b\n\n" + message)
        assert commit.parents == ()
        return commit.subject, commit.author_name

    assert read("Größe\n\nx".encode("latin-1"), b"ISO-8859-1")[0] == "Größe"
    assert read("Größe".encode())[0] == "Größe"
    assert read("Größe".encode("latin-1"))[0] == "Größe"
    assert read("Größe".encode(), b"no-such-encoding")[0] == "Größe"
    assert read(b"\\ud800", b"unicode_escape")[0] == "\\ud800"  # half of a character
    assert read(b"", person=b"no person at all") == ("", "")
    assert read(b"", person=b"J\xf6rg <> <a@b> 99999999999999999 +0000") == ("", "Jörg")


def test_the_first_parent_chain_with_its_merge(service: Git, tmp_path: Path) -> None:
    history = History()
    first = history.commit("start", day(1), {"a": "1"})
    side = history.commit("side", day(2), {"b": "1"}, branch="side", start=first, author=b"Bob <b@x>")
    second = history.commit("main", day(3), {"c": "1"}, start=first)
    history.commit(b"Merge\r\n\r\nTitle\r\nmore", day(4), start=second, merge=side, files={"b": "1"})
    shas = history.write(tmp_path / "r")
    mirror = mirrored(service, tmp_path / "r")
    chain = service.first_parent(mirror)
    assert [commit.sha for commit in chain] == [shas[4], shas[3], shas[1]]
    assert chain[0].parents == (shas[3], shas[2])
    assert (chain[0].subject, chain[0].body) == ("Merge", "Title\nmore")
    assert chain[0].committed_at == datetime(2024, 2, 4, 12, tzinfo=UTC)
    assert service.commits(mirror, [shas[2]])[shas[2]].author_name == "Bob"
    assert {sha: [file.path for file in files] for sha, files in service.changed_files(mirror, shas[1:]).items()} == {
        shas[1]: ["a"],
        shas[2]: ["b"],
        shas[3]: ["c"],
        shas[4]: ["b"],
    }
    assert [subject for _, subject in service.subjects(mirror)] == ["Merge", "main", "start"]
    with pytest.raises(UnreadableRepository, match="lacks"):
        service.commits(mirror, ["1" * 40])
    assert service.commits(mirror, []) == {}
    assert service.changed_files(mirror, []) == {}
    assert list(service.diffs(mirror, [])) == []


def odd_history() -> History:
    """Everything that a path, a file or an entry can be."""
    history = History()
    history.commit("start", day(1), {"a.py": "a\n", "sub": (b"160000", b"1" * 40), "gone": b"\0x"})
    history.commit(
        "odd",
        day(2),
        {
            ODD: "x = 1\n",
            "a.py": "a\r\nb\n",
            "sub": (b"160000", b"2" * 40),
            "link": (b"120000", b"/etc/passwd"),
            "up": (b"120000", b"../../outside"),
            "run.sh": (b"100755", b"#!/bin/sh\n"),
            "b.bin": bytes(range(256)) * 4,
            "hex": "f" * 40 + "\n",
            ".gitattributes": "*.py text eol=crlf ident filter=evil diff=evil\nb.bin filter=lfs -diff\n",
            "$Id$.py": "$Id$\n",
        },
    )
    history.commit("nothing", day(3))
    history.commit("last", day(4), {"a.py": "c\n"})
    history.tag("v1.0", 2)
    history.tag("nightly", 3)
    return history


def test_files_are_counted_as_git_counts_them(service: Git, tmp_path: Path) -> None:
    history = odd_history()
    history.commit("type", day(5), {"link": "a file now\n", "plus.txt": "++ looks like a header\n@@ -1 +1 @@\n"})
    history.commit("gone", day(6), {"plus.txt": "-- so does this\n"})
    shas = history.write(tmp_path / "r")
    mirror = mirrored(service, tmp_path / "r")
    for sha, files in service.changed_files(mirror, shas[1:]).items():
        told = git("show", "--format=", "--numstat", "-z", "--no-renames", sha, at=mirror).split("\0")
        counted = [line.split("\t", 2) for line in told if line]
        expected = {path: tuple(0 if one == "-" else int(one) for one in both) for *both, path in counted}
        assert {file.path: (file.additions, file.deletions) for file in files} == expected


def test_a_patch_is_printed_once(service: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shas = odd_history().write(tmp_path / "r")
    mirror = mirrored(service, tmp_path / "r")
    service.changed_files(mirror, shas[1:])
    monkeypatch.setattr(service, "diffs", None)
    assert service.patch(mirror, shas[1]).startswith(b"diff --git ")


def test_odd_entries_are_listed_and_their_patches_apply(service: Git, tmp_path: Path) -> None:
    shas = odd_history().write(tmp_path / "r")
    mirror = mirrored(service, tmp_path / "r")
    changed = service.changed_files(mirror, shas[1:])
    counts = {file.path: (file.additions, file.deletions) for file in changed[shas[2]]}
    assert counts[ODD_TEXT] == (1, 0)
    assert counts["b.bin"] == (0, 0)
    assert counts["sub"] == (1, 1)
    assert counts["link"] == (1, 0)
    assert changed[shas[3]] == []
    patches = dict(service.diffs(mirror, shas[1:]))
    assert list(patches) == shas[1:]
    assert {sha: service.patch(mirror, sha) for sha in shas[1:]} == patches
    assert patches[shas[3]] == b""
    for base, sha in itertools.pairwise(shas[1:]):
        place = tmp_path / sha
        service.checkout(mirror, base, place)
        if patches[sha]:
            git("apply", "--index", "-", at=place, stdin=patches[sha])
        assert git("write-tree", at=place) == git("rev-parse", f"{sha}^{{tree}}", at=tmp_path / "r")


def test_blobs_and_trees(service: Git, tmp_path: Path) -> None:
    shas = odd_history().write(tmp_path / "r")
    mirror = mirrored(service, tmp_path / "r")
    entries = {entry.path: (entry.mode, entry.type) for entry in service.list_tree(mirror, shas[2])}
    assert entries[ODD_TEXT] == ("100644", "blob")
    assert entries["link"] == ("120000", "blob")
    assert entries["sub"] == ("160000", "commit")
    assert [entry.path for entry in service.list_tree(mirror, shas[2], "sp ace")] == [ODD_TEXT]
    assert service.list_tree(mirror, shas[2], "nowhere") == []
    assert "sp ace" in [entry.path for entry in service.list_tree(mirror, shas[2], recursive=False)]
    places = [(shas[2], path) for path in ("a.py", "no\nsuch\nfile", "sub", "run.sh", os.fsdecode(ODD))]
    assert list(service.read_blobs(mirror, places).values()) == [b"a\r\nb\n", None, None, b"#!/bin/sh\n", b"x = 1\n"]


def test_the_nearest_tag_that_may_be_a_version(service: Git, tmp_path: Path) -> None:
    shas = odd_history().write(tmp_path / "r")
    mirror = mirrored(service, tmp_path / "r")
    assert [service.describe_tag(mirror, sha) for sha in shas[1:]] == [None, "v1.0", "v1.0", "v1.0"]


def test_a_checkout_is_a_clean_repository_of_one_commit(service: Git, tmp_path: Path) -> None:
    shas = odd_history().write(tmp_path / "r")
    mirror = mirrored(service, tmp_path / "r")
    place = tmp_path / "out" / "tree"
    service.checkout(mirror, shas[2], place, tag="v1.0")
    assert git("status", "--porcelain", "--ignored", at=place) == ""
    assert git("rev-list", "--all", "--count", at=place) == "1"
    assert git("describe", "--tags", "--dirty", at=place) == "v1.0"
    assert git("remote", at=place) == ""
    assert not (place / ".git" / "logs").exists()
    assert (place / "a.py").read_bytes() == b"a\r\nb\n"
    assert (place / "$Id$.py").read_bytes() == b"$Id$\n"
    assert (place / "link").readlink() == Path("/etc/passwd")
    assert (place / "up").readlink() == Path("../../outside")
    assert (Path(os.fsdecode(bytes(place) + b"/" + ODD))).read_bytes() == b"x = 1\n"
    assert (place / "run.sh").stat().st_mode & 0o111
    assert not any((place / "sub").iterdir())
    held = set(git("cat-file", "--batch-all-objects", "--batch-check=%(objectname)", at=place).split())
    needed = {line.split()[0] for line in git("rev-list", "--objects", "HEAD", at=place).splitlines()}
    assert held == needed
    assert shas[2] not in held
    assert [path.name for path in place.parent.iterdir()] == ["tree"]
    with pytest.raises(FileExistsError):
        service.checkout(mirror, shas[1], place)
    service.checkout(mirror, shas[2], tmp_path / "again", tag="v1.0")
    assert git("rev-parse", "HEAD", at=tmp_path / "again") == git("rev-parse", "HEAD", at=place)


# Hostile surroundings


def test_nothing_of_a_repository_or_of_the_surroundings_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker, evil = tmp_path / "MARKER", tmp_path / "evil.sh"
    evil.write_text(f"#!/bin/sh\necho $0 $@ >> '{marker}'\ncat\n")
    evil.chmod(0o755)
    shas = odd_history().write(tmp_path / "r", bare=False)
    source = tmp_path / "r"
    hooks = source / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-auto-gc", "post-update"):
        (hooks / name).symlink_to(evil)
    settings = {
        "core.fsmonitor": evil,
        "core.hooksPath": hooks,
        "core.sshCommand": evil,
        "core.alternateRefsCommand": evil,
        "core.gitProxy": evil,
        "core.pager": evil,
        "uploadpack.packObjectsHook": evil,
        "diff.external": evil,
        "diff.evil.textconv": evil,
        "diff.evil.command": evil,
        "filter.evil.smudge": evil,
        "filter.evil.clean": evil,
        "filter.lfs.process": evil,
        "credential.helper": evil,
        "alias.fetch": f"!{evil}",
        "include.path": tmp_path / "more",
        "url.ext::sh -c evil.insteadOf": "/",
        "protocol.ext.allow": "always",
        "remote.origin.uploadpack": evil,
        "remote.origin.vcs": "ext",
        "submodule.recurse": "true",
        "transfer.hideRefs": "refs",
        "extensions.worktreeConfig": "true",
    }
    for key, value in settings.items():
        git("config", key, str(value), at=source)
    git("checkout", "-q", "--force", "HEAD~1", at=source)
    git("checkout", "-q", "--force", "main", at=source)
    assert marker.exists()  # plain git does run it
    text = (source / ".git" / "config").read_text()
    (tmp_path / "more").write_text(text.replace(str(tmp_path / "more"), "/nonexistent"))
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text((tmp_path / "more").read_text())
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    for name in ("GIT_SSH_COMMAND", "GIT_EXTERNAL_DIFF", "GIT_PAGER", "GIT_PROXY_COMMAND", "GIT_ASKPASS", "PAGER"):
        monkeypatch.setenv(name, str(evil))
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(evil))
    marker.unlink()
    before = digest(source)

    service = Git(tmp_path / "m")
    mirror = mirrored(service, source)
    service.mirror("o/n", service.inspect_source(str(source)), refresh=True)
    service.first_parent(mirror)
    service.changed_files(mirror, shas[1:])
    list(service.diffs(mirror, shas[1:]))
    service.describe_tag(mirror, shas[2])
    service.checkout(mirror, shas[2], tmp_path / "tree", "v1")
    assert not marker.exists(), marker.read_text()
    assert digest(source) == before


def test_a_partial_clone_is_not_completed_by_a_program_of_its_own(service: Git, tmp_path: Path) -> None:
    marker, evil = tmp_path / "MARKER", tmp_path / "evil.sh"
    evil.write_text(f"#!/bin/sh\ntouch '{marker}'\n")
    evil.chmod(0o755)
    shas = odd_history().write(tmp_path / "r", bare=False)
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": str(tmp_path),
        "remote.origin.uploadpack": str(evil),
    }.items():
        git("config", key, value, at=tmp_path / "r")
    blob = git("rev-parse", f"{shas[4]}:run.sh", at=tmp_path / "r")
    (tmp_path / "r" / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(UnreadableRepository, match="without --depth or --filter"):
        mirrored(service, tmp_path / "r")
    assert not marker.exists()


def test_urls_that_run_programs_are_no_sources(service: Git, tmp_path: Path) -> None:
    marker = tmp_path / "MARKER"
    for text in (f"ext::touch% {marker}", f"--upload-pack=touch {marker}", "fd::3", "a.b::c"):
        with pytest.raises(NotARepository):
            service.inspect_source(text)
    with pytest.raises(RemoteUnreachable):
        service.mirror("o/n", service.inspect_source("ssh://-oProxyCommand=touch/o/n"))
    assert not marker.exists()


def test_a_tree_that_writes_into_git_is_refused(service: Git, history: History, tmp_path: Path) -> None:
    history.write(tmp_path / "r")
    blob = git("hash-object", "-w", "--stdin", at=tmp_path / "r", stdin=b"#!/bin/sh\n")
    hooks = git("mktree", at=tmp_path / "r", stdin=f"100755 blob {blob}\tpost-checkout\n".encode())
    inner = git("mktree", at=tmp_path / "r", stdin=f"040000 tree {hooks}\thooks\n".encode())
    tree = git("mktree", at=tmp_path / "r", stdin=f"040000 tree {inner}\t.git\n".encode())
    commit = git("commit-tree", "-m", "evil", tree, at=tmp_path / "r")
    git("update-ref", "refs/heads/main", commit, at=tmp_path / "r")
    mirror = mirrored(service, tmp_path / "r")
    with pytest.raises(GitError):
        service.checkout(mirror, commit, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The end of a process


def test_a_cancel_kills_git_and_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "git"
    fake.write_text(f"#!/bin/sh\nsleep 300 &\necho $! > '{tmp_path}/child'\nwait\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    cancelled = threading.Event()
    service = Git(tmp_path / "m", cancelled)
    threading.Timer(0.3, cancelled.set).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        service.version()
    assert time.monotonic() - started < 1.3
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline and Path(f"/proc/{child}").exists():
        state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{child}").exists()


def test_leaving_a_stream_early_ends_its_process(service: Git, history: History, tmp_path: Path) -> None:
    for number in range(50):
        history.commit(f"c{number}", day(1), {"f": os.urandom(100_000)})
    shas = history.write(tmp_path / "r")
    mirror = mirrored(service, tmp_path / "r")
    patches = service.diffs(mirror, shas[1:])
    assert next(patches)[0] == shas[1]
    patches.close()  # type: ignore[attr-defined]


def test_a_full_disk_is_no_fault_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "git"
    fake.write_text("#!/bin/sh\necho 'fatal: write error: No space left on device' >&2\nexit 128\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(OSError, match="make room"):
        Git(tmp_path / "m").version()
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(GitError, match="not installed"):
        Git(tmp_path / "m").version()
