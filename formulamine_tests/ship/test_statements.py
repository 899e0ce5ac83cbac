from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.ship.statements import TEMPLATE_FILE, choose, render, sentences, stands_in


def no_leaks(_: str) -> list[str]:
    return []


def kept(title: str, body: str = "") -> list[str]:
    return choose(title, body, no_leaks)[0]


# Written after the shapes of real pull requests: templates, squash messages, asv tables, bots.
PANDAS = """- [x] closes #12345 (Replace xxxx with the GitHub issue number)
- [ ] [Tests added and passed](https://pandas.pydata.org/docs/dev/tests.html) if fixing a bug or adding a new feature
- [x] All [code checks passed](https://pandas.pydata.org/docs/dev/checks.html).
- [ ] Added an entry in the latest `doc/source/whatsnew/vX.X.X.rst` file if fixing a bug or adding a new feature.

`DataFrame.groupby(...).sum()` is slow on a frame with many small groups: for 100000 groups it takes more than a second.

```
       before           after         ratio
     [1a2b3c4d]       [5e6f7a8b]
     <main>           <fast-sum>
-       1.20±0.1s        200±10ms     0.17  groupby.Sum.time_sum
```

| rows | main | PR |
|------|------|----|
| 10   | 1 ms | 1 ms |

<details><summary>Profile</summary>

    10001 function calls in 0.5 seconds

</details>

![flame graph](profile.png)
"""
GITHUB_TEMPLATE = """<!-- Thank you for contributing! Please describe your change below. -->
## Description
<!--- Describe your changes in detail -->
Rendering a table with 10000000 cells spends most of its time in `format_cell`, which is called twice for every cell.

**What does this change?**
It replaces the double loop with a single pass over the cells.
We cache the formatted cells, so that each is formatted only once.
This avoids formatting each cell again.

## Motivation and Context
Fixes: #77
See https://example.org/forum/123 for the report by @someone.
Our dashboards with many rows freeze for seconds on every refresh.

## Checklist:
- [x] I have read the CONTRIBUTING document.
- [ ] I have added tests to cover my changes.
* [x] All new and existing tests passed.
1. [ ] Changelog entry

---------

Co-authored-by: Ann Example <ann@example.org>
Signed-off-by: Bob Example <bob@example.org>
"""
SQUASHED = """* use a dict for lookups

* fix typo in the comment of the loop

* Update pkg/core.py

Co-authored-by: Ann Example <ann@example.org>

---------

Co-authored-by: pre-commit-ci[bot] <66853113+pre-commit-ci[bot]@users.noreply.github.com>
"""


def test_of_a_template_of_checklists_only_the_report_stays() -> None:
    assert kept("PERF: groupby sum on many groups", PANDAS) == [
        "PERF: groupby sum on many groups",
        "`DataFrame.groupby(...).sum()` is slow on a frame with many small groups: "
        "for 100000 groups it takes more than a second.",
    ]


def test_of_a_filled_in_template_the_problem_stays_and_the_solution_goes() -> None:
    found, removed = choose("Formatting of large tables", GITHUB_TEMPLATE, no_leaks)
    assert found == [
        "Formatting of large tables",
        "Rendering a table with 10000000 cells spends most of its time in `format_cell`, "
        "which is called twice for every cell.",
        "Our dashboards with many rows freeze for seconds on every refresh.",
    ]
    assert "It replaces the double loop with a single pass over the cells." in removed


def test_a_squashed_message_is_a_list_of_solutions() -> None:
    assert kept("Lookup of names", SQUASHED) == ["Lookup of names"]


@pytest.mark.parametrize(
    "told",
    [
        "PERF: avoid copying the index",
        "perf(core): use a set for membership tests",
        "[PERF] Vectorize the inner loop",
        "Cache compiled patterns",
        "Caching of compiled patterns",
        "ENH: lazily import scipy",
        "Don't parse the header twice",
        "Skip validation where it was done",
        "PERF: compute the holidays of a year once",
        "Speed up lookups by hashing the names",
        "Improve performance of joins using a hash table",
        "Faster startup via deferred imports",
        "The lookup is now done in constant time.",
        "I replaced the list by a set.",
        "We precompute the table at import.",
        "I've moved the check out of the loop.",
        "This is done by keeping the last result.",
        "This makes the lookup 3.5x faster.",
        "A dictionary is built instead of scanning the list.",
        "The loop is rewritten in Cython.",
        "The heart of the change is the new table.",
        "Lookup goes from O(n) -> O(1) on average.",
        "The scan is no longer needed for sorted input.",
        "Memoization of the parser saves most of the time.",
        "Lookups are faster than before on big inputs.",
        "perf: let EventedSet use clear() of the underlying set",
        "perf: Only update Parameter signatures when needed",
        'perf: Improve import time by lazy import "slow" modules',
        "Minimum spanning tree: early break for efficiency",
        "It also removes the last slow place of its kind.",
    ],
)
def test_sentences_that_tell_the_solution_are_left_out(told: str) -> None:
    assert kept(told) == []
    assert kept("x", f"It is slow before it.\n\n{told}") == ["x", "It is slow before it."]


@pytest.mark.parametrize(
    "said",
    [
        "`find_clashes` is slow with 4,000 bookings",
        "Speed up the parser",
        "Fix quadratic behaviour of find()",
        "Improve performance of joins on large tables",
        "Parsing a file of 10000000 rows takes minutes, and nearly all of it goes into dates.",
        "I noticed that opening a project takes 10 s.",
        "We profiled it: most of the time is spent in `sort`.",
        "Printing spends most of its time on formatting numbers, and every number is formatted twice.",
        "What it returns is right and must stay as it is.",
        "Looking up a name scans the whole list each time.",
        "ENH: performance of `Index.get_loc` on large indexes",
        "tokenizing **kwargs is slower than tokenizing *args",
    ],
)
def test_sentences_that_tell_the_problem_stay(said: str) -> None:
    assert kept(said) == [said]


@pytest.mark.parametrize(
    "rubbish",
    [
        "Closes #12", "closes: gh-12", "Fixes: the issue that was reported",
        "See https://example.org/issue/12 for more.",
        "Follow-up of 3f2a91bc which did the same.", "As discussed in this pull request some time ago.",
        "cc @someone and @else for a look please", "## A heading of several words", "- [ ] a box that nobody ticked",
        "- [X] a box that somebody ticked", "**What does this do?**", "| a | table | row |", "a | table | row | here",
        "> quoted words of somebody else", ">>> import this_and_that_module", "![a picture of it](a.png)",
        "<img width=1 src=a.png> and more text", "In [1]: %timeit work(a, b, c)", "%timeit work(a, b, c) of it",
        "$ python -m timeit 'work(a, b)'", "1.20±0.1ms        200±10us     0.17  time_x",
        "+  12.3ms  1.2s  99.0  bench.time_x",
        "Reviewed-by: Ann Example <ann@example.org>", "Thanks for contributing to this project!",
        "I have added tests to cover this.", "Added tests and documentation for it.",
        "All existing tests pass with it.",
        "* subject of a squashed commit", "    indented(code, of, some, kind)", "~~~\nfenced code of some kind\n~~~",
        "```python\nfenced(code, of, some, kind)\n```", "```\nunclosed fence of some kind\nand more", "short",
        "<!-- an unclosed comment of the template", "x\n---------\nCo-authored-by: Ann <a@example.org>",
    ],
)  # fmt: skip
def test_rubbish_is_left_out(rubbish: str) -> None:
    assert kept("x", rubbish) == ["x"]


@pytest.mark.parametrize(
    "said",
    [
        "Made n_samples keyword-only",
        "We apply the cohort split step after the blockwise reduction, then the tree reduction on each cohort.",
        "This clarifies the relationship between these subclasses and the general check.",
    ],
)
def test_of_a_body_only_what_speaks_of_something_slow_is_kept(said: str) -> None:
    assert kept("x", said) == ["x"]


def test_an_indented_line_takes_nothing_with_it_but_itself() -> None:
    body = "Before the code there is text.\n\n    code(1)\n\nAfter the code there is more text."
    assert sentences(body) == ["Before the code there is text.", "After the code there is more text."]


def test_sentences_are_taken_as_they_stand_but_for_line_breaks_and_bullets() -> None:
    body = (
        "A sentence over\r\ntwo lines. Another one\nfollows it here:\n- a very first point of it\n"
        "- **bold** second point of it\n1. and a numbered one too"
    )
    assert sentences(body) == [
        "A sentence over two lines.", "Another one follows it here:", "a very first point of it",
        "**bold** second point of it", "and a numbered one too",
    ]  # fmt: skip


def test_a_sentence_is_never_put_together_of_two_that_stand_apart() -> None:
    body = "The loop is slow\n- [x] tests\nbecause of the sort.\nAnother half <!-- x --> and its rest of words."
    assert all(stands_in(one, "", body) for one in sentences(body))


def test_an_empty_title_is_no_part() -> None:
    assert choose("  ", "", no_leaks) == ([], [])


def test_a_title_that_the_body_repeats_is_said_once() -> None:
    assert kept("Reading large files is slow", "Reading large files is slow") == ["Reading large files is slow"]


def test_a_sentence_that_leaks_is_left_out() -> None:
    body = "One slow sentence to keep here. Another slow one with secret_name in it."
    found, removed = choose("Title", body, lambda said: ["secret_name"] if "secret_name" in said else [])
    assert found == ["Title", "One slow sentence to keep here."]
    assert removed == ["Another slow one with secret_name in it."]


WORDS = st.lists(
    st.sampled_from(
        ["slow", "word", "The", "a.", "b!", "\n", "\n\n", "\r\n", "- ", "* ", "```", "    ", "\t", "# h", "> q", "<!--",
         "-->", "| x |", "- [x] y", "1. ", "---", "Co-authored-by: x", "\x0c", "\u2028", "\xa0", "`code`"]
    ),
    max_size=40,
)  # fmt: skip


@given(WORDS.map(" ".join) | st.text(max_size=200))
def test_every_sentence_of_any_body_stands_in_it(body: str) -> None:
    for sentence in sentences(body):
        assert stands_in(sentence, "", body), sentence


def test_stands_in_folds_white_space_and_nothing_else() -> None:
    assert stands_in("a b  c", "", "x a\nb c y")
    assert not stands_in("a b d", "a b", "c d")
    assert not stands_in("A b", "a b", "")


def test_a_statement_quotes_what_was_reported_and_what_was_measured() -> None:
    text = render("acme/toy", ["It is slow with $5 and {braces}."], ["- `bench.time_work`: 1.2 ms a call"])
    assert "\n> It is slow with $5 and {braces}.\n" in text
    assert "- `bench.time_work`: 1.2 ms a call" in text
    assert "`acme/toy`" in text
    assert "$repo" not in text


def test_without_anything_reported_there_is_no_section_for_it() -> None:
    assert "What was reported" not in render("acme/toy", [], ["- `b`: 1 s a call"])


def test_the_template_names_no_machine() -> None:
    assert "/" not in Path(TEMPLATE_FILE).read_text().replace("$repo", "")
