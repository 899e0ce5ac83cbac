"""What commit messages say."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.discover.messages import Landing, Reverts, is_bot, linked_issues, read_landing, reverts
from formulamine.discover.pull_requests import number_in
from formulamine.services.git import Commit


def commit(subject: str, body: str = "", parents: tuple[str, ...] = ("p",)) -> Commit:
    return Commit("s", parents, datetime(2024, 2, 1, tzinfo=UTC), "Ann", "a@b", subject, body)


@pytest.mark.parametrize(
    ("subject", "body", "landing"),
    [
        ("Faster (#12)", "why\n\nhow", Landing(12, "Faster", "why\n\nhow")),
        ("Faster (gh-12)", "", Landing(12, "Faster", "")),
        ("Backport x (#3) (#12)", "", Landing(12, "Backport x (#3)", "")),
        ('Revert "x (#3)" (#12)', "", Landing(12, 'Revert "x (#3)"', "")),
        ("Merge pull request #12 from a/b", "Title\n\nBody", Landing(12, "Title", "Body")),
        ("Merge pull request #12 from a/b", "", Landing(12, "Merge pull request #12 from a/b", "")),
        ("Merge PR #12: Title", "Body", Landing(12, "Title", "Body")),
        ('Revert "x (#3)"', "", None),
        ("Fix #12", "", None),
        ("Merge branch 'x'", "", None),
        ("Remerge pull request #12 from a/b", "", None),
        ("Merge pull request #12abc from a/b", "", None),
        ("Huge (#12345678901)", "", None),
        ("", "", None),
    ],
)
def test_what_landed(subject: str, body: str, landing: Landing | None) -> None:
    assert read_landing(commit(subject, body)) == landing
    assert number_in(subject) == (str(landing.number) if landing else None)


def test_a_root_commit_is_a_push() -> None:
    assert read_landing(commit("Start (#1)", parents=())) is None


PIECES = st.sampled_from(
    [
        *("Merge", "pull", "request", "PR", "#12", "#12:", "(#3)", "(gh-4)", "(GH-5)", "x(#6)", "from", "a/b"),
        *("(#)", "#", "()", "(gh-4", "(#3))", "((#7)", "(#1234567890)", "(#٣)", "fast"),
    ]
)


@given(st.lists(PIECES).map(" ".join))
def test_two_readings_of_a_subject_agree(subject: str) -> None:
    landing = read_landing(commit(subject.strip()))
    assert number_in(subject) == (str(landing.number) if landing else None)


def test_reverts() -> None:
    sha = "a" * 40
    assert reverts('Revert "x"', f"This reverts commit {sha}.") == Reverts((sha,), (), "x")
    assert reverts("Take x out", f"This reverts commit {sha}, reversing\nchanges made to") == Reverts((sha,))
    assert reverts('Revert "x (#3)"', "Reverts o/n#4") == Reverts((), (4, 3), "x")
    assert reverts('Revert "Revert "x""', "").title == 'Revert "x"'
    assert reverts("Merge hotfix", f'* Revert "y"\n\nThis reverts commit {sha}.') == Reverts()
    assert reverts("Partially revert x", f"This reverts commit {sha}.") == Reverts()
    assert reverts("Convert x", "Reverts o/n#4") == Reverts()


def test_linked_issues() -> None:
    text = "Fixes #1, closes: o/p#2; resolved https://github.com/q/r/issues/3 fix gh-4\nfixes #1, see #5, prefix #6"
    assert linked_issues("me/it", text) == ["me/it#1", "o/p#2", "q/r#3", "me/it#4"]


def test_bots() -> None:
    assert is_bot("dependabot[bot]", "")
    assert is_bot("Somebody", "49699333+dependabot[bot]@users.noreply.github.com")
    assert is_bot("GitHub Actions", "")
    assert not is_bot("Robot Wilson", "abbot@example.org")
