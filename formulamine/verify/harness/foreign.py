"""What is to be known of foreign code in this process: its errors, its random numbers, and where it came from."""

from __future__ import annotations

import os
import random
import sys
import traceback


def describe(error: BaseException) -> str:
    """The error in one line, with the place in foreign code where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return "".join(traceback.format_exception_only(type(error), error)).strip()[-500:] + place


def seed_generators(seed: int) -> None:
    """Seed Python's generator, and numpy's where something has loaded numpy; alike on both sides."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        numpy.random.seed(seed % 2**32)


def imported_from(names: list[str]) -> dict[str, str]:
    """Where each module of `names` that is imported came from: its `__file__`, or the directory of a namespace."""
    found = {}
    for name in names:
        module = sys.modules.get(name)
        if module is not None:
            found[name] = str(getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), ""))
    return found


def misplaced(files: dict[str, str], site: str) -> str:
    """Say which of `files` lies outside `site`; empty where all are inside."""
    inside = os.path.join(os.path.realpath(site), "")
    wrong = [
        f"{name} is imported from {path}"
        for name, path in files.items()
        if not os.path.realpath(path).startswith(inside)
    ]
    return f"{'; '.join(wrong)}, not from {site}" if wrong else ""


def pin(core: int | None) -> None:
    """Keep this process on one core, where that is ours to say."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(0, {core})
        except OSError:
            print(f"formulamine: core {core} is not ours to pin to", file=sys.stderr)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`."""
    while data:
        data = data[os.write(descriptor, data) :]
