"""The probe of the models: who would be asked what, whether its server answers, and whether it takes the key.

Here belongs one request for the list of models to each server that a chain names, which costs nothing. What a question
looks like, and the libraries that put it, is the matter of `services/llm.py`: they take seconds to import.
"""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request
from typing import NamedTuple, get_args

from formulamine.doctor import CONNECT_S, Examination, Finding, State
from formulamine.services.llm import Llm, Task
from formulamine.services.llm_budget import prices
from formulamine.services.llm_errors import KEY_VARIABLES, redacted
from formulamine.settings import LlmSettings

BY_RULES = "none named; classification and problem statements are by rules, and no build is repaired"
MOST_MODELS = 1000  # that one page of Anthropic's list may have


class Server(NamedTuple):
    """Where the models of a provider are listed."""

    own: str
    """Its own address, which is the one that needs a key."""
    variable: str
    """Of another address."""
    path: str


SERVERS = {
    "openai": Server("https://api.openai.com/v1", "OPENAI_BASE_URL", "/models"),
    "anthropic": Server("https://api.anthropic.com", "ANTHROPIC_BASE_URL", f"/v1/models?limit={MOST_MODELS}"),
}


def models(examination: Examination) -> list[Finding]:
    """The chains that are named, by provider."""
    llm = Llm(examination.settings.llm, examination.scratch, threading.Event())
    asked: dict[str, dict[str, list[str]]] = {}
    for task in get_args(Task):
        for model in llm.models(task):
            provider, _, name = model.partition(":")
            asked.setdefault(provider, {}).setdefault(task, []).append(name)
    if not asked:
        return [Finding("models", State.NOT_USED, BY_RULES)]
    return [_provider(provider, tasks, examination.settings.llm) for provider, tasks in asked.items()]


def _provider(provider: str, tasks: dict[str, list[str]], settings: LlmSettings) -> Finding:
    """What is asked of a provider, and whether it would answer."""
    name, variable = f"models: {provider}", KEY_VARIABLES[provider]
    told = [f"{task} asks {', '.join(names)}" for task, names in tasks.items()]
    wanted = {one for names in tasks.values() for one in names}
    if unpriced := sorted(one for one in wanted if f"{provider}:{one}" not in prices()):
        told.append(f"no price is known of {', '.join(unpriced)}: only the budget of tokens binds them")
    server, key = SERVERS[provider], os.environ.get(variable, "")
    chosen = settings.openai_base_url if provider == "openai" else settings.anthropic_base_url
    address = (chosen or os.environ.get(server.variable) or server.own).rstrip("/")
    disables = f"{', '.join(tasks)}: what asks a model fails or is deferred"
    if not key and address == server.own:
        return Finding(name, State.MISSING, "; ".join(told), disables, f"set {variable}")
    try:
        listed = _listed(address + server.path, provider, key)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            told.append(f"{address} refuses the key ({error.code})")
            return Finding(name, State.MISSING, "; ".join(told), disables, f"set {variable} to one that it takes")
        return Finding(name, State.OK, "; ".join([*told, f"{address} answers, and lists no models ({error.code})"]))
    except (OSError, ValueError) as error:  # no server, no HTTP, no JSON, or no address
        told.append(redacted(f"{address}: {error}"))
        return Finding(name, State.UNREACHABLE, "; ".join(told), disables, f"see to the server, or {server.variable}")
    if unlisted := sorted(wanted - listed):
        told.append(f"{address} answers, and does not list {', '.join(unlisted)}: right if that is another name of one")
    else:
        told.append(f"{address} answers")
    return Finding(name, State.OK, "; ".join(told))


def _listed(url: str, provider: str, key: str) -> set[str]:
    """The models that a server lists.

    Raises:
        HTTPError: it answers with an error.
        OSError, ValueError: it does not answer, or not with a list.
    """
    headers = {"Authorization": f"Bearer {key}"} if provider == "openai" else {"x-api-key": key}
    headers |= {"anthropic-version": "2023-06-01"} if provider == "anthropic" else {}
    if not url.startswith(("http://", "https://")):
        raise ValueError("no address of a server")
    request = urllib.request.Request(url, headers=headers if key else {})
    with urllib.request.urlopen(request, timeout=CONNECT_S) as response:
        answer = json.load(response)
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
        raise ValueError("it answers with no list of models")
    return {str(one.get("id")) for one in answer["data"] if isinstance(one, dict)}
