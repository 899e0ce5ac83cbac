"""Clocks, and one benchmark case in its own process.

Here belongs how ASV's kinds of benchmark are called and timed. Not here: processes (`child`, `zygote`).
"""

from __future__ import annotations

import fcntl
import functools
import gc
import math
import os
import subprocess
import sys
import textwrap
import timeit
from collections.abc import Callable

# Bound before any benchmark can replace them.
from time import perf_counter, process_time
from typing import Any

from .foreign import seed_generators
from .returned import said

# The statement is timed in an interpreter that has loaded no more than ASV's own would have: an import that the package
# no longer needs must still cost something here.
RAW_PROGRAM = """
import os, sys, timeit
from time import perf_counter, process_time
sys.path[:] = {path!r}
try:
    waits = os.open({schedstat!r}, os.O_RDONLY)
except OSError:
    waits = None
def clock():
    return complex(process_time(), perf_counter()), int(os.pread(waits, 64, 0).split()[1]) / 1e9 if waits else 0.0
class Elapsed(tuple):
    def __sub__(self, other):
        elapsed, waited = self[0] - other[0], self[1] - other[1]
        return complex(elapsed.real, max(elapsed.imag - waited, min(elapsed.real, elapsed.imag)))
elapsed = timeit.Timer({statement!r}, {setup!r}, lambda: Elapsed(clock())).timeit({number})
os.write({fd}, ("%r %r" % (elapsed.real, elapsed.imag)).encode())
"""
SCHEDSTAT = "/proc/self/schedstat"
HIGH_FD = 200  # as in `__main__`: above what a suite is likely to close by number
KINDS = {
    "TimeBenchmark": "time", "TimerawBenchmark": "timeraw", "MemBenchmark": "mem", "PeakMemBenchmark": "peakmem",
    "TrackBenchmark": "track",
}  # fmt: skip


def both_clocks() -> complex:
    """CPU seconds of this process and wall seconds as one number, so that a single subtraction times both."""
    return complex(process_time(), perf_counter())


class Waits:
    """How long this process has waited for a core that others had, which is no part of what a benchmark takes.

    On a busy machine that alone made wall time say 30x where CPU time said 8x: the longer sample is interrupted more.
    What a benchmark itself waits for, a lock, a file or a clock, is not in it. Zero where the kernel does not tell.
    """

    def __init__(self) -> None:
        self.descriptor: int | None = None
        try:
            opened = os.open(SCHEDSTAT, os.O_RDONLY)
        except OSError:
            return
        self.descriptor = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
        os.close(opened)

    def seconds(self) -> float:
        """So far, of the main thread."""
        if self.descriptor is None:
            return 0.0
        try:
            return int(os.pread(self.descriptor, 64, 0).split()[1]) / 1e9
        except OSError:  # closed by a benchmark that closes whatever it finds
            return 0.0


def less(elapsed: complex, waited: float) -> complex:
    """Elapsed times without what was waited, which lies around them by some microseconds and may be more than they."""
    return complex(elapsed.real, max(elapsed.imag - max(waited, 0.0), min(elapsed.real, elapsed.imag)))


def spin(turns: int) -> None:
    """Do work that a calibration adds to a side: so many turns of an empty loop."""
    for _ in range(turns):
        pass


def kind_of(benchmark: Any) -> str:
    """The prefix by which ASV knows the benchmark; its `type` says another word, or what the suite wants it to say."""
    return KINDS.get(type(benchmark).__name__, str(benchmark.type))


class CaseTimer:
    """One benchmark case that is set up: times it.

    `extra` is how many turns of `spin` each call of it costs more; only a calibration asks for any.
    """

    def __init__(self, benchmark: Any, pycache: str, extra: float = 0.0) -> None:
        self.benchmark = benchmark
        self.pycache = pycache
        self.extra = extra
        self.waits = Waits()
        self.used = False
        gc.freeze()  # what the set-up made is not looked at before each sample
        arguments = benchmark._build_params()
        self.call: Callable[[], Any] = functools.partial(benchmark.func, *arguments) if arguments else benchmark.func
        # asv_runner 0.3 gives every timed call a fresh set-up wherever there is one, whatever `number` says; a loop
        # over state that a call wears out would measure something else (the same change gave 1.12x and 6.5x).
        raw = kind_of(benchmark) == "timeraw"
        self.mode = "steady" if raw or not benchmark._setups else "first_call"
        self.ways = {
            "steady": self.fresh_interpreter if raw else self.steady, "first_call": self.first_call, "spin": self.spin,
        }  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """What the suite says of this case's timing; its set-up may have changed that."""
        benchmark = self.benchmark
        repeat = getattr(benchmark, "repeat", 0)
        return {
            "mode": self.mode,
            "number": int(getattr(benchmark, "number", 0)),
            "repeat": [float(one) for one in repeat] if isinstance(repeat, (tuple, list)) else float(repeat or 0),
            "min_run_count": int(getattr(benchmark, "min_run_count", 0)),
            "warmup_time": float(getattr(benchmark, "warmup_time", -1)),
            "sample_time": float(getattr(benchmark, "sample_time", 0) or 0),
            "unit": str(benchmark.unit),
        }

    def sample(self, number: int, seed: int, mode: str = "") -> dict[str, float]:
        """Time `number` calls; `spent` also counts the set-ups between them. Seconds."""
        seed_generators(seed)
        gc.collect()
        waited, started = self.waits.seconds(), perf_counter()
        elapsed = self.ways[mode or self.mode](number)
        if self.extra:
            self.spin(0)  # what comes first is slower
            elapsed += self.spin(round(self.extra * number)) - self.spin(0)  # without the reading of clocks, some 2 us
        spent = complex(elapsed.real, perf_counter() - started)
        return {"cpu": elapsed.real, "wall": elapsed.imag, "spent": less(spent, self.waits.seconds() - waited).imag}

    def value(self, seed: int) -> float:
        """What a benchmark of memory, or one that tracks a number, gives.

        Raises:
            TypeError: It is no number.
        """
        seed_generators(seed)
        found = self.benchmark.run(*self.benchmark._build_params())
        if isinstance(found, bool) or (not isinstance(found, (int, float)) and not hasattr(found, "__float__")):
            raise TypeError(f"a {type(found).__name__} is no number")
        if not math.isfinite(float(found)):
            raise TypeError(f"{float(found)} is no number to compare")
        return float(found)

    def returned(self, seed: int) -> Any:
        """What one call gives back, as `returned.comparable` has it."""
        seed_generators(seed)
        return said(self.call())

    def steady(self, number: int) -> complex:
        """Time a loop of calls."""
        waited = self.waits.seconds()
        elapsed: complex = timeit.Timer(self.call, timer=both_clocks).timeit(number)  # type: ignore[arg-type]
        return less(elapsed, self.waits.seconds() - waited)

    def first_call(self, number: int) -> complex:
        """Time single calls, each after a set-up of its own; the median call, so many times.

        ASV takes the median of single calls here as well. Their sum would go by the one call in which the machine did
        something else: of calls of microseconds between set-ups of milliseconds it had twice the spread.
        """
        cpu, wall = [], []
        gc.disable()
        try:
            for _ in range(number):
                if self.used:
                    self.benchmark.do_teardown()
                    self.benchmark.do_setup()
                self.used = True
                waited = self.waits.seconds()
                started = both_clocks()
                self.call()
                elapsed = less(both_clocks() - started, self.waits.seconds() - waited)
                cpu.append(elapsed.real)
                wall.append(elapsed.imag)
        finally:
            gc.enable()
        return number * complex(sorted(cpu)[number // 2], sorted(wall)[number // 2])

    def spin(self, turns: int) -> complex:
        """Time what `extra` is counted in."""
        waited, started = self.waits.seconds(), both_clocks()
        spin(turns)
        return less(both_clocks() - started, self.waits.seconds() - waited)

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
                schedstat=SCHEDSTAT,
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
