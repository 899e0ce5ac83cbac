"""The sample repository: the same on every machine, and what `expected.toml` says of it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from formulamine.demo.february import FEBRUARY
from formulamine.demo.history import Replace, Style
from formulamine.demo.sample import HISTORY, Sample, commit_ids, expected_endings, write_sample

# Changes with the sample's history. Any other difference means that two machines would disagree on what the demo is.
HEAD_SHA = "d0547ea6cdd1a520b0b1ae91c49e4ffb5f467f4f"
MONTH_STARTS, MONTH_ENDS = "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"

# Imports the package from src/, runs its own tests and its benchmarks, and prints what its functions return.
BEHAVIOUR = """
import random, runpy, sys
from datetime import date, timedelta
from pathlib import Path
sys.path[:0] = ["src", "."]
import tallybook
assert Path(tallybook.__file__).is_relative_to(Path("src").resolve())
for path in sorted(Path("tests").glob("test_*.py")):
    for name, test in runpy.run_path(str(path)).items():
        if name.startswith("test_"):
            test()
benchmarks = 0
for path in sorted(Path("benchmarks").glob("bench_*.py")):
    for name, value in runpy.run_path(str(path)).items():
        suite = value() if isinstance(value, type) and hasattr(value, "setup") else None
        if suite:
            suite.setup()
        timed = [getattr(suite, each) for each in dir(suite) if each.startswith("time_")] if suite else []
        for run in timed + ([value] if name.startswith("time_") else []):
            run()
            benchmarks += 1
assert benchmarks == 8, benchmarks
chance = random.Random(1)
spans = [(start, start + chance.randrange(9)) for start in (chance.randrange(300) for _ in range(200))]
print(tallybook.merge_spans(spans), tallybook.find_clashes(spans))
print([tallybook.count_workdays(date(2023, 1, 1), date(2023, 1, 1) + timedelta(days)) for days in range(0, 800, 37)])
print([tallybook.slugify(title) for title in ("", "Über & out", "a--b", "Zoë's  3 parts!")])
print(tallybook.render_table([("rye", 3, 1234.5), ("barley", None, -0.004), ("oat | bran", True, 1e9)]))
print(tallybook.rolling_mean([chance.randrange(99) for _ in range(60)], 7), tallybook.rolling_mean([3], 1))
print(list(tallybook.word_counts("The rye and the barley, the rye after it").items()))
"""


@dataclass(frozen=True)
class Landed:
    """A commit on the first-parent chain of `main`."""

    sha: str
    parents: list[str]
    time: str
    message: str

    @property
    def number(self) -> int | None:
        found = re.match(r"Merge pull request #(\d+) from |.*\(#(\d+)\)$", self.message.partition("\n")[0])
        return int(found[1] or found[2]) if found else None


def git(path: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", path, *arguments], check=True, stdout=subprocess.PIPE).stdout


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return write_sample(tmp_path_factory.mktemp("demo") / "sample.git")


@pytest.fixture(scope="module")
def landed(sample: Sample) -> list[Landed]:
    """What landed on `main`, oldest first."""
    log = git(sample.path, "log", "--first-parent", "--reverse", "--format=%H%x01%P%x01%ct%x01%B%x00", "main")
    rows = [row.strip().split("\x01") for row in log.decode().split("\x00") if row.strip()]
    return [Landed(sha, parents.split(), utc(int(seconds)), message) for sha, parents, seconds, message in rows]


@pytest.fixture(scope="module")
def merged(landed: list[Landed]) -> dict[int, Landed]:
    """The pull requests of the month by number."""
    return {commit.number: commit for commit in in_month(landed) if commit.number is not None}


def utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def in_month(landed: list[Landed]) -> list[Landed]:
    return [commit for commit in landed if MONTH_STARTS <= commit.time < MONTH_ENDS]


def files(sample: Sample, sha: str) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(git(sample.path, "archive", sha))) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}  # type: ignore[union-attr]


def behaviour(sample: Sample, sha: str, folder: Path) -> str:
    for name, content in files(sample, sha).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return subprocess.run(
        [sys.executable, "-I", "-B", "-c", BEHAVIOUR], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def test_commit_ids_are_the_same_whatever_the_machine(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_COMMITTER_NAME", "Somebody Else")
    monkeypatch.setenv("GIT_DEFAULT_HASH", "sha256")
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    assert write_sample(tmp_path / "again.git").head_sha == sample.head_sha == HEAD_SHA
    assert not (tmp_path / "elsewhere").exists()


def test_commit_ids_are_all_of_the_sample(sample: Sample) -> None:
    assert commit_ids() == set(git(sample.path, "rev-list", "--all").decode().split())
    assert commit_ids() is commit_ids()


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    assert write_sample(tmp_path / "sample.git") == write_sample(tmp_path / "sample.git")
    assert not list((tmp_path / "sample.git").glob("hooks/*"))
    git(tmp_path / "sample.git", "fsck", "--strict")


def test_the_month_has_both_styles_and_is_closed(landed: list[Landed], merged: dict[int, Landed]) -> None:
    assert len(merged) >= 12
    assert {len(commit.parents) for commit in merged.values()} == {1, 2}
    assert [commit.time for commit in landed] == sorted(commit.time for commit in landed)
    assert [commit.number for commit in in_month(landed)].count(None) == 2
    assert landed[-1].time >= MONTH_ENDS
    assert landed[-1].number is None


def test_expected_covers_the_month_exactly(merged: dict[int, Landed]) -> None:
    endings = expected_endings()
    assert endings.keys() == merged.keys()
    assert sum(ending.asset == "published_release" for ending in endings.values()) == 3
    assert all((ending.reason is None) == (ending.status == "done") for ending in endings.values())


def test_a_merge_commit_carries_its_title_and_its_branch(sample: Sample, merged: dict[int, Landed]) -> None:
    for change in FEBRUARY:
        if change.style is Style.MERGE:
            assert change.number is not None
            commit = merged[change.number]
            assert commit.message.split("\n")[2] == change.title
            base, branch = commit.parents
            fork = git(sample.path, "merge-base", base, branch).decode().strip()
            assert fork != base
            assert git(sample.path, "diff", "--shortstat", base, commit.sha) == git(
                sample.path, "diff", "--shortstat", fork, branch
            )


def test_every_file_of_every_commit_compiles(sample: Sample) -> None:
    seen: set[bytes] = set()
    for sha in commit_ids():
        for name, content in files(sample, sha).items():
            if name.endswith(".py") and content not in seen:
                seen.add(content)
                compile(content, name, "exec")


@pytest.mark.parametrize("number", [32, 35, 36, 38, 40])
def test_what_is_measured_behaves_the_same_on_both_sides(
    sample: Sample, merged: dict[int, Landed], tmp_path: Path, number: int
) -> None:
    commit = merged[number]
    before = behaviour(sample, commit.parents[0], tmp_path / "base")
    assert before == behaviour(sample, commit.sha, tmp_path / "head")
    assert before.count("\n") >= 8


def test_one_change_breaks_a_test_that_passed(
    sample: Sample, merged: dict[int, Landed], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    commit = merged[46]
    assert behaviour(sample, commit.parents[0], tmp_path / "base")
    with pytest.raises(subprocess.CalledProcessError):
        behaviour(sample, commit.sha, tmp_path / "head")
    assert "test_cells_lose_the_blanks_around_them" in capfd.readouterr().err


def test_the_suite_is_found_through_a_configuration_with_comments(sample: Sample) -> None:
    text = files(sample, sample.head_sha)["asv.conf.json"].decode()
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    assert json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))["benchmark_dir"] == "benchmarks"


def test_the_best_speedup_hides_in_its_title_and_quotes_its_own_line() -> None:
    change = next(change for change in HISTORY if change.number == 32)
    assert not re.search(r"perf|fast|speed|slow|optim|cache|quick|effici", change.title, re.IGNORECASE)
    (edit,) = change.edits
    assert isinstance(edit, Replace)
    (quoted,) = re.findall(r"`([^`]+ = [^`]+)`", change.body)
    assert quoted in edit.new
    assert quoted not in edit.old
