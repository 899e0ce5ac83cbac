from __future__ import annotations

import contextlib
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from formulamine.discover.diff import DiffError, FileDiff, parse_patch

RENAME = b"""\
diff --git a/old name.py b/new name.py
similarity index 90%
rename from old name.py
rename to new name.py
index 1111111..2222222 100644
--- a/old name.py\t
+++ b/new name.py\t
@@ -1,2 +1,2 @@ def f():
 keep
-was
+is
"""

LOOKS_LIKE_HEADERS = b"""\
From: someone
diff --git a/x.sql b/x.sql
index 1111111..2222222 100644
--- a/x.sql
+++ b/x.sql
@@ -1,3 +1,3 @@
--- a comment of SQL
-diff --git a/y b/y
+++ counter
+@@ -1 +1 @@
 end
\\ No newline at end of file
diff --git a/logo.png b/logo.png
index 1111111..2222222 100644
GIT binary patch
literal 3
KcmZQzWMT#Y01f~L

literal 0
HcmV?d00001

diff --git a/run.sh b/run.sh
old mode 100644
new mode 100755
"""

Tree = dict[bytes, tuple[list[bytes], bool]]


def test_a_rename_has_both_paths() -> None:
    assert parse_patch(RENAME) == (FileDiff("new name.py", "old name.py", ("is",), ("was",)),)


def test_content_that_looks_like_a_header_is_content() -> None:
    sql, logo, script = parse_patch(LOOKS_LIKE_HEADERS)
    assert sql == FileDiff(
        "x.sql", "x.sql", ("++ counter", "@@ -1 +1 @@"), ("-- a comment of SQL", "diff --git a/y b/y")
    )
    assert logo == FileDiff("logo.png", "logo.png", binary=True)
    assert script == FileDiff("run.sh", "run.sh")


def test_quoted_names_and_lines_keep_their_bytes_as_text() -> None:
    patch = (
        b'diff --git "a/caf\\351 \\"1\\"\\n.py" "b/caf\\351 \\"1\\"\\n.py"\nnew file mode 100644\n'
        b'--- /dev/null\n+++ "b/caf\\351 \\"1\\"\\n.py"\n@@ -0,0 +1 @@\n+caf\xe9\r\n'
    )
    name = 'caf\\xe9 "1"\n.py'
    assert parse_patch(patch) == (FileDiff(name, name, ("caf\\xe9\r",), new=True),)


def test_a_renamed_file_with_a_quoted_name() -> None:
    patch = b'diff --git a/plain.py "b/caf\\303\\251.py"\nrename from plain.py\nrename to "caf\\303\\251.py"\n'
    assert parse_patch(patch) == (FileDiff("café.py", "plain.py"),)


def test_nothing_is_no_file() -> None:
    assert parse_patch(b"") == ()


@pytest.mark.parametrize("cut", [b"@@ -1,2 +1,2 @@\n keep", b"@@ -1 +1 @@\n?", b"@@ -1,1 +1,0 @@\n keep"])
def test_a_broken_hunk_is_an_error(cut: bytes) -> None:
    with pytest.raises(DiffError):
        parse_patch(b"diff --git a/x b/x\n--- a/x\n+++ b/x\n" + cut)


@given(st.binary(max_size=200))
@example(b"\n@@ no header")
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    with contextlib.suppress(DiffError):
        assert parse_patch(b"diff --git a/x b/x\n" + noise)[0].path


names = st.binary(min_size=1, max_size=12).filter(
    lambda name: not {0, ord("/")} & set(name) and name.lower() not in (b".", b"..", b".git")
)
contents = st.lists(
    st.sampled_from([b"one", b"--- a/x", b"+++ b/x", b"diff --git a/x b/x", b"", b"\xff\r", b"@@ -1 +1 @@"])
)
trees = st.dictionaries(names, st.tuples(contents, st.booleans()), max_size=5)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diff")
    subprocess.run(["git", "init", "--quiet", "--bare", folder], check=True)
    return folder


@settings(max_examples=40, deadline=None, derandomize=True)
@given(before=trees, after=trees, shared=trees)
def test_gits_own_patches_are_read_back(repository: Path, before: Tree, after: Tree, shared: Tree) -> None:
    """Whatever the names and lines are, old lines - removed + added = new lines, for every path that differs."""
    sides = [{name: _blob(*value) for name, value in (shared | side).items()} for side in (before, after)]
    stream = b"".join(_commit(number, side) for number, side in enumerate(sides))
    git = ["git", "--git-dir", str(repository)]
    subprocess.run([*git, "fast-import", "--quiet", "--force"], input=stream, check=True)
    command = [*git, "diff-tree", "-p", "refs/heads/side0", "refs/heads/side1"]
    patch = subprocess.run(command, check=True, capture_output=True).stdout
    files = {one.path: one for one in parse_patch(patch)}
    old, new = ({_text(name): blob for name, blob in side.items()} for side in sides)
    assert set(files) == {path for path in old | new if old.get(path) != new.get(path)}
    for path, one in files.items():
        assert one.new == (path not in old)
        assert one.deleted == (path not in new)
        lines = Counter(_lines(old.get(path, b"")))
        lines.subtract(one.removed)
        lines.update(one.added)
        assert +lines == Counter(_lines(new.get(path, b"")))
        assert min(lines.values(), default=0) >= 0


def _blob(lines: list[bytes], newline: bool) -> bytes:
    return b"\n".join(lines) + (b"\n" if newline and lines else b"")


def _lines(blob: bytes) -> list[str]:
    return _text(blob).removesuffix("\n").split("\n") if blob else []


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "backslashreplace")


def _commit(number: int, tree: dict[bytes, bytes]) -> bytes:
    head = (
        f"reset refs/heads/side{number}\n\ncommit refs/heads/side{number}\ncommitter a <a> 0 +0000\ndata 0\ndeleteall\n"
    )
    stream = head.encode()
    for name, blob in tree.items():
        quoted = b'"' + b"".join(b"\\%03o" % byte for byte in name) + b'"'
        stream += b"M 100644 inline %b\ndata %d\n%b\n" % (quoted, len(blob), blob)
    return stream
