"""The half of a measurement that runs inside the sandbox, beside the code that is measured.

One process of this file (the "zygote") is one side, base or head. It imports the package and the benchmark modules
once and forks a child for every benchmark case that it is asked to open; the child answers with seconds. It speaks JSON
lines on the standard input and output it was started with. Here belong ASV's conventions (set-up, caches, parameters,
fresh interpreters) and clocks. Not here: which case runs, how often, for how long, and what the seconds mean; that is
the host's matter (`side`, `lockstep`, `protocol`).

It runs on Python 3.8 and later with nothing but the standard library and asv_runner 0.3.2, as
`python -B harness.py CONFIG`, CONFIG being the JSON of `side.HarnessConfig`.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import importlib
import itertools
import json
import os
import pickle
import pkgutil
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import timeit
import traceback
from collections.abc import Callable, Iterator

# Bound before any benchmark can replace them.
from time import perf_counter, process_time
from typing import Any

# Above what a suite is likely to open or close by number, so that "close all from 3 to 100" spares the protocol.
PROTOCOL_FD = 200
LONGEST_LINE = 1 << 20
EXIT_S = 1.0  # a process whose pipe has closed has this long to end by itself
# Children share one pinned core, and a thread that BLAS started in the zygote does not survive a fork.
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# The statement is timed in an interpreter that has loaded no more than ASV's own would have: an import that the package
# no longer needs must still cost something here.
RAW_PROGRAM = """
import os, sys, timeit
from time import perf_counter, process_time
sys.path[:] = {path!r}
elapsed = timeit.Timer({statement!r}, {setup!r}, lambda: complex(process_time(), perf_counter())).timeit({number})
os.write({fd}, ("%r %r" % (elapsed.real, elapsed.imag)).encode())
"""


def both_clocks() -> complex:
    """CPU seconds of this process and wall seconds as one number, so that a single subtraction times both."""
    return complex(process_time(), perf_counter())


def describe(error: BaseException) -> str:
    """The error in one line, with the place in foreign code where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return "".join(traceback.format_exception_only(type(error), error)).strip()[-500:] + place


def seed_generators(seed: int) -> None:
    """Seed Python's generator, and numpy's where something has loaded numpy; alike on both sides."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        numpy.random.seed(seed % 2**32)


def imported_from(names: list[str]) -> dict[str, str]:
    """Where each module of `names` that is imported came from: its `__file__`, or the directory of a namespace."""
    found = {}
    for name in names:
        module = sys.modules.get(name)
        if module is not None:
            found[name] = str(getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), ""))
    return found


def misplaced(files: dict[str, str], site: str) -> str:
    """Say which of `files` lies outside `site`; empty where all are inside."""
    inside = os.path.join(os.path.realpath(site), "")
    wrong = [
        f"{name} is imported from {path}"
        for name, path in files.items()
        if not os.path.realpath(path).startswith(inside)
    ]
    return f"{'; '.join(wrong)}, not from {site}" if wrong else ""


class CaseTimer:
    """One benchmark case in its own process: sets it up, times it, tears it down."""

    def __init__(self, benchmark: Any, raw: bool, pycache: str) -> None:
        self.benchmark = benchmark
        self.pycache = pycache
        self.used = False
        arguments = benchmark._build_params()
        self.call: Callable[[], Any] = functools.partial(benchmark.func, *arguments) if arguments else benchmark.func
        # asv_runner 0.3 gives every timed call a fresh set-up wherever there is one, whatever `number` says; a loop
        # over state that a call wears out would measure something else (the same change gave 1.12x and 6.5x).
        self.mode = "steady" if raw or not benchmark._setups else "first_call"
        self.elapsed = (
            self.fresh_interpreter if raw else {"steady": self.steady, "first_call": self.first_call}[self.mode]
        )

    def sample(self, number: int, seed: int) -> dict[str, float]:
        """Time `number` calls; `spent` also counts the set-ups between them. Seconds."""
        seed_generators(seed)
        gc.collect()
        started = perf_counter()
        elapsed = self.elapsed(number)
        return {"cpu": elapsed.real, "wall": elapsed.imag, "spent": perf_counter() - started}

    def steady(self, number: int) -> complex:
        """Time a loop of calls."""
        return timeit.Timer(self.call, timer=both_clocks).timeit(number)  # type: ignore[arg-type]

    def first_call(self, number: int) -> complex:
        """Time single calls, each after a set-up of its own."""
        total = 0j
        gc.disable()
        try:
            for _ in range(number):
                if self.used:
                    self.benchmark.do_teardown()
                    self.benchmark.do_setup()
                self.used = True
                started = both_clocks()
                self.call()
                total += both_clocks() - started
        finally:
            gc.enable()
        return total

    def fresh_interpreter(self, number: int) -> complex:
        """Time a statement in a new interpreter."""
        source = self.call()
        statement, setup = source if isinstance(source, tuple) else (source, "")
        environment = dict(os.environ, **(getattr(self.benchmark, "_timeraw_env", None) or {}))
        # Trees are read-only and may come without bytecode; without this an import would be timed with its compilation.
        environment["PYTHONPYCACHEPREFIX"] = self.pycache
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        receiving, sending = os.pipe()
        try:
            program = RAW_PROGRAM.format(
                path=sys.path,
                statement=textwrap.dedent(statement),
                setup=textwrap.dedent(setup),
                number=number,
                fd=sending,
            )
            subprocess.run(
                [sys.executable, "-c", "import sys; exec(sys.stdin.read())"],
                input=program.encode(), stdout=2, env=environment, pass_fds=[sending], check=True,
            )  # fmt: skip
        finally:
            os.close(sending)
        with os.fdopen(receiving) as answer:
            cpu, wall = answer.read().split()
        return complex(float(cpu), float(wall))


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
                _write_all(answers, json.dumps(fields).encode() + b"\n")

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

    def end(self, closed: bool = False) -> tuple[str, float]:
        """Kill the child with all that it started; how it had ended, and its CPU seconds.

        Args:
            closed: Its pipe has closed, so it is ending by itself, and how is worth a moment's wait.
        """
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
        return how, usage.ru_utime + usage.ru_stime


class Zygote:
    """One side: holds what is imported, forks children, passes their answers on, and never runs a benchmark itself."""

    def __init__(self, config: dict[str, Any], requests: int, answers: int) -> None:
        self.config = config
        self.requests, self.answers = requests, answers
        self.scratch = tempfile.mkdtemp(prefix="formulamine-")
        self.benchmarks: dict[tuple[str, str], Any] = {}
        self.caches: dict[str, str] = {}
        self.child: Child | None = None
        self.ended = "no case is open"  # how the last child ended, for a request that comes too late
        self.waiting: int | None = None  # the request that the child has yet to answer
        self.directory = ""
        self.discovery: Any = None

    def serve(self) -> None:
        """Answer requests until the host closes its end; then leave neither child nor file."""
        buffer = b""
        try:
            while True:
                watched = [self.requests] + ([self.child.answers] if self.child else [])
                ready, _, _ = select.select(watched, [], [])
                if self.child and self.child.answers in ready:
                    self.hear()
                if self.requests in ready:
                    block = os.read(self.requests, 65536)
                    if not block:
                        return
                    *lines, buffer = (buffer + block).split(b"\n")
                    for line in lines:
                        self.handle(json.loads(line))
        finally:
            self.end_child()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def answer(self, request: int | None, **fields: Any) -> None:
        """Answer one request of the host."""
        _write_all(self.answers, json.dumps(dict(fields, id=request)).encode() + b"\n")

    def hear(self) -> None:
        """Pass on what the child says, or how it ended."""
        assert self.child is not None
        try:
            line = self.child.read_line()
            if line is None:
                return
            fields = json.loads(line)
            if not isinstance(fields, dict) or self.waiting is None:
                raise ValueError("an answer to nothing")
        except (EOFError, ValueError) as error:
            ended, _ = self.end_child(closed=isinstance(error, EOFError))
            garbage = "" if isinstance(error, EOFError) else "wrote garbage on the protocol's pipe; "
            self.ended = f"the benchmark's process ended: {garbage}{ended}"
            fields = {"status": "failed", "detail": self.ended}
            if self.waiting is None:
                return
        fields["id"], self.waiting = self.waiting, None
        _write_all(self.answers, json.dumps(fields).encode() + b"\n")

    def handle(self, request: dict[str, Any]) -> None:
        """Do what the host asks, or have the child do it."""
        identity, operation = request["id"], request["op"]
        known = operation not in ("open", "cache") or (request["module"], request["name"]) in self.benchmarks
        if operation == "start":
            self.answer(identity, **self.start())
        elif operation == "import":
            self.answer(identity, **self.import_module(request["module"]))
        elif operation == "kill":
            _, cpu = self.end_child()
            self.waiting = None
            self.answer(identity, status="ok", cpu=cpu)
        elif not known:
            self.answer(identity, status="failed", detail="the module does not list this benchmark any more")
        elif operation in ("open", "cache"):
            self.end_child()
            self.waiting = identity
            self.fork(request)
        elif self.child is None:
            self.answer(identity, status="failed", detail=self.ended)
        else:
            self.waiting = identity
            with contextlib.suppress(BrokenPipeError):  # its answers end too, and `hear` tells how it ended
                _write_all(self.child.requests, json.dumps(request).encode() + b"\n")

    def start(self) -> dict[str, Any]:
        """Import asv_runner from our tools and the package under test from its site."""
        config = self.config
        sys.path.insert(0, config["tools"])
        try:
            aux = importlib.import_module("asv_runner._aux")
            self.discovery = importlib.import_module("asv_runner.discovery")
            importlib.import_module("asv_runner.benchmarks.mark")
        finally:
            # Loaded, it wins over any that the environment brings; the directory may hold more, which must not.
            sys.path.remove(config["tools"])
        sys.path.insert(0, config["site"])
        os.chdir(self.scratch)
        seed_generators(config["seed"])
        try:
            for name in config["import_names"]:
                importlib.import_module(name)
        except BaseException as error:  # as in Child: foreign code may also raise SystemExit
            return {"status": "failed", "reason": "import_failed", "detail": describe(error)}
        files = imported_from(config["import_names"])
        wrong = misplaced(files, config["site"])
        if wrong:
            return {"status": "failed", "reason": "shadowed_import", "detail": wrong, "files": files}
        # As ASV does: the suite is found by name in its parent, which is not on the path itself. The parent often is a
        # checkout whose package would shadow the built one, and a wheel may bring a `benchmarks` package of its own.
        aux.update_sys_path(os.path.join(config["suite_parent"], config["suite"]))
        return {"status": "ok", "files": files, "suite": config["suite"]}

    def import_module(self, name: str) -> dict[str, Any]:
        """Import one module of the suite and list its own benchmarks and the modules below it."""
        seed_generators(self.config["seed"])
        listed: list[dict[str, Any]] = []
        below: list[str] = []
        error = ""
        try:
            module = importlib.import_module(name)
            below = [f"{name}.{entry.name}" for entry in pkgutil.iter_modules(getattr(module, "__path__", []))]
            # asv_runner walks the whole suite, importing as it goes; it gets one module, the host asks for the next.
            self.discovery.disc_modules = lambda *_, **__: [module]
            for benchmark in self.discovery.disc_benchmarks(name):
                if (name, benchmark.name) not in self.benchmarks:
                    self.benchmarks[name, benchmark.name] = benchmark
                    listed.append(_listing(benchmark))
        except BaseException as raised:  # as in Child
            error = describe(raised)
        os.chdir(self.scratch)
        gc.collect()
        gc.freeze()  # a child's collections then leave the zygote's objects, and their memory pages, alone
        return {"status": "failed" if error else "ok", "detail": error, "benchmarks": listed, "below": below}

    def fork(self, request: dict[str, Any]) -> None:
        """Fork a child for one case, or for the cache that several share."""
        benchmark = self.benchmarks[request["module"], request["name"]]
        key = benchmark.setup_cache_key
        if request["op"] == "cache":
            self.caches[key] = tempfile.mkdtemp(dir=self.scratch, prefix="cache-")
        self.directory = "" if key else tempfile.mkdtemp(dir=self.scratch, prefix="case-")
        directory = self.caches[key] if key else self.directory
        work = functools.partial(self.make_cache if request["op"] == "cache" else self.run_case, benchmark, request)
        self.child = Child(work, [self.requests, self.answers], directory)

    def end_child(self, closed: bool = False) -> tuple[str, float]:
        """End the child, if there is one; how it had ended, and its CPU seconds."""
        if self.child is None:
            return "", 0.0
        ended, self.child = self.child.end(closed), None
        self.ended = "no case is open"
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)
        return ended

    # What follows runs in a child.

    def make_cache(
        self, benchmark: Any, request: dict[str, Any], _: Iterator[dict[str, Any]], answer: Callable[..., None]
    ) -> None:
        """Run setup_cache and leave its result in the directory of the cache."""
        seed_generators(request["seed"])
        with open("cache.pickle", "wb") as file:
            pickle.dump(benchmark.do_setup_cache(), file)
        answer(status="ok")

    def run_case(
        self, benchmark: Any, request: dict[str, Any], requests: Iterator[dict[str, Any]], answer: Callable[..., None]
    ) -> None:
        """Set one case up, and sample it as often as asked."""
        _pin(request["core"])
        seed_generators(request["seed"])
        if benchmark._params:
            benchmark.set_param_idx(request["param_index"])
        if benchmark.setup_cache_key is not None:
            with open("cache.pickle", "rb") as file:
                benchmark.set_cache(pickle.load(file))
        if benchmark.do_setup():
            return answer(status="skipped", detail="NotImplementedError in setup, or skipped by its parameters")
        files = imported_from(self.config["import_names"])
        wrong = misplaced(files, self.config["site"])
        if wrong:
            return answer(status="failed", detail=f"shadowed_import: {wrong}")
        timer = CaseTimer(benchmark, _kind(benchmark) == "timeraw", os.path.join(self.scratch, "pycache"))
        answer(status="ok", mode=timer.mode, number=int(benchmark.number), files=files)
        for asked in requests:
            if asked["op"] == "close":
                benchmark.do_teardown()
                return answer(status="ok")
            answer(status="ok", **timer.sample(asked["number"], asked["seed"]))


def _kind(benchmark: Any) -> str:
    """ASV's word for the benchmark; `type` alone does not tell timeraw from time."""
    return "timeraw" if type(benchmark).__name__ == "TimerawBenchmark" else str(benchmark.type)


def _listing(benchmark: Any) -> dict[str, Any]:
    combinations = (
        [list(combination) for combination in itertools.product(*benchmark.params)] if benchmark.params else []
    )
    return {
        "name": benchmark.name, "kind": _kind(benchmark), "params": combinations, "timeout": benchmark.timeout,
        "cache_key": benchmark.setup_cache_key, "cache_timeout": benchmark.setup_cache_timeout,
    }  # fmt: skip


def _pin(core: int | None) -> None:
    if core is not None and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(0, {core})
        except OSError:
            print(f"formulamine: core {core} is not ours to pin to", file=sys.stderr)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def main() -> None:
    """Set the process up as a side and serve."""
    config = json.loads(sys.argv[1])
    # Sets and dictionaries of strings must be laid out alike on both sides, which only a new start can bring about.
    wanted = dict.fromkeys(ONE_THREAD, "1")
    wanted["PYTHONHASHSEED"] = str(config["seed"] % 2**32)
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        command = [sys.executable, "-B", os.path.abspath(__file__), sys.argv[1]]
        os.execve(sys.executable, command, dict(os.environ, **wanted))
    # The interpreter put this file's directory first; its neighbours must not pass for modules of the standard library.
    del sys.path[0]
    requests = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, PROTOCOL_FD)
    answers = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, PROTOCOL_FD)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)  # whatever foreign code prints goes where errors go
    Zygote(config, requests, answers).serve()


if __name__ == "__main__":
    main()
