"""What the command line refuses before anything starts, in one line and with exit code 2, and how fast it starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from formulamine_tests.end_to_end.conftest import in_process
from formulamine_tests.end_to_end.runs import environment, heavy_imports, usable
from formulamine_tests.services.histories import History, git


def plain_folder(at: Path) -> list[str]:
    (at / "plain").mkdir()
    return ["--repo", f"a/b={at / 'plain'}"]


def missing_folder(at: Path) -> list[str]:
    return ["--repo", f"a/b={at / 'missing'}"]


def shallow_clone(at: Path) -> list[str]:
    usable("One", "Two").write(at / "whole")
    git("clone", "--quiet", "--depth", "1", f"file://{at / 'whole'}", "shallow", at=at)
    return ["--repo", f"a/b={at / 'shallow'}"]


def no_commit(at: Path) -> list[str]:
    History().write(at / "empty")
    return ["--repo", f"a/b={at / 'empty'}"]


def detached_head(at: Path) -> list[str]:
    usable("One").write(at / "detached", bare=False)
    git("checkout", "--quiet", "--detach", at=at / "detached")
    return ["--repo", f"a/b={at / 'detached'}"]


def untold_name(at: Path) -> list[str]:
    usable("One").write(at / "nameless")
    return ["--repo", str(at / "nameless")]


def bad_name(at: Path) -> list[str]:
    usable("One").write(at / "fine")
    return ["--repo", f"a/b/c={at / 'fine'}"]


def no_toml(at: Path) -> list[str]:
    (at / "list.toml").write_text("[[repository]\nname = 'a/b'\n")
    return ["--repositories", str(at / "list.toml")]


def unknown_key(at: Path) -> list[str]:
    (at / "list.toml").write_text("[[repository]]\nname = 'a/b'\nsource = 'x'\nsauce = 'y'\n")
    return ["--repositories", str(at / "list.toml")]


def missing_file(at: Path) -> list[str]:
    return ["--repositories", str(at / "list.toml")]


def all_hidden(at: Path) -> list[str]:
    usable("One").write(at / "hidden")
    (at / "list.toml").write_text("[[repository]]\nname = 'a/b'\nsource = 'hidden'\nhidden = true\n")
    return ["--repositories", str(at / "list.toml")]


def one_good_one_bad(at: Path) -> list[str]:
    usable("One").write(at / "good")
    return ["--repo", f"a/good={at / 'good'}", *missing_folder(at)]


def nothing(at: Path) -> list[str]:
    return []


def words(*arguments: str) -> Callable[[Path], list[str]]:
    return lambda at: list(arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (plain_folder, "is no git repository: give"),
        (missing_folder, "is no folder: give"),
        (shallow_clone, "is a shallow clone: run"),
        (no_commit, "has no commit on main: commit something"),
        (detached_head, "has a detached HEAD: run"),
        (untold_name, "neither origin nor URL of"),
        (bad_name, "is no name: write OWNER/NAME=PATH_OR_URL"),
        (no_toml, "is no TOML file, mend or delete it"),
        (unknown_key, "list.toml, line 1: sauce"),
        (missing_file, "cannot be read"),
        (all_hidden, "no repository is registered: name one with --repo"),
        (nothing, "no repository is registered: name one with --repo"),
        (one_good_one_bad, "is no folder: give"),
        (words("--select", "images,speedups"), "no asset speedups; there are repositories, "),
        (words("--select", ","), "there are repositories, "),
        (words("--limit", "-1"), "Invalid value for '--limit'"),
        (words("--source", "github"), "source github does not exist yet"),
        (words("--nonsense"), "No such option '--nonsense'"),
    ],
)
def test_refused_month_ends_with_2_in_one_line_and_writes_nothing(
    tmp_path: Path, home: Path, arguments: Callable[[Path], list[str]], says: str
) -> None:
    ended = in_process(home, "month", "2024-02", *arguments(tmp_path))
    assert ended.code == 2
    assert len(ended.errors) == 1
    assert ended.errors[0].startswith("formulamine: ")
    assert says in ended.errors[0]
    assert ended.out == ""
    assert not home.exists()


@pytest.mark.parametrize("command", ["month", "funnel", "check"])
@pytest.mark.parametrize(
    ("month", "says"),
    [
        ("2024-13", "is no month: write it as 2024-02"),
        ("February", "is no month: write it as 2024-02"),
        ("2014-12", "is before 2015-01"),
        (f"{datetime.now(UTC):%Y-%m}", "is not over yet"),
        ("2999-01", "is not over yet"),
    ],
)
def test_month_that_cannot_be_asked_for_is_refused(home: Path, command: str, month: str, says: str) -> None:
    ended = in_process(home, command, month)
    assert (ended.code, len(ended.errors)) == (2, 1)
    assert says in ended.errors[0]
    assert not home.exists()


@pytest.mark.parametrize(
    "arguments",
    [["month"], ["month", "2024-02", "2024-03"], ["nonsense"], ["--nonsense"], ["funnel"], ["lineage"],
     ["lineage", "a/b"], ["lineage", "a/b#x"], ["lineage", "b#1"], ["repositories", "remove", "a/b"]],
)  # fmt: skip
def test_wrong_usage_is_one_line(home: Path, arguments: list[str]) -> None:
    ended = in_process(home, *arguments)
    assert (ended.code, len(ended.errors)) == (2, 1)


@pytest.mark.parametrize(
    "arguments", [["funnel", "2024-02"], ["check", "2024-02"], ["lineage", "a/b#1"], ["funnel", "2024-02", "--json"]]
)
def test_question_about_what_was_never_made_ends_with_1_in_one_line(home: Path, arguments: list[str]) -> None:
    ended = in_process(home, *arguments)
    assert (ended.code, len(ended.errors), ended.out) == (1, 1, "")
    assert "run `formulamine month" in ended.errors[0] or "`formulamine repositories add" in ended.errors[0]
    assert not home.exists()


def test_malformed_setting_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMULAMINE_MIN_SPEEDUP", "fast")
    ended = in_process(home, "month", "2024-02")
    assert (ended.code, len(ended.errors)) == (2, 1)
    assert "FORMULAMINE_MIN_SPEEDUP='fast'" in ended.errors[0]


def test_malformed_setting_is_one_line_in_the_demo_too(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "formulamine.demo"], cwd=home.parent, capture_output=True, text=True, check=False,
        env=environment(home, {"FORMULAMINE_MIN_SPEEDUP": "fast"}),
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_malformed_registry_is_refused_and_left_as_it_is(home: Path) -> None:
    home.mkdir()
    (home / "repositories.toml").write_text("[[repository]]\nname = 'a'\n")
    for arguments in (["month", "2024-02"], ["repositories", "list"]):
        ended = in_process(home, *arguments)
        assert (ended.code, len(ended.errors)) == (2, 1)
        assert "repositories.toml, line 1" in ended.errors[0]
    assert [path.name for path in home.iterdir()] == ["repositories.toml"]


def test_registry_whose_sources_all_vanished_is_refused(tmp_path: Path, home: Path) -> None:
    usable("One").write(tmp_path / "gone")
    assert in_process(home, "repositories", "add", f"a/b={tmp_path / 'gone'}").code == 0
    (tmp_path / "gone").rename(tmp_path / "elsewhere")
    ended = in_process(home, "month", "2024-02")
    assert (ended.code, len(ended.errors)) == (2, 1)
    assert "a/b: " in ended.errors[0]
    assert "is no folder" in ended.errors[0]
    assert not (home / "ledger.sqlite").exists()


def test_hidden_repository_comes_back_when_it_is_added_again(tmp_path: Path, home: Path) -> None:
    usable("One").write(tmp_path / "one")
    add = ["repositories", "add", f"a/one={tmp_path / 'one'}"]
    assert in_process(home, *add).code == 0
    assert in_process(home, "repositories", "remove", "a/one").code == 0
    assert in_process(home, "repositories", "list").out == ""
    assert in_process(home, "month", "2024-02").code == 2
    assert in_process(home, *add).code == 0
    assert in_process(home, "repositories", "list").out.startswith("a/one  ")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["month", "--help"], ["funnel", "2024-02"], ["lineage", "a/b#2"],
     ["lineage", "a/b#2", "--redo"], ["month", "2024-02", "--plan"], ["repositories", "list"],
     ["month", "2024-02", "--select", "nonsense"], ["month", "2024-02"]],
)  # fmt: skip
def test_questions_and_refusals_import_nothing_heavy(asked_home: Path, arguments: list[str]) -> None:
    assert heavy_imports(asked_home, *arguments) == []
