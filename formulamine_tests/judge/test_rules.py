from __future__ import annotations

import hashlib
import typing

import pytest

from formulamine.discover.sieve_rules import WEIGHTS_FILE, load_weights
from formulamine.items import Done, Rejected
from formulamine.judge.rules import RULES_FILE, JudgeInput, JudgeReason, judge, load_rules
from formulamine.records import Category, Classification

YES_FROM = load_weights().yes_from
FIX = (b"-    if start < end:\n+    if start <= end:\n", "src/spans.py")


def patch_of(lines: bytes, path: str = "src/spans.py") -> bytes:
    counts = lines.count(b"\n-") + lines.startswith(b"-"), lines.count(b"\n+") + lines.startswith(b"+")
    name = path.encode()
    return b"diff --git a/%b b/%b\n--- a/%b\n+++ b/%b\n@@ -1,%d +1,%d @@\n%b" % (name, name, name, name, *counts, lines)


def run(
    title: str, score: float, signals: list[str], patch: bytes = patch_of(*FIX)
) -> tuple[Done | Rejected, Classification]:
    item = JudgeInput(
        pr_id="o__r-1",
        title=title,
        body="",
        signals=signals,
        score=score,
        core_files=["src/spans.py"],
        patch_sha256=hashlib.sha256(patch).hexdigest(),
    )
    outcome = judge(item, patch)
    assert isinstance(outcome.record, Classification)
    return outcome, outcome.record


def test_a_better_algorithm_under_a_neutral_title_is_performance_work() -> None:
    signals = [
        "body performance: [slow] With 4,000 bookings it is slow.",
        "syntax container: src/spans.py:12 + seen = set(spans)",
    ]
    outcome, record = run("find_clashes on a full calendar", 3.0, signals)
    assert isinstance(outcome, Done)
    assert record.is_performance
    assert record.category == "use_better_data_structure_and_layout"
    assert "[slow] With 4,000 bookings" in record.rationale
    assert "src/spans.py:12 + seen = set(spans)" in record.rationale


def test_a_bug_fix_under_a_neutral_title_is_none_and_the_row_says_why() -> None:
    outcome, record = run("Spans that touch are one span", YES_FROM - 0.01, [])
    assert isinstance(outcome, Rejected)
    assert outcome.reason is JudgeReason.NOT_PERFORMANCE
    assert outcome.detail == record.rationale
    assert not record.is_performance
    assert "nothing in title 'Spans that touch are one span'" in record.rationale
    assert "adds: + if start <= end:" in record.rationale


def test_what_speaks_against_is_told_too() -> None:
    signals = [f"code {name}: src/a.py:{name} + x" for name in range(5)] + ["title bug_fix: [Fix] Fix spans"]
    outcome, record = run("Fix spans", YES_FROM, signals)
    assert isinstance(outcome, Done)
    assert "least of all title bug_fix: [Fix] Fix spans" in record.rationale


@pytest.mark.parametrize(
    ("category", "title", "signals"),
    [
        ("cache_and_reuse", "Compute the holidays of a year once", ["code cache: + @cache"]),
        ("use_parallelization", "Read files in threads", ["code parallel: + with ThreadPool() as pool:"]),
        ("use_lower_level_system", "Merge in Cython", ["core compiled: [.pyx] src/merge.pyx"]),
        ("use_better_algorithm", "Print in linear time", ["title performance: [linear time] Print in linear time"]),
        ("use_higher_level_system", "Faster sums", ["syntax loop_to_arrays: src/a.py:3 + np.sum(xs)"]),
        ("do_it_earlier_batch_throttle", "Delay the connection", ["title means: [Delay] Delay the connection"]),
        ("remove_or_reduce_work", "Avoid a second pass", ["title means: [Avoid] Avoid a second pass"]),
        ("micro_optimizations", "Less overhead in norm", ["title performance: [overhead] Less overhead in norm"]),
        ("uncategorized", "Faster spans", ["title performance: [Faster] Faster spans"]),
    ],
)
def test_the_category_follows_the_words(category: Category, title: str, signals: list[str]) -> None:
    assert run(title, 3.0, signals)[1].category == category


def test_categories_are_those_of_the_table_each_once() -> None:
    names = [kind.name for kind in load_rules().categories]
    assert sorted([*names, "uncategorized"]) == sorted(typing.get_args(Category))


@pytest.mark.parametrize(("lines", "difficulty"), [(20, "easy"), (199, "medium"), (1406, "hard")])
def test_difficulty_follows_core_lines_alone(lines: int, difficulty: str) -> None:
    tests = patch_of(b"+x\n" * 5000, "tests/test_spans.py")
    assert (
        run("Faster", 3.0, ["title performance: [Faster] Faster"], patch_of(b"+x\n" * lines) + tests)[1].difficulty
        == difficulty
    )


def test_a_row_names_the_rules_that_decided() -> None:
    record = run("Faster", 3.0, ["title performance: [Faster] Faster"])[1]
    assert (record.judge, record.tokens) == ("rules", 0)
    assert record.prompt_version == hashlib.sha256(RULES_FILE.read_bytes() + WEIGHTS_FILE.read_bytes()).hexdigest()[:12]
