"""Runs of the statement step with a scripted model: cut off, resumed, over their budget, and carried to their end."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from formulamine.items import Entry, RunOptions, Step, advance
from formulamine.services import llm_requests
from formulamine.services.ledger import Ledger
from formulamine.services.llm import Llm
from formulamine.settings import LlmSettings
from formulamine.ship.statements import StatementInput, StatementReason, StatementStep
from formulamine_tests.build.workbench import Workbench
from formulamine_tests.llm_server import LlmServer, Says
from formulamine_tests.ship.evidence import MEASURE, Evidence, evidence

ITEMS = 5
PAID = (900, 100)  # tokens of each answer
ANSWER: dict[str, Any] = {
    "initial_observations": [{"document": 2, "sentence": "Summing up a list takes most of the time of a report."}],
    "triage": [], "solution_overview": [], "solution_observations": [],
}  # fmt: skip


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LlmServer]:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(llm_requests, "BACKOFF_S", 0.01)
    made = LlmServer()
    made.always = Says(ANSWER, tokens=PAID)
    yield made
    made.close()


@pytest.fixture(scope="module")
def good(bench: Workbench) -> Evidence:
    return evidence(bench)


@pytest.fixture
def run(server: LlmServer, good: Evidence, bench: Workbench, tmp_path: Path) -> Callable[..., dict[str, Entry]]:
    """One run as a process of its own makes it, on the ledger and the answers that the ones before left."""
    values = {name: getattr(good.item, name) for name in StatementInput.model_fields}
    items = [
        (
            f"o__r-{number}",
            StatementInput.model_validate(
                values
                | {
                    "pr_id": f"o__r-{number}",
                    "title": f"Sum up long lists of kind {number} in one step",
                    "body": "Summing up a list takes most of the time of a report.",
                }
            ),
        )
        for number in range(ITEMS)
    ]

    def once(run_id: str, killed_after: int | None = None, **limits: Any) -> dict[str, Entry]:
        settings = LlmSettings(statement_models="openai:gpt-5-nano", openai_base_url=server.openai_url, **limits)
        cancelled = threading.Event()
        llm, ledger = Llm(settings, tmp_path / "cache", cancelled), Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
        stated = StatementStep(bench.git, bench.blobs, MEASURE, llm)

        def step(item: StatementInput) -> Any:
            outcome = stated(item)
            if killed_after is not None and len(server.received) >= killed_after:
                raise Killed  # the answer is paid for and kept, the outcome is not
            return outcome

        known = Step(
            asset="problem_statements", version="1", reads=StatementInput, run=step, reasons=StatementReason,
            sources=(), hints=("url",),
        )  # fmt: skip
        try:
            entries, _ = advance(
                known, items, ledger, RunOptions(run_id), cancelled=cancelled, log=logging.getLogger("test")
            )
        finally:
            llm.close()
            ledger.close()
        return {entry.item: entry for entry in entries}

    return once


def records(entries: dict[str, Entry]) -> list[dict[str, Any]]:
    return [entry.record for entry in entries.values() if entry.record is not None]


def test_a_killed_run_is_resumed_and_no_statement_is_paid_twice(server: LlmServer, run: Callable[..., Any]) -> None:
    with pytest.raises(Killed):
        run("one", killed_after=3)
    assert len(server.received) == 3
    entries = run("two")
    assert {entry.status for entry in entries.values()} == {"done"}
    assert len({json.dumps(one.user) for one in server.received}) == len(server.received) == ITEMS
    assert sum(one["extraction_tokens"] for one in records(entries)) == server.tokens == ITEMS * sum(PAID)
    run("three")
    assert len(server.received) == ITEMS, "what is in the ledger is asked of nobody"


def test_over_budget_the_rest_is_deferred_and_the_next_run_goes_on(server: LlmServer, run: Callable[..., Any]) -> None:
    first = run("one", llm_budget_tokens=2500, llm_max_output_tokens=200)
    asked = len(server.received)
    assert 0 < asked < ITEMS
    assert Counter((entry.status, entry.reason) for entry in first.values()) == {
        ("done", None): asked,
        ("deferred", "budget"): ITEMS - asked,
    }
    second = run("two")
    assert {entry.status for entry in second.values()} == {"done"}
    assert len(server.received) == ITEMS
    assert sum(one["extraction_tokens"] for one in records(second)) == server.tokens == ITEMS * sum(PAID)
    assert all(one["sources"] == ["message", "measured"] for one in records(second))
