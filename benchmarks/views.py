"""Seconds and memory of `lineage` and `funnel` over 12 months of 10,000 pull requests, beside their limit.

Makes tables, ledger and registry with as much text as real ones have, then asks each question as a process of its own.
The limit is what any question needs: Python that imports polars and pydantic. The best round of
each counts, since whatever else the machine does can only add to it. Exits 1 where one takes 2 s or 500 MB.

Usage: python benchmarks/views.py [--months 12] [--pull-requests 10000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import typing
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import polars as pl

from formulamine.pipeline import inputs, joined
from formulamine.plan import STEPS
from formulamine.records import Status
from formulamine.services.container import Services
from formulamine.services.ledger import Ledger
from formulamine.services.store import Tables
from formulamine.settings import Settings
from formulamine.tables import SIDE_SCHEMAS, TABLES, Table

MOST_SECONDS, MOST_MB = 2.0, 500
REPOSITORIES = 100
LIMIT = ("-c", "import polars, pydantic, pydantic_settings")
# Of those that came to a table, how many go on. FACTS: a good sieve passes 73%; the rest are guesses upwards.
GO_ON = {"pull_requests": 1.0, "candidate_prs": 0.73, "classifications": 0.3, "env_payloads": 0.8, "images": 0.6}
REASONS = ("not_performance_title", "no_core_file", "not_performance", "unresolvable", "not_faster")
BENCHMARKS = 40  # rows of `benchmark_results` for one measurement
WORDS = ("the", "array", "index", "cache", "lazy", "when", "computing", "faster", "dataset", "reduce", "copy", "chunk")
LONG = ("body", "statement")
SHORT = (
    "xarray/core/indexing.py",
    "numpy==1.26.4",
    "benchmarks.indexing.Time.time_a",
    "4f1c4ab0d4b7",
    "local",
    "Jane Doe",
)


def main() -> int:
    """Make, ask and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument("--pull-requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="formulamine-bench-") as folder:
        home = Path(folder)
        months = [f"{2022 + number // 12}-{number % 12 + 1:02}" for number in range(asked.months)]
        known = make(home, months, asked.pull_requests)
        size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file()) / 1e6
        print(f"{len(months)} months of {asked.pull_requests} pull requests, {size:.0f} MB; measured is {known}")
        unknown = known.partition("#")[0] + "#999999999"
        questions = {
            "the limit": LIMIT,
            "funnel": ("-m", "formulamine", "funnel", months[-1]),
            "lineage": ("-m", "formulamine", "lineage", known),
            "lineage --json": ("-m", "formulamine", "lineage", known, "--json"),
            "lineage --why-not": ("-m", "formulamine", "lineage", known, "--why-not"),
            "lineage --redo": ("-m", "formulamine", "lineage", known, "--redo"),
            "lineage, unknown": ("-m", "formulamine", "lineage", unknown),
            "lineage, no repository": ("-m", "formulamine", "lineage", "nobody/nothing#1"),
            "spine": ("-c", SPINE, months[-1]),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in questions}
        for _ in range(asked.rounds):
            for name, arguments in questions.items():
                found[name].append(ask(home, arguments, expected=1 if "," in name else 0))
    missed = False
    for name, answers in found.items():
        seconds, megabytes = (min(values) for values in zip(*answers, strict=True))
        limit = min(seconds for seconds, _ in found["the limit"])
        print(f"{name:<24}{seconds:6.2f} s {seconds / limit:5.1f} times the limit {megabytes:6.0f} MB")
        missed |= seconds >= MOST_SECONDS or megabytes >= MOST_MB
    return int(missed)


SPINE = """
import sys
from formulamine.lineage import spine
from formulamine.services.store import Tables
from formulamine.settings import Settings
print(spine(sys.argv[1], Tables(Settings().home / "tables")))
"""


# Asks from a small process: of a child that a large one starts, Linux counts the parent's memory too.
ASK = """
import os, sys, time
nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
started = time.perf_counter()
_, status, used = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=nowhere), 0)
print(os.waitstatus_to_exitcode(status), time.perf_counter() - started, used.ru_maxrss / 1024)
"""


def ask(home: Path, arguments: Sequence[str], expected: int) -> tuple[float, float]:
    """Seconds and most memory (MB) of one process that answers with an exit code."""
    # The first round compiles; an environment where Python keeps no bytecode would have every round do so.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "PYTHONPYCACHEPREFIX": str(home / "bytecode"), "FORMULAMINE_HOME": str(home)}
    command = [sys.executable, "-c", ASK, sys.executable, *arguments]
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    if int(answer[0]) != expected:
        raise RuntimeError(f"{' '.join(arguments)} ended with {answer[0]}, not {expected}")
    return float(answer[1]), float(answer[2])


def make(home: Path, months: Sequence[str], count: int) -> str:
    """Fill a home, and name a pull request that came as far as a measurement."""
    chance = random.Random(3)
    ledger = home / "ledger.sqlite"
    Ledger(f"sqlite:///{ledger}").close()
    names = [f"owner{number}/name" for number in range(REPOSITORIES)]
    listed = "".join(f'[[repository]]\nname = "{name}"\nsource = "/nowhere"\n' for name in names)
    (home / "repositories.toml").write_text(listed)
    bodies = [" ".join(chance.choices(WORDS, k=chance.randint(20, 400))) for _ in range(500)]
    with sqlite3.connect(ledger) as connection:
        for place, month in enumerate(months):
            measured = make_month(home, connection, month, place * count, count, names, bodies, chance)
        make_current(home, connection, months[-1], measured)
    return measured


def make_current(home: Path, connection: sqlite3.Connection, month: str, pull_request: str) -> None:
    """Give a pull request's outcomes the fingerprints of today, so that `--redo` follows it through every step."""
    pr_id = pull_request.replace("/", "__").replace("#", "-")
    settings = Settings()
    settings.home = home
    with contextlib.closing(Services(settings)) as services:
        (row,) = [one for one in joined("published_release", month, services.tables) if one["pr_id"] == pr_id]
        for asset, step_of in STEPS.items():
            step = step_of(services, month)
            ((_, item),) = inputs(step, [row | {"source": "/nowhere", "month": month}], month)
            items = (pr_id, f"{row['repo']}@{month}")
            connection.execute(
                "update outcomes set fingerprint = ? where step = ? and item in (?, ?)",
                (step.fingerprint(item), asset, *items),
            )


def make_month(
    home: Path,
    connection: sqlite3.Connection,
    month: str,
    first: int,
    count: int,
    names: Sequence[str],
    bodies: Sequence[str],
    chance: random.Random,
) -> str:
    """Tables and ledger of one month."""
    tables, merged_at = Tables(home / "tables"), datetime.fromisoformat(f"{month}-01").replace(tzinfo=UTC)
    keys = [(names[number % len(names)], first + number + 1) for number in range(count)]
    for name, table in TABLES.items():
        schema = table.schema()
        rows = [
            {column: filler(dtype, texts(table, column, bodies), chance) for column, dtype in schema.items()}
            for _ in range(200)
        ]
        made = []
        survivors = [(repo, 0) for repo in names] if name == "repositories" else keys
        goes_on = []
        for number, (repo, pull_request) in enumerate(survivors):
            done = chance.random() < GO_ON.get(name, 1.0)
            row = rows[number % len(rows)] | {
                "repo": repo, "number": pull_request, "pr_id": f"{repo.replace('/', '__')}-{pull_request}",
                "status": Status.DONE if done else Status.REJECTED, "reason": None if done else chance.choice(REASONS),
                "merged_at": merged_at + timedelta(minutes=number), "detail": chance.choice(bodies)[:80],
            }  # fmt: skip
            made.append({column: row[column] for column in schema})
            goes_on += [(repo, pull_request)] if done else []
        tables.write(name, month, pl.DataFrame(made, schema=schema))
        if table.side_name is not None:
            write_results(tables, table.side_name, month, [row["pr_id"] for row in made], chance)
        record(connection, name, month, made)
        if name != "repositories":
            keys = goes_on
    repo, pull_request = keys[len(keys) // 2]
    return f"{repo}#{pull_request}"


def write_results(tables: Tables, name: str, month: str, measured: Sequence[str], chance: random.Random) -> None:
    """The side table of measurements."""
    schema = SIDE_SCHEMAS[name]
    rows = [{column: filler(dtype, SHORT, chance) for column, dtype in schema.items()} for _ in range(BENCHMARKS)]
    stages = ("screen", "confirm", "control")
    made = [row | {"pr_id": pr_id, "stage": chance.choice(stages)} for pr_id in measured for row in rows]
    tables.write(name, month, pl.DataFrame(made, schema=schema))


def record(connection: sqlite3.Connection, step: str, month: str, rows: Sequence[dict[str, Any]]) -> None:
    """The ledger's outcomes of one table."""
    fields = TABLES[step].record.model_fields
    contents = [{name: row.get(name, []) for name in fields} for row in rows]  # the side table's field stays empty
    keys = [row["pr_id"] if "pr_id" in row else f"{row['repo']}@{month}" for row in rows]
    parts = json.dumps({f"field {number}": "0" * 12 for number in range(12)})
    entries: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None]]
    if step == "pull_requests":  # one visit of a repository, many records
        visits: dict[str, dict[str, Any]] = {}
        for key, content in zip(keys, contents, strict=True):
            visits.setdefault(f"{content['repo']}@{month}", {})[key] = content
        entries = {item: (None, records) for item, records in visits.items()}
    else:
        entries = {key: (content, None) for key, content in zip(keys, contents, strict=True)}
    rest = (True, False, None, "run", f"{month}-28 00:00:00", 1.0, 0.0, 1, parts)
    kept = [
        (step, item, "0" * 64, "done", None, "", dumped(one), dumped(many), *rest)
        for item, (one, many) in entries.items()
    ]
    connection.executemany(f"insert into outcomes values ({', '.join('?' * len(kept[0]))})", kept)


def dumped(value: dict[str, Any] | None) -> str | None:
    """A record as the ledger keeps it."""
    return None if value is None else json.dumps(value, default=str)


def texts(table: Table, column: str, bodies: Sequence[str]) -> Sequence[str]:
    """What a column of text may hold: what its field allows where that is a few words."""
    annotation = table.fields().get(column)
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    return bodies if column in LONG else SHORT


def filler(dtype: pl.DataType, texts: Sequence[str], chance: random.Random) -> Any:
    """A value of a type, as long as such values are."""
    match dtype:
        case pl.Struct(fields=fields):
            return {one.name: filler(one.dtype, texts, chance) for one in fields}
        case pl.List(inner=inner):
            return [filler(inner, texts, chance) for _ in range(chance.randint(1, 12))]
        case pl.String():
            return chance.choice(texts)
        case pl.Boolean():
            return True
        case pl.Datetime():
            return datetime(2022, 1, 1, tzinfo=UTC)
    return chance.randint(1, 50)


if __name__ == "__main__":
    sys.exit(main())
