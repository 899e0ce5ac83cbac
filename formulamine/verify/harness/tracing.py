"""Which functions run: one entry for each, whatever it is called by and however often.

Here belong the hooks of the interpreter. Not here: which functions are of interest, and what follows from them.
"""

from __future__ import annotations

import cProfile
import os
import sys
import threading
from types import CodeType, FrameType
from typing import Any

ELSEWHERE = ("os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "subprocess.Popen")
# Programs that tell of the machine and run no Python. Libraries ask them when they are imported: numpy.testing asks
# lscpu, the standard library's platform and ctypes.util the others.
TELLING = frozenset({"arch", "file", "gcc", "cc", "ld", "ldconfig", "lscpu", "nproc", "objdump", "uname"})
TOOL = 4  # of the six of sys.monitoring, one that is neither debugger, coverage, profiler nor optimizer


class Tracer:
    """Collects the code objects that start while it runs. `blind` says why some may be missing, else nothing."""

    def __init__(self) -> None:
        self.seen: set[CodeType] = set()
        self.blind = ""
        self.running = False
        self.profile: Any = None
        sys.addaudithook(self._audit)  # stays for good, so only processes that measure nothing trace

    def start(self) -> None:
        """Forget what was seen, and begin."""
        self.seen, self.running = set(), True
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            if monitoring.get_tool(TOOL) is None:
                monitoring.use_tool_id(TOOL, "formulamine")
            starts = monitoring.events.PY_START | monitoring.events.PY_RESUME
            for event in (monitoring.events.PY_START, monitoring.events.PY_RESUME):
                monitoring.register_callback(TOOL, event, self._started)
            monitoring.restart_events()
            monitoring.set_events(TOOL, starts)
        else:
            # In C where it can be, which costs a call a fraction of what a hook in Python does.
            threading.setprofile(self._called)
            self.profile = cProfile.Profile(builtins=False)
            self.profile.enable()

    def stop(self) -> set[CodeType]:
        """End, and give what was seen."""
        self.running = False
        if sys.version_info >= (3, 12):
            sys.monitoring.set_events(TOOL, 0)
        else:
            self.profile.disable()
            threading.setprofile(None)
            self.seen |= {entry.code for entry in self.profile.getstats() if isinstance(entry.code, CodeType)}
        return self.seen

    def _started(self, code: CodeType, _: int) -> Any:
        self.seen.add(code)
        return sys.monitoring.DISABLE  # type: ignore[attr-defined,unused-ignore]

    def _called(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            self.seen.add(frame.f_code)

    def _audit(self, event: str, arguments: Any) -> None:
        if self.running and event in ELSEWHERE and not _only_tells(event, arguments):
            self.blind = f"it starts another process ({event})"


def _only_tells(event: str, arguments: Any) -> bool:
    """Whether a process that is started runs one of the programs that only tell of the machine."""
    if event not in ("subprocess.Popen", "os.posix_spawn"):
        return False
    program = arguments[0]
    return isinstance(program, str) and os.path.basename(program) in TELLING


def places(codes: set[CodeType], site: str, files: list[str]) -> list[list[Any]]:
    """Of code objects, those of `files`, each as the file below `site` and its first line; 0 for a module's own."""
    return places_of([[code.co_filename, code.co_name, code.co_firstlineno] for code in codes], site, files)


def places_of(codes: list[list[Any]], site: str, files: list[str]) -> list[list[Any]]:
    """As `places`, of code objects as JSON can hold them: file, name and first line."""
    wanted = {os.path.realpath(os.path.join(site, name)): name for name in files}
    found = set()
    for path, name, line in codes:
        file = wanted.get(os.path.realpath(path))
        if file is not None:
            found.add((file, 0 if name == "<module>" else line))
    return [list(place) for place in sorted(found)]
