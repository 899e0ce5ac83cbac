"""What is configured, reachable and missing on this machine, and what each gap disables.

Here belong the probes of `formulamine doctor`, how they run side by side within a time limit, and how their findings
read. A probe asks the same service that a month would use; nothing it does makes a file in FORMULAMINE_HOME, a ledger
or a database. What a month needs of each service does not belong here.
"""

from __future__ import annotations

import json
import os
import queue
import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from formulamine.settings import Settings

LIMIT_S = 7.0  # of all probes together; a probe that has not answered by then is unreachable
CONNECT_S = 4  # of one connection
_LOGIN = re.compile(r"(?<=//)[^/\s]*@")  # in a URL


class State(StrEnum):
    """How a thing was found."""

    OK = "ok"
    MISSING = "missing"
    UNREACHABLE = "unreachable"
    NOT_USED = "not used yet"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    value: str = ""
    disables: str = ""
    """What does not work because of it; empty where it is as it should be."""
    mend: str = ""
    needed: bool = False
    """Whether no month can be run on the local backend without it."""

    def cleaned(self) -> Finding:
        """The same without any login that a tool may have told in a URL."""
        value, mend = (_LOGIN.sub("***@", text) for text in (self.value, self.mend))
        return Finding(self.name, self.state, value, self.disables, mend, self.needed)


@dataclass(frozen=True)
class Report:
    """All findings, in the order in which they are shown."""

    findings: Sequence[Finding]

    @property
    def ready(self) -> bool:
        """Whether a month can be run on the local backend."""
        return all(one.state is State.OK for one in self.findings if one.needed)

    @property
    def exit_code(self) -> int:
        """0 where a month can be run on the local backend, 1 otherwise."""
        return 0 if self.ready else 1

    def render(self) -> str:
        """For a terminal."""
        width = max(len(one.name) for one in self.findings)
        lines = []
        for one in self.findings:
            lines.append(f"{one.state:<12}  {one.name:<{width}}  {one.value}".rstrip())
            lines += [f"{'':<14}{'':<{width}}  {text}" for text in _consequence(one)]
        ready = "a month can be run on the local backend"
        gaps = ", ".join(one.name for one in self.findings if one.needed and one.state is not State.OK)
        return "\n".join([*lines, "", ready if self.ready else f"no month can be run here yet: {gaps}"])

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps({"ready": self.ready, "findings": [asdict(one) for one in self.findings]}, indent=2)


def _consequence(one: Finding) -> list[str]:
    texts = [f"disables: {one.disables}" if one.disables else "", f"mend: {one.mend}" if one.mend else ""]
    return [text for text in texts if text]


@dataclass
class Examination:
    """What probes share: the settings, and a folder that goes again."""

    settings: Settings
    scratch: Path
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when time is up: whatever a probe waits for is given up."""


@dataclass(frozen=True)
class Probe:
    """Looks at one thing. Its findings say what is; `names` and `otherwise` stand where it does not answer in time."""

    names: tuple[str, ...]
    look: Callable[[Examination], Sequence[Finding]]
    otherwise: str
    """What is disabled then."""
    needed: bool = False


def doctor(settings: Settings, probes: Sequence[Probe] | None = None, limit_s: float = LIMIT_S) -> Report:
    """Look at everything, side by side.

    Args:
        settings: what is looked at.
        probes: in the order of the report; None for all there are.
        limit_s: seconds after which whatever has not answered is unreachable.

    Raises:
        Exception: what a probe raised unforeseen.
    """
    from formulamine.doctor_probes import PROBES  # all that is heavy is loaded before the clock starts

    chosen = PROBES if probes is None else probes
    answers: queue.SimpleQueue[tuple[int, Sequence[Finding] | Exception]] = queue.SimpleQueue()
    found: dict[int, Sequence[Finding]] = {}
    deadline = time.monotonic() + limit_s
    with ExitStack() as stack:
        # What a probe left in it when time was up may still be written to: that is no reason to fail.
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="formulamine-doctor-", ignore_cleanup_errors=True)
        )
        examination = Examination(settings, Path(folder))
        stack.callback(examination.ended.set)
        for number, probe in enumerate(chosen):
            # A thread that Python does not wait for at its end: a probe may hang where nothing can wake it.
            threading.Thread(target=_look, args=(number, probe, examination, answers), daemon=True).start()
        while len(found) < len(chosen) and (left := deadline - time.monotonic()) > 0:
            try:
                number, answer = answers.get(timeout=left)
            except queue.Empty:
                break
            if isinstance(answer, Exception):
                raise answer
            found[number] = answer
    late = f"no answer within {limit_s:g} s"
    findings = [
        one.cleaned()
        for number, probe in enumerate(chosen)
        for one in found.get(number)
        or [Finding(name, State.UNREACHABLE, late, probe.otherwise, needed=probe.needed) for name in probe.names]
    ]
    return Report(findings)


def _look(
    number: int,
    probe: Probe,
    examination: Examination,
    answers: queue.SimpleQueue[tuple[int, Sequence[Finding] | Exception]],
) -> None:
    try:
        answers.put((number, probe.look(examination)))
    except Exception as error:  # handed to the thread that asked, which raises it
        answers.put((number, error))


def who() -> str:
    """The user that we are."""
    return "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
