"""A forked process in which one benchmark case runs, as the zygote sees it."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable, Iterator

# Bound before any benchmark can replace it.
from time import perf_counter
from typing import Any

from .foreign import describe, write_all

LONGEST_LINE = 1 << 20
EXIT_S = 1.0  # a process whose pipe has closed has this long to end by itself


class Child:
    """A forked process that answers requests on pipes of its own; the zygote's end of it."""

    def __init__(
        self, work: Callable[[Iterator[dict[str, Any]], Callable[..., None]], None], private: list[int], directory: str
    ):
        """Fork, and run `work(requests, answer)` in the child, which holds none of the `private` descriptors."""
        requests, self.requests = os.pipe()
        self.answers, answers = os.pipe()
        self.buffer = b""
        self.pid = os.fork()
        if self.pid:
            os.close(requests)
            os.close(answers)
            return
        try:
            os.setsid()
            for descriptor in (*private, self.requests, self.answers):
                os.close(descriptor)
            os.chdir(directory)

            def answer(**fields: Any) -> None:
                write_all(answers, json.dumps(fields).encode() + b"\n")

            try:
                work((json.loads(line) for line in os.fdopen(requests, "rb")), answer)
            except BaseException as error:  # also SystemExit: whatever foreign code raises is the answer, not our end
                skipped = type(error).__name__ == "SkipNotImplemented"
                answer(status="skipped" if skipped else "failed", detail=describe(error))
        finally:
            os._exit(0)  # never back into the zygote's loop, and none of its exit handlers

    def read_line(self) -> bytes | None:
        """What has arrived, up to a whole line; None while there is none.

        Raises:
            EOFError: The child has closed its end.
            ValueError: This is no answer.
        """
        block = os.read(self.answers, 65536)
        if not block:
            raise EOFError
        self.buffer += block
        line, newline, self.buffer = self.buffer.partition(b"\n")
        if len(line) > LONGEST_LINE:
            raise ValueError("no answer is that long")
        if not newline:
            self.buffer = line
        return line if newline else None

    def end(self, closed: bool = False) -> tuple[str, float, float]:
        """Kill the child with all that it started; how it had ended, its CPU seconds, and those it waited for a core.

        Args:
            closed: Its pipe has closed, so it is ending by itself, and how is worth a moment's wait.
        """
        waited = waited_by(self.pid)
        until = perf_counter() + (EXIT_S if closed else 0.0)
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        while not pid and perf_counter() < until:
            select.select([], [], [], 0.001)
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # before its setsid, or nobody left
            if not pid:
                os.kill(self.pid, signal.SIGKILL)
        if not pid:
            _, status, usage = os.wait4(self.pid, 0)
        os.close(self.requests)
        os.close(self.answers)
        killed = os.WIFSIGNALED(status)
        how = f"killed by signal {os.WTERMSIG(status)}" if killed else f"exit code {os.WEXITSTATUS(status)}"
        return how, usage.ru_utime + usage.ru_stime, waited


def waited_by(pid: int) -> float:
    """Seconds for which a process has waited for a core that others had; 0 where the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return 0.0
