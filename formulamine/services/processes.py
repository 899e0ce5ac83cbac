"""Which process something belongs to, told so that another process can see whether it is still there."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def this_process() -> str:
    """This process: where it runs, its number, and the moment of its start, since numbers are used again."""
    return f"{_place()} {_process(os.getpid())}"


def is_alive(told: str) -> bool:
    """Whether a process is still there. One of another machine or container cannot be seen from here, and counts."""
    place, _, process = told.partition(" ")
    return place != _place() or process == _process(int(process.partition("@")[0]))


def number(told: str) -> str:
    """Its number."""
    return told.partition(" ")[2].partition("@")[0]


def _place() -> str:
    """Where process numbers mean the same as here."""
    return f"{socket.gethostname()}/{os.readlink('/proc/self/ns/pid').strip('pid:[]')}"


def _process(pid: int) -> str:
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "" if state in "ZX" else f"{pid}@{rest[18]}-{boot}"
