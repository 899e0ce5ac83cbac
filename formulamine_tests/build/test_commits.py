"""Whether a tree is the commit that it claims to be, and its repository nothing more."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from formulamine.build import commits
from formulamine.services.git import Git
from formulamine_tests.services.histories import History, day, git

FILES: dict[bytes | str, bytes | str | tuple[bytes, bytes]] = {
    "README.md": "read me\r\nwith two kinds\nof line ends\r\n",
    "run.sh": (b"100755", b"#!/bin/sh\n"),
    "old.txt": (b"100644", b"old\n"),
    "empty.txt": "",
    "package/module.py": "# $Format:%H$ $Id$\n",
    "package/link.py": (b"120000", b"module.py"),
    "package/dangling": (b"120000", b"/etc/nothing/like/it"),
    b"odd \xff name.txt": "odd\n",
    "two\nlines.txt": "two\n",
    "vendored": (b"160000", b"1234567890123456789012345678901234567890"),
    # None of it may change a byte of what is written.
    ".gitattributes": "*.py export-subst ident\n*.md text eol=crlf working-tree-encoding=UTF-16\n*.txt filter=lfs\n",
}


@pytest.fixture
def made(tmp_path: Path) -> tuple[Git, Path, str, Path]:
    """Git, a mirror, the commit and its checkout."""
    history = History()
    history.commit("Start", day(1), {**FILES, "gone.txt": "of the first commit only\n"})
    history.tag("v1.0", 1)
    history.commit("Go on", day(2), {**FILES, "package/new.py": "new\n"}, start=1)
    _, _, head = history.write(tmp_path / "source.git")
    here = Git(tmp_path / "mirrors")
    mirror = here.mirror("acme/toy", here.inspect_source(str(tmp_path / "source.git")))
    here.checkout(mirror, head, tmp_path / "tree", here.describe_tag(mirror, head))
    return here, mirror, head, tmp_path / "tree"


def test_a_checkout_is_its_commit_with_its_tag(made: tuple[Git, Path, str, Path]) -> None:
    assert commits.checked(*made) == commits.Checked([], "v1.0")


def test_it_is_no_other_commit(made: tuple[Git, Path, str, Path]) -> None:
    here, mirror, head, tree = made
    (first,) = here.commits(mirror, [head])[head].parents
    wrong = commits.checked(here, mirror, first, tree).wrong
    assert "paths differ from the commit: gone.txt, package/new.py" in wrong[0] or "differ" in wrong[0]
    assert "its commit has another tree" in wrong


def replace(path: Path, write: Callable[[Path], object]) -> None:
    path.unlink(missing_ok=True)
    write(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "bytes": lambda tree: (tree / "README.md").write_bytes(b"read me\nwith two kinds\nof line ends\n"),
    "one more": lambda tree: (tree / "package" / "conftest.py").write_text(""),
    "compiled": lambda tree: (tree / "package" / "module.pyc").write_text(""),
    "gone": lambda tree: (tree / "old.txt").unlink(),
    "executable": lambda tree: (tree / "old.txt").chmod(0o755),
    "no longer": lambda tree: (tree / "run.sh").chmod(0o644),
    "link": lambda tree: replace(tree / "package" / "link.py", lambda path: path.symlink_to("other.py")),
    "link to file": lambda tree: replace(tree / "package" / "link.py", lambda path: path.write_text("module.py")),
    "file to link": lambda tree: replace(tree / "old.txt", lambda path: path.symlink_to("/etc/passwd")),
    "pipe": lambda tree: replace(tree / "old.txt", os.mkfifo),
    "folder": lambda tree: replace(tree / "old.txt", lambda path: path.mkdir()),
    "linked folder": lambda tree: (tree / "more").symlink_to("/etc"),
    "submodule": lambda tree: (tree / "vendored" / "file").write_text("fetched"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_a_file_is_seen(made: tuple[Git, Path, str, Path], change: str) -> None:
    (made[3] / "vendored").mkdir(exist_ok=True)
    CHANGES[change](made[3])
    (wrong,) = commits.checked(*made).wrong
    assert "1 paths differ" in wrong


def test_a_file_in_the_place_of_a_link_with_the_same_bytes_is_another(made: tuple[Git, Path, str, Path]) -> None:
    link = made[3] / "package" / "link.py"
    link.unlink()
    link.write_text("module.py")
    assert commits.checked(*made).wrong


def as_owner(*arguments: str) -> Callable[[Path], object]:
    return lambda tree: git(*arguments, at=tree)


def another_commit(tree: Path) -> None:
    git("commit", "-q", "--allow-empty", "-m", "more", at=tree)
    shutil.rmtree(tree / ".git" / "logs")
    (tree / ".git" / "COMMIT_EDITMSG").unlink()


def another_tree(tree: Path) -> None:
    emptied = git("commit-tree", "-m", "x", git("mktree", at=tree), at=tree)
    git("update-ref", "refs/heads/main", emptied, at=tree)
    git("update-ref", "refs/tags/v1.0", emptied, at=tree)
    shutil.rmtree(tree / ".git" / "logs", ignore_errors=True)


def hidden_object(tree: Path) -> None:
    git("hash-object", "-w", "--stdin", at=tree, stdin=b"the whole solution\n")


def repacked(tree: Path) -> None:
    hidden = git("hash-object", "-w", "--stdin", at=tree, stdin=b"the whole solution\n")
    git("pack-objects", "-q", ".git/objects/pack/pack", at=tree, stdin=f"{hidden}\n".encode())
    (tree / ".git" / "objects" / hidden[:2] / hidden[2:]).unlink()


def appended(tree: Path) -> None:
    (pack,) = (tree / ".git" / "objects" / "pack").glob("*.pack")
    pack.chmod(0o644)
    pack.write_bytes(pack.read_bytes() + b"the whole solution")


REPOSITORIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no repository": (lambda tree: shutil.rmtree(tree / ".git"), "there is no .git"),
    "a file": (lambda tree: (shutil.rmtree(tree / ".git"), (tree / ".git").write_text("gitdir: /x\n")), "no .git"),
    "remote": (as_owner("remote", "add", "origin", "https://example.org/x"), r"config says [remote"),
    "filter": (as_owner("config", "filter.x.smudge", "touch /tmp/x"), "config says"),
    "include": (as_owner("config", "include.path", "/tmp/x"), "config says"),
    "fsmonitor": (as_owner("config", "core.fsmonitor", "/tmp/x"), "config says fsmonitor"),
    "hook": (lambda tree: ((tree / ".git/hooks").mkdir(), (tree / ".git/hooks/post-checkout").write_text("")), "hooks"),
    "reflog": (lambda tree: ((tree / ".git/logs").mkdir(), (tree / ".git/logs/HEAD").write_text("")), "logs/HEAD"),
    "alternates": (lambda tree: (tree / ".git/objects/info/alternates").write_text("/x\n"), "alternates"),
    "shallow": (lambda tree: (tree / ".git/shallow").write_text(""), "shallow"),
    "another branch": (as_owner("branch", "other"), "refs/heads/other"),
    "another tag": (as_owner("tag", "v2.0"), "2 tags"),
    "history": (another_commit, "history"),
    "another tree": (another_tree, "another tree"),
    "tag elsewhere": (lambda tree: (tree / ".git/refs/tags/v1.0").write_text("1" * 40 + "\n"), "on another commit"),
    "detached": (lambda tree: (tree / ".git/HEAD").write_text("1" * 40 + "\n"), "HEAD is not the one branch"),
    "broken": (lambda tree: (tree / ".git/refs/heads/main").write_text("1" * 40 + "\n"), "cannot be read"),
    "hidden object": (hidden_object, "1 objects that are none of the commit's"),
    "hidden pack": (repacked, "1 objects that are none of the commit's"),
    "hidden bytes": (appended, "its pack is not what its list says"),
    "pipe": (lambda tree: replace(tree / ".git" / "config", os.mkfifo), "no plain file"),
    "link": (lambda tree: (tree / ".git" / "description").symlink_to("/etc/passwd"), "no plain file"),
}  # fmt: skip


@pytest.mark.parametrize("change", REPOSITORIES)
def test_a_repository_holds_one_commit_and_nothing_else(
    made: tuple[Git, Path, str, Path], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, words = REPOSITORIES[change]
    act(made[3])
    wrong = commits.checked(*made).wrong
    assert any(words in line for line in wrong), wrong


def test_a_foreign_repository_starts_nothing(made: tuple[Git, Path, str, Path], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    config = made[3] / ".git" / "config"
    for name in ("fsmonitor", "pager", "sshCommand", "hooksPath"):
        config.write_text(f"[core]\n\trepositoryformatversion = 0\n\tbare = false\n\t{name} = touch {mark}\n")
        assert commits.checked(*made).wrong
    assert not mark.exists()


def test_objects_may_be_packed_otherwise(made: tuple[Git, Path, str, Path]) -> None:
    """As an engine's tools might leave them; what is asked is which objects there are."""
    (pack,) = (made[3] / ".git" / "objects" / "pack").glob("*.pack")
    content = pack.read_bytes()
    for path in pack.parent.iterdir():
        path.unlink()
    subprocess.run(["git", "unpack-objects", "-q"], cwd=made[3], input=content, check=True)
    assert commits.checked(*made).wrong == []


def test_a_commit_without_files(tmp_path: Path) -> None:
    history = History()
    history.commit("Nothing", day(1), {})
    _, only = history.write(tmp_path / "source.git")
    here = Git(tmp_path / "mirrors")
    mirror = here.mirror("acme/none", here.inspect_source(str(tmp_path / "source.git")))
    here.checkout(mirror, only, tmp_path / "tree")
    assert commits.checked(here, mirror, only, tmp_path / "tree") == commits.Checked([], "")


def test_folders_are_compared_by_path_bytes_and_mode(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
        (tmp_path / name / "link").symlink_to("file")
    assert commits.same_folders(tmp_path / "one", tmp_path / "other") == []
    (tmp_path / "other" / "file").chmod(0o755)
    (tmp_path / "other" / "more").write_text("")
    assert commits.same_folders(tmp_path / "one", tmp_path / "other") == ["file", "more"]
