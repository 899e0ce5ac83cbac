"""What benchmarks give back on both sides: a difference is told, and rejects nothing.

Here belong one call of each confirmed benchmark on either side, and the comparison. Most benchmarks give back nothing,
and of those that do, not every value means the same: an order that nobody promised, a random number drawn once less, a
time. So a difference is a warning for a person; what must hold is said by tests (`correctness`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from formulamine.verify.lockstep import Lockstep
from formulamine.verify.side import Case, CaseEnded, SideBroken, SideDied

# Numbers that differ by less are the same: sums in another order do, by some 1e-12 of their size.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Returned:
    """What one benchmark gave back on each side, as JSON of `harness.returned.comparable`; or why it could not say."""

    benchmark: str
    base: str = "null"
    head: str = "null"
    detail: str = ""

    @property
    def differs(self) -> bool:
        """Whether both sides gave something that can be compared, and not the same."""
        base, head = json.loads(self.base), json.loads(self.head)
        return base is not None and head is not None and not alike(base, head)


def call_once(lockstep: Lockstep, names: Sequence[str]) -> list[Returned]:
    """Call benchmark cases once on each side of a lockstep, seeded alike.

    Args:
        lockstep: both sides.
        names: of the cases, as people read them.

    Raises:
        Cancelled: the caller asked to end.
    """
    found = []
    try:
        cases = {case.name: case for case in lockstep.discover().cases}
        for name in names:
            case = cases.get(name)
            if case is not None and case.kind == "time":
                found.append(_called(lockstep, case))
    except SideBroken as error:
        found += [Returned(name, detail=str(error)) for name in names if name not in {one.benchmark for one in found}]
    return found


def to_json(found: Sequence[Returned]) -> str:
    """As JSON, from which `from_json` gives back equal objects."""
    return json.dumps([asdict(one) for one in found])


def from_json(text: str) -> list[Returned]:
    """Read what `to_json` wrote.

    Raises:
        ValueError: The text is no JSON.
        TypeError: It has other fields.
    """
    return [Returned(**fields) for fields in json.loads(text)]


def alike(one: Any, other: Any) -> bool:
    """Whether two values as `comparable` writes them are the same, up to rounding; None says nothing."""
    if one is None or other is None:
        return True
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if (isinstance(one, str) and isinstance(other, float)) or (isinstance(one, float) and isinstance(other, str)):
        return _number(one) == _number(other)  # 2 and 2.0
    return bool(one == other)


def _number(value: str | float) -> float | None:
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _called(lockstep: Lockstep, case: Case) -> Returned:
    values = []
    try:
        for side in lockstep.sides:
            side.start()
            side.ready()
            try:
                side.open(case, lockstep.core, lockstep.seed)
                values.append(json.dumps(side.returned(lockstep.seed, case.timeout)))
            finally:
                side.close()
    except (CaseEnded, SideDied) as error:
        return Returned(case.name, detail=str(error))
    return Returned(case.name, *values)
