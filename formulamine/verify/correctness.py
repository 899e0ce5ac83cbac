"""Whether a change breaks tests: the test files that it reaches, run on both sides in the sandbox.

Here belong the order of runs, their time, and the host's end of `pytest_runner`: each file runs on each side in a
sandbox of its own, so that whatever it does to its process, its folders or the machine ends with it. Which files those
are is decided in `affected`, and what their outcomes mean in `outcomes`.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from formulamine.build.pair import Pair
from formulamine.items import Cancelled
from formulamine.services.sandbox import Running, Sandbox, has_ended
from formulamine.settings import MeasureSettings
from formulamine.verify.affected import affected_tests
from formulamine.verify.outcomes import FileRun, RawTests, suspects

RUNNER = Path(__file__).with_name("pytest_runner.py")
POLL_S = 0.1  # how long a cancel may wait to be seen
MOST_BYTES = 64_000_000  # of one run's report: a hundred thousand tests with long names; more is garbage
FILE_SHARE = 4  # one file may take a fourth of a side's time on base, so that one that hangs leaves some to others
# What a file may take on head: so many times what it took on base, or at least so many seconds. Tests are not timed
# here, so that this is far beyond any noise, and short beside the side's whole time where head hangs.
HEAD_TIMES, HEAD_AT_LEAST_S = 5, 60.0
NOTHING_STARTED = (3, 4)  # pytest's exit codes for an internal error and for options that it does not know

Progress = Callable[[str, int, int], None]
"""As `protocol.Progress`."""


@dataclass(frozen=True)
class RunnerConfig:
    """What `pytest_runner` is told, in places as its sandbox sees them."""

    tree: str
    site: str
    tools: str
    package_root: str
    file: str
    plugins: bool
    """Whether pytest loads the plugins that the environment brings."""


def run_tests(
    pair: Pair,
    tools: Path,
    changed: Sequence[str],
    sandbox: Sandbox,
    settings: MeasureSettings,
    cancelled: threading.Event,
    progress: Progress,
) -> RawTests:
    """Run the test files that a change reaches, each side's own, and once more those with a test that fails after.

    Args:
        pair: both sides, built.
        tools: folder on the host from which pytest is imported.
        changed: paths that the change touches.
        sandbox: where they run.
        settings: how many files, how long, and how much memory.
        cancelled: set by another thread to end within a second.
        progress: told of each file that is done.

    Raises:
        Cancelled: `cancelled` was set; no process is left.
    """
    affected = affected_tests(pair.base.tree, pair.head.tree, changed, settings.test_files)
    runs = _Runs(pair, tools, sandbox, settings, cancelled)
    for done, file in enumerate(affected.files, start=1):
        first = runs.both(1, file)
        if suspects(*first):
            runs.both(2, file)
        progress("tests", done, len(affected.files))
    return RawTests(files=list(affected.files), left_out=affected.left_out, runs=runs.made)


class _Runs:
    """The runs of one change, and the time that is left to each side."""

    def __init__(
        self, pair: Pair, tools: Path, sandbox: Sandbox, settings: MeasureSettings, cancelled: threading.Event
    ) -> None:
        self.pair, self.tools, self.sandbox, self.settings, self.cancelled = pair, tools, sandbox, settings, cancelled
        self.left = dict.fromkeys(("base", "head"), float(settings.test_timeout_s))
        self.made: list[FileRun] = []

    def both(self, turn: int, file: str) -> tuple[FileRun, FileRun]:
        """Run a file on base, and then on head."""
        base, plugins = self._started("base", turn, file, max(HEAD_AT_LEAST_S, self.left["base"] / FILE_SHARE), True)
        head, _ = self._started("head", turn, file, max(HEAD_AT_LEAST_S, HEAD_TIMES * base.seconds), plugins)
        self.made += [base, head]
        return base, head

    def _started(
        self, side: Literal["base", "head"], turn: int, file: str, limit: float, plugins: bool
    ) -> tuple[FileRun, bool]:
        """Run a file; once more without the environment's plugins where pytest does not even start with them."""
        seen = self._run(side, file, limit, plugins)
        if plugins and seen.code in NOTHING_STARTED and seen.collected is None:
            plugins = False
            seen = self._run(side, file, limit, plugins)
        ended, detail = seen.end(self.left[side] <= 0)
        outcomes = seen.outcomes_when(ended)
        run = FileRun(
            side=side, turn=turn, file=file, ended=ended, detail=detail, outcomes=outcomes, seconds=seen.seconds
        )
        return run, plugins

    def _run(self, side: Literal["base", "head"], file: str, limit: float, plugins: bool) -> _Seen:
        seen = _Seen()
        limit = min(limit, self.left[side])
        if limit <= 0:
            seen.timed_out = True
            return seen
        of = getattr(self.pair, side)
        config = RunnerConfig(
            tree=of.seen.tree,
            site=of.seen.site,
            tools=self.pair.place_of(self.tools),
            package_root=self.pair.recipe.package_root,
            file=file,
            plugins=plugins,
        )
        arguments = [json.dumps(asdict(config))]
        command = self.pair.command(of, RUNNER, arguments, self.settings.measure_memory_mb, given=[self.tools])
        started = time.monotonic()
        running = self.sandbox.start(command)
        try:
            self._listen(running, seen, started + limit)
            seen.out_of_memory = running.out_of_memory()
        finally:
            running.close()
        seen.exit_code = running.process.returncode
        seen.seconds = time.monotonic() - started
        self.left[side] -= seen.seconds
        return seen

    def _listen(self, running: Running, seen: _Seen, until: float) -> None:
        """Take what the runner says until it ends, or its time does."""
        process = running.process
        assert process.stdin is not None
        assert process.stdout is not None
        token = secrets.token_hex(16)
        try:
            process.stdin.write(f"{token}\n".encode())
            process.stdin.flush()
        except BrokenPipeError:
            return
        waiting = select.poll()
        waiting.register(process.stdout, select.POLLIN | select.POLLHUP)
        buffer, size = b"", 0
        while not seen.has_ended:
            if self.cancelled.is_set():
                raise Cancelled(seen.began or "tests")
            if time.monotonic() > until:
                seen.timed_out = True
                return
            ended = has_ended(process)  # asked first: all that it said is in the pipe then
            if waiting.poll(0 if ended else POLL_S * 1000):
                block = os.read(process.stdout.fileno(), 1 << 16)
                size += len(block)
                if not block or size > MOST_BYTES:
                    return
                *lines, buffer = (buffer + block).split(b"\n")
                for line in lines:
                    seen.take(line, f"{token} ".encode())
            elif ended:
                return  # though something it left behind may hold the pipe open


class _Seen:
    """What a runner has said so far, and how it ended."""

    def __init__(self) -> None:
        self.collected: list[str] | None = None
        self.outcomes: dict[str, str] = {}
        self.began = ""
        self.uncollected: tuple[str, str] | None = None
        self.absent = False
        self.code: int | None = None
        self.exit_code: int | None = None
        self.timed_out = self.out_of_memory = False
        self.first_failure = ""
        self.seconds = 0.0

    @property
    def has_ended(self) -> bool:
        """Whether the runner has said its last word."""
        return self.code is not None

    def take(self, line: bytes, token: bytes) -> None:
        """Take one line; what does not begin with the token is nothing of the runner's."""
        if not line.startswith(token):
            return
        try:
            said: dict[str, Any] = json.loads(line[len(token) :])
            if "collected" in said:
                self.collected = [str(name) for name in said["collected"]]
            elif "uncollected" in said:
                self.uncollected = self.uncollected or (str(said["uncollected"]), str(said["detail"]))
            elif "began" in said:
                self.began = str(said["began"])
            elif "test" in said:
                self.outcomes[str(said["test"])] = str(said["outcome"])
                self.began = ""
                if said["outcome"] in ("failed", "error") and not self.first_failure:
                    self.first_failure = f"{said['test']}: {said['detail']}"
            elif "absent" in said:
                self.absent = True
            elif "ended" in said:
                self.code = int(said["ended"])
        except (ValueError, TypeError, KeyError):
            return  # the token stands before what the runner never says: nothing of it is believed

    def end(
        self, nothing_left: bool
    ) -> tuple[Literal["ok", "absent", "uncollected", "skipped", "died", "timeout", "out_of_time"], str]:
        """How the run ended, and more in a line."""
        if self.absent:
            return "absent", ""
        if self.timed_out:
            at = f" at {self.began}" if self.began else ""
            return ("out_of_time" if nothing_left else "timeout"), f"no end within {self.seconds:.0f} s{at}"
        if self.uncollected and not self.collected:
            return ("skipped" if self.uncollected[0] == "skipped" else "uncollected"), self.uncollected[1]
        if self.code is None:
            how = "killed for its memory" if self.out_of_memory else f"exit code {self.exit_code}"
            return "died", f"the process ended{f' at {self.began}' if self.began else ''}: {how}"
        if self.collected is None:
            return "uncollected", f"pytest ended with code {self.code} before it had collected anything"
        if set(self.collected) - set(self.outcomes):
            return "died", f"pytest ended with code {self.code} before its last test"
        return "ok", self.first_failure

    def outcomes_when(self, ended: str) -> dict[str, str]:
        """The outcome of each collected test, those included that the end of the process took."""
        under_way = ended if ended in ("died", "timeout") else "not_run"
        left = dict.fromkeys(self.collected or [], "not_run")
        if self.began:
            left[self.began] = under_way
        return left | self.outcomes
