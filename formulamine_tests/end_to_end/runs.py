"""How end-to-end tests call formulamine: the installed command in a process of its own, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import polars as pl

from formulamine.services.store import Tables, content_hash
from formulamine.tables import SIDE_SCHEMAS, TABLES
from formulamine_tests.services.histories import History, day

COMMAND = [sys.executable, "-m", "formulamine"]
MONTH = "2024-02"
CONFIG = '{"version": 1, "project": "p", "benchmark_dir": "benchmarks"}  // a comment\n'


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines on standard error besides the one that says where state is."""
        return [line for line in self.err.splitlines() if line and not line.startswith("state is in ")]


def environment(home: Path, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FORMULAMINE_", "DAGSTER_"))}
    return {**kept, "FORMULAMINE_HOME": str(home), **(variables or {})}


def formulamine(home: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> Ended:
    """Run the command to its end."""
    home.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=home.parent, env=environment(home, variables),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


HEAVY = ["dagster", "scipy", "openai", "anthropic", "instructor", "datasets", "huggingface_hub", "github"]


def heavy_imports(home: Path, *arguments: str) -> list[str]:
    """Heavy modules that a command imports."""
    asked = (
        "import sys\nfrom formulamine.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked, *arguments], cwd=home.parent, env=environment(home),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()[-1].split()


def table(home: Path, name: str, month: str = MONTH) -> pl.DataFrame:
    frame = Tables(home / "tables").read(name, month)
    assert frame is not None, f"{name} of {month} was never made"
    return frame


def contents(home: Path, month: str = MONTH) -> dict[str, str]:
    """What every table of a month says."""
    return {name: content_hash(table(home, name, month)) for name in (*TABLES, *SIDE_SCHEMAS)}


Ending = tuple[str, str, str | None]


def endings(home: Path) -> dict[int, Ending]:
    """The last asset that each pull request reached, its status there, and why."""
    numbers = dict(table(home, "pull_requests").select("pr_id", "number").rows())
    found: dict[int, Ending] = {}
    for name in [name for name in TABLES if name != "repositories"]:
        for pr_id, status, reason in table(home, name).select("pr_id", "status", "reason").rows():
            found[numbers[pr_id]] = (name, status, reason)
    return found


def expected_endings() -> dict[int, Ending]:
    """The same as `demo/expected.toml` has it, read here once more and not by the demo's own reader."""
    text = resources.files("formulamine.demo").joinpath("expected.toml").read_text(encoding="utf-8")
    return {
        row["number"]: (row["asset"], row["status"], row.get("reason")) for row in tomllib.loads(text)["pull_request"]
    }


def usable(*titles: str) -> History:
    """A repository with a suite since January, one squash a title in February, and a later commit in March."""
    made = History()
    start = {"asv.conf.json": CONFIG, "benchmarks/bench_it.py": "def time_it(): pass\n", "p/__init__.py": "A = 1\n"}
    last = made.commit("Start", day(5, month=1), dict(start))
    for number, title in enumerate(titles, 1):
        last = made.commit(f"{title} (#{number})", day(number), {f"docs/{number}.rst": title}, start=last)
    made.commit("Later", day(2, month=3), {"p/later.py": "B = 2\n"}, start=last)
    return made
