"""Compiles what is installed in an environment, so that nobody who imports it compiles it again.

Here belongs the script that does it. It runs in a sandbox, with the interpreter of the environment (3.8 and later) and
nothing of what is installed: sources are read, and none is run. What was compiled before is removed first, since it
would run in place of its source. Python compares the hash of a source with the one that its bytecode names (PEP 552),
whatever the times of files: layers of images do not keep them.

Usage: python -I -S -B -c SCRIPT FOLDER
"""

import compileall
import os
import py_compile
import re
import shutil
import sys

FLAGS = (3).to_bytes(4, "little")
"""Of such bytecode, behind its magic number."""
NEVER_IMPORTED = re.compile(r"/tests?/")
"""Half of the files and three quarters of the time, in pandas' environment: 3,237 and 14 s with them, 4 s without."""


def main(folder: str) -> None:
    """Compile all sources below a folder; one that does not compile says so when it is imported."""
    for parent, names, _ in os.walk(folder):
        if "__pycache__" in names:
            names.remove("__pycache__")
            shutil.rmtree(os.path.join(parent, "__pycache__"))
    checked = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(folder, quiet=2, force=True, rx=NEVER_IMPORTED, workers=0, invalidation_mode=checked)


if __name__ == "__main__":
    main(sys.argv[1])
