"""Plain functions on all cores: what computes in Python, of which threads run one at a time.

Here belong the processes, handing work to them, and their end. A process reads calls from its standard input until that
ends, so that it outlives neither `close` nor a kill of whoever started it; it is started by the first call that finds
all others busy, as is another in place of one that is lost. What is computed does not belong here.

Not `concurrent.futures`: the processes of its pool wait for ever for a parent that was killed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# New objects after which a process looks for cycles among them; with Python's 700 that takes a tenth of the time where
# syntax trees come and go, which hold none.
GARBAGE_EVERY = 50_000


class CoreLost(Exception):
    """A process ended in the midst of a call, as one does that is killed for memory."""


class Cores:
    """Processes that compute for this one. Threads may share it."""

    def __init__(self, most: int | None = None) -> None:
        """Say how many at most; as many as there are cores if nothing is said."""
        self._most = most or len(os.sched_getaffinity(0))
        self._free = threading.BoundedSemaphore(self._most)
        self._idle: list[subprocess.Popen[bytes]] = []
        self._started: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._lock = threading.Lock()

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function of a module in one of the processes, when one is free.

        Args:
            function: found by its name, not sent; it and all that it is given and answers must be picklable.
            *args: what it is given.
            **kwargs: what it is given by name.

        Raises:
            CoreLost: the process ended, by itself or by `close`.
            Exception: whatever the function raises.
        """
        with self._free:
            process = self._take()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                _send(process.stdin, (function, args, kwargs))
                answer, error = pickle.load(process.stdout)
            except (OSError, EOFError, pickle.UnpicklingError) as fault:
                self._drop(process)
                raise CoreLost(f"a process that computes ended with {process.returncode}") from fault
            with self._lock:
                if not self._closed:
                    self._idle.append(process)
        if error is not None:
            raise error
        return answer  # type: ignore[no-any-return]  # what was pickled is what the function answered

    def close(self) -> None:
        """End them all; a call under way raises `CoreLost`."""
        with self._lock:
            self._closed = True
            started, self._started = self._started, set()
            idle, self._idle = self._idle, []
        for process in started:
            process.kill()
        for process in started:
            process.wait()
        for process in idle:
            _close_pipes(process)  # those of the others are their callers' to close

    def _take(self) -> subprocess.Popen[bytes]:
        """One that is free, or a new one where all are busy."""
        with self._lock:
            if self._closed:
                raise CoreLost("closed")
            if self._idle:
                return self._idle.pop()
            process = _start()
            self._started.add(process)
            return process

    def _drop(self, process: subprocess.Popen[bytes]) -> None:
        """Be rid of one that cannot be talked to."""
        with self._lock:
            self._started.discard(process)
        process.kill()
        process.wait()
        _close_pipes(process)


def _start() -> subprocess.Popen[bytes]:
    """A process, in a session of its own: Ctrl-C is its parent's matter."""
    command = [sys.executable, "-P", "-m", __name__]  # nothing is imported from where it is started
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):  # what was not sent goes nowhere any more
            pipe.close()


def _send(stream: IO[bytes], content: object) -> None:
    stream.write(pickle.dumps(content, pickle.HIGHEST_PROTOCOL))
    stream.flush()


def _serve() -> None:
    """Compute what standard input asks for until it ends."""
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a function prints is no answer
    gc.set_threshold(GARBAGE_EVERY)
    while True:
        try:
            function, args, kwargs = pickle.load(calls)
        except EOFError:
            return
        try:
            answer: tuple[object, Exception | None] = (function(*args, **kwargs), None)
        except Exception as error:  # it is raised where it was asked for
            answer = (None, error)
        try:
            _send(answers, answer)
        except BrokenPipeError:  # whoever asked is gone
            os._exit(0)  # not by the way that would try to write it again


if __name__ == "__main__":
    _serve()
