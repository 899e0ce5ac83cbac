"""What a statement is made of, by the rules."""

from pathlib import Path

import pytest

from formulamine.discover.diff import FileDiff
from formulamine.records import BenchmarkResult, StatementPart
from formulamine.ship import extraction
from formulamine.ship.guard import TEMPLATE_FILE, Guard
from formulamine.ship.identity import People
from formulamine.ship.issues import NoIssues, documents
from formulamine.ship.leak import Base, Fix
from formulamine.ship.statements import Chosen, choose, measured_lines, render, sources_of

BASE = Base.of([""])
NOTHING = Guard(Fix.of([], [], BASE), People.of([], BASE))


def chosen(title: str, body: str = "", guard: Guard = NOTHING) -> Chosen:
    return choose(extraction.by_rules(documents("acme/toy", 1, title, body, NoIssues())), guard)


def kept(title: str, body: str = "") -> list[str]:
    return [one.text for one in chosen(title, body).parts]


def benchmark(name: str, base_seconds: float | None) -> BenchmarkResult:
    return BenchmarkResult(
        benchmark=name, kind="time", stage="confirm", mode="loop", status="ok", detail="", number=1, rounds=4,
        speedup=1.5, ci_low=1.4, ci_high=1.6, base_seconds=base_seconds, head_seconds=1.0, wall_speedup=1.5,
        decision="faster", clock="cpu", other_mode="", other_speedup=None, unit="seconds", base_value=None,
        head_value=None,
    )  # fmt: skip


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
        "groupby sum on many groups",
        "`DataFrame.groupby(...).sum()` is slow on a frame with many small groups: "
        "for 100000 groups it takes more than a second.",
    ]


def test_of_a_filled_in_template_the_problem_stays_and_the_solution_goes() -> None:
    found = chosen("Formatting of large tables", GITHUB_TEMPLATE)
    assert [one.text for one in found.parts] == [
        "Formatting of large tables",
        "Rendering a table with 10000000 cells spends most of its time in `format_cell`, "
        "which is called twice for every cell.",
        "Our dashboards with many rows freeze for seconds on every refresh.",
    ]
    assert ("It replaces the double loop with a single pass over the cells.", "solution_overview") in [
        (one.text, one.why) for one in found.removed
    ]


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
        "Removing the copy is what takes the time out of it.",
        "Importing scipy is slow and should only be done when necessary.",
        "We also sort the rows at detection time.",
        "The header could be cached.",
        "Disable automatic cache of columns",
        "Optimize out the second pass",
        "Eagerly loaded indices",
        "MAINT/TST: increase coverage of slow tests",
        "Accelerate tests: parallelize, remove slow ones",
        "Sorting is slow - use a heap",
    ],
)
def test_sentences_that_tell_the_solution_are_left_out(told: str) -> None:
    assert kept(told) == []
    assert kept("x", f"It is slow before it.\n\n{told}") == ["x", "It is slow before it."]
    (why,) = {one.why for one in chosen(told).removed}
    assert why in ("solution_overview", "solution_observations")


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
        "Checking the calendar of our town hall for clashes is slow: with 4,000 bookings it takes a whole second.",
        "Merging two tables of 1000 rows takes 3 s.",
        "Importing it is slow on network drives",
        "Looking up a name scans the whole list each time.",
        "ENH: performance of `Index.get_loc` on large indexes",
        "tokenizing **kwargs is slower than tokenizing *args",
    ],
)
def test_sentences_that_tell_the_problem_stay(said: str) -> None:
    assert kept(said) == [said.removeprefix("ENH: ")]


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


def test_a_title_that_the_body_repeats_is_said_once() -> None:
    assert kept("Reading large files is slow", "Reading large files is slow") == ["Reading large files is slow"]


def test_a_sentence_that_leaks_is_left_out_and_counted_by_its_rule() -> None:
    body = "One slow sentence to keep here. Another slow one with secret_name in it. It is slow since 3f2a91bc."
    fix = Fix.of(extraction_patch("def secret_name(): pass"), ["core.py"], BASE)
    found = chosen("Title of it", body, Guard(fix, People.of([], BASE)))
    assert [one.text for one in found.parts] == ["Title of it", "One slow sentence to keep here."]
    assert [(one.text, one.why) for one in found.removed] == [
        ("Another slow one with secret_name in it.", "leak: name"),
        ("It is slow since 3f2a91bc.", "leak: commit"),
    ]


def extraction_patch(line: str) -> list[FileDiff]:
    return [FileDiff("core.py", "core.py", (line,))]


@pytest.mark.parametrize(
    "title",
    [
        "Micro optimizations",
        "PERF: performance improvements",
        "Speedups",
        "MAINT: Fix docstring and micro-optimization",
    ],
)
def test_what_says_nothing_is_nothing(title: str) -> None:
    found = chosen(title)
    assert (found.parts, [one.why for one in found.removed]) == ([], ["says_nothing"])
    assert sources_of(found.parts) == ["measured"]
    assert len(kept(title, "The parser is slow on long lines.")) == 2


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("perf: slow import", "slow import"), ("(fix): slow import", "slow import"),
        ("ENH Faster import", "Faster import"), ("[core] slow import", "slow import"),
        ("perf/tst: slow import", "slow import"),
        ("fix(io)!: slow import", "slow import"), ("Fix slow import", "Fix slow import"),
        ("Performance of imports", "Performance of imports"), ("Fast paths are slow: all", "Fast paths are slow: all"),
    ],
)  # fmt: skip
def test_a_title_is_shown_without_the_projects_prefix(title: str, shown: str) -> None:
    assert kept(title) == [shown]


@pytest.mark.parametrize(
    "piece", ["perf", "perf ", "a.", "a-", "@a", "with 1s ", "a/a", "x@y.", "(I also ", "`", "<b "]
)
def test_a_hostile_message_takes_no_time_to_speak_of(piece: str) -> None:
    """With a pattern that backtracks without end, this would not end."""
    title, body = piece * 200 + "—x", piece * 4_000 + "—x"
    assert chosen(title, f"{body}\n\n{title} is slow.").parts is not None


def test_a_feature_is_what_was_made() -> None:
    assert kept("feat: custom in-memory indexes") == []
    assert kept("feat(io): faster reading of tables") == ["faster reading of tables"]


def test_what_is_seen_and_what_is_found_out_are_told_apart() -> None:
    body = "Opening a file takes 3 s. Most of it is spent in `parse_header`, which is called for each row."
    assert [(one.section, one.kind) for one in chosen("Slow opening of files", body).parts] == [
        ("initial_observations", "title"), ("initial_observations", "message"), ("triage", "message"),
    ]  # fmt: skip


def test_a_statement_is_a_page_at_most() -> None:
    found = chosen("Slow", "\n\n".join(f"Work number {number} is far too slow." for number in range(20)))
    assert len(found.parts) == 12
    assert [one.why for one in found.removed] == ["too_many"] * 9


def part(text: str, section: str = "initial_observations") -> StatementPart:
    return StatementPart.model_validate({"section": section, "kind": "message", "text": text})


def test_a_statement_quotes_what_was_reported_and_what_was_measured() -> None:
    parts = [part("It is slow with $5, {{ repo }} and {braces} & <b>."), part("It sorts twice.", "triage")]
    text = render("acme/toy", parts, [benchmark("bench.time_work", 0.0012), benchmark("bench.time_rest", None)])
    assert "## What was reported\n\n> It is slow with $5, {{ repo }} and {braces} & <b>.\n\n" in text
    assert "## What is known of the cause\n\n> It sorts twice.\n\n## What was measured" in text
    assert "\n- `bench.time_work`: 1.2 ms a call\n- `bench.time_rest`: did not end in time\n\n## What is asked" in text
    assert text.startswith("# A slow path in acme/toy\n\nYou are in a checkout of `acme/toy`.")
    assert text.endswith("become slower.\n")


def test_without_anything_reported_the_task_is_stated_from_what_was_measured() -> None:
    text = render("acme/toy", [], [benchmark("b", 1.0)])
    assert text.count("## ") == 2
    assert "\n- `b`: 1 s a call\n" in text
    assert "\n\n\n" not in text


@pytest.mark.parametrize(
    ("seconds", "shown"), [(2.0, "2 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.5 µs"), (7.89e-9, "7.89 ns")]
)
def test_times_are_shown_for_people(seconds: float, shown: str) -> None:
    assert measured_lines([benchmark("b", seconds)]) == [f"`b`: {shown} a call"]


def test_the_template_names_no_machine() -> None:
    assert "/" not in Path(TEMPLATE_FILE).read_text().replace("{{ repo }}", "")


def test_the_template_itself_tells_nothing() -> None:
    assert NOTHING.leaks(render("acme/toy", [], [benchmark("bench.time_x('a', 10)", 0.5)])) == []
