import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from formulamine.discover.diff import FileDiff
from formulamine.ship.leak import Fix

CORE = "pkg/core.py"


def fix(*added: str, base: str = "", path: str = CORE, removed: tuple[str, ...] = ()) -> Fix:
    return Fix.of([FileDiff(path, path, added, removed)], [CORE], [base])


def test_an_added_line_is_found_whatever_its_white_space() -> None:
    found = fix("    result = lookup[key] + offset")
    assert "result = lookup[key] + offset" in found.leaks("Just write `result  =\n lookup[key]\t+ offset`.")
    assert found.leaks("Look it up.") == []


@pytest.mark.parametrize("line", ["return x + 1", "x = 1", "}", "abcdefghijklmnop", ""])
def test_a_line_that_says_too_little_is_none(line: str) -> None:
    assert fix(line).lines == frozenset()


def test_a_line_of_twelve_characters_and_three_tokens_says_enough() -> None:
    assert fix("abcdefgh+jkl").lines == {"abcdefgh+jkl"}
    assert fix("abcdefgh+jk").lines == frozenset()  # 11 characters


def test_what_base_holds_anywhere_is_no_leak() -> None:
    found = fix("    value = compute(everything)", base="if x:\n  value =  compute(everything)\n")
    assert found.leaks("value = compute(everything)") == []


def test_removed_lines_are_no_leak() -> None:
    line = "for index in range(len(things)):"
    assert fix("pass", base=line, removed=(line,)).leaks(f"The loop `{line}` is slow.") == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("def fast_path(self):", "fast_path"),
        ("class LookupTable:", "LookupTable"),
        ("cdef inline int tight_loop(int x):", "tight_loop"),
        ("from functools import lru_cache", "lru_cache"),
        ("import bisect as bisection", "bisection"),
        ("    self._memo = {}", "_memo"),
        ("    memo: dict[str, int] = {}", "memo"),
        ("def work(data, chunk_size=100):", "chunk_size"),
        ("def work(data, chunk_size: int = 100):", "chunk_size"),
        ("    for bucket in data:", "bucket"),
        ("    return sort(data, presorted=True)", "presorted"),
    ],
)
def test_an_introduced_name_is_found_as_a_word(line: str, name: str) -> None:
    found = fix(line, base="functools inline self data work sort")
    assert name in found.leaks(f"Use `{name}`.")
    assert name not in found.leaks(f"Use {name}s or pre{name}.")


@pytest.mark.parametrize("line", ["if memo == other:", "while memo >= 2:", "call(memo)", "assert memo != 3", "new = 1"])
def test_names_that_are_only_used_or_are_short_are_none(line: str) -> None:
    assert fix(line, base="other call while assert").leaks("memo new") == []


def test_names_introduced_outside_core_files_tell_nothing() -> None:
    assert fix("def test_fast_path(): pass", path="tests/test_core.py").names == frozenset()


def test_lines_added_outside_core_files_tell_all_the_same() -> None:
    line = "assert fast_path(1) == slow_path(1)"
    assert fix(line, path="tests/test_core.py").leaks(f"so that {line}")


LINE = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=80)
SPACE = st.sampled_from([" ", "\n", "\t", "  \n > ".replace(">", " "), "\r\n"])


CODE = st.builds("  {}  = {}({})".format, *[st.from_regex(r"[a-z_]{3,12}", fullmatch=True)] * 3)


@given(st.lists(CODE | LINE, min_size=1, max_size=5), st.lists(LINE, max_size=5), LINE, LINE, st.data())
def test_a_statement_that_holds_a_telling_line_is_always_found(
    added: list[str], base: list[str], before: str, after: str, data: st.DataObject
) -> None:
    found = fix(*added, base="\n".join(base))
    assume(bool(found.lines))
    line = data.draw(st.sampled_from(sorted(found.lines)))
    spaced = "".join(data.draw(SPACE) if one == " " else one for one in line)
    assert line in found.leaks(f"{before} {spaced} {after}")


@given(st.lists(LINE, max_size=5), st.lists(LINE, max_size=5))
def test_the_base_tree_itself_never_leaks(added: list[str], base: list[str]) -> None:
    found = fix(*added, base="\n".join(base))
    for line in "\n".join(base).splitlines():
        assert not {" ".join(line.split())} & found.lines
    assert not found.names & set("\n".join(base).split())
