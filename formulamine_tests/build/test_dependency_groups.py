import tomllib

import pytest

from formulamine.build.declarations import DeclarationError
from formulamine.build.dependency_groups import group, group_names

GROUPS = tomllib.loads("""
[dependency-groups]
Test_All = ["pytest>=7", {include-group = "bench"}]
bench = ["asv; python_version >= '3.9'"]
ring = [{include-group = "gnir"}]
gnir = [{include-group = "Ring"}]
lost = [{include-group = "nowhere"}]
odd = [3]
odder = "pytest"
wrong = [{include-groups = "bench"}]
bad = ["a b"]
[tool.poetry.group.bench.dependencies]
numpy = "^1.20"
""")


@pytest.mark.parametrize("name", ["test-all", "Test_All", "TEST.ALL"])
def test_a_group_holds_those_that_it_includes(name: str) -> None:
    assert [one.name for one in group(GROUPS, name)] == ["pytest", "asv"]


def test_a_group_of_poetrys_joins_the_one_of_the_same_name() -> None:
    assert [str(one) for one in group(GROUPS, "bench")] == ['asv; python_version >= "3.9"', "numpy<2.0,>=1.20"]


def test_names_of_groups_are_sorted_and_plain() -> None:
    assert group_names(GROUPS) == ["bad", "bench", "gnir", "lost", "odd", "odder", "ring", "test-all", "wrong"]
    assert group_names({}) == group_names({"dependency-groups": 3}) == []


@pytest.mark.parametrize("name", ["ring", "gnir", "lost", "odd", "wrong", "bad"])
def test_a_malformed_group_says_so(name: str) -> None:
    with pytest.raises(DeclarationError):
        group(GROUPS, name)


def test_a_group_that_is_not_there_holds_nothing() -> None:
    assert group(GROUPS, "nothing") == group({}, "bench") == []
