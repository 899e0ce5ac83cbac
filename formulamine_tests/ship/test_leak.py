import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from formulamine.discover.diff import FileDiff
from formulamine.ship.guard import Guard
from formulamine.ship.identity import People
from formulamine.ship.leak import Base, Fix, Rule
from formulamine.ship.normal import squeezed, visible

CORE = "pkg/core.py"


def fix(*added: str, base: str = "", path: str = CORE, removed: tuple[str, ...] = (), **more: tuple[str, ...]) -> Fix:
    return Fix.of([FileDiff(path, path, added, removed)], [CORE], Base.of([base]), **more)


def rules(found: Fix, text: str, **more: list[str]) -> set[str]:
    return {leak.rule.value for leak in found.leaks(text, **more)}


NOTHING = fix()
ADDED = "    result = lookup_table[key] + offset"
# Of everything but the result, so that no name is introduced and only the line can tell.
WORDS = "result lookup_table key offset"


class TestLines:
    @pytest.mark.parametrize(
        "told",
        [
            "One writes result = lookup_table[key] + offset there.",
            "`result  =\n lookup_table[key]\t+ offset`",
            "> result =\n> lookup_table[key]\n> + offset",
            "- result = lookup_table[key]\n- + offset",
            "| result = lookup_table[key] | + offset |",
            ">>> result = lookup_table[key] + offset",
            "+ result = lookup_table[key] + offset",
            "RESULT = LOOKUP_TABLE[KEY] + OFFSET",
            "result = LookupTable[key] + offset",
            "```python\nresult = lookup_table[key] + offset\n```",
            "```\nresult = lookup_table[key]\n```\nand\n".replace("and\n", "") + "~~~py\n+ offset\n~~~",
            "<code>result = lookup_table[key]</code> <b>+ offset</b>",
            "result&nbsp;=&#32;lookup&#95;table[key] + offset",
            r"result = lookup\_table[key] + offset",
            "r\u200besult = look\u00adup_table[k\u2060ey] + off\ufeffset",
            "rеsult = lооkup_tаble[kеy] + оffsеt",
            "ｒｅｓｕｌｔ ＝ lookup_table［key］ ＋ offset",
            "𝚛𝚎𝚜𝚞𝚕𝚝 = 𝚕𝚘𝚘𝚔𝚞𝚙_table[𝐤𝐞𝐲] + offset",
            "r̲e̲s̲u̲l̲t = lookup_table[key] + offset",
            "result = lookup_\ntable[key] + off\nset",
        ],
    )
    def test_an_added_line_is_found_however_it_is_put(self, told: str) -> None:
        assert rules(fix(ADDED, base=WORDS), told) == {"line"}

    @pytest.mark.parametrize(
        "told",
        [
            "One writes value = lookup_table[key] + offset there.",
            "`result = cache[key] + offset`",
            "RESULT = lookup_table[KEY]\n+ shift",
            "```\nresult = lookup_table[name]\n+ offset\n```",
            "rеsult = lооkup_tаble[kеy] + shift",
        ],
    )
    def test_so_is_one_with_another_name_in_it(self, told: str) -> None:
        assert rules(fix(ADDED, base=WORDS), told) == {"renamed_line"}

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("    self._memo = {}", "self._cache = {}"),
            ("for item in sorted(items):", "for entry in sorted(items)"),
            ("x = numpy.take(x, order)", "`y = numpy.take(y, order)`"),
            ("# the rows are sorted by key before", "the lines are sorted by key before"),
        ],
    )
    def test_a_name_may_be_changed_everywhere_at_once(self, line: str, told: str) -> None:
        assert "renamed_line" in rules(fix(line, base="x"), told)

    @pytest.mark.parametrize(
        "told",
        [
            "Looking up a result by its key and offset is slow.",
            "`total = lookup_table[name] + offset`",  # two names are others
            "`result = lookup_table(key) + offset`",
            "`result = lookup_table[key]`",
            "`lookup_table[key]`",
        ],
    )
    def test_what_is_only_like_an_added_line_is_let_through(self, told: str) -> None:
        assert rules(fix(ADDED, base=WORDS), told) == set()

    def test_a_line_of_base_is_let_through_though_it_is_an_added_one_with_another_name_or_sign(self) -> None:
        base = f"{WORDS}\n  value = lookup_table[key] + offset\nresult = lookup_table[key] - offset\n"
        found = fix(ADDED, base=base)
        assert rules(found, "value = lookup_table[key] + offset") == set()
        assert rules(found, "result = lookup_table[key] - offset") == set()
        assert rules(found, "result = lookup_table[key] + offset") == {"line"}

    def test_prose_with_one_other_word_is_let_through_where_it_is_short(self) -> None:
        assert rules(fix("# sort the rows first", base="x"), "They sort the columns first.") == set()

    @pytest.mark.parametrize("told", ["`# sort the columns first`", "```\n# sort the columns first\n```"])
    def test_unless_it_is_quoted_as_code(self, told: str) -> None:
        assert rules(fix("# sort the rows first", base="x"), told) == {"renamed_line"}

    @pytest.mark.parametrize("line", ["return x + 1", "x = 1", "}", "abcdefghijklmnop", ""])
    def test_a_line_that_says_too_little_is_none(self, line: str) -> None:
        assert fix(line).lines == {}

    def test_a_line_of_twelve_characters_and_three_tokens_says_enough(self) -> None:
        assert list(fix("abcdefgh+jkl").lines.values()) == ["abcdefgh+jkl"]
        assert fix("abcdefgh+jk").lines == {}  # 11 characters

    def test_a_line_of_quotes_is_found_as_it_is_and_not_in_anything(self) -> None:
        found = fix("""quotes = ["'", '"', "`", "_", '-']""", """"'", '"', "`", "_", '-'""", base="quotes")
        assert rules(found, "so -,,, that") == set()
        assert rules(found, """so "'", '"', "`", "_", '-' that""") == {"line"}

    def test_a_line_that_base_has_with_an_underscore_more_is_found_as_it_is(self) -> None:
        found = fix("self.filename = filename", base="self._filename = filename")
        assert rules(found, "```\nself.filename\n```\n```\n= filename\n```") == {"line"}
        assert rules(found, "`self._filename = filename`") == set()

    def test_what_base_holds_anywhere_is_no_leak(self) -> None:
        found = fix("    value = compute(everything)", base="if x:\n  value =  compute(everything)\n")
        assert found.leaks("value = compute(everything)") == []

    def test_removed_lines_are_no_leak(self) -> None:
        line = "for index in range(len(things)):"
        assert fix("pass", base=line, removed=(line,)).leaks(f"The loop `{line}` is slow.") == []

    def test_lines_added_outside_core_files_tell_all_the_same(self) -> None:
        line = "assert fast_path(1) == slow_path(1)"
        assert rules(fix(line, path="tests/test_core.py"), f"so that {line}") == {"line"}


class TestNames:
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
            ("    return numpy.bincount(data)", "bincount"),
            ("    bincount,", "bincount"),
        ],
    )
    def test_an_introduced_name_is_found_as_a_word(self, line: str, name: str) -> None:
        found = fix(line, base="functools inline self data work sort numpy")
        assert name in [leak.text for leak in found.leaks(f"Use `{name}`.")]
        assert rules(found, f"Use {name.upper()}.") == {"name"}
        assert rules(found, f"Use {name}s or pre{name}.") == set()

    @pytest.mark.parametrize("told", ["FastPath", "fastPath", "FAST_PATH", "fast_\npath", "fаst_pаth", "fast\\_path"])
    def test_in_whichever_letters(self, told: str) -> None:
        assert rules(fix("def fast_path(self):"), f"There is a {told} for it.") == {"name"}

    @pytest.mark.parametrize(
        "line",
        [
            "# memoization of everything (all of it)", "x = 'memoization'", 'x = f("memoization")',
            "memoization is what it is called", "while True: pass",
        ],
    )  # fmt: skip
    def test_words_of_comments_strings_and_docstrings_are_none(self, line: str) -> None:
        assert rules(fix(line), "It lacks memoization while it works.") == set()

    def test_short_names_count_where_they_are_quoted_as_code(self) -> None:
        found = fix("lut = make(2)", base="make")
        assert rules(found, "A lut is none.") == set()
        assert rules(found, "A `lut` is one.") == {"name"}
        assert rules(fix("i = make(2)", base="make"), "`i`") == set()

    def test_names_that_base_has_in_any_form_are_none(self) -> None:
        assert rules(fix("fast_path = 1", base="class FastPath: pass"), "fast_path") == set()

    def test_names_introduced_outside_core_files_tell_nothing(self) -> None:
        assert fix("def test_fast_path(): pass", path="tests/test_core.py").names == {}

    def test_names_of_confirmed_benchmarks_are_allowed(self) -> None:
        guard = Guard(fix("def fast_path(self):"), People.of([], Base.of([])))
        assert guard.leaks("`bench.time_fast_path`: 1 s a call", allowed=["bench.time_fast_path"]) == []
        assert guard.leaks("`bench.fast_path`: 1 s", allowed=["bench.time_fast_path"]) != []
        assert guard.leaks("`bench.fast_path`: 1 s; fast_path", allowed=["bench.fast_path"]) != []


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("number", "See #123 for it."), ("number", "as in gh-1234"), ("number", "GH1234 did it"),
        ("number", "since PR 77"), ("number", "of pull request no. 8"), ("number", "acme/toy#9 says"),
        ("number", "issue 12 has it"), ("number", "＃123"),
        ("link", "at https://example.org/x"), ("link", "www.example.org"), ("link", "git@example.org:a/b.git"),
        ("link", "[this](../pull/12)"), ("link", "ht\u200btps://example.org"),
        ("commit", "since 3f2a91bc it is"), ("commit", "commit abcdef12"), ("commit", "in `0123abcd4567`"),
        ("commit", "as of 3F2A91BC"), ("commit", "revision 1234567"),
        ("branch", "on the branch fast-sums"), ("branch", "my `fast-sums` branch"), ("branch", "see perf/lookup"),
        ("branch", "git checkout faster"), ("branch", "merged from patch-1"),
        ("timing", "It is 10x faster."), ("timing", "a 3-fold speedup"), ("timing", "speedup of 2.5"),
        ("timing", "10× faster"), ("timing", "10 х faster"), ("timing", "faster by a factor of three"),
        ("timing", "40% faster"), ("timing", "reduces the time by 40 %"), ("timing", "improves it by 12%"),
        ("timing", "from 3 s to 0.2 s"), ("timing", "from 3s down to 200ms"), ("timing", "3 s -> 0.2 s"),
        ("timing", "3 s → 0.2 s"), ("timing", "3s vs 0.2s"), ("timing", "before: 3 s, after: 0.2 s"),
        ("timing", "It took 3 s before and takes 0.2 s now."), ("timing", "It now takes 0.2 s."),
        ("timing", "with this change it takes 0.2 s"), ("timing", "down to 20 ms"), ("timing", "ten times faster"),
        ("timing", "twice as fast"), ("timing", "halves the time"), ("timing", "in half the time"),
        ("timing", "two orders of magnitude faster"), ("timing", "a speedup: 4"), ("timing", "saves 30% of the time"),
        ("timing", "5-10x improvement"), ("timing", "[before] [after] [ratio]".replace("[", "").replace("]", "")),
        ("timing", "1.20±0.1s        200±10ms     0.17  time_x"), ("timing", "10x less memory"),
    ],
)  # fmt: skip
def test_what_no_statement_may_hold_is_found(rule: str, told: str) -> None:
    assert rule in rules(NOTHING, told)


@pytest.mark.parametrize(
    "told",
    [
        "It takes 3 s on a list of 10,000 numbers.", "`bench.time_x`: 1.2 ms a call", "Loading needs 3 s and 200 MB.",
        "The call takes 12 seconds for 1000 rows and 3 minutes for 10000 rows.", "It should be faster.",
        "Speed up the parser", "This is 10x slower than sorting.", "It is called 3 times for each row.",
        "Twice as many rows take four times as long.", "It is two orders of magnitude slower than NumPy.",
        "The loop runs 10 times over 5 items.", "90% of the time is spent in `sort`.", "With 8 cores it takes 5 s.",
        "This went from bad to worse.", "An array of shape 10 x 20 x 30", "Sorting 1000000 rows",
        "It is in C# and F#.", "a colour #ff00aa and a number 0xdeadbeef", "the decade was defaced",
        "1e1000000", "a value of 1234567", "on the main branch", "in master", "a branch of the tree",
        "the feature is slow", "e.g. foo.bar.baz and 1.2.3", "`a[i](b)`", "issues of performance",
        "pull requests are slow", "I think the first issue is memory.", "Version 2.0 of numpy/scipy",
    ],
)  # fmt: skip
def test_what_anybody_may_say_is_let_through(told: str) -> None:
    assert NOTHING.leaks(told) == []


def test_commits_of_the_pull_request_are_found_by_any_beginning() -> None:
    found = fix(shas=("1234567890" * 4,))
    assert rules(found, "since 12345678") == {"commit"}
    assert rules(found, "since 22345678") == set()


def test_its_own_branch_is_found_without_the_word() -> None:
    found = fix(branches=("quick_lookup", "short"))
    assert rules(found, "My Quick_Lookup is it, in short.") == {"branch"}


def test_a_sentence_of_the_solution_is_found_whatever_its_signs() -> None:
    told = "The rows are *sorted* first,\n> and then searched!"
    assert rules(NOTHING, told, solution=["The rows are sorted first, and then searched."]) == {"solution"}
    assert rules(NOTHING, told, solution=["The rows are searched.", "Done."]) == set()


LINE = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=80)
SPACE = st.sampled_from([" ", "\n", "\t", "  \n ", "\r\n", "\u200b ", "\n> "])
CODE = st.builds("  {}  = {}({})".format, *[st.from_regex(r"[a-z]{3}[a-z_]{0,9}", fullmatch=True)] * 3)


@given(st.lists(CODE | LINE, min_size=1, max_size=5), st.lists(LINE, max_size=5), LINE, LINE, st.data())
def test_a_statement_that_holds_a_telling_line_is_always_found(
    added: list[str], base: list[str], before: str, after: str, data: st.DataObject
) -> None:
    found = fix(*added, base="\n".join(base))
    assume(bool(found.lines))
    line = data.draw(st.sampled_from(sorted(found.lines.values())))
    assert line in [leak.text for leak in found.leaks(f"{before}\n{line}\n{after}") if leak.rule is Rule.LINE]


@given(CODE, st.data())
def test_however_it_is_broken(added: str, data: st.DataObject) -> None:
    found = fix(added)
    assume(bool(found.lines))
    spaced = re.sub(" +", lambda _: data.draw(SPACE), added.strip())
    assert rules(found, f"So: {spaced}") >= {"line"}


@given(st.lists(LINE, max_size=5), st.lists(LINE, max_size=5))
def test_the_base_tree_itself_never_leaks(added: list[str], base: list[str]) -> None:
    found = fix(*added, base="\n".join(base))
    for line in visible("\n".join(base)).splitlines():
        assert squeezed(line) not in map(squeezed, found.lines.values())
    assert not {name.casefold() for name in found.names.values()} & set("\n".join(base).casefold().split())


@given(st.text(max_size=200))
def test_any_text_can_be_looked_at(text: str) -> None:
    fix(*text.splitlines(), base=text).leaks(text)
