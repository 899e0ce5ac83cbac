"""Which benchmarks a change can touch: those that run a function that it changed.

Here belong comparing the sources of two sides, tracing each case once on both, and the choice. Not here: reading and
tracing themselves (`harness.sources`, `harness.tracing`), and what the choice means for a verdict (`verdict`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from formulamine.verify.lockstep import Lockstep, number_of
from formulamine.verify.raw import Selection
from formulamine.verify.side import Case, CaseEnded, Side, SideDied

TRACE_S = 10.0  # one call under a trace, which slows Python code several times; what takes longer is measured
SAMPLE_SHARE = 0.05  # of what cannot be touched, measured all the same to check that
SAMPLE_MOST = 5
ABSENT: dict[str, Any] = {"status": "ok", "rest": "", "functions": {}}  # a file that only the other side has
NOWHERE = (0, -1)  # the lines of what a side does not have
NAMED = 20  # changed functions in the row


@dataclass
class Change:
    """What differs between the sides: functions by file, `""` for what stands outside them.

    `everything` says why every case has to be measured, whatever it runs.
    """

    everything: str = ""
    functions: dict[Side, dict[str, dict[str, tuple[int, int]]]] = field(default_factory=dict)
    """By side and file, the lines of each changed function; (0, 0) for `""`."""
    known: dict[Side, dict[str, list[tuple[int, int]]]] = field(default_factory=dict)
    """By side and file, the lines of all functions."""
    decorated: set[str] = field(default_factory=set)
    """Of the changed functions, those whose decorator may keep them from running as Python code."""

    @property
    def files(self) -> list[str]:
        """The files that a trace has to look at."""
        return sorted({name for of in self.functions.values() for name in of})

    @property
    def names(self) -> tuple[str, ...]:
        """Changed functions, for people."""
        named = {(file, name or "module level") for of in self.functions.values() for file in of for name in of[file]}
        return tuple(f"{file}: {name}" for file, name in sorted(named))

    def hits(self, side: Side, places: Sequence[Sequence[Any]]) -> list[str]:
        """The changed functions among traced `places`."""
        found = []
        for file, line in places:
            changed = self.functions[side].get(file, {})
            found += [f"{file}: {name}" for name, (first, last) in changed.items() if name and first <= line <= last]
            outside = not any(first <= line <= last for first, last in self.known[side].get(file, []))
            if "" in changed and outside:
                found.append(f"{file}: module level")
        return found


def select(
    lockstep: Lockstep, cases: Sequence[Case], seed: int, report: Callable[[str, int, int], None] | None = None
) -> Selection:
    """Choose the cases to measure. Both sides have to be fresh from `discover` with `tracing` on.

    Args:
        lockstep: Both sides.
        cases: All that there are.
        seed: Of the choice of those that are measured although they cannot be touched.
        report: Told "trace", how many cases are done, and how many there are.

    Raises:
        Cancelled: The caller asked to end.
        SideBroken: A side cannot be used any more.
    """
    try:
        change = compare(lockstep)
        if not change.everything and change.files:
            change.everything = _at_import(lockstep, change)
        if change.everything:
            return Selection("all", change.everything, change.names[:NAMED])
        reached, ran = [], set[str]()
        for number, case in enumerate(cases if change.files else ()):
            if report is not None:
                report("trace", number, len(cases))
            hits, at_setup = _reaches(lockstep, case, change)
            if at_setup:
                return Selection("all", f"{hits[0]} runs in the set-up of {case.name}", change.names[:NAMED])
            if hits:
                reached.append(case.name)
                ran |= {*hits}
        # What ran as Python code under its decorator was not hidden by it. What ran nowhere may have been.
        if unseen := sorted(change.decorated - ran):
            why = f"{unseen[0]} differs, which its decorator may hide from a trace"
            return Selection("all", why, change.names[:NAMED])
    except SideDied as error:
        return Selection("all", f"cannot be traced: {error}")
    excluded = sorted({case.name for case in cases} - {*reached}, key=lambda name: number_of(seed, "excluded", name))
    count = min(SAMPLE_MOST, math.ceil(SAMPLE_SHARE * len(excluded)))
    return Selection("impact", "", change.names[:NAMED], tuple(reached), tuple(excluded[:count]), len(excluded))


def compare(lockstep: Lockstep) -> Change:
    """What differs between the two sides.

    Raises:
        SideDied: A side ended.
    """
    limit = lockstep.limits.import_seconds
    answers = [side.ask("digests", limit) for side in lockstep.sides]
    if any(answer is None or answer["status"] != "ok" for answer in answers):
        return Change("the sources of a side cannot be read")
    base, head = (dict(answer["digests"]) for answer in answers if answer)
    differing = sorted(name for name in {*base, *head} if base.get(name) != head.get(name))
    change = Change(functions={side: {} for side in lockstep.sides}, known={side: {} for side in lockstep.sides})
    for name in differing:
        if not name.endswith(".py"):
            return Change(f"{name} differs, which is no Python source")
    for name in differing:
        found: dict[Side, dict[str, Any]] = {}
        for side, files in zip(lockstep.sides, (base, head), strict=True):
            answer = side.ask("functions", limit, file=name) if name in files else ABSENT
            if answer is None or answer["status"] != "ok":
                return Change(f"{name} cannot be parsed")
            found[side] = answer
        why = _compare_file(name, found, change)
        if why:
            return Change(why)
    return change


def _compare_file(name: str, found: dict[Side, dict[str, Any]], change: Change) -> str:
    """Add to `change` what differs in a file; returns why everything has to be measured, or nothing."""
    of_base, of_head = found.values()
    changed: set[str] = set()
    for function in {*of_base["functions"], *of_head["functions"]}:
        one, other = of_base["functions"].get(function), of_head["functions"].get(function)
        if one is None or other is None:
            if not (one or other)[5]:
                return f"{name}: {function} comes or goes with a decorator or a default"
            changed.add(function)
        elif one[3] != other[3]:
            return f"{name}: the signature of {function} differs"
        elif one[2] != other[2]:
            if not one[4]:
                change.decorated.add(f"{name}: {function}")
            changed.add(function)
    if of_base["rest"] != of_head["rest"]:
        changed.add("")
    for side, of in found.items() if changed else ():
        lines = {function: (int(values[0]), int(values[1])) for function, values in of["functions"].items()}
        change.known[side][name] = list(lines.values())
        change.functions[side][name] = {function: lines.get(function, NOWHERE) for function in changed}
    return ""


def _at_import(lockstep: Lockstep, change: Change) -> str:
    for side in lockstep.sides:
        answer = side.ask("imported", lockstep.limits.import_seconds, files=change.files)
        if answer is None or answer["status"] != "ok":
            return "the import cannot be traced"
        hits = change.hits(side, answer["places"])
        if hits or answer["blind"]:
            return f"{hits[0]} runs at import" if hits else f"at import, {answer['blind']}"
    return ""


def _reaches(lockstep: Lockstep, case: Case, change: Change) -> tuple[list[str], bool]:
    """What of the change a case runs, or why that cannot be told; and whether its set-up does."""
    if case.kind == "timeraw":
        return ["it runs in another interpreter"], False
    found: list[str] = []
    for side in lockstep.sides:
        try:
            answer = side.trace(case, lockstep.core, lockstep.seed, change.files, min(TRACE_S, case.timeout))
        except CaseEnded as error:
            return [str(error)], False  # measuring tells what it is
        finally:
            side.close()
        at_setup = change.hits(side, answer["setup"])
        if at_setup:
            return at_setup, True
        found += change.hits(side, answer["call"]) or [why for why in (str(answer["blind"]),) if why]
    return found, False
