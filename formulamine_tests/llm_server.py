"""A server that speaks OpenAI's chat completions and Anthropic's messages, and answers as it is told.

Nothing of a model is in it: a test scripts each reply, faults included, and reads afterwards what was asked. Requests
that the real servers would refuse (no version header, tool results that belong to no call) are refused here too.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OPENAI, ANTHROPIC = "openai", "anthropic"
PATHS = {"/v1/chat/completions": OPENAI, "/v1/messages": ANTHROPIC}


@dataclass(frozen=True)
class Received:
    """One request."""

    protocol: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    at: float

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def key(self) -> str:
        return self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def system(self) -> str:
        if self.protocol == ANTHROPIC:
            return "".join(one["text"] for one in self.body["system"])
        return "".join(one["content"] for one in self.body["messages"] if one["role"] == "system")

    @property
    def user(self) -> str:
        """The question, without what follows when an answer is to be mended."""
        content = next(one["content"] for one in self.body["messages"] if one["role"] == "user")
        return content if isinstance(content, str) else "".join(one["text"] for one in content)

    @property
    def last(self) -> str:
        """The last message, as JSON: what a model is told to mend."""
        return json.dumps(self.body["messages"][-1])


@dataclass(frozen=True)
class Says:
    """A reply of a model."""

    answer: Any = None
    """Arguments of the tool, or text of the given schema where no tool is; a text is sent as it is."""
    text: str = ""
    """Words beside the answer, or in its place."""
    ends: str = ""
    """Why it ended, in OpenAI's words: "length", "content_filter", "refusal"."""
    tokens: tuple[int, int] | None = (100, 20)
    cached: int = 0


@dataclass(frozen=True)
class Status:
    """An error. `{key}` in a text stands for the key that came with the request."""

    code: int
    message: str = "no"
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "error"
    raw: str | None = None
    """A body that is sent as it is, as a proxy's page."""


@dataclass(frozen=True)
class Hangs:
    """Nothing comes, or a byte now and then."""

    seconds: float = 30.0
    drips: bool = False


@dataclass(frozen=True)
class Resets:
    """The connection is torn down, before or in the midst of a reply."""

    midway: bool = False


Reply = Says | Status | Hangs | Resets
Script = Reply | Callable[[Received], Reply]


class LlmServer:
    """The server. `script` is used up in order; then `always` is the reply, or an error where there is none."""

    def __init__(self, always: Script | None = None) -> None:
        self.script: deque[Script] = deque()
        self.always = always
        self.received: list[Received] = []
        self.tokens = 0
        """What it would put on the bill."""
        self.only_auto = False
        """Refuse a request that forces a tool, as newer models do."""
        self._lock = threading.Lock()
        self._open = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        return self.url

    def then(self, *replies: Script) -> LlmServer:
        """Add replies to the script."""
        self.script.extend(replies)
        return self

    def reply_to(self, received: Received) -> Reply:
        with self._lock:
            self.received.append(received)
            told = self.script.popleft() if self.script else self.always
        if told is None:
            return Status(418, "this request is in no script")
        return told(received) if callable(told) else told

    def bill(self, tokens: int) -> None:
        with self._lock:
            self.tokens += tokens

    def nap(self, seconds: float) -> None:
        self._open.wait(seconds)

    def close(self) -> None:
        self._open.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    owner: LlmServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Be quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        protocol = PATHS.get(self.path)
        if protocol is None:
            return self._status(Status(404, f"no {self.path}"), "")
        received = Received(protocol, headers, body, time.monotonic())
        if problem := _refused(received):
            return self._status(Status(400, problem, kind="invalid_request_error"), received.key)
        if self.owner.only_auto and body.get("tool_choice") not in (None, "auto", {"type": "auto"}):
            message = 'tool_choice: type "tool" and "any" are not supported for this model.'
            return self._status(Status(400, message, kind="invalid_request_error"), received.key)
        match self.owner.reply_to(received):
            case Says() as says:
                self.owner.bill(sum(says.tokens or ()))
                self._json(200, _completion(received, says) if protocol == OPENAI else _message(received, says), {})
            case Status() as status:
                self._status(status, received.key)
            case Hangs(seconds, False):
                self.owner.nap(seconds)
                self.close_connection = True
            case Hangs(seconds, True):
                self._head(200, 10_000, {"content-type": "application/json"})
                for _ in range(int(seconds / 0.1)):
                    self.owner.nap(0.1)
                    try:
                        self.wfile.write(b" ")
                    except OSError:
                        break
                self.close_connection = True
            case Resets(midway):
                if midway:
                    self._head(200, 10_000, {"content-type": "application/json"})
                    self.wfile.write(b'{"id": ')
                    self.wfile.flush()
                # With nothing to linger for, closing sends a reset instead of an end.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
        return None

    def _status(self, status: Status, key: str) -> None:
        if status.raw is not None:
            content = status.raw.replace("{key}", key).encode()
            self._head(status.code, len(content), {"content-type": "text/html", **status.headers})
            self.wfile.write(content)
            return
        error = {"type": status.kind, "code": status.kind, "message": status.message.replace("{key}", key)}
        headers = {name: value.replace("{key}", key) for name, value in status.headers.items()}
        self._json(status.code, {"type": "error", "error": error}, headers)

    def _json(self, code: int, value: Any, headers: Mapping[str, str]) -> None:
        content = json.dumps(value).encode()
        self._head(code, len(content), {"content-type": "application/json", **headers})
        self.wfile.write(content)

    def _head(self, code: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(length))
        self.end_headers()


def _refused(received: Received) -> str:
    """What a real server would not take."""
    body = received.body
    if not isinstance(body.get("model"), str) or not body.get("messages"):
        return "model and messages are required"
    calls: set[str] = set()
    for message in body["messages"]:
        blocks = message["content"] if isinstance(message.get("content"), list) else []
        calls |= {one["id"] for one in message.get("tool_calls") or []}
        calls |= {one["id"] for one in blocks if one.get("type") == "tool_use"}
        answers = [one["tool_use_id"] for one in blocks if one.get("type") == "tool_result"]
        answers += [message["tool_call_id"]] if message["role"] == "tool" else []
        if not set(answers) <= calls:
            return "a tool result belongs to no call"
    if received.protocol == ANTHROPIC:
        if "anthropic-version" not in received.headers or not isinstance(body.get("max_tokens"), int):
            return "anthropic-version and max_tokens are required"
        if any(message["role"] == "system" for message in body["messages"]):
            return "system is no role of a message"
    return ""


def _completion(received: Received, says: Says) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": says.text or None, "refusal": None}
    ends = says.ends or "stop"
    if ends == "refusal":
        message, ends = {"role": "assistant", "content": None, "refusal": says.text}, "stop"
    elif says.answer is not None:
        said = says.answer if isinstance(says.answer, str) else json.dumps(says.answer)
        if tools := received.body.get("tools"):
            call = {"name": tools[0]["function"]["name"], "arguments": said}
            message["tool_calls"] = [{"id": "call_1", "type": "function", "function": call}]
        else:
            message["content"] = said
    usage = None
    if says.tokens is not None:
        given, made = says.tokens
        usage = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
        usage |= {"prompt_tokens_details": {"cached_tokens": says.cached}}
    choice = {"index": 0, "message": message, "finish_reason": ends, "logprobs": None}
    common = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": received.model}
    return {**common, "choices": [choice], "usage": usage}


def _message(received: Received, says: Says) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": says.text}] if says.text else []
    ends = {"length": "max_tokens", "": "end_turn"}.get(says.ends, says.ends)
    if says.answer is not None:
        given = json.loads(says.answer) if isinstance(says.answer, str) else says.answer
        name = received.body["tools"][0]["name"]
        content.append({"type": "tool_use", "id": "toolu_1", "name": name, "input": given})
        ends = "tool_use" if not says.ends else ends
    usage = None
    if says.tokens is not None:
        usage = {"input_tokens": says.tokens[0] - says.cached, "output_tokens": says.tokens[1]}
        usage |= {"cache_read_input_tokens": says.cached, "cache_creation_input_tokens": 0}
    common = {"id": "msg_1", "type": "message", "role": "assistant", "model": received.model}
    return {**common, "content": content, "stop_reason": ends, "stop_sequence": None, "usage": usage}
