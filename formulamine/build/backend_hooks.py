"""Calls one PEP 517 hook. Runs inside the sandbox, with the build environment's Python (3.8 and later).

Usage: backend_hooks.py BACKEND BACKEND_PATH HOOK OUTPUT. The working directory is the package root, BACKEND_PATH is
separated by ":", and the answer is one JSON line after the marker, so that whatever a setup.py prints does no harm.
"""

import importlib
import json
import os
import sys

ANSWER = "FORMULAMINE_ANSWER "


def main(backend_name: str, backend_path: str, hook: str, output: str) -> object:
    """Call a hook; optional hooks that the backend lacks answer as PEP 517 says they default to."""
    sys.path[:0] = [os.path.abspath(path) for path in backend_path.split(":") if path]
    module_name, _, attribute = backend_name.partition(":")
    backend = importlib.import_module(module_name)
    for name in filter(None, attribute.split(".")):
        backend = getattr(backend, name)
    if hook == "get_requires_for_build_wheel":
        return getattr(backend, hook, lambda settings: [])(None)
    if hook == "metadata":
        if hasattr(backend, "prepare_metadata_for_build_wheel"):
            folder = backend.prepare_metadata_for_build_wheel(output, None)
            with open(os.path.join(output, folder, "METADATA"), encoding="utf-8") as file:
                return file.read()
        import zipfile

        wheel = os.path.join(output, backend.build_wheel(output, None))
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA")]
            return archive.read(name).decode()
    return backend.build_wheel(output, None)


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file: nothing of it belongs to the build
    answer = main(*sys.argv[1:])
    sys.stdout.flush()
    print("\n" + ANSWER + json.dumps(answer))
