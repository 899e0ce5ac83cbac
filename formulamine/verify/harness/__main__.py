"""How a side starts: the environment that must stand before an interpreter does, and this folder as a package.

Here belongs what comes before the first foreign import. Not here: what a side then does (`zygote`).
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.util
import json
import os
import sys
from typing import Any

NAME = "_formulamine_harness"  # what foreign code is unlikely to call a module of its own
# Above what a suite is likely to open or close by number, so that "close all from 3 to 100" spares the protocol.
PROTOCOL_FD = 200
# Children share one pinned core, and a thread that BLAS started in the zygote does not survive a fork.
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def first_request() -> dict[str, Any]:
    """The request to start, read byte by byte: what follows it is for the interpreter that follows this one."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(0)
        line += byte
    return dict(json.loads(line))


def main() -> None:
    """Set the process up as a side and serve."""
    config = json.loads(sys.argv[1])
    if "hash_seed" not in config:
        request = first_request()
        config.update(request=request["id"], hash_seed=request["hash_seed"], tracing=request["tracing"])
    # Sets and dictionaries of strings must be laid out alike on both sides, which only a new start can bring about.
    wanted = dict.fromkeys(ONE_THREAD, "1")
    wanted["PYTHONHASHSEED"] = str(config["hash_seed"] % 2**32)
    folder = os.path.dirname(os.path.abspath(__file__))
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        command = [sys.executable, "-B", folder, json.dumps(config)]
        os.execve(sys.executable, command, dict(os.environ, **wanted))
    # The interpreter put this folder first; what is in it must not pass for modules of the standard library.
    del sys.path[0]
    requests = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, PROTOCOL_FD)
    answers = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, PROTOCOL_FD)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)  # whatever foreign code prints goes where errors go
    found = importlib.util.spec_from_file_location(
        NAME, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert found is not None
    sys.modules[NAME] = importlib.util.module_from_spec(found)
    importlib.import_module(NAME + ".zygote").Zygote(config, requests, answers).serve()


if __name__ == "__main__":
    main()
