"""From a registered repository to its suite, as of a month's end."""

from pathlib import Path

import pytest

from formulamine.discover.repositories import RegisteredRepository, RepositoryReason, find_suite
from formulamine.items import Done, Failed, Rejected
from formulamine.records import Repository
from formulamine.services.git import Git
from formulamine_tests.services.histories import History, day

CONFIG = '{"benchmark_dir": "suite", /* x */}'


@pytest.fixture
def service(tmp_path: Path) -> Git:
    return Git(tmp_path / "mirrors")


def item(path: Path, month: str = "2024-02") -> RegisteredRepository:
    return RegisteredRepository(repo="o/n", source=str(path), month=month)


def suite_history() -> History:
    history = History()
    history.commit("start", day(1, 1), {"a.py": "a"})
    history.commit("suite", day(5), {"bench/asv.conf.json": CONFIG, "bench/suite/sub/b.py": "b"})
    history.commit("last of February", day(29, hour=23), {"c": "c"})
    return history


def test_a_suite_as_of_the_months_end(service: Git, tmp_path: Path) -> None:
    history = suite_history()
    history.commit("first moment of March", day(1, 3, hour=0), {"bench/asv.conf.json": "{}"})
    shas = history.write(tmp_path / "r")
    outcome = find_suite(item(tmp_path / "r"), git=service)
    assert isinstance(outcome, Done)
    assert isinstance(outcome.record, Repository)
    assert outcome.settled
    assert outcome.record.head_sha == shas[3]
    assert (outcome.record.asv_config, outcome.record.benchmark_dir) == ("bench/asv.conf.json", "bench/suite")
    assert (outcome.record.url, outcome.record.default_branch) == (str(tmp_path / "r"), "main")
    january = find_suite(item(tmp_path / "r", "2024-01"), git=service)
    assert isinstance(january, Rejected)
    assert (january.reason, january.settled) == (RepositoryReason.NO_BENCHMARK_SUITE, True)
    before = find_suite(item(tmp_path / "r", "2023-12"), git=service)
    assert isinstance(before, Rejected)
    assert (before.reason, before.settled) == (RepositoryReason.NO_HISTORY_YET, True)


def test_an_open_month_asks_again_and_is_not_settled(service: Git, tmp_path: Path) -> None:
    history = suite_history()
    history.write(tmp_path / "r")
    first = find_suite(item(tmp_path / "r"), git=service)
    assert isinstance(first, Done)
    assert not first.settled
    history.commit("in March", day(2, 3), {"d": "d"})
    history.write(tmp_path / "later")
    (tmp_path / "r").rename(tmp_path / "old")
    (tmp_path / "later").rename(tmp_path / "r")
    second = find_suite(item(tmp_path / "r"), git=service)
    assert isinstance(second, Done)
    assert second.settled
    assert second.record == first.record
    history.commit("more in March", day(3, 3), {"e": "e"})
    (tmp_path / "r").rename(tmp_path / "older")
    history.write(tmp_path / "r")
    find_suite(item(tmp_path / "r"), git=service)
    assert len(service.first_parent(service.mirror_path("o/n"))) == 4  # a closed month does not ask
    find_suite(item(tmp_path / "r"), git=service, refresh=True)
    assert len(service.first_parent(service.mirror_path("o/n"))) == 5


@pytest.mark.parametrize(
    "files",
    [
        {"asv.conf.json": "not json", "benchmarks/b.py": ""},
        {"asv.conf.json": "{}", "benchmarks/b.txt": ""},
        {"asv.conf.json": '{"benchmark_dir": "../x"}', "x/b.py": ""},
        {"asv.conf.json": "{}", "benchmarks_old/b.py": ""},
        {"tests/asv.conf.json": "{}", "tests/benchmarks/b.py": ""},
        {"asv.conf.json": (b"160000", b"1" * 40), "benchmarks/b.py": ""},
    ],
)
def test_no_usable_suite(service: Git, tmp_path: Path, files: dict[bytes | str, bytes | str]) -> None:
    history = History()
    history.commit("start", day(1), files)
    history.write(tmp_path / "r")
    outcome = find_suite(item(tmp_path / "r"), git=service)
    assert isinstance(outcome, Rejected)
    assert outcome.reason == RepositoryReason.NO_BENCHMARK_SUITE
    assert outcome.detail
    assert not outcome.settled


def test_the_next_configuration_is_tried(service: Git, tmp_path: Path) -> None:
    history = History()
    history.commit("start", day(1), {"asv.conf.json": "{}", "b/asv.conf.json": CONFIG, "b/suite/x.py": ""})
    history.write(tmp_path / "r")
    outcome = find_suite(item(tmp_path / "r"), git=service)
    assert isinstance(outcome, Done)
    assert isinstance(outcome.record, Repository)
    assert outcome.record.benchmark_dir == "b/suite"


def test_faults_of_a_source_are_never_settled(service: Git, tmp_path: Path) -> None:
    outcome = find_suite(item(tmp_path / "gone"), git=service)
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.infrastructure) == (RepositoryReason.NOT_A_REPOSITORY, True)
    History().write(tmp_path / "empty")
    empty = find_suite(item(tmp_path / "empty"), git=service)
    assert isinstance(empty, Rejected)
    assert (empty.reason, empty.settled) == (RepositoryReason.NO_HISTORY_YET, False)
    url = RegisteredRepository(repo="o/n", source="http://127.0.0.1:9/o/n", month="2024-02")
    absent = find_suite(url, git=service)
    assert isinstance(absent, Failed)
    assert (absent.reason, absent.infrastructure) == (RepositoryReason.UNREACHABLE, True)
