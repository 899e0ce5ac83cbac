"""How asking a model can end other than with an answer, and what no text may ever hold: the keys.

Here belong the errors that a step tells apart, and the one place that takes keys out of texts. When one is raised is
decided in `llm.py`.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import urllib.parse
from datetime import datetime

from formulamine.services.llm_budget import NOTHING, Spent

KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
# A shorter one ("EMPTY", "none") is what people give to servers that ask for no key: a word, and no secret.
SHORTEST_KEY = 6
SHOWN = 500  # characters of what a server said
# What these say of requests and headers may hold a key, and what matters of it is said here in our own words.
CHATTY = {"instructor": logging.CRITICAL} | dict.fromkeys(
    ("openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2"), logging.WARNING
)
# OpenAI shows the first and last letters of a wrong key, which need not be the one of today's environment.
_MASKED = re.compile(r"\bsk-[\w*.-]{6,}")
_seen: set[str] = set()


class LlmError(Exception):
    """A model gave no answer. Keys are taken out of the message; `spent` is what was paid for the question."""

    def __init__(self, message: str, spent: Spent = NOTHING) -> None:
        super().__init__(redacted(message))
        self.spent = spent


class NotUsable(LlmError):
    """No model, no key, a wrong key, no such model, no money in the account: somebody has to mend it."""


class Unreachable(LlmError):
    """The server did not answer, or only with errors, as often as was tried: a later try may differ."""


class NoAnswer(LlmError):
    """Every model of the chain refused, or said nothing that could be read: asking again will not help."""


class NotNow(LlmError):
    """The step is to be deferred until `until`."""

    def __init__(self, message: str, until: datetime) -> None:
        super().__init__(message)
        self.until = until


class BudgetSpent(NotNow):
    """The run's dollars or tokens are spent."""


class RateLimited(NotNow):
    """The server wants a longer pause than FORMULAMINE_LLM_MAX_WAIT_S."""


def key_of(provider: str) -> str | None:
    """The key of a provider, from the environment.

    Raises:
        NotUsable: it cannot be one.
    """
    variable = KEY_VARIABLES[provider]
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise NotUsable(f"{variable} holds a character that no key has: set it again")
    return key or None


def redacted(text: str) -> str:
    """A text without any key, as it is or as JSON, URLs and basic authentication write it."""
    _seen.update(os.environ.get(variable, "").strip() for variable in KEY_VARIABLES.values())
    for key in sorted(_seen, key=len, reverse=True):
        if len(key) >= SHORTEST_KEY:
            quoted = urllib.parse.quote(key, safe="")
            basic = base64.b64encode(key.encode()).decode()
            for form in (key, json.dumps(key)[1:-1], quoted, basic):
                text = text.replace(form, "[key]")
    return text


def shortened(text: str) -> str:
    """The beginning of what a server said, on one line and without keys."""
    line = _MASKED.sub("[key]", " ".join(redacted(text).split()))
    return line if len(line) <= SHOWN else line[:SHOWN] + "..."


def hush() -> None:
    """Keep the client libraries' own logs to what holds no header and no body."""
    for name, level in CHATTY.items():
        logging.getLogger(name).setLevel(level)
