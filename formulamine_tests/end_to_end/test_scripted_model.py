"""A month that a scripted model judges: killed, resumed, over its budget, and carried to its end."""

from __future__ import annotations

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

from formulamine_tests.end_to_end.conftest import in_process
from formulamine_tests.end_to_end.runs import COMMAND, CONFIG, MONTH, Ended, environment, table
from formulamine_tests.llm_server import LlmServer, Received, Reply, Says, Status
from formulamine_tests.services.histories import History, day

CANDIDATES = 6
KILLED_AT = 3  # requests
NO: dict[str, Any] = {
    "evidence": ["return sum(x for x in xs)"], "reason": "The same work.", "is_performance": False,
    "category": "uncategorized", "difficulty": "easy",
}  # fmt: skip
PAID = (900, 100)  # tokens of each answer


@dataclass
class Month:
    """What each of three runs left behind."""

    server: LlmServer
    killed: int = 0
    """Exit code of the first one."""
    ended: list[Ended] = field(default_factory=list)
    tables: list[pl.DataFrame] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    """Requests until each run's end."""


def repository(path: Path) -> None:
    """Pull requests that pass the sieve, each of a file of its own."""
    files = {f"p/m{number}.py": "def f(xs):\n    return sum([x for x in xs])\n" for number in range(CANDIDATES)}
    made = History()
    last = made.commit("Start", day(5, month=1), {"asv.conf.json": CONFIG, "benchmarks/b.py": "", **files})
    for number in range(CANDIDATES):
        change = {f"p/m{number}.py": "def f(xs):\n    return sum(x for x in xs)\n"}
        last = made.commit(f"Speed up part {number} (#{number + 1})", day(number + 1), dict(change), start=last)
    made.commit("Later", day(2, month=3), {"p/later.py": "B = 2\n"}, start=last)
    made.write(path)


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Month]:
    folder = tmp_path_factory.mktemp("scripted")
    home = folder / "home"
    repository(folder / "repository")
    server = LlmServer()
    variables = {
        "OPENAI_API_KEY": "sk-test-0123456789",
        "NO_PROXY": "127.0.0.1",
        "FORMULAMINE_JUDGE_MODELS": "openai:gpt-5-nano",
        "FORMULAMINE_OPENAI_BASE_URL": server.openai_url,
        "FORMULAMINE_JUDGE_WORKERS": "1",
        "FORMULAMINE_LLM_MAX_OUTPUT_TOKENS": "200",
    }
    arguments = ["month", MONTH, "--repo", f"a/b={folder / 'repository'}", "--select", "discover,judge"]
    dead = threading.Event()

    def reply(received: Received) -> Reply:
        if len(server.received) == KILLED_AT and not dead.is_set():
            process.send_signal(signal.SIGKILL)
            dead.wait(30)
            return Status(503)  # nobody is there to read it, and nothing is billed
        return Says(NO, tokens=PAID)

    server.always = reply
    told = Month(server)
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, env=environment(home, variables), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    told.killed = process.wait(120)
    dead.set()
    told.asked.append(len(server.received))
    for budget in (1_500, 100_000):  # enough for the next answer and half of one, and for all
        limits = {"FORMULAMINE_LLM_BUDGET_TOKENS": str(budget)}
        told.ended.append(in_process(home, *arguments, variables=variables | limits))
        told.tables.append(table(home, "classifications"))
        told.asked.append(len(server.received))
    yield told
    server.close()


def test_the_first_run_was_killed_while_it_waited_for_an_answer(month: Month) -> None:
    assert month.killed == -signal.SIGKILL
    assert month.asked[0] == KILLED_AT


def test_over_budget_the_rest_is_deferred(month: Month) -> None:
    assert month.ended[0].code == 0, month.ended[0].err
    counts = Counter(month.tables[0].select("status", "reason").rows())
    judged = counts["rejected", "not_performance"]
    assert counts == {("rejected", "not_performance"): judged, ("deferred", "budget"): CANDIDATES - judged}
    assert KILLED_AT - 1 < judged < CANDIDATES


def test_the_next_run_goes_on_and_no_call_is_paid_twice(month: Month) -> None:
    assert month.ended[1].code == 0, month.ended[1].err
    rows = month.tables[1]
    assert rows["status"].to_list() == ["rejected"] * CANDIDATES
    assert month.asked[-1] == CANDIDATES + 1, "but for the one that was cut off, each was asked once"
    assert month.server.tokens == CANDIDATES * sum(PAID)


def test_the_tokens_of_the_ledger_are_those_on_the_bill(month: Month) -> None:
    rows = month.tables[1]
    assert rows["tokens"].sum() == month.server.tokens
    assert rows["tokens"].to_list() == [sum(PAID)] * CANDIDATES
    assert (rows["cost_usd"] > 0).all()
    assert set(rows["judge"]) == {"openai:gpt-5-nano"}
