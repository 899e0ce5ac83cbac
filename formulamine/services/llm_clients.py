"""The client libraries of the providers, and the thread in which they run.

Importing this takes seconds, so nothing does before a model is asked. Here belongs what differs between providers: how
a request is sent, what a reply says of itself, what an error means. What is done about it is the matter of `llm.py`.

The clients are the asynchronous ones, in one thread of their own: there alone can a request be ended at any moment,
while it connects, sends or waits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import email.utils
import math
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, Protocol, TypeVar

import anthropic
import instructor
import openai
from anthropic.types import Message
from openai.types.chat import ChatCompletion

from formulamine.items import Cancelled
from formulamine.services.llm_budget import POLL_S, Usage
from formulamine.services.llm_errors import hush, key_of, shortened

CLOSE_S = 2.0
LONGEST_RETRY_AFTER_S = 7 * 86400.0
NO_KEY = "none"  # the library wants one also for a server that asks for none
# What a server says of a question that no second try will make shorter or more welcome.
TOO_MUCH = ("context_length", "context length", "context window", "too long", "too large", "maximum context")
UNWELCOME = ("content_policy", "content policy", "content_filter", "content management policy", "safety system")
NO_MONEY = ("insufficient_quota", "credit balance", "billing_hard_limit")
T = TypeVar("T")


class Kind(Enum):
    """What a failed request means."""

    LIMIT = auto()
    """Too many requests."""
    BUSY = auto()
    """No answer, or a server's own fault: it may pass."""
    UNUSABLE = auto()
    """Key, model, account or request are not accepted at all."""
    REJECTED = auto()
    """This question is not accepted."""


class Trouble(Exception):
    """A failed request, without keys. `retry_after` is what the server asks for, in seconds."""

    def __init__(self, kind: Kind, message: str, retry_after: float | None = None) -> None:
        super().__init__(shortened(message))
        self.kind, self.retry_after = kind, retry_after


@dataclass(frozen=True)
class Reply:
    """What came back, and what is wrong with it before anybody reads it."""

    response: Any
    usage: Usage | None
    refused: str = ""
    """Why no answer is to be expected: a refusal, or an end in the middle."""


class Client(Protocol):
    """One provider."""

    by_tool: bool
    """Whether an answer is the call of a tool, or else text of a given schema."""
    unforced: Any
    """The `tool_choice` that leaves it to the model."""

    def typed(self, create: Callable[..., Any]) -> Any:
        """The library that makes typed answers of replies, over a function that sends requests."""

    def limit_of_output(self, tokens: int) -> dict[str, int]:
        """The parameter that bounds an answer."""

    async def send(self, request: Mapping[str, Any]) -> Reply:
        """Send one request.

        Raises:
            Trouble: what came back is no reply.
        """

    async def close(self) -> None:
        """Close its connections."""


class Thread:
    """The thread of the clients."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], cancelled: threading.Event) -> T:
        """Run one request to its end.

        Raises:
            Cancelled: the run was told to end, and so was the request.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while not concurrent.futures.wait([future], timeout=POLL_S).done:
                if cancelled.is_set():
                    raise Cancelled("waiting for a model")
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """End every request and the thread."""
        with contextlib.suppress(concurrent.futures.TimeoutError):
            asyncio.run_coroutine_threadsafe(_end_all(), self._loop).result(CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)


async def _end_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class OpenAI:
    """OpenAI, or any server that speaks its chat completions."""

    unforced = "auto"

    def __init__(self, base_url: str, mode: str, timeout_s: float) -> None:
        key = key_of("openai")
        self._client = openai.AsyncOpenAI(
            api_key=key or NO_KEY, base_url=base_url or None, max_retries=0, timeout=timeout_s
        )
        own = self._client.base_url.host == "api.openai.com"
        if own and key is None:
            raise Trouble(Kind.UNUSABLE, "OPENAI_API_KEY is not set")
        self._timeout_s = timeout_s
        self._limit = "max_completion_tokens" if own else "max_tokens"  # the older word is what other servers know
        self.by_tool = mode == "tools"

    def typed(self, create: Callable[..., Any]) -> Any:
        """Typed answers over a function that sends requests."""
        mode = instructor.Mode.TOOLS if self.by_tool else instructor.Mode.JSON_SCHEMA
        return instructor.patch(create=create, mode=mode, provider=instructor.Provider.OPENAI)

    def limit_of_output(self, tokens: int) -> dict[str, int]:
        """The parameter that bounds an answer."""
        return {self._limit: tokens}

    async def send(self, request: Mapping[str, Any]) -> Reply:
        """Send one request."""
        response = await _sent(openai, self._client.chat.completions.create(**request), self._timeout_s)
        if not isinstance(response, ChatCompletion) or not response.choices or response.choices[0].message is None:
            raise Trouble(Kind.BUSY, f"the server answered with no completion: {response!r}")
        choice, counted = response.choices[0], response.usage
        usage = None
        if counted is not None and counted.prompt_tokens is not None and counted.completion_tokens is not None:
            details = counted.prompt_tokens_details
            cached = (details.cached_tokens or 0) if details else 0
            usage = Usage(counted.prompt_tokens, counted.completion_tokens, cached)
        refused = ""
        if choice.message.refusal:
            refused = f"refused: {choice.message.refusal}"
        elif choice.finish_reason == "content_filter":
            refused = "refused by a content filter"
        elif choice.finish_reason == "length":
            refused = "cut off at the limit of its answer (FORMULAMINE_LLM_MAX_OUTPUT_TOKENS)"
        return Reply(response, usage, refused)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()


class Anthropic:
    """Anthropic, or any server that speaks its messages."""

    by_tool = True
    unforced: Any = {"type": "auto"}  # noqa: RUF012  # never changed

    def __init__(self, base_url: str, timeout_s: float) -> None:
        key = key_of("anthropic")
        self._client = anthropic.AsyncAnthropic(
            api_key=key or NO_KEY, base_url=base_url or None, max_retries=0, timeout=timeout_s
        )
        if key is None and self._client.base_url.host == "api.anthropic.com":
            raise Trouble(Kind.UNUSABLE, "ANTHROPIC_API_KEY is not set")
        self._timeout_s = timeout_s

    def typed(self, create: Callable[..., Any]) -> Any:
        """Typed answers over a function that sends requests."""
        return instructor.patch(create=create, mode=instructor.Mode.TOOLS, provider=instructor.Provider.ANTHROPIC)

    def limit_of_output(self, tokens: int) -> dict[str, int]:
        """The parameter that bounds an answer."""
        return {"max_tokens": tokens}

    async def send(self, request: Mapping[str, Any]) -> Reply:
        """Send one request."""
        response = await _sent(anthropic, self._client.messages.create(**request), self._timeout_s)
        if not isinstance(response, Message) or response.content is None:
            raise Trouble(Kind.BUSY, f"the server answered with no message: {response!r}")
        counted, usage = response.usage, None
        # Prompts are not marked for Anthropic's cache: nothing is written to it, and nothing read.
        if counted is not None and counted.input_tokens is not None and counted.output_tokens is not None:
            cached = counted.cache_read_input_tokens or 0
            given = counted.input_tokens + cached + (counted.cache_creation_input_tokens or 0)
            usage = Usage(given, counted.output_tokens, cached)
        refused = ""
        if response.stop_reason == "refusal":
            said = " ".join(block.text for block in response.content if block.type == "text")
            refused = f"refused: {said}"
        elif response.stop_reason in ("max_tokens", "model_context_window_exceeded"):
            refused = "cut off at the limit of its answer (FORMULAMINE_LLM_MAX_OUTPUT_TOKENS)"
        return Reply(response, usage, refused)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()


def client(provider: str, base_url: str, openai_mode: str, timeout_s: float) -> Client:
    """The client of a provider.

    Raises:
        Trouble: it has no key, or an address that is none.
        NotUsable: its key cannot be one.
    """
    hush()  # after the imports: the libraries set levels of their own
    try:
        return OpenAI(base_url, openai_mode, timeout_s) if provider == "openai" else Anthropic(base_url, timeout_s)
    except (openai.OpenAIError, anthropic.AnthropicError, ValueError) as error:
        trouble = Trouble(Kind.UNUSABLE, f"{provider}: {error}")
    raise trouble


async def _sent(sdk: Any, sending: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
    """What a library returns, or a Trouble that holds nothing of its exception, which holds the request's headers."""
    try:
        async with asyncio.timeout(timeout_s):  # the library's own starts anew with every byte that comes in
            return await sending
    except (TimeoutError, sdk.APITimeoutError):
        trouble = Trouble(Kind.BUSY, f"no answer within {timeout_s:g} s")
    except sdk.APIStatusError as error:
        trouble = _status(error.status_code, str(error), error.response.headers)
    except (sdk.APIError, ValueError) as error:  # ValueError: what should be JSON is none
        cause = error.__cause__ or error
        trouble = Trouble(Kind.BUSY, f"{type(cause).__name__}: {cause or error}")
    raise trouble


def _status(status: int, message: str, headers: Mapping[str, str]) -> Trouble:
    """What a status means."""
    lower = message.lower()
    if any(sign in lower for sign in NO_MONEY) or status == 402:
        return Trouble(Kind.UNUSABLE, message)
    if status == 429:
        return Trouble(Kind.LIMIT, message, retry_after(headers))
    if status >= 500 or status in (408, 409, 425):
        return Trouble(Kind.BUSY, message, retry_after(headers))
    if status == 413 or (status in (400, 422) and any(sign in lower for sign in (*TOO_MUCH, *UNWELCOME))):
        return Trouble(Kind.REJECTED, message)
    return Trouble(Kind.UNUSABLE, message)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, which it may give as a number or as a time; None where it does not."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        said = headers.get(name)
        if said is None:
            continue
        with contextlib.suppress(ValueError):
            seconds = float(said) / unit
            if not math.isnan(seconds):
                return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)
        with contextlib.suppress(ValueError, TypeError):
            left = (email.utils.parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
            return min(max(left, 0.0), LONGEST_RETRY_AFTER_S)
    return None
