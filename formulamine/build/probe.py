"""Says what one built side is. Runs inside the sandbox, without network, with the environment's Python (3.8 and later).

Usage: probe.py CONFIG_JSON. It imports the package and discovers the suite, and answers with one JSON line after the
marker. Nothing here judges: paths and counts are compared on the host, in `facts.py`.
"""

import importlib
import io
import json
import os
import sys
import traceback
from contextlib import redirect_stderr

ANSWER = "FORMULAMINE_FACTS "


def main(config: dict) -> dict:  # type: ignore[type-arg]  # Python 3.8 does not know dict[str, Any]
    """Import what is named and list the benchmarks."""
    sys.path[:0] = [config["suite_parent"], config["site"]]
    imported, failed = {}, {}
    for name in config["import_names"]:
        try:
            module = importlib.import_module(name)
        except BaseException as error:  # a package may raise SystemExit on import; all of it is the answer
            failed[name] = f"import {name}: {type(error).__name__}: {error}"
            continue
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [""])))
        imported[name] = [str(place), str(getattr(module, "__version__", ""))]
    sys.path.insert(0, config["tools"])
    from asv_runner.discovery import disc_benchmarks

    sys.path.remove(config["tools"])
    sys.path.append(config["tools"])
    errors = io.StringIO()
    with redirect_stderr(errors):
        suite = os.path.join(config["suite_parent"], config["suite"])
        try:
            names = sorted({f"{one.type}:{one.name}" for one in disc_benchmarks(suite, True)})
        except BaseException:
            names = []
            traceback.print_exc(file=errors)
    last = [line for line in errors.getvalue().splitlines() if line and not line.startswith((" ", "Traceback"))]
    places = {name: str(getattr(sys.modules.get(name), "__file__", "")) for name in ("timeit", "asv_runner")}
    return {
        "imported": imported,
        "errors": failed,
        "benchmarks": names,
        "suite_errors": last,
        "timer": places["timeit"],
        "runner": places["asv_runner"],
    }


if __name__ == "__main__":
    sys.path.pop(0)
    found = main(json.loads(sys.argv[1]))
    sys.stdout.flush()
    print("\n" + ANSWER + json.dumps(found), flush=True)
    os._exit(0)  # no thread and no exit handler of the package has the last word
