"""Which of what was written may be looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from formulamine.ship.issues import Comment, Issue, IssuesUnreachable, NoIssues, Proposal, documents, references

PROPOSED = datetime(2024, 2, 10, tzinfo=UTC)
DAY = timedelta(days=1)


def comment(body: str, days: int, edited: int | None = None) -> Comment:
    return Comment(
        created_at=PROPOSED + days * DAY, edited_at=None if edited is None else PROPOSED + edited * DAY, body=body
    )


def issue(name: str, body: str = "", days: int = -9, *comments: Comment, **more: object) -> Issue:
    values = {
        "name": name, "title": f"Title of {name}", "created_at": PROPOSED + days * DAY, "edited_at": None, "body": body,
        "is_pull_request": False, "comments": list(comments),
    }  # fmt: skip
    return Issue.model_validate(values | more)


@dataclass
class Tracker:
    """Issues that a test made up."""

    issues: list[Issue] = field(default_factory=list)
    closes: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def proposal(self, repo: str, number: int) -> Proposal | None:
        assert number == 7
        return Proposal(proposed_at=PROPOSED, closes=self.closes)

    def issue(self, name: str) -> Issue | None:
        self.asked.append(name)
        return next((one for one in self.issues if one.name == name), None)


def texts(tracker: Tracker, title: str = "Title", body: str = "") -> list[tuple[str, str, str]]:
    return [(one.kind, one.name, one.text) for one in documents("acme/toy", 7, title, body, tracker)][1:]


def named(tracker: Tracker, body: str) -> list[str]:
    return list(dict.fromkeys(name for kind, name, _ in texts(tracker, body=body) if kind != "message"))


@pytest.mark.parametrize(
    "body",
    [
        "Closes #3", "fixes: gh-3", "Resolves acme/toy#3", "See #3.", "as in https://github.com/acme/toy/issues/3#note",
        "(#3)", "`#3`",
    ],
)  # fmt: skip
def test_an_issue_that_is_named_is_read(body: str) -> None:
    assert named(Tracker([issue("acme/toy#3")]), body) == ["acme/toy#3"]


def test_an_issue_of_the_title_and_one_that_the_host_links_are_read_too() -> None:
    tracker = Tracker([issue("acme/toy#3"), issue("acme/toy#4")], closes=["acme/toy#4"])
    assert [name for _, name, _ in texts(tracker, title="Slow sort (#3)")] == ["acme/toy#4", "acme/toy#3"]


def test_what_was_written_or_edited_after_the_proposal_is_left_out() -> None:
    told = issue(
        "acme/toy#3", "It is slow.", -9,
        comment("Here too.", -8), comment("Edited in time.", -8, -1), comment("At that moment.", 0),
        comment("The fix is to cache it.", 1), comment("Was harmless, was edited.", -8, 2),
    )  # fmt: skip
    assert texts(Tracker([told]), body="Closes #3")[1:] == [
        ("issue", "acme/toy#3", "Title of acme/toy#3\n\nIt is slow."),
        ("comment", "acme/toy#3", "Here too."),
        ("comment", "acme/toy#3", "Edited in time."),
    ]


def test_of_an_issue_that_was_edited_later_the_older_comments_stay() -> None:
    told = issue("acme/toy#3", "Now with the solution.", -9, comment("Slow here.", -8), edited_at=PROPOSED + DAY)
    assert texts(Tracker([told]), body="Closes #3")[1:] == [("comment", "acme/toy#3", "Slow here.")]


def test_an_issue_that_was_opened_for_the_fix_is_left_out() -> None:
    assert named(Tracker([issue("acme/toy#3", days=1)]), "Closes #3") == []


def test_a_pull_request_is_no_issue_and_leads_nowhere() -> None:
    tracker = Tracker([issue("acme/toy#3", "See #4", is_pull_request=True), issue("acme/toy#4")])
    assert named(tracker, "Follow-up of #3") == []
    assert tracker.asked == ["acme/toy#3"]


def test_issues_of_issues_are_read_and_no_further_ones() -> None:
    tracker = Tracker(
        [
            issue("acme/toy#3", "See #4", -9, comment("and other/one#5", -8), comment("#6", 1)),
            issue("acme/toy#4", "See #8 and #3"), issue("other/one#5", "#9"), issue("acme/toy#6"), issue("acme/toy#8"),
            issue("other/one#9"),
        ]
    )  # fmt: skip
    assert named(tracker, "Closes #3") == ["acme/toy#3", "acme/toy#4", "other/one#5"]
    assert tracker.asked == ["acme/toy#3", "acme/toy#4", "other/one#5"]


def test_the_pull_request_itself_is_not_asked_for_and_each_issue_once() -> None:
    tracker = Tracker([issue("acme/toy#3", "#7 #3")])
    assert named(tracker, "Closes #3, fixes #3 and Acme/Toy#7") == ["acme/toy#3"]
    assert tracker.asked == ["acme/toy#3"]


def test_a_list_of_everything_is_not_followed_to_its_end() -> None:
    tracker = Tracker([issue(f"acme/toy#{number}") for number in range(100, 200)])
    assert len(named(tracker, " ".join(f"#{number}" for number in range(100, 200)))) == 20


def test_without_a_source_there_are_title_and_message() -> None:
    found = documents("acme/toy", 7, "Slow sort", "Closes #3", NoIssues())
    assert [(one.kind, one.text) for one in found] == [("title", "Slow sort"), ("message", "Closes #3")]
    assert [one.kind for one in documents("acme/toy", 7, "Slow sort", " ", NoIssues())] == ["title"]


def test_references_are_found_and_what_is_none_is_not() -> None:
    text = "#1, gh-2 (a/b#3), https://x.org/a/c/issues/4 https://x.org/a/c/pull/5 &#6; a#7 x/#8 #ff0 #09 C#"
    assert references("o/r", text) == ["o/r#1", "o/r#2", "a/b#3", "a/c#4"]


def test_a_source_that_does_not_answer_says_so() -> None:
    class Silent(Tracker):
        def issue(self, name: str) -> Issue | None:
            raise IssuesUnreachable("no answer in 30 s")

    with pytest.raises(IssuesUnreachable, match="no answer"):
        documents("acme/toy", 7, "x", "Closes #3", Silent())
