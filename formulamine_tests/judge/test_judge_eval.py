"""Labels, rates, fitting and `formulamine judge-eval`, on a small history with known answers."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from formulamine.cli import main
from formulamine.discover.mined import merged_shas
from formulamine.discover.sieve import SieveInput
from formulamine.discover.sieve_rules import load_rules, load_weights
from formulamine.judge import fit
from formulamine.judge.evaluation import hidden, without_prefix
from formulamine.judge.labels import by_prefix, read_labels
from formulamine.judge.rates import Rate
from formulamine.services.git import Git
from formulamine.settings import Settings
from formulamine_tests.discover.test_sieve import kept, run
from formulamine_tests.services.histories import History, day

SLOW = "def total(xs):\n    n = 0\n    for x in xs:\n        n += x\n    return n\n"
FAST = "def total(xs):\n    return sum(xs)\n"
WRONG = "def total(xs):\n    return sum(xs) + 0\n"
TEST = "def test_issue_123():\n    with raises(ValueError):\n        total(3)\n"


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, dict[int, str]]:
    """Five pull requests, and the commit of each by its number."""
    made = History()
    last = made.commit("Start", day(1), {"p/a.py": SLOW})
    changes: list[tuple[str, dict[Any, Any]]] = [
        ("PERF: Speed up total", {"p/a.py": FAST}),
        ("BUG: Fix total of nothing", {"p/a.py": WRONG, "tests/test_a.py": TEST}),
        ("DOC: say how fast total is", {"docs/a.rst": "fast"}),
        ("TST: Test total", {"tests/test_b.py": "def test_b(): pass\n"}),
        ("TYP: Annotate total", {"p/a.py": "def total(xs: list[int]) -> int:\n    return sum(xs) + 0\n"}),
    ]
    for number, (title, files) in enumerate(changes, 1):
        last = made.commit(f"{title} (#{number})", day(number + 1), files, start=last)
    shas = made.write(tmp_path / "repository")
    return tmp_path / "repository", dict(enumerate(shas[2:], 1))


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(sha: str | None, is_performance: object, **more: object) -> dict[str, object]:
    return {"repo": "a/b", "merge_sha": sha, "is_performance": is_performance, **more}


def judge_eval(home: Path, *arguments: object) -> Any:
    return CliRunner(env={"FORMULAMINE_HOME": str(home)}).invoke(main, ["judge-eval", *map(str, arguments)])


def test_what_is_counted(tmp_path: Path, repository: tuple[Path, dict[int, str]]) -> None:
    path, shas = repository
    labels = write(
        tmp_path / "labels.jsonl",
        [
            row(shas[1], True, source="experts"),
            row(shas[1], True, source="again"),
            row(shas[2], False, source="bug fixes"),
            row(shas[3], False, source="documentation"),
            row("0" * 40, True),
            row(None, True),
            {**row(shas[2], False), "repo": "c/d"},
            "{no json",
            row(shas[2], "no"),
            [1],
            "",
        ],
    )
    done = judge_eval(tmp_path / "home", labels, "--repo", f"a/b={path}", "--prefixes", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["rows"], told["judged"], told["repeated"], told["skipped"]) == (7, 3, 1, 3)
    assert [problem.partition(": ")[0] for problem in told["malformed"]] == [f"labels.jsonl:{n}" for n in (8, 9, 10)]
    for stage in ("sieve", "judge: rules"):
        assert (told["labels"][stage]["recall"]["count"], told["labels"][stage]["recall"]["of"]) == (1, 1)
        assert told["labels"][stage]["pass_rate"]["of"] == 5
        assert set(told["labels"][stage]["false_positives_by_kind"]) == {"bug fixes", "documentation"}
        assert told["labels"][stage]["false_positives"]["count"] == 0
        assert told["prefixes"][stage]["false_positives_by_kind"].keys() == {"DOC", "TST", "TYP"}
        assert told["prefixes"][stage]["recall"]["of"] == 1
    assert told["labels"]["title: positive"]["recall"]["count"] == 1
    assert told["prefixes"]["title: positive"]["recall"]["count"] == 0, "its words are hidden"
    assert told["tokens"] == 0
    text = judge_eval(tmp_path / "home", labels, "--repo", f"a/b={path}").output
    assert "7 labels: 3 judged, 3 of no given repository, 1 repeated, 3 rows malformed" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--repo", "a/b=REPO"], "nothing to judge"),
        (["LABELS"], "Missing option '--repo'"),
        (["LABELS", "--repo", "a/b=/nowhere"], "/nowhere is no folder"),
        (["BINARY", "--repo", "a/b=REPO"], "is no text"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, repository: tuple[Path, dict[int, str]], arguments: list[str], said: str
) -> None:
    names = {"LABELS": str(write(tmp_path / "l.jsonl", [])), "BINARY": str(tmp_path / "b"), "REPO": str(repository[0])}
    (tmp_path / "b").write_bytes(b"\xff\xfe\n")
    given = [names.get(one, one.replace("REPO", names["REPO"])) for one in arguments]
    done = judge_eval(tmp_path / "home", *given)
    assert done.exit_code == 2
    assert said in done.output


@given(st.integers(0, 60), st.integers(0, 60))
def test_intervals_are_clopper_and_pearsons(count: int, more: int) -> None:
    rate = Rate(count, count + more)
    if rate.of == 0:
        assert str(rate) == "-"
        return
    expected = binomtest(count, count + more).proportion_ci(method="exact")
    assert rate.interval() == pytest.approx((expected.low, expected.high))


@given(st.text())
def test_any_text_is_labels_or_problems(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("labels") / "l.jsonl"
    path.write_text(text, encoding="utf-8", newline="")
    labels, problems = read_labels(path)
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(labels) + len(problems) == len(lines)


@pytest.mark.parametrize(
    ("title", "told"),
    [
        ("PERF: faster", (True, "PERF")),
        ("perf(core): faster", (True, "PERF")),
        ("DOC: performance", (False, "DOC")),
        ("[TST] more", (False, "TST")),
        ("ENH: faster", None),
        ("Performance: faster", None),
        ("Cite the paper", None),
    ],
)
def test_prefixes(title: str, told: tuple[bool, str] | None) -> None:
    assert by_prefix(title) == told


def test_what_a_prefix_says_is_hidden_everywhere() -> None:
    assert without_prefix("PERF(core)!: a: b") == "b"
    assert without_prefix("Faster: it is") == "it is"
    item = SieveInput(
        pr_id="o__r-1", repo="o/r", base_sha="", merge_sha="", title="PERF: faster sums", author="", is_bot=False,
        body="* PERF: faster sums\n* TST: check it", files=[],
    )  # fmt: skip
    bare = hidden(item, load_rules())
    assert bare.title == "sums"
    assert bare.body == "check it"


def test_fitting_moves_what_labels_show_and_leaves_the_rest(
    tmp_path: Path, repository: tuple[Path, dict[int, str]]
) -> None:
    path, shas = repository
    labels = write(tmp_path / "l.jsonl", [row(shas[1], True), row(shas[2], False), row(shas[5], False)])
    data, said = fit.read_data(labels, [("a/b", str(path))], Settings())
    assert said == "1 pull requests that are performance work, 2 that are not and 2 others of a/b"
    priors = load_rules().priors
    weights = fit.fit(data.values(), priors)
    assert weights.weights["title performance"] > priors["title performance"]
    assert weights.weights["tests raises"] < priors["tests raises"]
    assert weights.weights["native simd"] == priors["native simd"], "no label shows it"
    again = type(weights).model_validate(tomllib.loads(fit.as_toml(weights, said)))
    assert again == weights


def test_every_weight_is_of_a_known_signal_and_every_score_adds_them_up() -> None:
    weights = load_weights()
    assert set(weights.weights) == set(load_rules().priors)
    record = kept(run("Speed up spans", ("src/a.py", "+@lru_cache\n def f():\n     pass")))
    names = [signal.partition(": ")[0] for signal in record.signals]
    assert record.score == pytest.approx(weights.intercept + sum(weights.weights[name] for name in names), abs=0.006)


def test_merged_pull_requests_are_found_once(tmp_path: Path, repository: tuple[Path, dict[int, str]]) -> None:
    git = Git(tmp_path / "mirrors")
    with git.reading("a/b", git.inspect_source(str(repository[0]))) as mirror:
        assert merged_shas(git, mirror) == [repository[1][number] for number in (5, 4, 3, 2, 1)]
