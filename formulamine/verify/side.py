"""One side of a measurement as the host sees it: a process that is asked one thing at a time.

Here belong the process, its pipes, time limits, cancelling, and what counts as an answer. Not here: what runs inside
the sandbox (`harness`), how the sandbox is made (the caller's `Launch`), and the play of the two sides (`lockstep`).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HARNESS = Path(__file__).with_name("harness")
"""The folder that `Launch` runs; it is copied or bound into the sandbox, and needs nothing of this package there."""

Launch = Callable[[], "subprocess.Popen[bytes]"]
"""Starts a side: `python -B HARNESS`, with `HarnessConfig.arguments`, in its sandbox, with binary pipes as standard
input and output.

Standard error goes to a file or nowhere, since nobody reads a pipe. A cancelled measurement kills this process; what
the sandbox started must die with it. It is called again where a side died, so it must be repeatable.
"""

POLL_S = 0.1  # how long a cancel may wait to be seen
END_S = 1.0  # a side that is asked to end has this long before it is killed
KILL_S = 10.0  # killing a case is the zygote's to do at once; a zygote that cannot is dead
ANSWER_BYTES = 64_000_000  # far above the listing of pandas' suite; more is garbage
DEATHS = 20  # of a side in one measurement; a suite that ends its interpreter more often measures nothing


class Cancelled(Exception):
    """The caller asked to end; no process is left."""


class SideBroken(Exception):
    """A side cannot be used at all. `reason` is one word, the message says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class SideDied(Exception):
    """The zygote ended or wrote what is no answer; a fresh one is started when needed."""


class CaseEnded(Exception):
    """The case cannot go on; `status` is a word of `lockstep.RawCase.status`."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True)
class HarnessConfig:
    """What a side is told at its start. Directories are absolute and as the sandbox sees them.

    `suite_parent` holds the benchmark package `suite`; `site` is where the package under test is installed, and
    everything in `import_names` has to come from there; `tools` holds asv_runner.
    """

    suite_parent: str
    suite: str
    site: str
    tools: str
    import_names: tuple[str, ...]
    seed: int = 0
    extra_turns: Mapping[str, float] = field(default_factory=dict)
    """By case, how much more work each call of it does: turns of an empty loop. Only a calibration asks for any."""

    def arguments(self) -> list[str]:
        """What follows `python -B HARNESS` in the command that starts the side."""
        return [json.dumps(asdict(self))]


@dataclass(frozen=True)
class Limits:
    """Time limits in seconds, all of them of wall time."""

    call_seconds: float = 60.0
    """One set-up, or one call; a benchmark's own `timeout` can only lower it. 60 is ASV's default."""
    import_seconds: float = 300.0
    """The package or one module of the suite; one of networkx takes 26."""
    case_seconds: float = 300.0
    """One case in one stage; what is not settled by then stays unsettled."""
    total_seconds: float = 3600.0
    """The whole measurement."""


@dataclass(frozen=True)
class Case:
    """One benchmark with one combination of its parameters; `name` is what people read, as ASV writes it."""

    name: str
    benchmark: str
    module: str
    kind: str
    param_index: int
    timeout: float
    cache_key: str | None
    cache_timeout: float


@dataclass(frozen=True)
class Sample:
    """Seconds of the timed calls together, by CPU and wall clock; `spent` counts the set-ups between them too."""

    cpu: float
    wall: float
    spent: float


class Side:
    """The host's end of one zygote: starts it when needed, asks it one thing at a time, ends it."""

    def __init__(self, name: str, launch: Launch, limits: Limits, cancelled: threading.Event) -> None:
        self.name = name
        self._launch, self._limits, self._cancelled = launch, limits, cancelled
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._request = 0
        self._deaths = 0
        self._ready = False
        self.hash_seed = 0
        """Of the next process, alike on both sides."""
        self.tracing = False
        """Whether the next process notes what its imports run; it is none to measure with."""
        self.suite = ""
        self._imported: set[str] = set()
        self._loading = ""
        """The module whose import is what was asked for last."""
        self._caches: set[str] = set()

    def start(self) -> None:
        """Start the side if it does not run, without waiting for it.

        Raises:
            SideBroken: It does not start, or keeps dying.
        """
        if self._process is None:
            if self._deaths > DEATHS:
                raise SideBroken("harness_failed", f"{self.name}: the interpreter ended {DEATHS} times")
            self._process, self._buffer, self._ready = self._launch(), b"", False
            self._imported, self._loading, self._caches = set(), "", set()
            try:
                self.send("start", hash_seed=self.hash_seed, tracing=self.tracing)
            except SideDied as error:
                raise SideBroken("harness_failed", str(error)) from error

    def ready(self) -> None:
        """Start the side if it does not run, and wait until it has imported the package.

        Raises:
            SideBroken: As `start`, or it cannot import the package, or imports another.
        """
        self.start()
        if self._ready:
            return
        try:
            answer = self.receive(self._limits.import_seconds)
        except SideDied as error:
            raise SideBroken("harness_failed", str(error)) from error
        if answer is None or answer["status"] != "ok":
            self.end()
            detail = answer["detail"] if answer else f"no import within {self._limits.import_seconds:g} s"
            raise SideBroken(str(answer["reason"]) if answer else "import_failed", f"{self.name}: {detail}")
        self.suite = str(answer["suite"])
        self._ready = True

    def send(self, operation: str, **fields: Any) -> None:
        """Ask something; `receive` gets the answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._request += 1
        self._loading = ""  # whose answer nobody waits for any more
        try:
            self._process.stdin.write(json.dumps({"id": self._request, "op": operation, **fields}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died("is gone") from error

    def receive(self, limit: float) -> dict[str, Any] | None:
        """The answer to the last request, or None where it does not come within `limit` seconds.

        Raises:
            Cancelled: The caller asked to end.
            SideDied: The side ended or answered garbage; it is gone now.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        until = time.monotonic() + limit
        waiting = select.poll()
        waiting.register(self._process.stdout, select.POLLIN | select.POLLHUP)
        while True:
            while b"\n" not in self._buffer:
                if self._cancelled.is_set():
                    raise Cancelled
                if time.monotonic() > until:
                    return None
                if waiting.poll(POLL_S * 1000):
                    block = os.read(self._process.stdout.fileno(), 1 << 16)
                    if not block or len(self._buffer) > ANSWER_BYTES:
                        raise self._died("wrote garbage" if block else "ended")
                    self._buffer += block
            line, _, self._buffer = self._buffer.partition(b"\n")
            try:
                answer = json.loads(line)
                request = int(answer["id"])
            except (ValueError, TypeError, KeyError) as error:
                raise self._died(f"wrote garbage: {line[:80]!r}") from error
            if request == self._request:
                return dict(answer)
            # Else the late answer to what timed out.

    def ask(self, operation: str, limit: float, **fields: Any) -> dict[str, Any] | None:
        """`send` and `receive`."""
        self.send(operation, **fields)
        return self.receive(limit)

    def begin_load(self, module: str) -> None:
        """Ask for the import of one module of the suite, as far as this process has not; `load` gets the answer.

        Raises:
            SideDied: The side ended.
        """
        self.ready()
        if module not in self._imported and module != self._loading:
            self.send("import", module=module)
            self._loading = module

    def load(self, module: str) -> dict[str, Any]:
        """Import one module of the suite, as far as this process has not; its listing, empty where it was there.

        Raises:
            CaseEnded: It does not import.
        """
        self.begin_load(module)
        if module in self._imported:
            return {}
        answer = self.receive(self._limits.import_seconds)
        self._loading = ""
        if answer is None:
            self.end()
            raise CaseEnded("timeout", f"{self.name}: {module} does not import in time")
        self._imported.add(module)
        return answer

    def open(self, case: Case, core: int | None, seed: int) -> dict[str, Any]:
        """Import, cache and set up what `case` needs, in a fresh child; its answer.

        Raises:
            CaseEnded: It does not get that far.
        """
        return self._expect(self._open("open", case, core, seed, case.timeout), "setup")

    def _open(
        self, operation: str, case: Case, core: int | None, seed: int, limit: float, **fields: Any
    ) -> dict[str, Any] | None:
        self.load(case.module)
        asked: dict[str, Any] = {"module": case.module, "name": case.benchmark, "seed": seed}
        if case.cache_key is not None and case.cache_key not in self._caches:
            self._expect(self.ask("cache", case.cache_timeout, **asked), "setup_cache")
            self._caches.add(case.cache_key)
        asked |= {"case": case.name, "param_index": case.param_index, "core": core}
        return self.ask(operation, limit, **asked, **fields)

    def sample(self, number: int, seed: int, limit: float, mode: str = "") -> Sample | None:
        """Time `number` calls in the open child; None where they do not end within `limit` seconds.

        Args:
            number: Calls in the sample.
            seed: Of random numbers.
            limit: Seconds.
            mode: "steady" for a loop without set-ups, "spin" for turns of the loop in which a calibration counts; else
                as ASV would call the benchmark.
        """
        answer = self.ask("sample", limit, number=number, seed=seed, mode=mode)
        if answer is None:
            return None
        self._expect(answer, "call")
        try:
            sample = Sample(*(float(answer[clock]) for clock in ("cpu", "wall", "spent")))
        except (KeyError, TypeError, ValueError) as error:
            raise CaseEnded("failed", f"{self.name}: an answer without seconds") from error
        if not all(math.isfinite(seconds) and seconds > 0 for seconds in (sample.cpu, sample.wall, sample.spent)):
            raise CaseEnded("failed", f"{self.name}: {sample} is no time")
        return sample

    def value(self, seed: int, limit: float) -> float:
        """What the open case gives, where it is no benchmark of time.

        Raises:
            CaseEnded: It gives no number.
        """
        answer = self._expect(self.ask("value", limit, seed=seed), "call")
        try:
            return float(answer["value"])
        except (KeyError, TypeError, ValueError) as error:
            raise CaseEnded("failed", f"{self.name}: an answer without a number") from error

    def returned(self, seed: int, limit: float) -> Any:
        """What one call of the open case gives back, as `harness.returned.comparable` writes it.

        Raises:
            CaseEnded: It does not end well, or not in time.
        """
        return self._expect(self.ask("returned", limit, seed=seed), "call").get("returned")

    def trace(self, case: Case, core: int | None, seed: int, files: Sequence[str], limit: float) -> dict[str, Any]:
        """Which functions of `files` the set-up of a case runs, and which one call of it, in a fresh child.

        Raises:
            CaseEnded: It does not get that far.
        """
        answer = self._open("trace", case, core, seed, limit, files=list(files))
        return self._expect(answer, "call under a trace")

    def _expect(self, answer: dict[str, Any] | None, what: str) -> dict[str, Any]:
        if answer is None:
            raise CaseEnded("timeout", f"{self.name}: {what} does not end in time")
        if answer["status"] != "ok":
            raise CaseEnded(str(answer["status"]), f"{self.name}: {what}: {answer.get('detail', '')}")
        return answer

    def close(self, teardown_seconds: float = 0.0) -> tuple[float, float]:
        """End the open child and all that it started, after its teardown where there is time for that.

        Returns:
            The CPU seconds that the child used, and those it waited for a core; 0 where that is not known.
        """
        if self._process is None:
            return 0.0, 0.0
        if teardown_seconds:
            self.ask("close", teardown_seconds)
        answer = self.ask("kill", KILL_S)
        if answer is None:
            self.end()
        return (float(answer["cpu"]), float(answer["waited"])) if answer else (0.0, 0.0)

    def _died(self, what: str) -> SideDied:
        self.end()
        self._deaths += 1
        return SideDied(f"{self.name}: the interpreter {what}")

    def hang_up(self) -> None:
        """Ask the side to end, without waiting."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # what is left to flush to a side that has ended
                self._process.stdin.close()

    def end(self) -> None:
        """End the side: it is asked to, and killed if it does not."""
        self.hang_up()
        if self._process is not None:
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None
