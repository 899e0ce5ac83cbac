"""Control groups: total memory and process count of one sandbox, in version 1 or 2 of the kernel's interface.

Here belongs making, entering, killing and removing one group. Where none can be made, `Cgroup.available` says so, and
the limit is not claimed.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
FOLDER = "formulamine"
REMOVE_TRIES = 50  # of 20 ms: the kernel lets a group go a moment after its last process


@dataclass(frozen=True)
class Cgroup:
    """One group: a folder in each hierarchy that limits something (one in version 2, two in version 1)."""

    folders: tuple[Path, ...]

    @classmethod
    def available(cls) -> bool:
        """Whether a group with both limits can be made and entered here. Also clears what killed runs left behind."""
        try:
            for parent in _parents():
                for old in parent.glob("*-*"):
                    if not Path("/proc", old.name.partition("-")[0]).exists():  # else its process is about to enter it
                        with suppress(OSError):
                            old.rmdir()
            group = cls.create(64, 8)
        except OSError:
            return False
        try:
            entered = subprocess.run(["/bin/sh", "-c", f"{group.enter} :"], check=False, stderr=subprocess.DEVNULL)
            return entered.returncode == 0
        finally:
            group.remove()

    @classmethod
    def create(cls, memory_mb: int, processes: int) -> Cgroup:
        """Make a group with limits.

        Raises:
            OSError: none can be made.
        """
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        group = cls(tuple(parent / name for parent in _parents()))
        memory, pids = group.folders[0], group.folders[-1]
        limits = {
            memory / ("memory.max" if _version_2() else "memory.limit_in_bytes"): memory_mb * 2**20,
            pids / "pids.max": processes,
        }
        try:
            for folder in group.folders:
                folder.mkdir()
            for file, limit in limits.items():
                with file.open("r+") as existing:  # never made by us: in a plain folder it would limit nothing
                    existing.write(str(limit))
        except OSError:
            group.remove()
            raise
        return group

    @property
    def enter(self) -> str:
        """Shell command with which a process enters the group, before it becomes the sandbox."""
        return " ".join(
            f"echo $$ > {shlex.quote(str(folder / 'cgroup.procs'))} || exit 125;" for folder in self.folders
        )

    def out_of_memory(self) -> bool:
        """Whether the kernel killed a process of the group for memory."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with suppress(OSError):
                    words = (folder / name).read_text().split()
                    if "oom_kill" in words and words[words.index("oom_kill") + 1] != "0":
                        return True
        return False

    def kill(self) -> None:
        """Kill every process of the group."""
        for folder in self.folders:
            with suppress(OSError):
                for pid in (folder / "cgroup.procs").read_text().split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)

    def remove(self) -> None:
        """Remove the group once its processes are gone."""
        for folder in self.folders:
            for _ in range(REMOVE_TRIES):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    self.kill()
                    time.sleep(0.02)


def _version_2() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def _parents() -> list[Path]:
    """Our folder in each hierarchy, made if it is not there."""
    if _version_2():
        parents = [ROOT / FOLDER]
        (ROOT / "cgroup.subtree_control").write_text("+memory +pids")
        parents[0].mkdir(exist_ok=True)
        (parents[0] / "cgroup.subtree_control").write_text("+memory +pids")
        return parents
    parents = [ROOT / "memory" / FOLDER, ROOT / "pids" / FOLDER]
    for parent in parents:
        parent.mkdir(exist_ok=True)
    return parents
