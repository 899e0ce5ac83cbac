import contextlib
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.version import Version

from formulamine.build.declarations import DeclarationError
from formulamine.build.tool_tables import (
    flit_fields,
    poetry_fields,
    poetry_groups,
    poetry_requirements,
    poetry_specifier,
)

POETRY = """
[tool.poetry]
name = "My.Package"
classifiers = ["Programming Language :: Python :: 3.9"]
[tool.poetry.dependencies]
Python = "not this one"
python = "^3.8"
numpy = "^1.20"
pandas = {version = "~1.3", optional = true}
h5py = {version = "^3", optional = true, python = ">=3.9"}
unlisted = {version = "*", optional = true}
scipy = [{version = "^1.5", python = "<3.10"}, {version = "^1.9", python = ">=3.10"}]
[tool.poetry.extras]
IO = ["Pandas", "h5py", "nowhere"]
[tool.poetry.dev-dependencies]
pytest = "*"
[tool.poetry.group.bench.dependencies]
asv = ">=0.5"
odd = 7
"""


@pytest.mark.parametrize(
    ("constraint", "specifier"),
    [
        ("^1.2.3", "<2.0.0,>=1.2.3"),
        ("^0.2.3", "<0.3.0,>=0.2.3"),
        ("^0.0.3", "<0.0.4,>=0.0.3"),
        ("^0.0", "<0.1,>=0.0"),
        ("^0", "<1,>=0"),
        ("^1!2.3", "<1!3.0,>=1!2.3"),
        ("^1.2b1", "<2.0,>=1.2b1"),
        ("~1.2.3", "<1.3.0,>=1.2.3"),
        ("~1.2", "<1.3,>=1.2"),
        ("~1", "<2,>=1"),
        ("~=1.2", "~=1.2"),
        ("~=1", "<2,>=1"),
        ("1.*", "==1.*"),
        ("!=1.2.*", "!=1.2.*"),
        ("*", ""),
        ("", ""),
        ("1.2", "==1.2"),
        ("=1.2", "==1.2"),
        (">= 1.0, < 2.0", "<2.0,>=1.0"),
        (">=1.0 <2.0", "<2.0,>=1.0"),
        ("~2.7 || ^3.6", "<4.0,>=2.7"),
        ("<1|>=2", ""),
        (">1.0 || 1.0", ">=1.0"),
        ("==1.* || ~=2.3", "<3.0,>=1"),
    ],
)
def test_a_constraint_of_poetrys_is_a_specifier(constraint: str, specifier: str) -> None:
    assert str(poetry_specifier(constraint)) == specifier


@pytest.mark.parametrize("constraint", ["three", ">=1.*", "1.0 - 2.0", "^", "1 ^", "^1.x", "<>1"])
def test_what_is_no_constraint_says_so(constraint: str) -> None:
    with pytest.raises(DeclarationError, match="poetry"):
        poetry_specifier(constraint)


RELEASES = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)


def text_of(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))


@given(RELEASES, RELEASES)
def test_a_caret_allows_what_does_not_change_the_first_number_that_counts(
    low: tuple[int, ...], other: tuple[int, ...]
) -> None:
    counts = next((at for at, number in enumerate(low) if number), len(low) - 1) + 1
    padded = (*other, 0, 0)
    expected = Version(text_of(other)) >= Version(text_of(low)) and padded[:counts] == low[:counts]
    assert poetry_specifier(f"^{text_of(low)}").contains(text_of(other)) == expected


@given(RELEASES, RELEASES)
def test_a_tilde_allows_what_does_not_change_the_minor_number(low: tuple[int, ...], other: tuple[int, ...]) -> None:
    counts = min(2, len(low))
    expected = Version(text_of(other)) >= Version(text_of(low)) and (*other, 0, 0)[:counts] == low[:counts]
    assert poetry_specifier(f"~{text_of(low)}").contains(text_of(other)) == expected


CONSTRAINTS = st.builds(
    "{}{}".format, st.sampled_from(["^", "~", ">=", "<", ">", "<=", "==", "!=", ""]), RELEASES.map(text_of)
)


@given(CONSTRAINTS, CONSTRAINTS, RELEASES)
def test_alternatives_allow_what_either_allows_and_a_conjunction_what_both_do(
    first: str, second: str, release: tuple[int, ...]
) -> None:
    version = text_of(release)
    allowed = [poetry_specifier(one).contains(version) for one in (first, second)]
    assert poetry_specifier(f"{first}, {second}").contains(version) == all(allowed)
    if any(allowed):
        assert poetry_specifier(f"{first} || {second}").contains(version)


@given(st.text(max_size=20))
def test_any_text_is_a_constraint_or_a_declaration_error(text: str) -> None:
    with contextlib.suppress(DeclarationError):
        poetry_specifier(text)


def test_poetrys_table_is_read_as_poetry_writes_its_metadata() -> None:
    found = poetry_fields(tomllib.loads(POETRY))
    assert found is not None
    assert found.name == "My.Package"
    assert found.requires_python == "<4.0,>=3.8"
    assert found.requirements == (
        "numpy<2.0,>=1.20",
        "scipy<2.0,>=1.5 ; python_full_version < '3.10'",
        "scipy<2.0,>=1.9 ; python_full_version >= '3.10'",
    )
    assert found.extras == {"IO": ("pandas<1.4,>=1.3", "h5py<4,>=3 ; python_full_version >= '3.9'")}
    assert found.classifiers == ("Programming Language :: Python :: 3.9",)


def test_a_dependency_that_an_extra_lists_is_asked_for_by_the_extra_only() -> None:
    table = {"name": "p", "dependencies": {"a": "*", "b": "*"}, "extras": {"x": ["A"]}}
    found = poetry_fields({"tool": {"poetry": table}})
    assert found is not None
    assert (found.requirements, found.extras) == (("b",), {"x": ("a",)})


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        ({"git": "https://example.org/a.git"}, ["a"]),
        ({"path": "../a"}, ["a"]),
        ({"version": "1.2", "extras": ["x", "y"]}, ["a[x,y]==1.2"]),
        ({"version": "*", "platform": "win32"}, ["a ; sys_platform == 'win32'"]),
        (
            {"markers": "os_name == 'a' or os_name == 'b'", "python": "~3.9"},
            [
                "a ; (os_name == 'a' or os_name == 'b')"
                " and python_full_version < '3.10' and python_full_version >= '3.9'"
            ],
        ),
    ],
)
def test_an_entry_is_one_requirement(value: object, lines: list[str]) -> None:
    found = poetry_requirements("a", value)
    assert list(found) == lines
    assert all(Requirement(line).name == "a" for line in found)


@pytest.mark.parametrize("value", [7, {"version": 7}, {"extras": "x"}, {"python": 3}, {"markers": []}, [7], "x y z"])
def test_an_entry_of_a_wrong_kind_says_so(value: object) -> None:
    with pytest.raises(DeclarationError, match="poetry"):
        poetry_requirements("a", value)


def test_what_cannot_be_read_makes_its_field_unknown() -> None:
    table = {"name": 3, "dependencies": {"python": ["x"], "a": 7}, "extras": {"x": ["a"], "y": "a"}}
    found = poetry_fields({"tool": {"poetry": table}})
    assert found is not None
    assert (found.name, found.requires_python, found.extras) == (None, None, None)
    assert poetry_fields({"tool": {"poetry": {"name": "p", "dependencies": {"a": 7}}}}).requirements is None  # type: ignore[union-attr]


def test_groups_of_poetry_without_what_cannot_be_read() -> None:
    assert poetry_groups(tomllib.loads(POETRY)) == {"dev": ("pytest",), "bench": ("asv>=0.5",)}
    assert poetry_groups({"tool": {"poetry": {"group": "x", "dev-dependencies": 3}}}) == {"dev": ()}


FLIT = """
[tool.flit.metadata]
module = "my_package"
dist-name = "My-Package"
requires-python = ">=3.7"
requires = ["numpy>=1"]
[tool.flit.metadata.requires-extra]
test = ["pytest"]
"""


def test_flits_table_is_read() -> None:
    found = flit_fields(tomllib.loads(FLIT))
    assert found is not None
    assert (found.name, found.requires_python) == ("My-Package", ">=3.7")
    assert (found.requirements, found.extras) == (("numpy>=1",), {"test": ("pytest",)})
    plain = flit_fields({"tool": {"flit": {"metadata": {"module": "m", "requires-extra": {"x": 3}}}}})
    assert plain is not None
    assert (plain.name, plain.extras) == ("m", None)


@pytest.mark.parametrize(
    "table", [{}, {"tool": 3}, {"tool": {"poetry": 3, "flit": {"module": {}}}}, {"tool": {"black": {}}}]
)
def test_without_such_a_table_there_is_nothing(table: dict[str, object]) -> None:
    assert poetry_fields(table) is None
    assert flit_fields(table) is None
    assert poetry_groups(table) == {}
