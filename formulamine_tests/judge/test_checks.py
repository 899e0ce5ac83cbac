"""The asset checks of the judge, each with what it must pass and what it must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from formulamine.checks import well_formed
from formulamine.judge.assets import figures, judges_agree, no_error_is_a_no, undecided
from formulamine.judge.rules import JudgeReason
from formulamine.services.container import Services
from formulamine_tests.build.tables_of import MONTH, month_of, spoiled

YES: dict[str, Any] = {"repo": "acme/toy", "is_performance": True}
NO: dict[str, Any] = {
    "repo": "acme/toy", "is_performance": False, "rationale": "It moves text.",
    "classifications": {"status": "rejected", "reason": "not_performance"},
}  # fmt: skip
OPEN: dict[str, Any] = {
    "repo": "acme/toy",
    "classifications": {"status": "failed", "reason": "undecided", "record": None},
}


def judged(*rows: dict[str, Any]) -> Services:
    numbered = [{**row, "pr_id": f"acme__toy-{number}"} for number, row in enumerate(rows, 1)]
    return month_of({}, numbered, "classifications")


def test_a_no_with_its_rationale_passes(home: Path) -> None:
    found = no_error_is_a_no(MONTH, judged(YES, NO, OPEN))
    assert (found.passed, found.detail) == (True, "1 turned away, each with a rationale")
    assert no_error_is_a_no(MONTH, judged()).passed


@pytest.mark.parametrize(
    ("row", "changes", "said"),
    [
        (NO, {"rationale": None}, "acme__toy-1 was turned away without a judgement"),
        (NO, {"is_performance": None}, "acme__toy-1 was turned away without a judgement"),
        (NO, {"is_performance": True}, "acme__toy-1 was turned away without a judgement"),
        (OPEN, {"status": "rejected", "reason": "not_performance"}, "acme__toy-1 was turned away without a judgement"),
        (YES, {"is_performance": False}, "acme__toy-1 goes on although the judge said no"),
    ],
)
def test_an_error_that_stands_as_a_no_does_not(home: Path, row: dict[str, Any], changes: Any, said: str) -> None:
    found = no_error_is_a_no(MONTH, spoiled(judged(row), "classifications", **changes))
    assert (found.passed, found.detail) == (False, said)


def test_few_undecided_pass_and_many_are_told(home: Path) -> None:
    assert undecided(MONTH, judged(*[YES] * 19, OPEN)).passed
    assert undecided(MONTH, judged()).passed
    found = undecided(MONTH, judged(*[YES] * 8, OPEN))
    assert (found.passed, found.warn, found.detail) == (False, True, "1 of 9 undecided")
    waiting = {"repo": "acme/toy", "classifications": {"status": "deferred", "reason": "limit", "record": None}}
    assert not undecided(MONTH, judged(YES, waiting)).passed


def test_judges_who_disagree_are_told(home: Path) -> None:
    agree = YES | {"second_judge": "openai:b", "second_opinion": True, "tokens": 10}
    differ = YES | {"second_judge": "openai:b", "second_opinion": False, "tokens": 10}
    found = judges_agree(MONTH, judged(*[agree] * 9, differ))
    assert found.passed
    assert "90.0% (9/10" in found.detail
    found = judges_agree(MONTH, judged(*[agree] * 7, *[differ] * 3, NO))
    assert (found.passed, found.warn) == (False, True)
    assert judges_agree(MONTH, judged(*[differ] * 3)).passed, "three say nothing"
    once = {"second_opinion": None}
    assert judges_agree(MONTH, judged(YES | once, NO | once)).detail == "nothing was judged twice"


def test_figures_are_numbers_that_the_ui_plots(home: Path) -> None:
    agree = YES | {"second_judge": "openai:b", "second_opinion": True, "tokens": 10}
    told = figures(MONTH, judged(agree, agree, OPEN, OPEN))
    assert told == {"tokens": 20, "share_undecided": 0.5, "agreement": 1.0, "judged_twice": 2}
    assert "agreement" not in figures(MONTH, judged(YES | {"second_opinion": None}))


def test_well_formed_holds_for_the_judge_and_knows_its_words(home: Path) -> None:
    services = judged(YES, NO, OPEN)
    assert well_formed("classifications", JudgeReason, MONTH, services).passed
    for changes, said in (
        ({"category": "magic"}, "has category 'magic'"),
        ({"difficulty": "impossible"}, "has difficulty 'impossible'"),
        ({"reason": "no_core_file"}, "with reason 'no_core_file'"),
    ):
        assert (
            said
            in well_formed(
                "classifications", JudgeReason, MONTH, spoiled(judged(YES), "classifications", **changes)
            ).detail
        )
