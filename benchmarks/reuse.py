"""What a second run of a month costs: the demo's month, run twice and once more with its tables deleted.

Prints seconds and the ratio to the first run of the same session. Usage: python benchmarks/reuse.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from formulamine.demo.sample import MONTH, REPOSITORY, write_sample


def main() -> None:
    """Run and print."""
    with tempfile.TemporaryDirectory(prefix="formulamine-bench-") as folder:
        home = Path(folder, "home")
        write_sample(Path(folder, "sample.git"))
        first = run(home, "--repo", f"{REPOSITORY}={folder}/sample.git")
        second = run(home)
        shutil.rmtree(home / "tables")
        rebuilt = run(home)
    print(f"first run       {first:6.1f} s")
    print(f"second run      {second:6.1f} s  {second / first:.1%} of the first")
    print(f"tables deleted  {rebuilt:6.1f} s  {rebuilt / first:.1%} of the first")


def run(home: Path, *arguments: str) -> float:
    """Seconds of one `formulamine month`."""
    command = [sys.executable, "-m", "formulamine", "month", MONTH, *arguments]
    started = time.monotonic()
    subprocess.run(command, env={**os.environ, "FORMULAMINE_HOME": str(home)}, check=True, capture_output=True)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
