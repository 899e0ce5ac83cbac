"""Asking models, by the real client libraries against a local server that speaks both protocols."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from formulamine.items import Cancelled
from formulamine.services import llm_budget, llm_requests
from formulamine.services.llm import Llm, Prompt, Question
from formulamine.services.llm_budget import Budget, OverBudget, Pause, Price, Spent, Usage, cost_of, prices
from formulamine.services.llm_cache import LlmCache
from formulamine.services.llm_errors import (
    BudgetSpent,
    LlmError,
    NoAnswer,
    NotUsable,
    RateLimited,
    Unreachable,
    redacted,
)
from formulamine.services.store import StoreError
from formulamine.settings import LlmSettings
from formulamine_tests.llm_server import Hangs, LlmServer, Received, Reply, Resets, Says, Status

KEY = "sk-test-0123456789-abcdefghij"
CHEAP, STRONG = "openai:gpt-5-nano", "anthropic:claude-opus-5-5"
BOTH = [CHEAP, STRONG]
GOOD = Says({"is_performance": True, "why": "a loop less"})


class Verdict(BaseModel):
    """Whether a change makes code faster."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    is_performance: bool
    why: str
    """One sentence."""


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "OPENAI_LOG", "ANTHROPIC_LOG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(llm_requests, "BACKOFF_S", 0.05)


@pytest.fixture
def server() -> Iterator[LlmServer]:
    made = LlmServer()
    yield made
    made.close()


@pytest.fixture
def prompt(tmp_path: Path) -> Prompt:
    path = tmp_path / "judge.md"
    path.write_text("version: 3\n\nYou judge changes.\n")
    return Prompt.load(path)


@pytest.fixture
def make(server: LlmServer, tmp_path: Path) -> Iterator[Callable[..., Llm]]:
    """Makes the service of one run after the other, on one home."""
    made: list[Llm] = []

    def of(**settings: Any) -> Llm:
        given = {"openai_base_url": server.openai_url, "anthropic_base_url": server.anthropic_url, **settings}
        made.append(Llm(LlmSettings(**given), tmp_path / "cache", threading.Event()))
        return made[-1]

    yield of
    for one in made:
        one.close()


@pytest.fixture
def question(prompt: Prompt) -> Question[Verdict]:
    return Question(prompt, "Is {{ this }} one?", Verdict)


def every_word_of(error: BaseException) -> str:
    """What a log, a table or a person could see of an error."""
    told = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    linked = [one for one in (error.__cause__, error.__context__) if one is not None]
    return told + "".join(every_word_of(one) for one in linked)


class TestAnAnswer:
    @pytest.mark.parametrize(("model", "cost"), [(CHEAP, 13e-6), (STRONG, 800e-6), ("openai:ours", None)])
    def test_it_is_typed_and_has_a_price(
        self, model: str, cost: float | None, make: Any, server: LlmServer, question: Question[Verdict]
    ) -> None:
        server.then(GOOD)
        answer = make().ask(question, [model])
        assert answer.value == Verdict(is_performance=True, why="a loop less")
        assert type(answer.value) is Verdict
        assert (answer.model, answer.kept, answer.prompt_version[:2]) == (model, False, "3-")
        assert answer.spent == Spent(1, 100, 20, None if cost is None else pytest.approx(cost))
        (received,) = server.received
        assert received.protocol == model.partition(":")[0]
        assert received.model == model.partition(":")[2]
        assert received.key == KEY
        assert received.system.startswith("You judge changes.")
        assert received.user == "Is {{ this }} one?", "no library makes a template of it"

    def test_the_schema_and_its_sentences_are_shown(self, make: Any, server: LlmServer, question: Any) -> None:
        server.then(GOOD, GOOD)
        make().ask(question, [CHEAP])
        make().ask(question, [STRONG])
        for received in server.received:
            shown = json.dumps(received.body["tools"])
            assert "One sentence." in shown
            assert '"Verdict"' in shown

    def test_a_server_may_be_asked_for_text_of_a_schema(self, make: Any, server: LlmServer, question: Any) -> None:
        server.then(GOOD)
        assert make(openai_mode="json_schema").ask(question, [CHEAP]).value.is_performance
        (received,) = server.received
        assert received.body["response_format"]["type"] == "json_schema"
        assert "tools" not in received.body
        assert "tool" not in received.system

    def test_what_the_server_still_had_costs_less(self, make: Any, server: LlmServer, question: Any) -> None:
        server.then(Says(GOOD.answer, cached=50), Says(GOOD.answer, cached=50))
        cheap, strong = make().ask(question, [CHEAP]).spent, make().ask(question, [STRONG]).spent
        assert cheap == Spent(1, 100, 20, pytest.approx((50 * 0.05 + 50 * 0.005 + 20 * 0.4) / 1e6))
        assert strong == Spent(1, 100, 20, pytest.approx((50 * 4 + 50 * 0.2 + 20 * 20) / 1e6))

    def test_text_that_no_encoding_has_is_sent_all_the_same(self, make: Any, server: LlmServer, prompt: Prompt) -> None:
        server.then(GOOD)
        assert make().ask(Question(prompt, "file \udcff.py", Verdict), [CHEAP]).value.is_performance

    @pytest.mark.parametrize("model", BOTH)
    def test_a_model_that_cannot_be_forced_to_call_a_tool_is_asked_to(
        self, model: str, make: Any, server: LlmServer, prompt: Prompt
    ) -> None:
        server.only_auto = True
        server.then(Says(text="I think so."), GOOD, GOOD)
        llm = make()
        assert llm.ask(Question(prompt, "one", Verdict), [model]).spent.requests == 2
        llm.ask(Question(prompt, "two", Verdict), [model])
        assert all("auto" in json.dumps(one.body["tool_choice"]) for one in server.received)
        assert "call of the tool" in server.received[0].system

    def test_a_model_that_wants_the_newer_limit_gets_it(self, make: Any, server: LlmServer, prompt: Prompt) -> None:
        message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        server.then(Status(400, message), GOOD, GOOD)
        llm = make(llm_max_output_tokens=77)
        llm.ask(Question(prompt, "one", Verdict), [CHEAP])
        llm.ask(Question(prompt, "two", Verdict), [CHEAP])
        first, *others = (one.body for one in server.received)
        assert first["max_tokens"] == 77
        assert [one["max_completion_tokens"] for one in others] == [77, 77]
        assert not [one for one in others if "max_tokens" in one]

    def test_one_without_a_count_of_tokens_has_no_cost_but_counts(
        self, make: Any, server: LlmServer, prompt: Any
    ) -> None:
        server.always = Says(GOOD.answer, tokens=None)
        llm = make(llm_budget_tokens=9000)
        assert llm.ask(Question(prompt, "one", Verdict), [CHEAP]).spent == Spent(1, 0, 0, None)
        llm.ask(Question(prompt, "two", Verdict), [CHEAP])
        with pytest.raises(BudgetSpent):
            llm.ask(Question(prompt, "three", Verdict), [CHEAP])


class TestRepair:
    UNREADABLE = (
        Says('{"is_performance": tru', ends="stop"),
        Says({"is_performance": "perhaps", "why": ""}),
        Says({"is_performance": True}),
        Says({"is_performance": True, "why": "", "command": "rm -rf /"}),
        Says(text='```json\n{"is_performance": true, "why": ""}\n```'),
        Says(text="Yes."),
    )

    @pytest.mark.parametrize("says", UNREADABLE)
    @pytest.mark.parametrize("model", BOTH)
    def test_what_cannot_be_read_goes_back_to_the_model(
        self, says: Says, model: str, make: Any, server: LlmServer, question: Any
    ) -> None:
        if model == STRONG and says.answer is not None and isinstance(says.answer, str):
            says = Says(text=says.answer)  # its protocol knows no malformed JSON
        server.then(says, GOOD)
        answer = make().ask(question, [model])
        assert answer.value.is_performance
        assert (answer.spent.requests, answer.spent.tokens) == (2, server.tokens)
        assert "Validation Error" in server.received[1].last
        assert len(server.received[1].body["messages"]) > len(server.received[0].body["messages"])

    def test_a_fence_is_mended_in_the_other_mode_too(self, make: Any, server: LlmServer, question: Any) -> None:
        server.then(Says(text='```json\n{"is_performance": true, "why": ""}\n```'), GOOD)
        assert make(openai_mode="json_schema").ask(question, [CHEAP]).spent.requests == 2

    def test_a_check_speaks_to_the_model(self, make: Any, server: LlmServer, prompt: Prompt) -> None:
        server.then(Says({"is_performance": True, "why": "magic"}), GOOD)

        def check(verdict: Verdict) -> str:
            return "magic explains nothing" if verdict.why == "magic" else ""

        answer = make().ask(Question(prompt, "one", Verdict, check=check), [STRONG])
        assert (answer.value.why, type(answer.value)) == ("a loop less", Verdict)
        assert "magic explains nothing" in server.received[1].last
        assert '"Verdict"' in json.dumps(server.received[1].body["tools"])

    @pytest.mark.parametrize("model", BOTH)
    def test_it_ends(self, model: str, make: Any, server: LlmServer, question: Any) -> None:
        server.always = Says(text="Yes.")
        with pytest.raises(NoAnswer, match="cannot be read") as told:
            make(llm_repairs=2).ask(question, [model])
        assert told.value.spent.tokens == server.tokens == 360
        assert "\n" not in str(told.value)

    def test_the_complaint_names_the_field(self, make: Any, server: LlmServer, question: Any) -> None:
        server.always = Says({"is_performance": "perhaps", "why": ""})
        with pytest.raises(NoAnswer, match="is_performance: Input should be a valid boolean"):
            make(llm_repairs=0).ask(question, [CHEAP])


class TestChain:
    NO_ANSWERS = (
        (Says(text="I will not.", ends="refusal"), "refused: I will not."),
        (Says(text="", ends="content_filter"), "content filter"),
        (Says(GOOD.answer, ends="length"), "cut off"),
        (Status(400, "This model's maximum context length is 10 tokens"), "maximum context"),
        (Status(413, "request too large"), "too large"),
        (Status(400, "flagged", kind="content_policy_violation"), "not accepted"),
    )

    @pytest.mark.parametrize(("reply", "why"), NO_ANSWERS)
    def test_the_next_model_is_asked(self, reply: Reply, why: str, make: Any, server: LlmServer, question: Any) -> None:
        server.then(reply, GOOD)
        answer = make().ask(question, BOTH)
        assert (answer.model, answer.value.is_performance) == (STRONG, True)
        assert answer.spent.tokens == server.tokens
        assert [one.model for one in server.received] == ["gpt-5-nano", "claude-opus-5-5"]

    @pytest.mark.parametrize(("reply", "why"), NO_ANSWERS)
    def test_where_all_refuse_it_says_why(
        self, reply: Reply, why: str, make: Any, server: LlmServer, question: Any
    ) -> None:
        server.always = reply
        with pytest.raises(NoAnswer, match=why) as told:
            make().ask(question, [CHEAP, "openai:gpt-5"])
        assert "openai:gpt-5: " in str(told.value)
        assert told.value.spent.tokens == server.tokens

    @pytest.mark.parametrize("reply", [Says(text="I will not.", ends="refusal"), Says(GOOD.answer, ends="length")])
    def test_anthropic_says_it_in_other_words(self, reply: Says, make: Any, server: LlmServer, question: Any) -> None:
        server.always = reply
        with pytest.raises(NoAnswer, match=r"refused|cut off"):
            make().ask(question, [STRONG])
        assert len(server.received) == 1

    def test_a_dearer_model_is_not_asked_because_a_server_is_down(
        self, make: Any, server: LlmServer, question: Any
    ) -> None:
        server.always = Status(500)
        with pytest.raises(Unreachable):
            make(llm_retries=0).ask(question, BOTH)
        assert [one.protocol for one in server.received] == ["openai"]

    def test_settings_name_it(self, make: Any) -> None:
        llm = make(judge_models=" openai:a , anthropic:b:c")
        assert llm.models("judge") == ("openai:a", "anthropic:b:c")
        assert llm.models("repair") == ()
        assert llm.decides("repair") == {"models": ""}
        assert llm.decides("judge") != make(judge_models="openai:a").decides("judge")

    def test_without_one_nothing_is_asked(self, make: Any, question: Any) -> None:
        with pytest.raises(NotUsable, match="FORMULAMINE"):
            make().ask(question, [])


class TestRetries:
    FAULTS = (
        Status(500),
        Status(503, headers={"Retry-After": "0"}),
        Status(529, kind="overloaded_error"),
        Status(502, raw="<html>bad gateway</html>"),
        Status(200, raw="<html>welcome</html>"),
        Status(200, raw="", headers={"content-type": "application/json"}),
        Status(408),
        Resets(),
        Resets(midway=True),
    )

    @pytest.mark.parametrize("fault", FAULTS)
    @pytest.mark.parametrize("model", BOTH)
    def test_what_passes_is_tried_again(
        self, fault: Reply, model: str, make: Any, server: LlmServer, question: Any
    ) -> None:
        server.then(fault, fault, GOOD)
        answer = make().ask(question, [model])
        assert (len(server.received), answer.spent.requests) == (3, 1)

    def test_the_libraries_try_nothing_themselves_and_waits_grow(
        self, make: Any, server: LlmServer, question: Any
    ) -> None:
        server.always = Status(500, "overheated")
        with pytest.raises(Unreachable, match=r"openai:gpt-5-nano: .*overheated"):
            make(llm_retries=2).ask(question, [CHEAP])
        first, second, third = (one.at for one in server.received)
        assert 0.05 <= second - first < third - second

    @pytest.mark.parametrize("drips", [False, True])
    def test_a_request_ends_in_time(self, drips: bool, make: Any, server: LlmServer, question: Any) -> None:
        server.always = Hangs(drips=drips)
        started = time.monotonic()
        with pytest.raises(Unreachable, match="no answer within 1 s"):
            make(llm_timeout_s=1, llm_retries=0).ask(question, [STRONG])
        assert time.monotonic() - started < 4

    @pytest.mark.parametrize(
        "reply",
        [
            Status(401, "bad key {key}"),
            Status(403),
            Status(404, "no such model"),
            Status(400, "no such parameter"),
            Status(402),
            Status(429, "You exceeded your current quota", kind="insufficient_quota"),
            Status(400, "Your credit balance is too low"),
        ],
    )
    @pytest.mark.parametrize("model", BOTH)
    def test_what_somebody_must_mend_is_not(
        self, reply: Status, model: str, make: Any, server: LlmServer, question: Any
    ) -> None:
        server.always = reply
        with pytest.raises(NotUsable) as told:
            make().ask(question, [model, CHEAP])
        assert len(server.received) == 1
        assert "\n" not in str(told.value)

    def test_nobody_listens(self, make: Any, question: Any) -> None:
        with pytest.raises(Unreachable, match="openai:gpt-5-nano"):
            make(openai_base_url="http://127.0.0.1:9/v1", llm_retries=1).ask(question, [CHEAP])

    @pytest.mark.parametrize("url", ["nonsense", "http://[", "file:///etc/passwd"])
    @pytest.mark.parametrize("provider", ["openai", "anthropic"])
    def test_an_address_that_is_none(self, url: str, provider: str, make: Any, question: Any) -> None:
        with pytest.raises((NotUsable, Unreachable)):
            make(**{f"{provider}_base_url": url}, llm_retries=0).ask(question, [f"{provider}:x"])


class TestRateLimits:
    @pytest.mark.parametrize("model", BOTH)
    def test_retry_after_is_honoured(self, model: str, make: Any, server: LlmServer, question: Any) -> None:
        server.then(Status(429, headers={"Retry-After": "1"}), GOOD)
        make().ask(question, [model])
        first, second = (one.at for one in server.received)
        assert 1 <= second - first < 4

    def test_a_time_or_milliseconds_do_too(self, make: Any, server: LlmServer, question: Any) -> None:
        def at_a_time(_: Received) -> Reply:
            at = datetime.now(UTC) + timedelta(seconds=2)
            return Status(429, headers={"Retry-After": format_datetime(at, usegmt=True)})

        server.then(at_a_time, Status(429, headers={"Retry-After-Ms": "300", "Retry-After": "9"}), GOOD)
        make().ask(question, [CHEAP])
        first, second, third = (one.at for one in server.received)
        assert 0.9 <= second - first < 4
        assert 0.3 <= third - second < 4

    @pytest.mark.parametrize("header", [{}, {"Retry-After": "soon"}, {"Retry-After": "nan"}])
    def test_without_one_pauses_grow(self, header: Any, make: Any, server: LlmServer, question: Any) -> None:
        server.then(*[Status(429, headers=header)] * 5, GOOD)
        make(llm_retries=0).ask(question, [CHEAP])
        times = [one.at for one in server.received]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert all(gap >= 0.05 * 2**place for place, gap in enumerate(gaps))

    @pytest.mark.parametrize("wait", ["400", "inf", "1e300"])
    def test_a_long_one_defers(self, wait: str, make: Any, server: LlmServer, prompt: Prompt) -> None:
        server.then(Status(429, headers={"Retry-After": wait}))
        llm = make(llm_max_wait_s=60)
        with pytest.raises(RateLimited, match="MAX_WAIT") as told:
            llm.ask(Question(prompt, "one", Verdict), BOTH)
        assert told.value.until - datetime.now(UTC) > timedelta(seconds=390)
        with pytest.raises(RateLimited):
            llm.ask(Question(prompt, "two", Verdict), [CHEAP])
        assert len(server.received) == 1, "nobody asks while the pause lasts"
        server.then(GOOD)
        assert llm.ask(Question(prompt, "two", Verdict), [STRONG]).value.is_performance, "another provider has its own"

    def test_all_workers_share_one_pause(self, make: Any, server: LlmServer, prompt: Prompt) -> None:
        server.then(Status(429, headers={"Retry-After": "1"}))
        server.always = GOOD
        llm = make()
        with ThreadPoolExecutor(4) as pool:
            first = pool.submit(llm.ask, Question(prompt, "0", Verdict), [CHEAP])
            while not server.received:
                time.sleep(0.01)
            time.sleep(0.2)
            asked = time.monotonic()
            others = [pool.submit(llm.ask, Question(prompt, str(n), Verdict), [CHEAP]) for n in range(1, 4)]
            assert all(one.result().value.is_performance for one in [first, *others])
        assert all(one.at - server.received[0].at >= 1 for one in server.received[1:])
        assert asked - server.received[0].at < 1
        assert len(server.received) == 5

    def test_limits_that_several_workers_meet_at_once_are_one(self) -> None:
        pause = Pause()
        for _ in range(5):
            pause.begin(None, 0.2)
        assert 0.1 < pause.wait(10, threading.Event()) < 1

    def test_a_pause_may_grow_while_it_is_waited_for(self) -> None:
        pause = Pause()
        pause.begin(0.3, 1)
        threading.Timer(0.1, pause.begin, (0.6, 1)).start()
        assert pause.wait(10, threading.Event()) >= 0.6


class TestCancel:
    @pytest.mark.parametrize(
        "reply", [Hangs(), Hangs(drips=True), Status(500), Status(429, headers={"Retry-After": "50"})]
    )
    def test_it_ends_whatever_is_under_way(
        self, reply: Reply, make: Any, server: LlmServer, question: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(llm_requests, "BACKOFF_S", 50)
        server.always = reply
        llm = make()
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(llm.ask, question, [CHEAP])
            while not server.received:
                time.sleep(0.01)
            time.sleep(0.2)
            llm.cancelled.set()
            started = time.monotonic()
            with pytest.raises(Cancelled):
                future.result(timeout=10)
        assert time.monotonic() - started < 2  # 0.1 s on a machine without other work
        assert len(server.received) == 1

    def test_a_cancelled_run_asks_nothing(self, make: Any, server: LlmServer, question: Any) -> None:
        llm = make()
        llm.cancelled.set()
        server.always = GOOD
        with pytest.raises(Cancelled):
            llm.ask(question, [CHEAP])
        assert not server.received

    def test_closing_leaves_no_thread(self, make: Any, server: LlmServer, question: Any) -> None:
        server.then(GOOD)
        others = {*threading.enumerate()}  # of other tests of this worker
        llm = make()
        llm.ask(question, [CHEAP])
        assert [one for one in threading.enumerate() if one.name == "llm" and one not in others]
        llm.close()
        assert not [one for one in threading.enumerate() if one.name == "llm" and one not in others]


class TestBudget:
    def test_dollars_end_a_run_and_the_next_goes_on(self, make: Any, server: LlmServer, prompt: Prompt) -> None:
        server.always = GOOD
        llm = make(llm_budget_usd=0.001)  # a question costs 0.0008
        for text in "ab":
            llm.ask(Question(prompt, text, Verdict), [STRONG])
        with pytest.raises(BudgetSpent, match=r"\$0.0016 of \$0.001 .*FORMULAMINE_LLM_BUDGET_USD") as told:
            llm.ask(Question(prompt, "c", Verdict), [STRONG])
        assert told.value.until <= datetime.now(UTC), "the next run takes it up"
        assert len(server.received) == 2
        assert llm.spent == Spent(2, 200, 40, pytest.approx(0.0016))
        assert llm.ask(Question(prompt, "a", Verdict), [STRONG]).kept, "what is known costs nothing"
        make(llm_budget_usd=0.001).ask(Question(prompt, "c", Verdict), [STRONG])

    def test_tokens_do_too_where_no_price_is_known(self, make: Any, server: LlmServer, prompt: Prompt) -> None:
        server.always = GOOD
        llm = make(llm_budget_tokens=200)
        for text in "ab":
            llm.ask(Question(prompt, text, Verdict), ["openai:ours"])
        with pytest.raises(BudgetSpent, match="240 of 200 tokens"):
            llm.ask(Question(prompt, "c", Verdict), ["openai:ours"])

    def test_repairs_are_paid_from_it(self, make: Any, server: LlmServer, question: Any) -> None:
        server.always = Says(text="Yes.")
        with pytest.raises(BudgetSpent) as told:
            make(llm_budget_tokens=150, llm_repairs=5).ask(question, [CHEAP])
        assert told.value.spent.tokens == server.tokens == 240

    def test_workers_pass_it_by_one_request_at_most(self, make: Any, server: LlmServer, prompt: Prompt) -> None:
        def slowly(_: Received) -> Reply:
            time.sleep(0.1)
            return GOOD

        server.always = slowly
        llm = make(llm_budget_tokens=300)

        def ask(number: int) -> bool:
            try:
                return bool(llm.ask(Question(prompt, str(number), Verdict), [CHEAP]))
            except BudgetSpent:
                return False

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(ask, range(8))) == 3
        assert server.tokens == 360

    def test_nothing_to_spend(self, make: Any, server: LlmServer, question: Any) -> None:
        with pytest.raises(BudgetSpent):
            make(llm_budget_usd=0).ask(question, [CHEAP])
        assert not server.received

    def test_a_request_that_failed_gives_back_what_it_held(self) -> None:
        budget, never = Budget(1, 100), threading.Event()
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), budget.request(Spent(1, 90, 0, 0.9), never):
                raise ZeroDivisionError
        with budget.request(Spent(1, 90, 0, 0.9), never):
            budget.pay(Spent(1, 100, 0, None))
        with pytest.raises(OverBudget, match="tokens"), budget.request(Spent(), never):
            pass


class TestPrices:
    def test_each_is_for_a_million_tokens(self) -> None:
        assert cost_of(STRONG, Usage(1_000_000, 1_000_000)) == 24
        assert cost_of("anthropic:claude-opus-5-5-20260922", Usage(1, 1)) is None

    def test_the_list_is_plausible(self) -> None:
        assert len(prices()) > 20
        for name, price in prices().items():
            assert name.startswith(("openai:", "anthropic:"))
            assert 0 < price.input < price.output
            assert price.cached_input is None or price.cached_input < price.input

    def test_without_a_price_for_what_was_cached_it_costs_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(llm_budget, "prices", lambda: {"openai:x": Price(2, 4)})
        assert cost_of("openai:x", Usage(10, 1, 5)) == pytest.approx(24e-6)

    def test_one_unknown_makes_the_sum_unknown(self) -> None:
        assert (Spent(1, 1, 1, 0.5) + Spent(1, 1, 1, None)) == Spent(2, 2, 2, None)


class TestKeptAnswers:
    def test_a_question_is_paid_once(self, make: Any, server: LlmServer, question: Any) -> None:
        server.then(GOOD)
        first, again, later = make().ask(question, BOTH), make(), make()
        assert not first.kept
        for llm in (again, later):
            answer = llm.ask(question, BOTH)
            assert (answer.kept, answer.value, answer.spent) == (True, first.value, Spent())
            assert llm.spent == Spent()
        assert len(server.received) == 1

    def test_another_model_prompt_text_parameter_or_schema_is_another_question(
        self, make: Any, server: LlmServer, prompt: Prompt, tmp_path: Path
    ) -> None:
        class Longer(Verdict):
            score: int = 0

        server.always = GOOD
        path = tmp_path / "other.md"
        path.write_text("version: 3\n\nYou judge changes well.\n")
        asked: list[tuple[Question[Any], str, dict[str, Any]]] = [
            (Question(prompt, "a", Verdict), CHEAP, {}),
            (Question(prompt, "a", Verdict), STRONG, {}),
            (Question(prompt, "b", Verdict), CHEAP, {}),
            (Question(Prompt.load(path), "a", Verdict), CHEAP, {}),
            (Question(prompt, "a", Longer), CHEAP, {}),
            (Question(prompt, "a", Verdict), CHEAP, {"llm_max_output_tokens": 99}),
            (Question(prompt, "a", Verdict), CHEAP, {"openai_mode": "json_schema"}),
        ]
        for question, model, settings in asked:
            assert not make(**settings).ask(question, [model]).kept
        for question, model, settings in asked:
            assert make(**settings, llm_retries=7, llm_budget_usd=9).ask(question, [model]).kept
        assert len(server.received) == len(asked)

    def test_threads_that_ask_the_same_pay_once(self, make: Any, server: LlmServer, question: Any) -> None:
        def slowly(_: Received) -> Reply:
            time.sleep(0.3)
            return GOOD

        server.always = slowly
        llm, other = make(), make()
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda one: one.ask(question, [CHEAP]), [llm, other] * 3))
        assert len(server.received) == 1
        assert sorted(one.kept for one in answers) == [False, True, True, True, True, True]
        assert sum((one.spent for one in answers), Spent()).tokens == server.tokens

    def test_processes_pay_once_and_a_killed_one_blocks_nobody(
        self, server: LlmServer, tmp_path: Path, prompt: Prompt
    ) -> None:
        server.always = Hangs(2)
        code = (
            "import sys, threading; from pathlib import Path\n"
            "from formulamine.services.llm import Llm, Prompt, Question\n"
            "from formulamine.settings import LlmSettings\n"
            "from formulamine_tests.services.test_llm import Verdict\n"
            f"llm = Llm(LlmSettings(openai_base_url={server.openai_url!r}), Path({str(tmp_path / 'cache')!r}), "
            "threading.Event())\n"
            f"prompt = Prompt.load(Path({str(prompt.path)!r}))\n"
            f"answer = llm.ask(Question(prompt, 'one', Verdict, item='x'), ['{CHEAP}'])\n"
            "print(answer.kept, answer.spent.tokens); llm.close()\n"
        )
        killed = subprocess.Popen([sys.executable, "-c", code])
        while not server.received:
            time.sleep(0.05)
        killed.kill()
        killed.wait()
        server.always = GOOD
        both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
        told = sorted(one.communicate(timeout=300)[0].strip() for one in both)
        assert told == ["False 120", "True 120"], "the item is told its cost, whichever run paid"
        assert len(server.received) == 2

    def test_a_kept_answer_that_no_longer_holds_is_asked_again(self, make: Any, server: LlmServer, prompt: Any) -> None:
        server.then(GOOD, Says({"is_performance": False, "why": "no"}))
        make().ask(Question(prompt, "a", Verdict), [CHEAP])
        strict = Question(prompt, "a", Verdict, check=lambda one: "no!" if one.is_performance else "")
        assert make().ask(strict, [CHEAP]).value.why == "no"

    def test_a_damaged_file_says_what_to_do(self, tmp_path: Path) -> None:
        (tmp_path / "llm.sqlite").write_text("no database" * 100)
        with pytest.raises(StoreError, match=r"llm\.sqlite .*delete"):
            LlmCache(tmp_path, threading.Event())

    def test_a_file_of_another_version_is_refused(self, tmp_path: Path) -> None:
        import sqlite3

        with sqlite3.connect(tmp_path / "llm.sqlite") as connection:
            connection.execute("PRAGMA user_version=99")
        with pytest.raises(StoreError, match="another"):
            LlmCache(tmp_path, threading.Event())


class TestSpendingOfAnItem:
    """The ledger's row of an item says what its server counted, whatever was killed in between."""

    def test_it_is_told_in_a_later_run_and_once_in_each(self, make: Any, server: LlmServer, prompt: Prompt) -> None:
        question = Question(prompt, "a", Verdict, item="classifications o__r-1")
        server.then(Says(text="Yes."), GOOD)
        first = make().ask(question, [CHEAP])
        resumed = make()
        again = resumed.ask(question, [CHEAP])
        assert again.kept
        assert first.spent == again.spent == Spent(2, 200, 40, pytest.approx(26e-6))
        assert resumed.spent == Spent(), "this run paid nothing"
        assert resumed.ask(question, [CHEAP]).spent == Spent(), "a second attempt in one run adds to the first"

    def test_what_a_deferred_run_paid_is_told_by_the_next(self, make: Any, server: LlmServer, prompt: Prompt) -> None:
        question = Question(prompt, "a", Verdict, item="i")
        server.then(Says(text="Yes."))
        with pytest.raises(BudgetSpent):
            make(llm_budget_tokens=100).ask(question, [CHEAP])
        server.then(GOOD)
        assert make().ask(question, [CHEAP]).spent.tokens == server.tokens == 240

    def test_another_item_pays_nothing_for_it(self, make: Any, server: LlmServer, prompt: Prompt) -> None:
        server.then(GOOD)
        make().ask(Question(prompt, "a", Verdict, item="i"), [CHEAP])
        assert make().ask(Question(prompt, "a", Verdict, item="j"), [CHEAP]).spent == Spent()


class TestKeys:
    ECHOES = (
        Status(401, "Incorrect API key provided: {key}. You sent Authorization: Bearer {key}"),
        Status(400, "invalid header {key}"),
        Status(500, "crashed with {key}"),
        Status(429, "slow down, {key}", headers={"Retry-After": "9999", "x-echo": "{key}"}),
        Status(502, raw="<html>{key}</html>"),
        Status(200, raw="<html>{key}</html>"),
        Says(text=f"Your key is {KEY}", ends="refusal"),
        Says({"is_performance": KEY, "why": KEY}),
        Says(text=KEY),
    )

    @pytest.mark.parametrize("reply", ECHOES)
    @pytest.mark.parametrize("model", BOTH)
    def test_no_text_holds_one(
        self,
        reply: Reply,
        model: str,
        make: Any,
        server: LlmServer,
        question: Any,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server.always = reply
        llm = make(llm_retries=1, llm_repairs=1)
        with pytest.raises(LlmError) as told:
            llm.ask(question, [model])
        assert "[key]" in str(told.value) or isinstance(told.value, RateLimited | NoAnswer)
        seen = every_word_of(told.value) + caplog.text + "".join(capfd.readouterr()) + repr(llm) + repr(vars(llm))
        assert server.received[0].key == KEY
        assert KEY not in seen

    def test_no_answer_holds_one(
        self, make: Any, server: LlmServer, question: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server.then(Says({"is_performance": True, "why": f"since {KEY}"}))
        llm = make()
        assert llm.ask(question, [CHEAP]).value.why == "since [key]"
        assert llm.ask(question, [CHEAP]).value.why == "since [key]"
        llm.close()
        assert KEY not in caplog.text
        assert not [
            one for one in (tmp_path / "cache").rglob("*") if one.is_file() and KEY.encode() in one.read_bytes()
        ]

    def test_one_that_was_changed_meanwhile_is_taken_out_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        redacted("")
        monkeypatch.setenv("OPENAI_API_KEY", "another-key/+")
        assert redacted(f"{KEY} another-key/+ another-key%2F%2B") == "[key] [key] [key]"

    def test_a_masked_one_is_not_shown(self, make: Any, server: LlmServer, question: Any) -> None:
        server.always = Status(401, "Incorrect API key provided: sk-proj-ab***wxyz.")
        with pytest.raises(NotUsable) as told:
            make().ask(question, [CHEAP])
        assert "wxyz" not in str(told.value)

    def test_an_answer_that_is_none_without_it_is_none(self, make: Any, server: LlmServer, prompt: Prompt) -> None:
        class Long(BaseModel):
            word: str = Field(min_length=20)

        server.always = Says({"word": KEY})
        with pytest.raises(NoAnswer, match="cannot be kept"):
            make().ask(Question(prompt, "one", Long), [CHEAP])

    def test_a_word_in_place_of_a_key_is_no_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        assert redacted("none of it") == "none of it"

    @pytest.mark.parametrize("key", ["two words-of-it", "new\nline-key", "schlüssel-schlüssel"])
    def test_what_can_be_none_is_refused_without_showing_it(
        self, key: str, make: Any, question: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(NotUsable, match="OPENAI_API_KEY") as told:
            make().ask(question, [CHEAP])
        assert key not in every_word_of(told.value)

    @pytest.mark.parametrize("provider", ["openai", "anthropic"])
    def test_a_provider_without_one_is_not_asked(
        self, provider: str, make: Any, question: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(f"{provider.upper()}_API_KEY")
        with pytest.raises(NotUsable, match=f"{provider.upper()}_API_KEY is not set"):
            make(**{f"{provider}_base_url": ""}).ask(question, [f"{provider}:x"])

    @pytest.mark.parametrize("model", BOTH)
    def test_a_server_of_ones_own_needs_none(
        self, model: str, make: Any, server: LlmServer, question: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("OPENAI_API_KEY")
        monkeypatch.delenv("ANTHROPIC_API_KEY")
        server.then(GOOD)
        assert make().ask(question, [model]).value.is_performance

    def test_the_usual_variables_name_a_server_too(
        self, make: Any, server: LlmServer, question: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.anthropic_url)
        server.then(GOOD, GOOD)
        for model in BOTH:
            assert make(openai_base_url="", anthropic_base_url="").ask(question, [model]).value.is_performance


class TestPrompts:
    def test_its_bytes_are_in_its_version(self, tmp_path: Path, prompt: Prompt) -> None:
        path = tmp_path / "other.md"
        path.write_text("version: 3\n\nYou judge changes!\n")
        assert Prompt.load(path).version.startswith("3-")
        assert Prompt.load(path).version != prompt.version
        assert prompt.text == "You judge changes.\n"

    def test_one_without_a_version_is_none(self, tmp_path: Path) -> None:
        path = tmp_path / "other.md"
        path.write_text("You judge changes.\n")
        with pytest.raises(ValueError, match="version"):
            Prompt.load(path)


def test_importing_it_loads_no_client_library() -> None:
    code = (
        "import sys; import formulamine.services.llm, formulamine.services.llm_errors;"
        "print([name for name in ('openai', 'anthropic', 'instructor', 'httpx2') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
