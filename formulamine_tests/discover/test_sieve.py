from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from formulamine.discover import candidates
from formulamine.discover.candidates import CandidateStep
from formulamine.discover.sieve import SieveInput, SieveReason, sieve, sieve_by_files
from formulamine.discover.sieve_rules import load_rules, load_weights
from formulamine.items import Done, Rejected
from formulamine.records import CandidatePR, FileChange
from formulamine.services.cores import Cores
from formulamine.services.git import Git
from formulamine.services.store import Blobs
from formulamine.settings import SieveSettings
from formulamine_tests.services.histories import History, day


def patch_of(*files: tuple[str, str]) -> bytes:
    """A patch of files, each a path and its lines, which start with `-`, `+` or a blank."""
    parts = []
    for path, text in files:
        lines = text.splitlines()
        before = sum(1 for line in lines if line[0] in " -")
        after = sum(1 for line in lines if line[0] in " +")
        parts.append(f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -1,{before} +1,{after} @@\n")
        parts.append("".join(f"{line}\n" for line in lines))
    return "".join(parts).encode()


def run(
    title: str, *files: tuple[str, str], body: str = "", author: str = "Ada", settings: SieveSettings | None = None
) -> Done | Rejected:
    changes = [
        FileChange(path=path, additions=text.count("\n+") + 1, deletions=text.count("\n-")) for path, text in files
    ]
    pr = SieveInput(
        pr_id="o__r-1",
        repo="o/r",
        base_sha="0" * 40,
        merge_sha="1" * 40,
        title=title,
        body=body,
        author=author,
        is_bot=author.endswith("[bot]"),
        files=changes,
    )
    return sieve(pr, patch_of(*files), load_rules(), load_weights(), settings or SieveSettings())


def kept(outcome: Done | Rejected) -> CandidatePR:
    assert isinstance(outcome, Done), outcome
    assert isinstance(outcome.record, CandidatePR)
    return outcome.record


def dropped(outcome: Done | Rejected) -> SieveReason:
    assert isinstance(outcome, Rejected), outcome
    assert isinstance(outcome.reason, SieveReason)
    assert outcome.detail, "the evidence is named"
    return outcome.reason


ALL_PAIRS = (
    "src/spans.py",
    " def clashes(spans):\n"
    "-    for at, one in enumerate(spans):\n"
    "-        for other in spans[at + 1:]:\n"
    "-            if meet(one, other):\n"
    "+    open = []\n"
    "+    for one in sorted(spans):\n"
    "+        open = [other for other in open if other.end > one.start]\n",
)
OFF_BY_ONE = ("src/spans.py", "-    if start < end:\n+    if start <= end:\n")
TESTED = ("tests/test_spans.py", "+assert spans(2, 2)")


@pytest.mark.parametrize(
    "path",
    [
        "pkg/tests/test_spans.py",
        "test_spans.py",
        "conftest.py",
        "docs/conf.py",
        "doc/whats-new.rst",
        "README.md",
        "asv_bench/benchmarks/spans.py",
        "benchmarks/asv.conf.json",
        ".github/workflows/ci.yml",
        "azure-pipelines.yml",
        ".pre-commit-config.yaml",
        "notes.ipynb",
        "logo.svg",
        "LICENSE",
        "CHANGELOG",
    ],
)
def test_a_pull_request_of_such_files_alone_has_no_core_file(path: str) -> None:
    assert dropped(run("PERF: faster", (path, "+x"))) == "no_core_file"


@pytest.mark.parametrize(
    "path",
    [
        "numpy/testing/_private/utils.py",
        "scipy/stats/_page_trend_test.py",
        "src/pkg/history.py",
        "src/changes.py",
        "src/docstrings.py",
        "CMakeLists.txt",
        "setup.py",
        "pkg/latest/x.pyx",
    ],
)
def test_such_files_are_core(path: str) -> None:
    assert kept(run("Spans that touch", (path, "+x"))).core_files == [path]


def test_only_core_files_are_listed() -> None:
    record = kept(run("Faster spans", OFF_BY_ONE, ("tests/test_spans.py", "+assert 1")))
    assert record.core_files == ["src/spans.py"]


def test_an_empty_patch() -> None:
    assert dropped(run("PERF: nothing")) == "empty_patch"


@pytest.mark.parametrize("limit", ["max_files", "max_changed_lines", "max_patch_tokens"])
def test_each_limit_is_named_and_the_limit_itself_is_kept(limit: str) -> None:
    files = [("a.py", "+one"), ("b.py", "+two")]
    sizes = {"max_files": 2, "max_changed_lines": 2, "max_patch_tokens": len(patch_of(*files)) // 4}
    at = SieveSettings.model_validate({limit: sizes[limit]})
    beyond = SieveSettings.model_validate({limit: sizes[limit] - 1})
    assert kept(run("Faster", *files, settings=at)).patch_tokens == sizes["max_patch_tokens"]
    outcome = run("Faster", *files, settings=beyond)
    assert dropped(outcome) == "too_large"
    assert isinstance(outcome, Rejected)
    assert limit.removeprefix("max_").replace("_", " ") in outcome.detail


def test_a_bot_that_moves_pins() -> None:
    pins = ("pyproject.toml", '-requires = ["flit >=3.8"]\n+requires = ["flit >=3.9"]')
    assert dropped(run("Update flit requirement", pins, author="dependabot[bot]")) == "bot_pins"
    assert kept(run("Update flit requirement", pins))
    assert kept(run("Use a set", pins, ("src/a.py", "+seen = set()"), author="helper[bot]"))


def test_a_version_bump_is_its_title_and_nothing_but_such_lines() -> None:
    version = ("pyproject.toml", '-version = "1.3.0"\n+version = "1.4.0"')
    assert dropped(run("Bump version to 1.4.0", version)) == "version_bump"
    assert (
        dropped(run("Release 1.4.0", ("src/__init__.py", "-VERSION = (1, 3, 0)\n+VERSION = (1, 4, 0)")))
        == "version_bump"
    )
    assert kept(run("Bump version to 1.4.0", version, OFF_BY_ONE))
    assert kept(run("Bump the recursion limit to 2000", ("src/a.py", "-LIMIT = 1000\n+LIMIT = 2000")))


def test_a_revert_goes_unless_something_speaks_for_performance() -> None:
    assert dropped(run('Revert "Separate cells by a semicolon"', OFF_BY_ONE, TESTED)) == "revert"
    assert dropped(run("Semicolons", OFF_BY_ONE, TESTED, body="This reverts commit 1234567.")) == "revert"
    assert kept(run('Revert "Cache the cells"', OFF_BY_ONE, TESTED))
    assert kept(run("Reverted to the old printer due to performance issues", OFF_BY_ONE))
    squashed = "* one\n\n* Revert one\n\nThis reverts commit 1234567."
    assert kept(run("Spans that touch", OFF_BY_ONE, TESTED, body=squashed)), (
        "a squashed commit was reverted, not the work"
    )


@pytest.mark.parametrize(
    "title",
    [
        "DOC: say what it does with ties",
        "docs(spans): explain",
        "TYP: annotate spans",
        "TST, CI: run on ARM",
        "Fix typo in spans",
        "Update changelog",
        "Add type hints",
        "[pre-commit.ci] pre-commit autoupdate",
    ],
)
def test_another_purpose_goes_unless_something_speaks_for_performance(title: str) -> None:
    assert dropped(run(title, OFF_BY_ONE, TESTED)) == "not_performance_title"
    measured = "The old one was slow: 40 ms before, 3 ms now."
    cached = ("src/a.py", " def f(x):\n-    return g(x)\n+    return _cache[x]")
    assert kept(run(title, cached, ("benchmarks/spans.py", "+def time_f(): ..."), body=measured))


def test_a_bug_fix_goes_on_where_its_title_or_its_diff_leaves_doubt() -> None:
    assert kept(run("Spans that touch are one span", OFF_BY_ONE, TESTED)).signals == []
    assert dropped(run("Fix spans that touch", OFF_BY_ONE, TESTED)) == "unlikely"
    assert kept(run("Fix spans that touch", OFF_BY_ONE, TESTED, body="The old one was slow."))
    assert kept(run("Fix spans that touch", ALL_PAIRS))


def test_a_better_algorithm_under_a_neutral_title_is_seen_in_the_diff() -> None:
    record = kept(run("find_clashes on a full calendar", ALL_PAIRS, TESTED, body="With 4,000 bookings this is slow."))
    assert "syntax loop_to_builtin: src/spans.py:3 + for one in sorted(spans):" in record.signals
    assert record.signals[0] == "body performance: [slow] With 4,000 bookings this is slow."
    assert record.patch_sha256 == hashlib.sha256(patch_of(ALL_PAIRS, TESTED)).hexdigest()


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("code cache", "+@functools.cache\n def f():"),
        ("code slots", "+    __slots__ = ('a',)"),
        ("code parallel", "+with ThreadPoolExecutor() as pool:"),
        ("code faster_system", "+@numba.njit"),
        ("code fast_path", "+    if fast_path:"),
        ("comments performance", "+    # much faster than asking each\n+    x = 1"),
        ("comments performance", '+    This takes exponential time in the number of variables.\n+    """\n+    x = 1'),
    ],
)
def test_what_a_diff_says(kind: str, lines: str) -> None:
    record = kept(run("Spans", ("src/a.py", lines)))
    assert kind in [signal.split(": ")[0] for signal in record.signals]
    assert record.score > kept(run("Spans", ("src/a.py", "+x = 1"))).score


def test_moved_code_says_nothing() -> None:
    moved = ("src/a.py", "-@lru_cache\n-def f():\n+\n+@lru_cache\n+def f():")
    assert "cache" not in str(kept(run("Spans", moved)).signals)


def test_words_beside_the_code() -> None:
    record = kept(
        run(
            "Speed up spans",
            OFF_BY_ONE,
            TESTED,
            ("doc/whats-new.rst", "+- Spans are twice as fast, with less overhead."),
            ("benchmarks/spans.py", "+def time_spans(): ..."),
        )
    )
    assert [signal.split(": ")[0] for signal in record.signals] == [
        "title performance",
        "files benchmarks",
        "notes performance",
    ]


@pytest.mark.parametrize(
    ("title", "body"),
    [
        ("Coefficients of biquadratic terms", ""),
        ("Bounds of scipy.optimize", ""),
        (
            "Spans",
            "Co-authored-by: Slow Joe <fast@example.org>\nhttps://example.org/performance\n<!-- is it faster? -->",
        ),
    ],
)
def test_words_that_only_look_like_performance(title: str, body: str) -> None:
    assert kept(run(title, OFF_BY_ONE, TESTED, body=body)).signals == []


def test_a_line_of_data_takes_no_time() -> None:
    record = kept(
        run(
            "Spans",
            ("src/data.json", "+" + "for x in avoid " * 100_000),
            settings=SieveSettings(max_patch_tokens=10**6),
        )
    )
    assert record.core_files == ["src/data.json"]


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("title", "More work in the hot path"),
        ("title", "Less work in merge"),
        ("title", "Lower import time"),
        ("body", "Its memory usage doubles."),
        ("notes", "Sorting is more efficient."),
        ("notes", "Speed up sorting."),
    ],
)
def test_blanks_in_patterns_are_meant(where: str, text: str) -> None:
    rules = [one for one in load_rules().signals if one.where == where and one.pattern is not None]
    assert any(one.pattern and one.pattern.search(text) for one in rules)


@pytest.mark.parametrize(
    ("lines", "shape"),
    [
        ("-x = f(1)\n+x = g(1)", "tests_kept"),
        ("-x = 1\n+x = 2", "tests_kept"),
        (
            ' def f():\n     """Say it.\n-    Slowly (for x in f(x)).\n+    Loudly.\n     """\n     return g(x)',
            "no_code",
        ),
        ("-# x = f(1)\n+# x = g(1)\n y = 1", "no_code"),
    ],
)
def test_whether_code_is_changed_and_a_test_with_it(lines: str, shape: str) -> None:
    shapes = {"tests_kept", "no_code"}

    def shown(*files: tuple[str, str]) -> set[str]:
        record = kept(run("Speed up spans", *files))
        return {signal.split(": ")[0].removeprefix("shape ") for signal in record.signals} & shapes

    assert shown(("src/a.py", lines)) == {shape}
    assert shown(("src/a.py", lines), ("tests/test_a.py", "+x = 1")) == {shape} - {"tests_kept"}
    assert shown(("src/a.c", lines)) == {"tests_kept"}, "of other languages it is not told"


def test_another_process_says_the_same() -> None:
    cores = Cores(1)
    try:
        for files in ((ALL_PAIRS,), (OFF_BY_ONE, TESTED), (("README.md", "+x"),)):
            item = SieveInput(
                pr_id="o__r-1", repo="o/r", base_sha="0" * 40, merge_sha="1" * 40, title="Fix spans", body="",
                author="Ada", is_bot=False,
                files=[FileChange(path=path, additions=1, deletions=1) for path, _ in files],
            )  # fmt: skip
            asked = (item, patch_of(*files), SieveSettings())
            assert cores.run(sieve_by_files, *asked) == sieve_by_files(*asked)
    finally:
        cores.close()


def test_what_a_lost_process_was_asked_is_sieved_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = History()
    start = made.commit("Start", day(1), {"src/a.py": "x = 1\n"})
    made.commit("PERF: less (#1)", day(2), {"src/a.py": "x = 2\n"}, start=start)
    made.write(tmp_path / "r")
    git, cores = Git(tmp_path / "mirrors"), Cores(1)
    merge, base = (commit.sha for commit in git.first_parent(git.open("o/r", str(tmp_path / "r"))))
    item = SieveInput(
        pr_id="o__r-1", repo="o/r", base_sha=base, merge_sha=merge, title="PERF: less", body="", author="Ada",
        is_bot=False, files=[FileChange(path="src/a.py", additions=1, deletions=1)],
    )  # fmt: skip
    step = CandidateStep(
        git, Blobs(tmp_path / "blobs"), SieveSettings(), {"o/r": str(tmp_path / "r")}, {"o/r": [merge]}, cores
    )
    monkeypatch.setattr(candidates, "FEW", 0)
    cores.close()
    assert isinstance(step(item), Done)
    assert "o__r-1: closed; sieved without it" in caplog.text
