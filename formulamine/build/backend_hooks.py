"""Calls one PEP 517 hook. Runs inside the sandbox, with the build environment's Python (3.8 and later).

Usage: backend_hooks.py BACKEND BACKEND_PATH HOOK OUTPUT SETTINGS. The working directory is the package root,
BACKEND_PATH is separated by ":", SETTINGS is a JSON object, and the answer is one JSON line after the marker, so that
whatever a setup.py prints does no harm.
"""

import importlib
import json
import os
import sys

ANSWER = "FORMULAMINE_ANSWER "


def main(backend_name: str, backend_path: str, hook: str, output: str, config: str) -> object:
    """Call a hook; optional hooks that the backend lacks answer as PEP 517 says they default to."""
    sys.path[:0] = [os.path.abspath(path) for path in backend_path.split(":") if path]
    settings = json.loads(config) or None
    module_name, _, attribute = backend_name.partition(":")
    backend = importlib.import_module(module_name)
    for name in filter(None, attribute.split(".")):
        backend = getattr(backend, name)
    if hook == "get_requires_for_build_wheel":
        return getattr(backend, hook, lambda _: [])(settings)
    if hook == "metadata":
        if hasattr(backend, "prepare_metadata_for_build_wheel"):
            folder = backend.prepare_metadata_for_build_wheel(output, settings)
            with open(os.path.join(output, folder, "METADATA"), encoding="utf-8") as file:
                return file.read()
        import zipfile

        wheel = os.path.join(output, backend.build_wheel(output, settings))
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA")]
            return archive.read(name).decode()
    return backend.build_wheel(output, settings)


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file: nothing of it belongs to the build
    answer = main(*sys.argv[1:])
    sys.stdout.flush()
    # All at once: what is printed to standard error at the end must not come in between.
    print("\n" + ANSWER + json.dumps(answer), flush=True)
