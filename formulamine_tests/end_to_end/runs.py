"""How end-to-end tests call formulamine: the installed command in a process of its own, and what it leaves behind."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import polars as pl

from formulamine.services.store import Tables, content_hash
from formulamine.tables import SIDE_SCHEMAS, TABLES
from formulamine_tests.services.histories import History, day

COMMAND = [sys.executable, "-m", "formulamine"]
MONTH = "2024-02"
# The controls are a third of a measurement's time, and say nothing about being interrupted.
QUICK = {"FORMULAMINE_CONTROL_CASES": "0"}
GONE_WITHIN_S = 5.0
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


@dataclass(frozen=True)
class Hit:
    """A command that was sent a signal, and what was there `GONE_WITHIN_S` after its end."""

    at: str
    """A piece of the line after which it was hit; empty: its start."""
    by: signal.Signals | None
    """None where it had ended by itself."""
    code: int
    seconds: float
    """From the signal until the command itself had ended."""
    err: str
    left: Sequence[str]
    """Command lines of processes of this home."""
    groups: Sequence[str]
    """Control groups of the command that held a process."""


def hit(
    home: Path,
    arguments: Sequence[str],
    delay: float,
    by: signal.Signals,
    *,
    at: str = "",
    variables: Mapping[str, str] = QUICK,
) -> Hit:
    """Run the command and send the leader of its group a signal, some time after its start or after a line of it."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=home.parent, env=environment(home, variables), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    lines: list[str] = []
    met = threading.Event()

    def read() -> None:
        for line in process.stderr or ():
            lines.append(line)
            if at and at in line:
                met.set()
        met.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    if at:
        met.wait()
    sent: signal.Signals | None = None
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        sent = by
        process.send_signal(by)
    started = time.monotonic()
    code = process.wait(30)
    seconds = time.monotonic() - started
    until = time.monotonic() + GONE_WITHIN_S
    while (left := processes_of(home)) and time.monotonic() < until:
        time.sleep(0.1)
    reader.join(1)
    return Hit(at, sent, code, seconds, "".join(lines), left, groups_of(process.pid))


def processes_of(home: Path) -> list[str]:
    """Processes whose command line or environment names this home: its bwrap, git, uv and interpreters."""
    found, name = [], os.fsencode(home)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, variables = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:  # gone, or not ours to see
            continue
        if name in command or name in variables:
            found.append(command.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


def groups_of(pid: int) -> list[str]:
    """Control groups that a command made and that still hold a process."""
    procs = Path("/sys/fs/cgroup").glob(f"**/formulamine/{pid}-*/cgroup.procs")
    return [str(path.parent) for path in procs if path.read_text().strip()]


def locks_held(home: Path) -> list[str]:
    """Lock files below a home that somebody holds."""
    held = []
    for path in home.rglob("*.lock"):
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(str(path))
    return held


def broken_blobs(home: Path) -> list[str]:
    """Blobs that are not what their name says; what a killed run was writing aside counts as none."""
    blobs = [path for path in (home / "blobs").glob("*/*") if not path.name.startswith(".")]
    return [str(path) for path in blobs if hashlib.sha256(path.read_bytes()).hexdigest() != path.name]


def half_written(home: Path) -> list[str]:
    """Files that somebody began to write aside."""
    return [str(path) for path in home.rglob(".writing-*")]


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
