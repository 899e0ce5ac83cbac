"""Which limits of the sandbox hold here and now: each is tried by running something that it must stop.

Here belong the six trials of `formulamine doctor`. The sandbox itself is `services/sandbox.py`; these run in it just
as a month's builds do.
"""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from formulamine.doctor import Examination, Finding, State, who
from formulamine.items import Cancelled
from formulamine.services.sandbox import MAX_PROCESSES, Command, Isolation, Result, Sandbox, bubblewrap

TRIAL_S = 4.0  # far more than any trial takes
GONE_S = 2.0  # the kernel kills a namespace a moment after its first process
MEMORY_MB = 64
SHELL = "/bin/sh"
NO_FOREIGN_CODE = "images and speedup_measurements of any repository but the demo's"
BUBBLEWRAP = "apt-get install bubblewrap; in a container give it CAP_SYS_ADMIN, see deploy/README.md"
CGROUP = "run as a user who may write a cgroup (root on most machines), or accept it with `month --trust`"


def _network(box: Sandbox, _: Path) -> bool:
    """No interface but the loopback."""
    listed = box.run(Command([SHELL, "-c", "cat /proc/net/dev"], timeout_s=TRIAL_S))
    names = [line.partition(":")[0].strip() for line in listed.output.splitlines() if ":" in line]
    return listed.ok and names == ["lo"]


def _filesystem(box: Sandbox, hidden: Path) -> bool:
    """Nothing of the host can be written, and what is not given cannot be seen."""
    script = f"test -w / || test -w /usr || test -e {shlex.quote(str(hidden))}"
    return box.run(Command([SHELL, "-c", f"! {{ {script}; }}"], timeout_s=TRIAL_S)).ok


def _wall_time(box: Sandbox, _: Path) -> bool:
    """When time is up, a child that left its parent's session is gone too."""
    name = f"60.{uuid.uuid4().int}"
    ended = box.run(Command([SHELL, "-c", f"setsid sleep {name} & sleep {name}"], timeout_s=0.3))
    gone_by = time.monotonic() + GONE_S
    while any(name.encode() in line for line in _command_lines()):
        if time.monotonic() > gone_by:
            return False
        time.sleep(0.02)
    return ended.timed_out


def _process_memory(box: Sandbox, _: Path) -> bool:
    """One process cannot take more than it may."""
    script = f"head -c {2 * MEMORY_MB}M /dev/zero | tail >/dev/null"
    return _refused(box.run(Command([SHELL, "-c", script], memory_mb=MEMORY_MB, timeout_s=TRIAL_S)))


def _total_memory(box: Sandbox, _: Path) -> bool:
    """Nor can several together, each below what one may."""
    one = f"head -c {MEMORY_MB * 3 // 4}M /dev/zero | tail >/dev/null"
    script = f"{one} & {one} & {one} & wait"
    return box.run(Command([SHELL, "-c", script], memory_mb=MEMORY_MB, timeout_s=TRIAL_S)).out_of_memory


def _process_count(box: Sandbox, _: Path) -> bool:
    """A shell is refused one more process at some point."""
    script = f"i=0; while [ $i -lt {MAX_PROCESSES} ]; do sleep 9 & i=$((i+1)); done 2>/dev/null"
    return _refused(box.run(Command([SHELL, "-c", script], timeout_s=TRIAL_S)))


def _refused(result: Result) -> bool:
    return result.exit_code != 0 and not result.timed_out


def _command_lines() -> Iterator[bytes]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended since
            yield (process / "cmdline").read_bytes()


ALWAYS: dict[str, Callable[[Sandbox, Path], bool]] = {
    "network": _network,
    "filesystem": _filesystem,
    "wall time": _wall_time,
    "process memory": _process_memory,
}
"""What bubblewrap and the kernel's limits of one process enforce: foreign code never runs without them."""
BY_CGROUP: dict[str, Callable[[Sandbox, Path], bool]] = {
    "total memory": _total_memory,
    "process count": _process_count,
}
"""What takes a cgroup; `--trust` goes without."""
LIMITS = (*ALWAYS, *BY_CGROUP)


def sandbox(examination: Examination) -> list[Finding]:
    """Bubblewrap, and each limit, as the user that we are."""
    isolation = Isolation.probe()
    us = f"as {who()}{_as_nobody()}"
    if not isolation.bubblewrap:
        why_not = f"{isolation.why_not} ({us})"
        return [
            Finding("sandbox", State.MISSING, why_not, NO_FOREIGN_CODE, BUBBLEWRAP, needed=True),
            *(Finding(f"limit: {name}", State.MISSING, "not without bubblewrap") for name in LIMITS),
        ]
    findings = [Finding("sandbox", State.OK, f"bubblewrap works {us}", needed=True)]
    for trials, cgroups in ((ALWAYS, False), (BY_CGROUP, True)):
        # Without a cgroup first, so that what the one enforces is not taken for the other's work.
        box = Sandbox(isolated=True, cgroups=cgroups, cancelled=examination.ended)
        for name, holds in trials.items():
            if cgroups and not isolation.cgroups:
                found = (State.MISSING, "no cgroup can be written", f"{NO_FOREIGN_CODE}, unless with --trust", CGROUP)
            else:
                found = _tried(holds, box, examination.scratch)
            findings.append(Finding(f"limit: {name}", *found, needed=not cgroups))
    return findings


def _tried(holds: Callable[[Sandbox, Path], bool], box: Sandbox, hidden: Path) -> tuple[State, str, str, str]:
    try:
        if holds(box, hidden):
            return State.OK, "tried, and it holds", "", ""
    except Cancelled:
        return State.UNREACHABLE, "no time left to try it", NO_FOREIGN_CODE, ""
    return State.MISSING, "tried, and it does not hold", NO_FOREIGN_CODE, BUBBLEWRAP


def _as_nobody() -> str:
    """What an ordinary user would find here; only root can try that."""
    names = {one.pw_name for one in pwd.getpwall()}
    if os.geteuid() != 0 or "nobody" not in names:
        return ""
    account = pwd.getpwnam("nobody")
    argv = [SHELL, "-c", 'exec "$@"', "sh", *bubblewrap(Command(["/bin/true"]))]
    tried = subprocess.run(
        argv, user=account.pw_uid, group=account.pw_gid, extra_groups=[], cwd="/", timeout=TRIAL_S, check=False,
        stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip
    return f"; as user nobody it {'works too' if tried.returncode == 0 else 'does not'}"
