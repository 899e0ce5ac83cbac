"""The judge by a model, through the real client libraries against a local server."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from formulamine.items import Deferred, Done, Failed, Outcome, Rejected, RunOptions, advance
from formulamine.judge.model import PROMPT_FILE, ModelJudge, Opinion, misquoted
from formulamine.judge.rules import JudgeInput, JudgeReason
from formulamine.judge.steps import classifications_step
from formulamine.records import Classification
from formulamine.services import llm_requests
from formulamine.services.container import Services
from formulamine.services.llm import Llm
from formulamine.services.store import Blobs
from formulamine.settings import LlmSettings, Settings
from formulamine_tests.judge.test_rules import patch_of
from formulamine_tests.llm_server import LlmServer, Received, Reply, Says, Status

CHEAP, STRONG, OTHER = "openai:gpt-5-nano", "anthropic:claude-opus-5-5", "openai:gpt-5-mini"
PATCH = patch_of(b"-    return sum([x for x in xs])\n+    return sum(xs)\n") + patch_of(b"+pass\n", "tests/test_a.py")
YES: dict[str, Any] = {
    "evidence": ["return sum(xs)"],
    "reason": "A list less.",
    "is_performance": True,
    "category": "remove_or_reduce_work",
    "difficulty": "easy",
}
NO = YES | {"is_performance": False, "reason": "It does the same.", "category": "uncategorized"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LlmServer]:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-test-0123456789")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(llm_requests, "BACKOFF_S", 0.02)
    made = LlmServer()
    yield made
    made.close()


@dataclass
class Bench:
    judge: ModelJudge
    item: JudgeInput
    server: LlmServer

    def __call__(self) -> Outcome:
        return self.judge(self.item)


@pytest.fixture
def bench(server: LlmServer, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    opened = []

    def make(pr_id: str = "o__r-1", **settings: Any) -> Bench:
        given = {"openai_base_url": server.openai_url, "anthropic_base_url": server.anthropic_url}
        given |= {"judge_models": CHEAP, "llm_retries": 0, **settings}
        llm = Llm(LlmSettings(**given), tmp_path / "cache", threading.Event())
        opened.append(llm)
        blobs = Blobs(tmp_path / "blobs")
        item = JudgeInput(
            pr_id=pr_id, title="Sums", body="It was slow.", signals=["code cache: no"], score=1.0,
            core_files=["src/spans.py"], patch_sha256=blobs.put(PATCH),
        )  # fmt: skip
        return Bench(ModelJudge(llm, blobs), item, server)

    yield make
    for llm in opened:
        llm.close()


def record_of(outcome: Outcome) -> Classification:
    assert not isinstance(outcome, Deferred)
    assert isinstance(outcome.record, Classification)
    return outcome.record


def test_a_yes_goes_on_with_its_evidence_and_its_cost(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.server.then(Says(YES, tokens=(1000, 100)))
    outcome = one()
    record = record_of(outcome)
    assert isinstance(outcome, Done)
    assert (record.is_performance, record.category, record.difficulty) == (True, "remove_or_reduce_work", "easy")
    assert record.rationale == "A list less.; quotes 'return sum(xs)'"
    assert (record.judge, record.tokens) == (CHEAP, 1100)
    assert record.prompt_version == one.judge.prompt.version
    assert outcome.cost_usd > 0


def test_a_no_is_rejected_with_its_reason(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.server.then(Says(NO))
    outcome = one()
    assert isinstance(outcome, Rejected)
    assert outcome.reason is JudgeReason.NOT_PERFORMANCE
    assert outcome.detail == record_of(outcome).rationale


def test_what_the_model_is_told(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.server.then(Says(YES))
    one()
    (asked,) = one.server.received
    assert "Title: Sums" in asked.user
    assert "It was slow." in asked.user
    assert "+    return sum(xs)" in asked.user
    assert "tests/test_a.py" in asked.user
    assert "+pass" not in asked.user
    assert "code cache" not in asked.user, "judges do not repeat each other"
    order = [
        asked.system.index(text) for text in ("Never performance", "cost the same", "Examples", "If you are unsure")
    ]
    assert order == sorted(order)


def test_an_invented_quote_is_mended_or_is_no_answer(bench: Callable[..., Bench]) -> None:
    one = bench(llm_repairs=1)
    one.server.then(Says(YES | {"evidence": ["it says so"]}), Says(YES))
    assert isinstance(one(), Done)
    assert "it says so" in one.server.received[1].last
    other = bench("o__r-2", llm_repairs=0, judge_models=OTHER)
    other.server.then(Says(NO | {"evidence": ["it says so"]}))
    outcome = other()
    assert isinstance(outcome, Failed)
    assert outcome.reason is JudgeReason.UNDECIDED


@pytest.mark.parametrize(
    ("replies", "kind", "reason"),
    [
        ([Says(text="I cannot help with that.", ends="refusal")], Failed, JudgeReason.UNDECIDED),
        ([Says("{broken")] * 3, Failed, JudgeReason.UNDECIDED),
        ([Says(YES, ends="length")], Failed, JudgeReason.UNDECIDED),
        ([Status(500)], Failed, JudgeReason.MODEL_FAILED),
        ([Status(401, "wrong key {key}")], Failed, JudgeReason.MODEL_FAILED),
        ([Status(429, headers={"retry-after": "5000"})], Deferred, JudgeReason.RATE_LIMIT),
    ],
)
def test_no_error_is_a_no(
    bench: Callable[..., Bench], replies: list[Reply], kind: type[Outcome], reason: JudgeReason
) -> None:
    one = bench()
    one.server.then(*replies)
    outcome = one()
    assert isinstance(outcome, kind)
    assert not isinstance(outcome, Done)
    assert outcome.reason is reason
    if isinstance(outcome, Failed):
        record = record_of(outcome)
        assert record.is_performance is None
        assert record.tokens == one.server.tokens
        assert outcome.infrastructure == (reason is JudgeReason.MODEL_FAILED)
        assert "sk-test" not in outcome.error


def test_a_stronger_model_is_asked_where_a_cheap_one_refuses(bench: Callable[..., Bench]) -> None:
    one = bench(judge_models=f"{CHEAP}, {STRONG}")
    one.server.then(Says(text="no", ends="refusal"), Says(YES))
    record = record_of(one())
    assert record.judge == STRONG
    assert record.tokens == one.server.tokens, "the refusal was paid too"


def test_a_sample_is_judged_twice_and_the_first_answer_stands(bench: Callable[..., Bench]) -> None:
    one = bench(judge_again_models=OTHER, judge_again_yes_share=1.0)
    one.server.then(Says(YES), Says(NO))
    outcome = one()
    record = record_of(outcome)
    assert isinstance(outcome, Done)
    assert (record.judge, record.second_judge, record.second_opinion) == (CHEAP, OTHER, False)
    assert record.tokens == one.server.tokens


@pytest.mark.parametrize(("first", "yes_share", "no_share", "second"), [
    (YES, 1.0, 0.0, OTHER), (YES, 0.0, 1.0, ""), (NO, 0.0, 1.0, OTHER), (NO, 1.0, 0.0, ""),
])  # fmt: skip
def test_what_got_a_yes_and_what_got_a_no_have_samples_of_their_own(
    bench: Callable[..., Bench], first: dict[str, Any], yes_share: float, no_share: float, second: str
) -> None:
    one = bench(judge_again_models=OTHER, judge_again_yes_share=yes_share, judge_again_no_share=no_share)
    one.server.then(*([Says(first), Says(NO)] if second else [Says(first)]))
    assert record_of(one()).second_judge == second


def test_a_second_judge_without_an_answer_holds_nothing_up(bench: Callable[..., Bench]) -> None:
    one = bench(judge_again_models=OTHER, judge_again_yes_share=1.0)
    one.server.then(Says(YES), Says(text="no", ends="refusal"))
    record = record_of(one())
    assert (record.is_performance, record.second_judge, record.second_opinion) == (True, "none", None)
    assert record.tokens == one.server.tokens


def test_a_second_judge_that_is_down_loses_no_cost(bench: Callable[..., Bench]) -> None:
    one = bench(judge_again_models=OTHER, judge_again_yes_share=1.0)
    one.server.then(Says(YES), Status(500), Says(NO))
    first, again = one(), one()
    assert isinstance(first, Failed)
    assert first.infrastructure
    assert isinstance(again, Done)
    assert record_of(again).tokens == one.server.tokens
    assert first.cost_usd + again.cost_usd == pytest.approx(one.judge.llm.spent.cost_usd)


@pytest.mark.parametrize(
    ("quote", "stands"),
    [("return sum(xs)", True), ("+ return   sum(xs)", True), ("return max(xs)", False), ("", False), ("+", False)],
)
def test_quotes_stand_in_the_text_whatever_its_blanks(quote: str, stands: bool) -> None:
    text = "Diff of its code:\n+    return sum(xs)\n"
    assert (misquoted(Opinion.model_validate(YES | {"evidence": [quote]}), text) == "") == stands


def test_the_prompt_is_in_the_fingerprint_and_so_are_the_models(
    server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORMULAMINE_HOME", str(tmp_path))

    def parts(**variables: str) -> Any:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(f"FORMULAMINE_{name}", value)
            step = classifications_step(Services(Settings()))
            return PROMPT_FILE in step.data_files, dict(step.outside)

    rules = parts()
    cheap, strong = parts(JUDGE_MODELS=CHEAP), parts(JUDGE_MODELS=STRONG)
    again = parts(JUDGE_MODELS=CHEAP, JUDGE_AGAIN_MODELS=OTHER)
    yes = parts(JUDGE_MODELS=CHEAP, JUDGE_AGAIN_MODELS=OTHER, JUDGE_AGAIN_YES_SHARE="0.5")
    no = parts(JUDGE_MODELS=CHEAP, JUDGE_AGAIN_MODELS=OTHER, JUDGE_AGAIN_NO_SHARE="0.5")
    made = [rules, cheap, strong, again, yes, no]
    assert all(one[0] for one in made)
    assert all(one != other for number, one in enumerate(made) for other in made[:number])


@pytest.fixture
def month(server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Judges five candidates of a home, as one run of a month does, and gives the entries by item."""
    variables = {"HOME": str(tmp_path), "JUDGE_MODELS": CHEAP, "OPENAI_BASE_URL": server.openai_url}
    opened = []

    def run(run_id: str, **more: str) -> dict[str, Any]:
        for name, value in (variables | more).items():
            monkeypatch.setenv(f"FORMULAMINE_{name}", value)
        services = Services(Settings())
        opened.append(services)
        sha = services.blobs.put(PATCH)
        items = [
            (
                f"o__r-{number}",
                JudgeInput(
                    pr_id=f"o__r-{number}", title=f"Sums {number}", body="", signals=[], score=0.0,
                    core_files=["src/spans.py"], patch_sha256=sha,
                ),
            )
            for number in range(5)
        ]  # fmt: skip
        entries, _ = advance(
            classifications_step(services), items, services.ledger, RunOptions(run_id),
            cancelled=services.cancelled, log=logging.getLogger("test"),
        )  # fmt: skip
        return {entry.item: entry for entry in entries}

    yield run
    for services in opened:
        services.close()


def test_beyond_the_budget_the_rest_is_deferred_and_the_next_run_goes_on(
    server: LlmServer, month: Callable[..., Any]
) -> None:
    server.always = Says(YES, tokens=(900, 100))
    first = month("one", LLM_BUDGET_TOKENS="2500", JUDGE_WORKERS="1")
    status = [(entry.status, entry.reason) for entry in first.values()]
    assert status.count(("done", None)) == len(server.received)
    assert 0 < len(server.received) < 5
    assert status.count(("deferred", "budget")) == 5 - len(server.received)
    second = month("two", LLM_BUDGET_TOKENS="100000")
    assert {entry.status for entry in second.values()} == {"done"}
    assert len(server.received) == 5, "nobody is asked twice"
    assert sum(entry.record["tokens"] for entry in second.values()) == server.tokens


def test_a_killed_run_pays_nothing_twice(server: LlmServer, month: Callable[..., Any]) -> None:
    """What a kill between answer and ledger leaves: the answer is kept, the outcome is not."""

    def dies_at_third(received: Received) -> Reply:
        if len(server.received) == 3:
            raise_in[0] = True
        return Says(YES)

    raise_in = [False]
    server.always = dies_at_third
    kept = Llm.ask

    def ask(self: Llm, *arguments: Any) -> Any:
        answer = kept(self, *arguments)
        if raise_in[0]:
            raise KeyboardInterrupt
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Llm, "ask", ask)
        with pytest.raises(KeyboardInterrupt):
            month("one", JUDGE_WORKERS="1")
    before = len(server.received)
    assert before < 5
    entries = month("two")
    assert len(server.received) == 5
    assert len({json.dumps(one.user) for one in server.received}) == 5, "each was asked once"
    assert sum(entry.record["tokens"] for entry in entries.values()) == server.tokens
