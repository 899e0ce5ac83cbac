"""One side: holds what is imported, forks children, and passes their answers on.

Here belong imports of foreign code and the requests of the host. Not here: how a call is timed (`timing`).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import itertools
import json
import os
import pickle
import pkgutil
import select
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from .child import Child
from .foreign import describe, imported_from, misplaced, pin, seed_generators, write_all
from .sources import digests, functions
from .timing import CaseTimer, kind_of
from .tracing import Tracer, places, places_of


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
        self.tracer = Tracer() if config["tracing"] else None
        self.at_import: set[CodeType] = set()  # what ran in imports, and in set-ups that several cases share

    def serve(self) -> None:
        """Answer requests until the host closes its end; then leave neither child nor file."""
        buffer = b""
        try:
            self.answer(self.config["request"], **self.start())
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
        write_all(self.answers, json.dumps(dict(fields, id=request)).encode() + b"\n")

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
            ended, _, _ = self.end_child(closed=isinstance(error, EOFError))
            garbage = "" if isinstance(error, EOFError) else "wrote garbage on the protocol's pipe; "
            self.ended = f"the benchmark's process ended: {garbage}{ended}"
            fields = {"status": "failed", "detail": self.ended}
            if self.waiting is None:
                return
        fields["id"], self.waiting = self.waiting, None
        write_all(self.answers, json.dumps(fields).encode() + b"\n")

    def handle(self, request: dict[str, Any]) -> None:
        """Do what the host asks, or have the child do it."""
        identity, operation = request["id"], request["op"]
        known = operation not in ("open", "cache", "trace") or (request["module"], request["name"]) in self.benchmarks
        if operation == "import":
            self.answer(identity, **self.import_module(request["module"]))
        elif operation == "kill":
            _, cpu, waited = self.end_child()
            self.waiting = None
            self.answer(identity, status="ok", cpu=cpu, waited=waited)
        elif not known:
            self.answer(identity, status="failed", detail="the module does not list this benchmark any more")
        elif operation in ("digests", "functions", "imported"):
            self.answer(identity, **self.tell(operation, request))
        elif operation in ("open", "cache", "trace"):
            self.end_child()
            self.waiting = identity
            self.fork(request)
        elif self.child is None:
            self.answer(identity, status="failed", detail=self.ended)
        else:
            self.waiting = identity
            with contextlib.suppress(BrokenPipeError):  # its answers end too, and `hear` tells how it ended
                write_all(self.child.requests, json.dumps(request).encode() + b"\n")

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
            with self.traced():
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
            with self.traced():
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

    @contextlib.contextmanager
    def traced(self) -> Iterator[None]:
        """Note what runs in a block, where this process traces."""
        if self.tracer is None:
            yield
            return
        self.tracer.start()
        try:
            yield
        finally:
            self.at_import |= self.tracer.stop()

    def tell(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """What this side is made of, or what its imports ran."""
        site = self.config["site"]
        try:
            if operation == "digests":
                return {"status": "ok", "digests": digests(site)}
            if operation == "functions":
                return {"status": "ok", **functions(os.path.join(site, request["file"]))}
        except (OSError, SyntaxError, ValueError, RecursionError) as error:
            return {"status": "failed", "detail": describe(error)}
        blind = self.tracer.blind if self.tracer else "nothing was traced"
        return {"status": "ok", "places": places(self.at_import, site, request["files"]), "blind": blind}

    def fork(self, request: dict[str, Any]) -> None:
        """Fork a child for one case, or for the cache that several share."""
        benchmark = self.benchmarks[request["module"], request["name"]]
        key = benchmark.setup_cache_key
        if request["op"] == "cache":
            self.caches[key] = tempfile.mkdtemp(dir=self.scratch, prefix="cache-")
        self.directory = "" if key else tempfile.mkdtemp(dir=self.scratch, prefix="case-")
        directory = self.caches[key] if key else self.directory
        works = {"cache": self.make_cache, "open": self.run_case, "trace": self.trace_case}
        work = functools.partial(works[request["op"]], benchmark, request)
        self.child = Child(work, [self.requests, self.answers], directory)

    def end_child(self, closed: bool = False) -> tuple[str, float, float]:
        """End the child, if there is one; as `Child.end`."""
        if self.child is None:
            return "", 0.0, 0.0
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
        with self.traced(), open("cache.pickle", "wb") as file:
            pickle.dump(benchmark.do_setup_cache(), file)
        if self.tracer is not None:
            with open("ran.json", "w", encoding="utf-8") as file:
                json.dump([[code.co_filename, code.co_name, code.co_firstlineno] for code in self.tracer.seen], file)
        answer(status="ok")

    def run_case(
        self, benchmark: Any, request: dict[str, Any], requests: Iterator[dict[str, Any]], answer: Callable[..., None]
    ) -> None:
        """Set one case up, and sample it as often as asked."""
        self.prepare(benchmark, request)
        if benchmark.do_setup():
            return answer(status="skipped", detail="NotImplementedError in setup, or skipped by its parameters")
        files = imported_from(self.config["import_names"])
        wrong = misplaced(files, self.config["site"])
        if wrong:
            return answer(status="failed", detail=f"shadowed_import: {wrong}")
        extra = self.config.get("extra_turns", {}).get(request["case"], 0.0)
        timer = CaseTimer(benchmark, os.path.join(self.scratch, "pycache"), extra)
        answer(status="ok", files=files, **timer.facts())
        for asked in requests:
            if asked["op"] == "close":
                benchmark.do_teardown()
                return answer(status="ok")
            if asked["op"] == "value":
                answer(status="ok", value=timer.value(asked["seed"]))
            elif asked["op"] == "returned":
                answer(status="ok", returned=timer.returned(asked["seed"]))
            else:
                answer(status="ok", **timer.sample(asked["number"], asked["seed"], asked["mode"]))

    def prepare(self, benchmark: Any, request: dict[str, Any]) -> None:
        """Give a case its core, its random numbers, its parameters and its cache."""
        pin(request["core"])
        seed_generators(request["seed"])
        if benchmark._params:
            benchmark.set_param_idx(request["param_index"])
        if benchmark.setup_cache_key is not None:
            with open("cache.pickle", "rb") as file:
                benchmark.set_cache(pickle.load(file))

    def trace_case(
        self, benchmark: Any, request: dict[str, Any], _: Iterator[dict[str, Any]], answer: Callable[..., None]
    ) -> None:
        """Set one case up and call it once, noting what runs in either."""
        assert self.tracer is not None
        tracer, site, files = self.tracer, self.config["site"], request["files"]
        tracer.start()
        self.prepare(benchmark, request)
        skipped = benchmark.do_setup()
        setup = places(tracer.stop(), site, files)
        if skipped:
            return answer(status="skipped", detail="NotImplementedError in setup, or skipped by its parameters")
        if benchmark.setup_cache_key is not None:
            with open("ran.json", encoding="utf-8") as file:
                setup += places_of(json.load(file), site, files)
        tracer.start()
        benchmark.func(*benchmark._build_params())
        answer(status="ok", setup=setup, call=places(tracer.stop(), site, files), blind=tracer.blind)


def _listing(benchmark: Any) -> dict[str, Any]:
    combinations = (
        [list(combination) for combination in itertools.product(*benchmark.params)] if benchmark.params else []
    )
    return {
        "name": benchmark.name, "kind": kind_of(benchmark), "params": combinations, "timeout": benchmark.timeout,
        "cache_key": benchmark.setup_cache_key, "cache_timeout": benchmark.setup_cache_timeout,
        "version": str(benchmark.version),
    }  # fmt: skip
