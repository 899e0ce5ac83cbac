"""A month that a scripted model judges and states: killed in both, resumed, over its budget, carried to its end."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from formulamine.demo.sample import REPOSITORY
from formulamine_tests.end_to_end.conftest import Demo, in_process
from formulamine_tests.end_to_end.runs import (
    COMMAND,
    MONTH,
    Ended,
    endings,
    environment,
    expected_endings,
    table,
)
from formulamine_tests.llm_server import LlmServer, Received, Reply, Says, Status

pytestmark = [pytest.mark.network, pytest.mark.bubblewrap]
JUDGED, STATED = 9, 3  # pull requests of the demo that reach either task
KILLED_AT = {"classifications": 3, "problem_statements": 2}  # requests of each
NO_PERFORMANCE = "Spans that touch are one span"
PAID = (900, 100)  # tokens of each answer
LITTLE = 500  # tokens: one request is let through as long as something is left
NOTHING_SAID: dict[str, Any] = {
    "initial_observations": [], "triage": [], "solution_overview": [], "solution_observations": [],
}  # fmt: skip


class Model:
    """Answers for both tasks, and kills a process that waits for the answer at which it is told to."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.victim: subprocess.Popen[bytes] | None = None
        self.dead = threading.Event()

    def __call__(self, received: Received) -> Reply:
        stating = "solution_overview" in json.dumps(received.body["tools"])
        task = "problem_statements" if stating else "classifications"
        self.asked[task] += 1
        if self.victim is not None and self.asked[task] == KILLED_AT[task]:
            self.victim.send_signal(signal.SIGKILL)
            self.dead.wait(30)
            return Status(503)  # nobody is there to read it, and nothing is billed
        return Says(NOTHING_SAID if stating else judgement(received.user), tokens=PAID)

    def kill(self, command: list[str], home: Path, variables: dict[str, str]) -> int:
        """Run a command until it is killed, and return its exit code."""
        self.dead.clear()
        self.victim = subprocess.Popen(
            command, cwd=home.parent, env=environment(home, variables), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        code = self.victim.wait(120)
        self.victim = None
        self.dead.set()
        return code


def judgement(question: str) -> dict[str, Any]:
    """What the demo expects of its pull requests, with the title as evidence."""
    title = question.partition("Title: ")[2].partition("\n")[0]
    yes = title != NO_PERFORMANCE
    return {
        "evidence": [title], "reason": "As told.", "is_performance": yes,
        "category": "use_better_algorithm" if yes else "uncategorized", "difficulty": "easy",
    }  # fmt: skip


@dataclass
class Month:
    """What the runs left behind, by the task in which each was killed or out of money."""

    server: LlmServer
    home: Path
    killed: dict[str, int] = field(default_factory=dict)
    """Exit codes."""
    asked: dict[str, int] = field(default_factory=dict)
    """Requests of the task until the kill."""
    ended: list[Ended] = field(default_factory=list)
    over_budget: dict[str, pl.DataFrame] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def month(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Month]:
    """The demo's month once more where its environments, images and measurements are in the ledger."""
    home = Path(shutil.copytree(demo.home, tmp_path_factory.mktemp("scripted") / "home", symlinks=True))
    model = Model()
    server = LlmServer(model)
    told = Month(server, home, requests=model.asked)
    variables = {
        "OPENAI_API_KEY": "sk-test-0123456789",
        "NO_PROXY": "127.0.0.1",
        "FORMULAMINE_JUDGE_MODELS": "openai:gpt-5-nano",
        "FORMULAMINE_STATEMENT_MODELS": "openai:gpt-5-nano",
        "FORMULAMINE_OPENAI_BASE_URL": server.openai_url,
        "FORMULAMINE_JUDGE_WORKERS": "1",
        "FORMULAMINE_LLM_MAX_OUTPUT_TOKENS": "200",
    }
    arguments = ["month", MONTH, "--repo", f"{REPOSITORY}={demo.home / 'sample.git'}"]
    for task in KILLED_AT:
        # Judging alone, or all of it: what is killed in its statements judges the rest first.
        selected = [*arguments, *(["--select", "discover,judge"] if task == "classifications" else [])]
        told.killed[task] = model.kill([*COMMAND, *selected], home, variables)
        told.asked[task] = model.asked[task]
        little = variables | {"FORMULAMINE_LLM_BUDGET_TOKENS": str(LITTLE)}
        told.ended.append(in_process(home, *selected, variables=little))
        told.over_budget[task] = table(home, task)
    told.ended.append(in_process(home, *arguments, variables=variables))
    yield told
    server.close()


def test_runs_were_killed_while_they_waited_for_an_answer(month: Month) -> None:
    assert month.killed == dict.fromkeys(KILLED_AT, -signal.SIGKILL)
    assert month.asked == KILLED_AT


def test_what_is_deferred_keeps_the_month_from_its_release(month: Month) -> None:
    judged, without_all, last = month.ended
    assert [one.err for one in (judged, last) if one.code] == []
    assert without_all.code != 0
    assert "(1 problem_statements budget)" in without_all.err


@pytest.mark.parametrize(("task", "items"), [("classifications", JUDGED), ("problem_statements", STATED)])
def test_over_budget_the_rest_is_deferred(month: Month, task: str, items: int) -> None:
    counts = Counter(month.over_budget[task].select("status", "reason").rows())
    deferred = counts["deferred", "budget"]
    assert {status for status, _ in counts} <= {"done", "rejected", "deferred"}
    assert sum(counts.values()) == items
    assert items - deferred == KILLED_AT[task], "what was paid before the kill, and the one answer that was let through"


def test_the_next_run_goes_on_and_no_call_is_paid_twice(month: Month) -> None:
    assert endings(month.home) == expected_endings()
    assert month.requests == {"classifications": JUDGED + 1, "problem_statements": STATED + 1}
    assert month.server.tokens == (JUDGED + STATED) * sum(PAID), "but for the two cut off, each was answered once"


def test_the_tokens_of_the_ledger_are_those_on_the_bill(month: Month) -> None:
    judged, stated = (table(month.home, task) for task in KILLED_AT)
    paid = [*judged["tokens"], *stated["extraction_tokens"]]
    assert paid == [sum(PAID)] * (JUDGED + STATED)
    assert sum(paid) == month.server.tokens
    assert (pl.concat([judged["cost_usd"], stated["cost_usd"]]) > 0).all()
    assert set(judged["judge"]) == set(stated["extracted_by"]) == {"openai:gpt-5-nano"}
