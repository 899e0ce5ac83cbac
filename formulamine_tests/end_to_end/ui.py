"""The real UI for tests: webserver, daemon and code server as `formulamine dev` starts them, asked over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formulamine_tests.end_to_end.runs import COMMAND, environment, processes_of

PATIENCE_S = 120.0
READY = "{ instance { info } workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }"
LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
ERRORS = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
    ... on MessageEvent { message } ... on RunFailureEvent { error { message causes { message } } }
    ... on ExecutionStepFailureEvent { error { message causes { message } } } } } } }"""


def until(true: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"after {seconds:.0f} s still waiting for {what}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Ui:
    """A running `formulamine dev`."""

    home: Path
    variables: Mapping[str, str]
    port: int
    process: subprocess.Popen[bytes]

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """The data of an answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            told = json.load(answer)
        assert "errors" not in told, told["errors"]
        data: dict[str, Any] = told["data"]
        return data

    def ready(self) -> bool:
        """Whether it answers with the definitions loaded, and is of this home: another may have taken the port."""
        assert self.process.poll() is None, (self.home.parent / "ui.log").read_text()
        try:
            told = self.ask(READY)
        except OSError:
            return False
        assert str(self.home) in told["instance"]["info"], f"port {self.port} is another instance's"
        entries = told["workspaceOrError"]["locationEntries"]
        return bool(entries) and all(one["loadStatus"] == "LOADED" for one in entries)

    def launch(self, month: str) -> str:
        """Launch a month as a click does, and return the run's id."""
        selector = {
            "repositoryLocationName": "formulamine.definitions", "repositoryName": "__repository__", "jobName": "month",
        }  # fmt: skip
        tags = [{"key": "dagster/partition", "value": month}]
        params = {"selector": selector, "runConfigData": {}, "mode": "default", "executionMetadata": {"tags": tags}}
        answer = self.ask(LAUNCH, p=params)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def runs(self) -> list[str]:
        """Ids of all runs, newest first."""
        return [
            one["runId"]
            for one in self.ask("{ runsOrError { ... on Runs { results { runId } } } }")["runsOrError"]["results"]
        ]

    def status(self, run: str) -> str:
        return str(self.ask(STATUS, id=run)["runOrError"]["status"])

    def ended(self, run: str) -> str:
        """How a run ended, once it has."""
        until(lambda: self.status(run) in ("SUCCESS", "FAILURE", "CANCELED"), f"the end of run {run}")
        return self.status(run)

    def told(self, run: str) -> str:
        """All that a run's page says."""
        return json.dumps(self.ask(ERRORS, id=run))

    def pid(self, part: str) -> int:
        """Process of the webserver or the daemon: a child of the one that was started here, and no other."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        [found] = [int(pid) for pid in children if part.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return found


@contextmanager
def running_ui(home: Path, variables: Mapping[str, str]) -> Iterator[Ui]:
    """Start it on a port that is free, and stop what was started here at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / "ui.log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, "dev", "--port", str(port)], cwd=home.parent, env=environment(home, variables),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    ui = Ui(home, variables, port, process)
    try:
        until(ui.ready, "the UI")
        yield ui
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE_S)
            end = time.monotonic() + PATIENCE_S
            while left := processes_of(home):
                assert time.monotonic() < end, f"after {PATIENCE_S:.0f} s there are still {left}"
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the session that was made above
