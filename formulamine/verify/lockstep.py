"""Two sides driven in lock step: which suite they share, and samples of a case, round after round.

Here belong the order of samples, their number, and what was seen, as raw data. Not here: a side's process (`side`),
what the seconds mean (`statistics`) and which benchmark is measured how often (`protocol`).
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from formulamine.verify.side import Case, CaseEnded, Launch, Limits, Sample, Side, SideDied

SAMPLE_S = 0.010  # ASV's sample_time
SETUP_SHARE = 2  # a sample with set-ups between its calls may take so many times SAMPLE_S
SLOW_S = 1.0  # one call of this length needs neither batches nor warming up, and gets fewer samples
COLD_S = 5.0  # a first call of this length is not repeated to learn whether it was only cold
ROUND_S = 2.0  # of sampling in one round, which bounds the samples of slow cases; at least one pair is taken
BUSY_SHARE = 0.2  # of its limit that a late side must have computed; one that only waits is stuck, and proves nothing
DECIDING_KINDS = ("time", "timeraw")


@dataclass(frozen=True)
class ModuleProblem:
    """A module of the suite that does not import on a side, and why."""

    side: str
    module: str
    error: str


@dataclass(frozen=True)
class Suite:
    """What the two sides have to measure; `other` names benchmarks whose kind decides nothing."""

    cases: tuple[Case, ...]
    one_sided: tuple[tuple[str, str, str], ...]
    """(case, kind, the only side that has it)"""
    other: tuple[str, ...]
    problems: tuple[ModuleProblem, ...]


@dataclass(frozen=True)
class Round:
    """One fresh child a side: seconds per sample in the order taken, the n-th of base paired with the n-th of head.

    A side that did not end its first call in time has no samples. `base_file` and `head_file` are where the package
    under test was imported from.
    """

    base_cpu: tuple[float, ...]
    base_wall: tuple[float, ...]
    head_cpu: tuple[float, ...]
    head_wall: tuple[float, ...]
    base_file: str
    head_file: str


@dataclass(frozen=True)
class RawCase:
    """All that was seen of one case in one stage (screen, confirm or control).

    `number` is the calls in a sample, the same on both sides; `limit_seconds` is what one call was allowed.
    `status` is ok, skipped, failed, timeout, base_timeout or head_timeout.
    """

    benchmark: str
    stage: str
    kind: str
    mode: str = ""
    status: str = "ok"
    detail: str = ""
    number: int = 0
    limit_seconds: float = 0.0
    rounds: tuple[Round, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How a case is sampled: calls in a sample, pairs in a round, whether a first call is already a sample."""

    number: int
    pairs: int
    slow: bool
    pair_seconds: float


def load_note() -> str:
    """The machine's load over the last minute, beside its cores."""
    return f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores"


class Lockstep:
    """Both sides, ended on leaving the context. Not for several threads at once."""

    def __init__(self, base: Launch, head: Launch, limits: Limits, cancelled: threading.Event, seed: int = 0) -> None:
        self.limits, self.seed = limits, seed
        self.base = Side("base", base, limits, cancelled)
        self.head = Side("head", head, limits, cancelled)
        self.sides = (self.base, self.head)
        self._plans: dict[str, Plan] = {}
        # The last core, since the first serves most interrupts.
        self.core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None

    def __enter__(self) -> Lockstep:
        return self

    def __exit__(self, *_: object) -> None:
        self.renew()

    def begin(self, case: Case, stage: str) -> RawCase:
        """A case of which nothing has been measured yet in this stage."""
        return RawCase(case.name, stage, case.kind, limit_seconds=case.timeout)

    def renew(self) -> None:
        """End both processes; the next request starts fresh ones, with another layout of memory.

        That layout alone favours one side by 1 to 2 % (sd over starts, measured on five tiny benchmarks of CPython
        3.11: 0.7 to 2.1 %, where children of one process differ by 0.6 to 1.7 %). So rounds of the same process are no
        independent evidence, and what confirms takes a fresh one for each.
        """
        for side in self.sides:
            side.hang_up()
        for side in self.sides:
            side.end()

    def discover(self) -> Suite:
        """Import the suite on both sides, module by module, and list what they hold.

        Raises:
            SideBroken: A side cannot be used.
        """
        found: dict[str, dict[Side, tuple[str, Case | None]]] = {}
        problems = []
        self._start(self.sides)
        modules = [self.head.suite]
        while modules:
            module = modules.pop(0)
            below: list[str] = []
            for side in self.sides:
                try:
                    answer = side.load(module)
                except (CaseEnded, SideDied) as error:
                    problems.append(ModuleProblem(side.name, module, str(error)))
                    continue
                if answer["detail"]:
                    problems.append(ModuleProblem(side.name, module, str(answer["detail"])))
                below += [name for name in answer["below"] if name not in below]
                for benchmark in answer["benchmarks"]:
                    for name, case in self._cases(module, benchmark):
                        found.setdefault(name, {})[side] = (str(benchmark["kind"]), case)
            modules += below
        listed = sorted(found.items())
        return Suite(
            cases=tuple(on[self.head][1] for _, on in listed if len(on) == 2 and on[self.head][1]),  # type: ignore[misc]
            one_sided=tuple(
                (name, kind, side.name)
                for name, on in listed
                for side, (kind, case) in on.items()
                if len(on) == 1 and case
            ),
            other=tuple(name for name, on in listed if not any(case for _, case in on.values())),
            problems=tuple(problems),
        )

    def _cases(self, module: str, benchmark: dict[str, Any]) -> list[tuple[str, Case | None]]:
        name, limit = str(benchmark["name"]), self.limits.call_seconds
        if benchmark["kind"] not in DECIDING_KINDS:
            return [(name, None)]
        timeout = min(float(benchmark["timeout"] or limit), limit)
        cache_timeout = min(float(benchmark["cache_timeout"] or limit), limit)
        shared = (name, module, str(benchmark["kind"]))
        labels = [f"{name}({', '.join(combination)})" for combination in benchmark["params"] or []] or [name]
        return [
            (label, Case(label, *shared, index, timeout, benchmark["cache_key"], cache_timeout))
            for index, label in enumerate(labels)
        ]

    def advance(self, case: Case, raw: RawCase, pairs: int) -> RawCase:
        """Measure one more round of `case`, in fresh children of the two processes.

        Whatever goes wrong with the case is a status of what comes back, and then it cannot be advanced further.

        Args:
            case: What to measure.
            raw: The rounds so far, or `begin(...)`.
            pairs: Samples a side; slow cases get fewer.

        Raises:
            Cancelled: The caller asked to end.
            SideBroken: A side cannot be used any more.
        """
        try:
            try:
                return self._round(case, pairs, raw)
            except SideDied:
                return self._round(case, pairs, raw)  # once more, in a fresh process
        except CaseEnded as error:
            return replace(raw, status=error.status, detail=str(error))
        except SideDied as error:
            return replace(raw, status="failed", detail=str(error))

    def _start(self, order: Sequence[Side]) -> None:
        """Bring both sides up, importing at the same time."""
        for side in order:
            side.start()
        for side in order:
            side.ready()

    def _round(self, case: Case, pairs: int, raw: RawCase) -> RawCase:
        seed = self.seed + 1000 * len(raw.rounds)
        order = self.sides if len(raw.rounds) % 2 == 0 else self.sides[::-1]
        teardown_seconds = 0.0
        # In turns from the start: a process tends to get the memory pages that the last one of its turn gave back.
        self._start(order)
        try:
            opened = {side: side.open(case, self.core, seed) for side in order}
            first = {side: side.sample(1, seed, case.timeout) for side in order}
            done = {side: sample for side, sample in first.items() if sample is not None}
            if not done:
                raise CaseEnded("timeout", f"neither side ends a call within {case.timeout:g} s")
            if len(done) == 2:
                if not raw.rounds:
                    self._plans[case.name] = self._plan(case, opened, done, pairs, seed)
                taken = self._pairs(case, order, done, self._plans[case.name], seed)
                teardown_seconds, status, detail = case.timeout, raw.status, raw.detail
            else:
                late = next(side for side in self.sides if side not in done)
                if late.close() < BUSY_SHARE * case.timeout:
                    raise CaseEnded("timeout", f"{late.name} hangs without computing")
                taken = {side: [sample] for side, sample in done.items()}
                status, detail = f"{late.name}_timeout", f"{late.name} does not end a call within {case.timeout:g} s"
        finally:
            for side in self.sides:
                side.close(teardown_seconds)
        base, head = (taken.get(side, []) for side in self.sides)
        measured = Round(
            base_cpu=tuple(sample.cpu for sample in base),
            base_wall=tuple(sample.wall for sample in base),
            head_cpu=tuple(sample.cpu for sample in head),
            head_wall=tuple(sample.wall for sample in head),
            base_file=_files(opened[self.base]),
            head_file=_files(opened[self.head]),
        )
        return replace(
            raw,
            mode=str(opened[self.head]["mode"]),
            status=status,
            detail=detail,
            number=self._plans[case.name].number if len(done) == 2 else 1,
            rounds=(*raw.rounds, measured),
        )

    def _plan(
        self, case: Case, opened: dict[Side, dict[str, Any]], first: dict[Side, Sample], pairs: int, seed: int
    ) -> Plan:
        """Choose the calls in a sample by the slower side, growing them from the first call of each."""
        answer = opened[self.head]
        fixed = int(answer["number"]) if answer["mode"] == "steady" else 0
        calls: dict[Side, tuple[float, float]] = {}
        for side in self.sides:
            sample, count, repeated = first[side], 1, False
            while True:
                # Set-ups between calls cost time too, and must not make a sample endless.
                seconds = max(sample.wall, sample.spent / SETUP_SHARE) / count
                wanted = fixed or math.ceil(SAMPLE_S / seconds)
                calls[side] = (seconds, sample.spent / count)
                # The very first call may fill caches: it alone says little, unless it already took long.
                if sample.spent > COLD_S or (repeated and 2 * count >= wanted):
                    break
                count, repeated = min(wanted, 10 * count), True
                sample = self._again(side, count, seed, case.timeout * 2)
        number = fixed or math.ceil(SAMPLE_S / max(seconds for seconds, _ in calls.values()))
        pair_seconds = number * sum(spent for _, spent in calls.values())
        slow = number == 1 and max(spent for _, spent in calls.values()) >= SLOW_S
        return Plan(number, max(1, min(pairs, int(ROUND_S / pair_seconds))), slow, pair_seconds)

    def _pairs(
        self, case: Case, order: Sequence[Side], first: dict[Side, Sample], plan: Plan, seed: int
    ) -> dict[Side, list[Sample]]:
        """Alternate samples, the order flipped from pair to pair so that a drift of the machine cancels."""
        limit = case.timeout + 10 * plan.pair_seconds
        if not plan.slow:
            for side in order:
                self._again(side, plan.number, seed, limit)  # warming up
        taken = {side: [first[side]] if plan.slow else [] for side in order}
        for pair in range(1 if plan.slow else 0, plan.pairs):
            for side in order if pair % 2 == 0 else order[::-1]:
                taken[side].append(self._again(side, plan.number, seed + 1 + pair, limit))
        return taken

    @staticmethod
    def _again(side: Side, number: int, seed: int, limit: float) -> Sample:
        sample = side.sample(number, seed, limit)
        if sample is None:
            raise CaseEnded("timeout", f"{side.name}: a call that ended at first does not end any more")
        return sample


def _files(opened: dict[str, Any]) -> str:
    return ", ".join(str(path) for _, path in sorted(opened["files"].items()))
