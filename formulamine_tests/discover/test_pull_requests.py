"""From a first-parent chain to the pull requests of a month."""

from pathlib import Path

import pytest

from formulamine.discover.months import month_window
from formulamine.discover.pull_requests import (
    PullRequestReason,
    Tally,
    VisitedRepository,
    list_pull_requests,
    recount,
)
from formulamine.items import Done, Failed
from formulamine.records import FileChange, PullRequest
from formulamine.services.git import Git
from formulamine_tests.services.histories import History, day

BOT = b"dependabot[bot] <49699333+dependabot[bot]@users.noreply.github.com>"
BOB = "Bøb".encode("latin-1") + b" <bob@example.org>"


@pytest.fixture
def service(tmp_path: Path) -> Git:
    return Git(tmp_path / "mirrors")


def visit(service: Git, path: Path, head: str, month: str = "2024-02") -> tuple[dict[str, PullRequest], str]:
    """Records and detail of a visit, which a recount must confirm."""
    service.mirror("o/n", service.inspect_source(str(path)), refresh=True)
    item = VisitedRepository(repo="o/n", url=str(path), head_sha=head)
    outcome = list_pull_requests(item, month=month, git=service)
    assert isinstance(outcome, Done)
    assert outcome.records is not None
    records = {key: PullRequest.model_validate(record) for key, record in outcome.records.items()}
    again = recount(service, service.mirror_path("o/n"), head, *month_window(month))
    assert str(again) == outcome.detail
    assert again.pull_requests == len(records)
    return records, outcome.detail


def test_both_styles_of_a_month(service: Git, tmp_path: Path) -> None:
    history = History()
    start = history.commit("Start (#1)", day(31, 1, hour=23), {"a.py": "a\n"})
    side = history.commit(
        "wip", day(1), {"b.py": "1\n2\n"}, branch="side", start=start, author=BOB, encoding=b"latin-1"
    )
    squash = history.commit("Squash it (#7)\n\nFixes #3", day(1, hour=0), {"a.py": "b\n"}, start=start)
    merge = history.commit(
        "Merge pull request #5 from bob/fast\r\n\r\nMake it\r\n\r\nBecause.",
        day(2),
        {"b.py": "1\n2\n"},
        start=squash,
        merge=side,
    )
    history.commit("Bump x (#8)", day(3), {"c": "c"}, author=BOT)
    history.commit("push", day(4), {"d": "d"})
    history.commit("Squash it again (#7)", day(5), {"a.py": "c\n"})
    shas = history.write(tmp_path / "r")
    records, detail = visit(service, tmp_path / "r", shas[-1])
    assert detail == "5 first-parent commits: 3 pull requests, 1 direct pushes, 1 repeats"
    assert list(records) == ["o__n-7", "o__n-5", "o__n-8"]
    merged = records["o__n-5"]
    assert (merged.title, merged.body, merged.author) == ("Make it", "Because.", "Bøb")
    assert (merged.merge_style, merged.base_sha, merged.merge_sha) == ("merge", shas[squash], shas[merge])
    assert merged.files == [FileChange(path="b.py", additions=2, deletions=0)]
    assert merged.merged_at == day(2)
    squashed = records["o__n-7"]
    assert (squashed.title, squashed.body, squashed.merge_style) == ("Squash it", "Fixes #3", "squash")
    assert squashed.linked_issues == ["o/n#3"]
    assert squashed.also == [shas[-1]]
    assert records["o__n-8"].is_bot
    assert not squashed.is_bot


def test_the_window_is_by_committer_time_whatever_the_order(service: Git, tmp_path: Path) -> None:
    history = History()
    history.commit("start", day(1, 1), {"a": "0"})
    history.commit("too late, though early in the chain (#1)", day(1, 3, hour=0), {"a": "1"})
    history.commit("last moment (#2)", day(29, hour=23), {"a": "2"})
    history.commit("too early, though late in the chain (#3)", day(31, 1, hour=23), {"a": "3"})
    history.commit("first moment (#4)", day(1, hour=0), {"a": "4"})
    history.commit("after head (#5)", day(2), {"a": "5"})
    shas = history.write(tmp_path / "r")
    records, _ = visit(service, tmp_path / "r", shas[5])
    assert list(records) == ["o__n-2", "o__n-4"]
    assert records["o__n-2"].base_sha == shas[2]


def test_a_number_of_an_earlier_month_is_a_repeat(service: Git, tmp_path: Path) -> None:
    history = History()
    history.commit("start", day(1, 1), {"a": "0"})
    history.commit("first (#1)", day(2, 1), {"a": "1"})
    history.commit("again (#1)", day(2), {"a": "2"})
    shas = history.write(tmp_path / "r")
    assert visit(service, tmp_path / "r", shas[-1])[0] == {}
    january, _ = visit(service, tmp_path / "r", shas[2], "2024-01")
    assert january["o__n-1"].also == []


def test_reverts_up_to_head(service: Git, tmp_path: Path) -> None:
    history = History()
    history.commit("start", day(1, 1), {"a": "0"})
    first = history.commit("by id (#1)", day(1), {"a": "1"})
    shas = history.write(tmp_path / "draft")
    history.commit("by number (#2)", day(2), {"a": "2"})
    history.commit("by title (#3)", day(3), {"a": "3"})
    history.commit("back again (#4)", day(4), {"a": "4"})
    history.commit("after the month (#5)", day(5), {"a": "5"})
    by_id = history.commit(f'Revert "by id"\n\nThis reverts commit {shas[first]}.', day(6), {"a": "6"})
    by_number = history.commit("Undo that (#12)\n\nReverts o/n#2", day(7), {"a": "7"})
    by_title = history.commit('Revert "by title" (#13)', day(8), {"a": "8"})
    history.commit('Revert "back again (#4)" (#14)', day(9), {"a": "9"})
    history.commit('Revert "Revert "back again (#4)" (#14)" (#15)', day(10), {"a": "10"})
    end = history.marks
    history.commit('Revert "after the month (#5)" (#16)', day(1, 3), {"a": "11"})
    shas = history.write(tmp_path / "r")
    records, _ = visit(service, tmp_path / "r", shas[end])
    reverted = {record.number: record.reverted_by for record in records.values() if record.reverted_by}
    assert reverted == {1: shas[by_id], 2: shas[by_number], 3: shas[by_title], 14: shas[end]}


def test_a_month_without_pull_requests(service: Git, tmp_path: Path) -> None:
    history = History()
    history.commit("start", day(1, 1), {"a": "0"})
    shas = history.write(tmp_path / "r")
    assert visit(service, tmp_path / "r", shas[1]) == ({}, str(Tally(0, 0, 0, 0)))


def test_a_missing_mirror_is_made_again_and_a_lost_head_is_told(service: Git, tmp_path: Path) -> None:
    history = History()
    history.commit("start", day(1, 1), {"a": "0"})
    history.commit("one (#1)", day(1), {"a": "1"})
    shas = history.write(tmp_path / "r")
    item = VisitedRepository(repo="o/n", url=str(tmp_path / "r"), head_sha=shas[2])
    outcome = list_pull_requests(item, month="2024-02", git=service)
    assert isinstance(outcome, Done)
    assert list(outcome.records or {}) == ["o__n-1"]
    lost = list_pull_requests(item.model_copy(update={"head_sha": "1" * 40}), month="2024-02", git=service)
    assert isinstance(lost, Failed)
    assert lost.reason == PullRequestReason.HISTORY_REWRITTEN
    gone = VisitedRepository(repo="o/gone", url=str(tmp_path / "gone"), head_sha=shas[2])
    unavailable = list_pull_requests(gone, month="2024-02", git=service)
    assert isinstance(unavailable, Failed)
    assert (unavailable.reason, unavailable.infrastructure) == (PullRequestReason.SOURCE_UNAVAILABLE, True)
