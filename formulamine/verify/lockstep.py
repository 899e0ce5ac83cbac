"""Two sides driven in lock step: which suite they share, and samples of a case, round after round.

Here belong the order of samples and what was seen, as raw data. Not here: a side's process (`side`), how many samples a
case gets (`sampling`), what the seconds mean (`statistics`) and which benchmark is measured how often (`protocol`).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from formulamine.verify import sampling
from formulamine.verify.cores import quietest_core
from formulamine.verify.raw import ModuleProblem, RawCase, RawValue, Round
from formulamine.verify.sampling import COLD_S, Facts, Plan
from formulamine.verify.side import Case, CaseEnded, Launch, Limits, Sample, Side, SideDied
from formulamine.verify.verdict import DECIDING_KINDS

BUSY_SHARE = 0.2  # of its limit that a late side must have computed; one that only waits is stuck, and proves nothing
VALUES = 2  # children a side in which a benchmark of memory, or one that tracks a number, is asked for it


@dataclass(frozen=True)
class Suite:
    """What the two sides have to measure; `others` are of kinds that decide nothing."""

    cases: tuple[Case, ...]
    others: tuple[Case, ...]
    one_sided: tuple[tuple[str, str, str], ...]
    """(case, kind, the only side that has it)"""
    problems: tuple[ModuleProblem, ...]


class Worn(CaseEnded):
    """Calls of the case are no repetitions of one thing: each needs a process of its own."""

    def __init__(self, detail: str) -> None:
        super().__init__("failed", detail)


def load_note() -> str:
    """The machine's load over the last minute, beside its cores."""
    return f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores"


def number_of(*parts: object) -> int:
    """A number below 2**32 that looks random and follows from `parts`."""
    return int(hashlib.sha256(":".join(map(str, parts)).encode()).hexdigest()[:8], 16)


class Lockstep:
    """Both sides, ended on leaving the context. Not for several threads at once."""

    def __init__(self, base: Launch, head: Launch, limits: Limits, cancelled: threading.Event, seed: int = 0) -> None:
        self.limits, self.seed = limits, seed
        self.base = Side("base", base, limits, cancelled)
        self.head = Side("head", head, limits, cancelled)
        self.sides = (self.base, self.head)
        self._plans: dict[str, Plan] = {}
        self._drifts: dict[str, int] = {}
        """By case, how many rounds in a row ended slower (above zero) or quicker than they began."""
        self._started = time.monotonic()
        self._generation = 0
        self.core = quietest_core()
        self.renew()

    def __enter__(self) -> Lockstep:
        return self

    def __exit__(self, *_: object) -> None:
        self.renew()

    def begin(self, case: Case, stage: str) -> RawCase:
        """A case of which nothing has been measured yet in this stage."""
        return RawCase(case.name, stage, case.kind, limit_seconds=case.timeout)

    def renew(self) -> None:
        """End both processes; the next request starts fresh ones, with another layout of memory and of hashes.

        That layout alone favours one side by 1 to 2 % (sd over starts, measured on five tiny benchmarks of CPython
        3.11: 0.7 to 2.1 %, where children of one process differ by 0.6 to 1.7 %). So rounds of the same process are no
        independent evidence, and what confirms takes a fresh one for each.
        """
        for side in self.sides:
            side.hang_up()
        self._generation += 1
        for side in self.sides:
            side.end()
            side.tracing = False
            side.hash_seed = number_of(self.seed, "hashes", self._generation)

    def trace(self) -> None:
        """Have the next processes note what their imports run; until `renew` they are none to measure with."""
        for side in self.sides:
            side.tracing = True

    def discover(self) -> Suite:
        """Import the suite on both sides, module by module, and list what they hold.

        Raises:
            SideBroken: A side cannot be used.
        """
        found: dict[str, dict[Side, tuple[Case, str]]] = {}
        problems = []
        self._start(self.sides)
        modules = [self.head.suite]
        while modules:
            module = modules.pop(0)
            below: list[str] = []
            self._start(self.sides, module)
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
                    for case in self._cases(module, benchmark):
                        found.setdefault(case.name, {})[side] = (case, str(benchmark["version"]))
            modules += below
        # ASV compares no results of different versions of a benchmark.
        alike = {name for name, on in found.items() if len({version for _, version in on.values()}) == 1}
        both = [found[name][self.head][0] for name in sorted(found) if len(found[name]) == 2 and name in alike]
        problems += [
            ModuleProblem("both", name, "its version differs between the sides") for name in sorted({*found} - alike)
        ]
        return Suite(
            cases=tuple(case for case in both if case.kind in DECIDING_KINDS),
            others=tuple(case for case in both if case.kind not in DECIDING_KINDS),
            one_sided=tuple(
                (name, case.kind, side.name)
                for name, on in sorted(found.items())
                for side, (case, _) in on.items()
                if len(on) == 1
            ),
            problems=tuple(problems),
        )

    def _cases(self, module: str, benchmark: dict[str, Any]) -> list[Case]:
        name, limit = str(benchmark["name"]), self.limits.call_seconds
        timeout = min(float(benchmark["timeout"] or limit), limit)
        cache_timeout = min(float(benchmark["cache_timeout"] or limit), limit)
        shared = (name, module, str(benchmark["kind"]))
        labels = [f"{name}({', '.join(combination)})" for combination in benchmark["params"] or []] or [name]
        return [
            Case(label, *shared, index, timeout, benchmark["cache_key"], cache_timeout)
            for index, label in enumerate(labels)
        ]

    def values(self, case: Case) -> RawValue:
        """Ask a case of a kind that decides nothing for its number, on both sides.

        Raises:
            Cancelled: The caller asked to end.
            SideBroken: A side cannot be used any more.
        """
        found: dict[Side, list[float]] = {side: [] for side in self.sides}
        unit = ""
        try:
            for index in range(VALUES):
                seed = self.seed + 1000 * index
                for side in self.sides:
                    try:
                        unit = str(side.open(case, self.core, seed)["unit"])
                        found[side].append(side.value(seed, case.timeout))
                    finally:
                        side.close(case.timeout)
        except CaseEnded as error:
            return RawValue(case.name, case.kind, unit, error.status, str(error))
        except SideDied as error:
            return RawValue(case.name, case.kind, unit, "failed", str(error))
        return RawValue(case.name, case.kind, unit, base=tuple(found[self.base]), head=tuple(found[self.head]))

    def advance(self, case: Case, raw: RawCase, pairs: int, session: int = 1) -> RawCase:
        """Measure one more round of `case`, in fresh children of the two processes.

        Whatever goes wrong with the case is a status of what comes back, and then it cannot be advanced further.

        Args:
            case: What to measure.
            raw: The rounds so far, or `begin(...)`.
            pairs: Samples a side; slow cases get fewer.
            session: What the round is a part of.

        Raises:
            Cancelled: The caller asked to end.
            SideBroken: A side cannot be used any more.
        """
        try:
            try:
                return self._round(case, pairs, raw, session)
            except SideDied:
                return self._round(case, pairs, raw, session)  # once more, in a fresh process
        except CaseEnded as error:
            return replace(raw, status=error.status, detail=str(error))
        except SideDied as error:
            return replace(raw, status="failed", detail=str(error))

    def _start(self, order: Sequence[Side], module: str = "") -> None:
        """Bring both sides up, importing the package and a module of the suite at the same time."""
        for side in order:
            side.start()
        for side in order:
            side.ready()
        for side in order if module else ():
            with contextlib.suppress(SideDied):  # `load` starts a fresh process, and asks that one
                side.begin_load(module)

    def _order(self, case: Case, index: int) -> tuple[Side, ...]:
        """In turns, but which comes first in each two rounds is a matter of chance.

        A process tends to get the memory pages that the last one of its turn gave back: a side that always came first
        would keep them.
        """
        turned = (number_of(self.seed, case.name, index // 2) + index) % 2 == 1
        return self.sides[::-1] if turned else self.sides

    def _round(self, case: Case, pairs: int, raw: RawCase, session: int) -> RawCase:
        plan = self._plans.get(case.name)
        if plan is None or not plan.single:
            try:
                return self._repeated(case, pairs, raw, session)
            except Worn as worn:
                self._plans[case.name] = plan = Plan(1, pairs, single=True, why=f"timed singly: {worn}")
                raw = replace(raw, rounds=())  # of which each would be another thing
        return self._singly(case, plan, pairs, raw, session)

    def _repeated(self, case: Case, pairs: int, raw: RawCase, session: int) -> RawCase:
        """One round in a child a side that calls the benchmark again and again."""
        seed, order = self.seed + 1000 * len(raw.rounds), self._order(case, len(raw.rounds))
        teardown_seconds = 0.0
        others: dict[Side, float] = {}
        why, late_seconds = "", 0.0
        self._start(order, case.module)
        try:
            opened = {side: side.open(case, self.core, seed) for side in order}
            first = {side: side.sample(1, seed, case.timeout) for side in order}
            done = {side: sample for side, sample in first.items() if sample is not None}
            if not done:
                raise CaseEnded("timeout", f"neither side ends a call within {case.timeout:g} s")
            if len(done) == 2:
                facts = Facts.of(opened[self.head])
                try:
                    if not raw.rounds:
                        self._plans[case.name] = self._plan(case, facts, done, pairs, seed)
                    plan = self._plans[case.name]
                    taken = self._pairs(case, order, done, plan, seed)
                except CaseEnded as error:
                    if error.status == "failed":  # though its first call ended well
                        raise Worn(str(error)) from error
                    raise
                self._refuse_worn(case, taken)
                teardown_seconds, status, detail = case.timeout, raw.status, raw.detail
                others, why = self._otherwise(case, facts, plan, done, seed)
            else:
                late = next(side for side in self.sides if side not in done)
                cpu, waited = late.close()
                # Its CPU time counts from its start to its kill, which may be more than the call was allowed.
                late_seconds = min(max(case.timeout - waited, cpu), case.timeout)
                if cpu < BUSY_SHARE * late_seconds:
                    raise CaseEnded("timeout", f"{late.name} hangs without computing")
                taken = {side: [sample] for side, sample in done.items()}
                status, detail = f"{late.name}_timeout", f"{late.name} does not end a call within {case.timeout:g} s"
        finally:
            for side in self.sides:
                side.close(teardown_seconds)
        return replace(
            raw,
            mode=str(opened[self.head]["mode"]),
            why=why or raw.why,
            status=status,
            detail=detail,
            number=self._plans[case.name].number if len(done) == 2 else 1,
            rounds=(*raw.rounds, replace(self._seen(taken, opened, session, others), late_seconds=late_seconds)),
        )

    def _singly(self, case: Case, plan: Plan, pairs: int, raw: RawCase, session: int) -> RawCase:
        """One round in which each call has a process of its own."""
        seed, order = self.seed + 1000 * len(raw.rounds), self._order(case, len(raw.rounds))
        taken: dict[Side, list[Sample]] = {side: [] for side in self.sides}
        opened: dict[Side, dict[str, Any]] = {}
        self._start(order, case.module)
        for pair in range(pairs):
            started = time.monotonic()
            for side in order if pair % 2 == 0 else order[::-1]:
                try:
                    opened[side] = side.open(case, self.core, seed + pair)
                    taken[side].append(self._again(side, 1, seed + pair, case.timeout))
                finally:
                    side.close()
            if (time.monotonic() - started) * (pair + 2) > sampling.ROUND_S:
                break
        seen = self._seen(taken, opened, session, {})
        return replace(raw, mode="single", why=plan.why, number=1, rounds=(*raw.rounds, seen))

    def _seen(
        self,
        taken: dict[Side, list[Sample]],
        opened: dict[Side, dict[str, Any]],
        session: int,
        others: dict[Side, float],
    ) -> Round:
        base, head = (taken.get(side, []) for side in self.sides)
        return Round(
            base_cpu=tuple(sample.cpu for sample in base),
            base_wall=tuple(sample.wall for sample in base),
            head_cpu=tuple(sample.cpu for sample in head),
            head_wall=tuple(sample.wall for sample in head),
            base_file=_files(opened[self.base]),
            head_file=_files(opened[self.head]),
            session=session,
            hash_seed=self.base.hash_seed,
            at=round(time.monotonic() - self._started, 1),
            base_other=others.get(self.base),
            head_other=others.get(self.head),
        )

    def _plan(self, case: Case, facts: Facts, first: dict[Side, Sample], pairs: int, seed: int) -> Plan:
        """Grow the calls in a sample from the first call of each side until they tell what one takes."""
        calls = []
        for side in self.sides:
            sample, count, repeated = first[side], 1, False
            while True:
                wanted = facts.fixed or math.ceil(facts.sample_s * count / sample.spent)
                # The very first call may fill caches: it alone says little, unless it already took long.
                if sample.spent > COLD_S or (repeated and 2 * count >= wanted):
                    break
                count, repeated = min(wanted, 10 * count), True
                sample = self._again(side, count, seed, case.timeout * 2)
            calls.append(sample.spent / count)
        return sampling.plan(facts, calls, pairs)

    def _pairs(
        self, case: Case, order: Sequence[Side], first: dict[Side, Sample], plan: Plan, seed: int
    ) -> dict[Side, list[Sample]]:
        """Alternate samples, the order flipped from pair to pair so that a drift of the machine cancels."""
        limit = case.timeout + 10 * plan.pair_seconds
        for _ in range(0 if plan.slow else plan.warm_ups):
            for side in order:
                self._again(side, plan.number, seed, limit)
        taken = {side: [first[side]] if plan.slow else [] for side in order}
        for pair in range(1 if plan.slow else 0, plan.pairs):
            for side in order if pair % 2 == 0 else order[::-1]:
                taken[side].append(self._again(side, plan.number, seed + 1 + pair, limit))
        return taken

    def _refuse_worn(self, case: Case, taken: dict[Side, list[Sample]]) -> None:
        """Calls that wear the case out do so in every round; a machine that changes its pace does not."""
        ratios = {side: sampling.drift([sample.cpu for sample in samples]) for side, samples in taken.items()}
        side, ratio = max(ratios.items(), key=lambda one: abs(math.log(one[1])))
        way = (ratio > 1) - (ratio < 1)
        before = self._drifts.get(case.name, 0)
        self._drifts[case.name] = before + way if way * before >= 0 and way else way
        if abs(self._drifts[case.name]) >= sampling.WORN_ROUNDS:
            raise Worn(f"{side.name}: its calls take {ratio:.1f} times as long at the end of each round")

    def _otherwise(
        self, case: Case, facts: Facts, plan: Plan, first: dict[Side, Sample], seed: int
    ) -> tuple[dict[Side, float], str]:
        """CPU seconds of one call timed the other way, and what is to be said of it.

        It comes last in a round: a loop without set-ups between its calls may break the case.
        """
        if case.kind == "timeraw" or plan.slow:
            return {}, ""
        if facts.mode == "steady":
            return {side: sample.cpu for side, sample in first.items()}, ""
        found = {}
        for side in self.sides:
            try:
                sample = side.sample(plan.number, seed, case.timeout + 10 * plan.pair_seconds, "steady")
            except CaseEnded as error:
                return {}, f"no loop without set-ups between the calls: {error}"
            if sample is None:
                return {}, "a loop without set-ups between the calls does not end"
            found[side] = sample.cpu / plan.number
        return found, ""

    @staticmethod
    def _again(side: Side, number: int, seed: int, limit: float) -> Sample:
        sample = side.sample(number, seed, limit)
        if sample is None:
            raise CaseEnded("timeout", f"{side.name}: a call that ended at first does not end any more")
        return sample


def _files(opened: dict[str, Any]) -> str:
    return ", ".join(str(path) for _, path in sorted(opened["files"].items()))
