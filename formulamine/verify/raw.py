"""The raw data of a measurement as they are stored: all that the verdict follows from, and nothing computed from it.

Here belong the records and their JSON. Not here: taking samples (`lockstep`) and what they say (`verdict`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

VERSION = "5"
"""Changes with anything that may change a verdict; it belongs in the fingerprint of whoever measures."""


@dataclass(frozen=True)
class ModuleProblem:
    """A module of the suite that does not import on a side, and why."""

    side: str
    module: str
    error: str


@dataclass(frozen=True)
class Round:
    """One fresh child a side: seconds per sample in the order taken, the n-th of base paired with the n-th of head.

    Wall time is without what a side waited for a core that others had. A side that did not end its first call in time
    has no samples; `late_seconds` is how long it had, without that wait. `base_file` and `head_file` are where the
    package under test was imported from. `session` is 1, or 2 for a confirmation that was repeated later; `hash_seed`
    is that of both interpreters, which are shared by the rounds that follow each other with the same one; `at` is in
    seconds since the measurement began. `base_other` and `head_other` are CPU seconds of one call timed the other way:
    the very first one of a benchmark that is timed in a loop, one of a loop where each call is timed after a set-up.
    """

    base_cpu: tuple[float, ...]
    base_wall: tuple[float, ...]
    head_cpu: tuple[float, ...]
    head_wall: tuple[float, ...]
    base_file: str
    head_file: str
    session: int = 1
    hash_seed: int = 0
    at: float = 0.0
    late_seconds: float = 0.0
    base_other: float | None = None
    head_other: float | None = None


@dataclass(frozen=True)
class RawCase:
    """All that was seen of one case in one stage (screen, confirm or control).

    `number` is the calls in a sample, the same on both sides; `limit_seconds` is what one call was allowed; `mode` is
    steady, first_call or single, and `why` says why where that is not ASV's way. `status` is ok, skipped, failed,
    timeout, base_timeout or head_timeout.
    """

    benchmark: str
    stage: str
    kind: str
    mode: str = ""
    why: str = ""
    status: str = "ok"
    detail: str = ""
    number: int = 0
    limit_seconds: float = 0.0
    rounds: tuple[Round, ...] = ()


@dataclass(frozen=True)
class RawValue:
    """What a benchmark that is none of time gave, once in each of a few fresh children; it decides nothing."""

    benchmark: str
    kind: str
    unit: str = ""
    status: str = "ok"
    detail: str = ""
    base: tuple[float, ...] = ()
    head: tuple[float, ...] = ()


@dataclass(frozen=True)
class Selection:
    """Which cases were measured, and why these.

    `mode` is all (`why` says why, nothing where nobody asked for less) or impact: those `reached` by the change, and of
    the others, `excluded` in number, a sample of some to check the choice. `changed` names functions.
    """

    mode: str = "all"
    why: str = ""
    changed: tuple[str, ...] = ()
    reached: tuple[str, ...] = ()
    sampled: tuple[str, ...] = ()
    excluded: int = 0


@dataclass(frozen=True)
class RawMeasurement:
    """A whole measurement.

    `reason` says in one word why a side could not be used, `detail` in more; `one_sided` are (case, kind, the side that
    has it), `values` benchmarks whose kind decides nothing, `load` the machine's load before and after.
    """

    cases: tuple[RawCase, ...] = ()
    one_sided: tuple[tuple[str, str, str], ...] = ()
    values: tuple[RawValue, ...] = ()
    problems: tuple[ModuleProblem, ...] = ()
    reason: str = ""
    detail: str = ""
    load: tuple[str, str] = ("", "")
    selection: Selection = Selection()
    version: str = VERSION

    def to_json(self) -> str:
        """As JSON, from which `from_json` gives back an equal object."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> RawMeasurement:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The text is no JSON.
            TypeError: It has other fields.
        """
        fields = json.loads(text)
        fields["cases"] = tuple(
            RawCase(**{**case, "rounds": tuple(Round(**tuples(of)) for of in case["rounds"])})
            for case in fields["cases"]
        )
        fields["values"] = tuple(RawValue(**tuples(value)) for value in fields["values"])
        fields["selection"] = Selection(**tuples(fields["selection"]))
        fields["problems"] = tuple(ModuleProblem(**problem) for problem in fields["problems"])
        fields["one_sided"] = tuple((name, kind, side) for name, kind, side in fields["one_sided"])
        return cls(**tuples(fields))


def tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields as JSON gives them, with tuples for lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
