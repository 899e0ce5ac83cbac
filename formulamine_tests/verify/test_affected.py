"""Which test files a change reaches, read from small trees."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.verify.affected import Affected, affected_tests

PACKAGE = {
    "src/toy/__init__.py": "from toy.near import one\nfrom .far import *\nfrom toy import odd\n",
    "src/toy/near.py": "from toy.deep import two\ndef one(): return two()\n",
    "src/toy/far.py": "def three(): pass\n",
    "src/toy/deep.py": "def two(): pass\n",
    "src/toy/odd.pyx": "cdef int nothing",
    "src/toy/words.txt": "words",
    "tests/test_a_root.py": "import toy\n",
    "tests/test_b_name.py": "from toy import one\n",
    "tests/test_c_attribute.py": "import toy as t\ndef test(): assert t.three() is None\n",
    "tests/test_d_inside.py": "def test():\n    import toy.deep\n    toy.deep.two()\n",
    "tests/test_e_helper.py": "from helper import one\n",
    "tests/helper.py": "from toy.near import one\n",
    "tests/test_f_other.py": "import os\n",
    "tests/test_g_broken.py": "def (",
    "other/test_h_relative.py": "from .. import nothing\nfrom ....... import nothing\n",
}


def reached(tmp_path: Path, changed: list[str], most: int = 20, head: dict[str, str] | None = None) -> Affected:
    for side, files in (("base", PACKAGE), ("head", {**PACKAGE, **(head or {})})):
        for name, text in files.items():
            path = tmp_path / side / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return affected_tests(tmp_path / "base", tmp_path / "head", changed, most)


@pytest.mark.parametrize(
    ("changed", "first"),
    [
        # By name through the package's root, through a helper, and through it alone.
        ("src/toy/near.py", ["tests/test_b_name.py", "tests/test_e_helper.py"]),
        ("src/toy/far.py", ["tests/test_c_attribute.py"]),
        ("src/toy/deep.py", ["tests/test_d_inside.py", "tests/test_b_name.py", "tests/test_e_helper.py"]),
        ("tests/helper.py", ["tests/test_e_helper.py"]),
    ],
)
def test_what_uses_a_changed_name_comes_before_what_only_imports_its_package(
    tmp_path: Path, changed: str, first: list[str]
) -> None:
    found = reached(tmp_path, [changed])
    assert list(found.files[: len(first)]) == first
    assert "tests/test_f_other.py" not in found.files
    assert ("tests/test_a_root.py" in found.files) is changed.startswith("src")


def test_a_touched_test_file_comes_first_and_one_named_after_the_module_next(tmp_path: Path) -> None:
    new = {"tests/test_new.py": "", "tests/test_far.py": ""}
    found = reached(tmp_path, ["src/toy/far.py", "tests/test_f_other.py", "tests/test_new.py"], head=new)
    assert found.files[:3] == ("tests/test_f_other.py", "tests/test_new.py", "tests/test_c_attribute.py")
    deleted = reached(tmp_path, ["tests/test_f_other.py", "tests/never_there/test_x.py"])
    assert deleted.files == ("tests/test_f_other.py",)


def test_a_file_named_after_what_changed_is_the_nearest_of_those_that_import_it(tmp_path: Path) -> None:
    found = reached(tmp_path, ["src/toy/far.py"], head={"tests/test_far.py": "import toy\n"})
    assert found.files[:2] == ("tests/test_far.py", "tests/test_c_attribute.py")


@pytest.mark.parametrize("changed", ["src/toy/words.txt", "src/toy/fast/kernel.c", "src/toy/odd.pyx"])
def test_data_and_compiled_code_reach_whoever_imports_their_package(tmp_path: Path, changed: str) -> None:
    assert "tests/test_a_root.py" in reached(tmp_path, [changed]).files


@pytest.mark.parametrize("changed", [[], ["README.rst"], ["setup.py"], ["docs/conf.py"]])
def test_what_nothing_imports_reaches_no_test(tmp_path: Path, changed: list[str]) -> None:
    assert reached(tmp_path, changed) == Affected((), 0)


def test_a_conftest_reaches_what_stands_below_it(tmp_path: Path) -> None:
    found = reached(tmp_path, ["tests/conftest.py"])
    assert "tests/test_f_other.py" in found.files
    assert "other/test_h_relative.py" not in found.files


def test_the_bound_keeps_the_nearest_and_counts_the_rest(tmp_path: Path) -> None:
    everything = reached(tmp_path, ["src/toy/deep.py"])
    cut = reached(tmp_path, ["src/toy/deep.py"], most=2)
    assert cut == Affected(everything.files[:2], len(everything.files) - 2)
    assert everything.left_out == 0


def test_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.py"
    secret.write_text("from toy.near import one\n")
    (tmp_path / "head" / "tests").mkdir(parents=True)
    (tmp_path / "head" / "tests" / "test_linked.py").symlink_to(secret)
    assert "tests/test_linked.py" not in reached(tmp_path, ["src/toy/near.py", "tests/test_linked.py"]).files


@given(st.dictionaries(st.sampled_from(list(PACKAGE)), st.text(max_size=60)), st.integers(0, 9))
def test_any_text_is_read_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, texts: dict[str, str], most: int
) -> None:
    found = reached(tmp_path_factory.mktemp("any"), ["src/toy/near.py"], most, texts)
    assert len(found.files) <= most
