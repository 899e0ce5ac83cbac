"""What `doctor` says of models, from servers that answer over HTTP."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from formulamine.doctor import Examination, Finding, State
from formulamine.doctor_models import models
from formulamine.settings import Settings

KEY = "sk-secret-of-a-test"
LISTED = {"data": [{"id": "gpt-4o-mini"}, {"id": "ours"}]}


class Listing(ThreadingHTTPServer):
    """A server that lists models to whoever has the key."""

    status = 200
    answer: bytes = json.dumps(LISTED).encode()

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Listing)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.path, headers))
        allowed = headers.get("authorization") == f"Bearer {KEY}" or headers.get("x-api-key") == KEY
        self.send_response(self.server.status if allowed else 401)
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Listing]:
    with Listing() as listing:
        thread = threading.Thread(target=listing.serve_forever)
        thread.start()
        yield listing
        listing.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("JUDGE", "JUDGE_AGAIN", "STATEMENT", "REPAIR"):
        monkeypatch.delenv(f"FORMULAMINE_{name}_MODELS", raising=False)


def look(tmp_path: Path) -> list[Finding]:
    found = models(Examination(Settings(), tmp_path))
    assert KEY not in repr(found)
    assert list(tmp_path.iterdir()) == []
    return found


def test_without_models_it_says_what_is_done_instead(tmp_path: Path) -> None:
    (found,) = look(tmp_path)
    assert (found.name, found.state) == ("models", State.NOT_USED)
    assert "by rules" in found.value


def test_each_provider_is_asked_for_its_models_with_its_key(
    tmp_path: Path, server: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORMULAMINE_JUDGE_MODELS", "openai:gpt-4o-mini, anthropic:ours")
    monkeypatch.setenv("FORMULAMINE_STATEMENT_MODELS", "openai:gpt-4o-mini")
    monkeypatch.setenv("FORMULAMINE_OPENAI_BASE_URL", f"{server.url}/v1/")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    openai, anthropic = look(tmp_path)
    assert (openai.name, openai.state, anthropic.name, anthropic.state) == (
        *("models: openai", State.OK),
        *("models: anthropic", State.OK),
    )
    assert openai.value == f"judge asks gpt-4o-mini; statement asks gpt-4o-mini; {server.url}/v1 answers"
    assert "no price is known of ours" in anthropic.value
    assert [path for path, _ in server.asked] == ["/v1/models", "/v1/models?limit=1000"]
    assert server.asked[1][1]["anthropic-version"]


def test_a_model_that_is_not_listed_is_named(tmp_path: Path, server: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMULAMINE_REPAIR_MODELS", "openai:gpt-4o-mimi")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (found,) = look(tmp_path)
    assert found.state is State.OK
    assert "does not list gpt-4o-mimi" in found.value


@pytest.mark.parametrize(
    ("key", "status", "answer", "state", "said"),
    [
        ("wrong-key", 200, b"", State.MISSING, "refuses the key (401)"),
        ("two\nlines", 200, b"", State.UNREACHABLE, "nvalid header"),
        (KEY, 404, b"", State.OK, "lists no models (404)"),
        (KEY, 500, b"", State.OK, "lists no models (500)"),
        (KEY, 200, b"<html>", State.UNREACHABLE, "Expecting value"),
        (KEY, 200, b"[]", State.UNREACHABLE, "no list of models"),
    ],
)
def test_what_a_server_answers_otherwise(
    key: str, status: int, answer: bytes, state: State, said: str, tmp_path: Path, server: Listing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    server.status, server.answer = status, answer
    monkeypatch.setenv("FORMULAMINE_JUDGE_MODELS", "openai:gpt-4o-mini")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    (found,) = look(tmp_path)
    assert (found.state, said in found.value, key in repr(found)) == (state, True, False), found
    assert found.state is State.OK or (found.disables.startswith("judge") and found.mend)


def test_no_key_and_no_server(tmp_path: Path, server: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMULAMINE_JUDGE_MODELS", "openai:gpt-4o-mini, anthropic:ours")
    openai, anthropic = look(tmp_path)
    assert (openai.state, openai.mend) == (State.MISSING, "set OPENAI_API_KEY")
    assert (anthropic.state, anthropic.mend) == (State.MISSING, "set ANTHROPIC_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "file:///etc")
    openai, anthropic = look(tmp_path)
    assert (openai.state, "refused" in openai.value) == (State.UNREACHABLE, True)
    assert (anthropic.state, "no address of a server" in anthropic.value) == (State.UNREACHABLE, True)
