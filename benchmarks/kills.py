"""What 100 random kills do to the demo's month: nothing may be lost, doubled, left behind or come out different.

Runs the month once undisturbed. Then, in fresh homes, runs it again and again, each run killed (now and then
interrupted) at a moment drawn uniformly over the time that the month still needs, or, every second time, that one of
its phases does; what finishes is compared with the undisturbed month, column by column. Exit code 1 if anything is
wrong.

Usage: python benchmarks/kills.py [--kills 100] [--seed N] [--ledger URL of a PostgreSQL database]
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import click
import dagster as dg
import polars as pl
import sqlalchemy as sa

from formulamine.demo.sample import MONTH, REPOSITORY, write_sample
from formulamine.services.ledger import engine
from formulamine.services.store import StoreError, Tables
from formulamine.tables import MEASURED_COLUMNS, SIDE_SCHEMAS, TABLES, VOLATILE_COLUMNS

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are no installed package
from formulamine_tests.end_to_end.runs import QUICK, Hit, broken_blobs, formulamine, hit, locks_held

INTERRUPTED_SHARE = 0.1  # of the hits are Ctrl-C, the others kills
IN_A_PHASE_SHARE = 0.5  # of the hits wait for a phase to begin: most of what a month still needs is its start
# Where a run is expected to need R seconds more it is hit within 1.1 R: some runs are to finish in between.
BEYOND_THE_END = 1.1
OUTCOMES = "select step, item, fingerprint, recorded_at, attempts from outcomes"

Key = tuple[str, str, str]


@dataclass
class Home:
    """A month under way: where it is, and what its ledger held when it was last looked at."""

    path: Path
    sample: Path
    ledger: str
    recorded: dict[Key, datetime] = field(default_factory=dict)

    @property
    def month(self) -> list[str]:
        """Arguments of the command."""
        return ["month", MONTH, "--repo", f"{REPOSITORY}={self.sample}"]

    @property
    def variables(self) -> dict[str, str]:
        """Variables of the command."""
        return {**QUICK, "FORMULAMINE_LEDGER_URL": self.ledger}

    def look(self) -> list[str]:
        """Read the ledger again; what is wrong since the last time: an outcome lost, made twice, or tried twice."""
        found: dict[Key, datetime] = {}
        wrong = []
        for step, item, fingerprint, recorded_at, attempts in self._outcomes():
            found[step, item, fingerprint] = recorded_at
            if attempts != 1:
                wrong.append(f"doubled: {step} of {item} counts {attempts} attempts")
        twice = [key for key, count in Counter(key[:2] for key in found).items() if count > 1]
        wrong += [f"doubled: {step} of {item} stands twice in the ledger" for step, item in twice]
        for key, recorded_at in self.recorded.items():
            if key not in found:
                wrong.append(f"lost: {key[0]} of {key[1]} was in the ledger")
            elif found[key] != recorded_at:
                wrong.append(f"doubled: {key[0]} of {key[1]} was computed again")
        self.recorded = found
        return wrong

    def _outcomes(self) -> list[tuple[str, str, str, datetime, int]]:
        if self.ledger.startswith("sqlite") and not (self.path / "ledger.sqlite").exists():
            return []
        opened = engine(self.ledger)
        try:
            with opened.connect() as connection:
                if not sa.inspect(connection).has_table("outcomes"):
                    return []
                rows = connection.execute(sa.text(OUTCOMES).columns(recorded_at=sa.DateTime(timezone=True))).all()
        finally:
            opened.dispose()
        return [(step, item, mark, when.replace(tzinfo=when.tzinfo or UTC), n) for step, item, mark, when, n in rows]


@dataclass(frozen=True)
class Course:
    """How the undisturbed month went, and with it what remains of a disturbed one."""

    home: Home
    costs: Mapping[tuple[str, str], float]
    """Seconds from the outcome before to this one, by step and item."""
    around: float
    """Seconds before the first outcome and after the last one: every run needs them."""

    @classmethod
    def of(cls, home: Home) -> Course:
        """Run the month in a home."""
        begun = time.monotonic()
        ended = formulamine(home.path, *home.month, variables=home.variables)
        seconds = time.monotonic() - begun
        if ended.code:
            sys.exit(f"the undisturbed month failed:\n{ended.err}")
        home.look()
        inside = sorted((when, step, item) for (step, item, _), when in home.recorded.items())
        costs = {}
        before = inside[0][0]
        for when, step, item in inside:
            costs[step, item] = (when - before).total_seconds()
            before = when
        return cls(home, costs, seconds - sum(costs.values()))

    def remaining(self, home: Home, phase: str = "") -> float:
        """Seconds that the month of another home still needs, or one phase of it."""
        known = {key[:2] for key in home.recorded}
        costs = [cost for key, cost in self.costs.items() if key not in known and phase in ("", key[0])]
        return sum(costs) + (0 if phase else self.around)


@dataclass
class Tally:
    """What came of it all."""

    kills: Counter[str] = field(default_factory=Counter)
    by: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    """Seconds that a run took to end after Ctrl-C."""


def phase_of(told: str) -> str:
    """Where a run was when it said this."""
    names = [line.split()[1].rstrip(":") for line in told.splitlines() if line[:2].isdigit() and line[2] == ":"]
    if any(line[9:17] == "release " for line in told.splitlines()):
        return "the end"
    return next((name for name in reversed(names) if name in TABLES), "the start")


def after_a_hit(home: Home, one: Hit) -> list[str]:
    """What is wrong after a run ended, however it ended."""
    wrong = [f"a process is left: {line}" for line in one.left]
    wrong += [f"a control group holds a process: {path}" for path in one.groups]
    wrong += [f"a lock is held: {path}" for path in locks_held(home.path)]
    wrong += [f"half-written: {path}" for path in broken_blobs(home.path)]
    for name in (*TABLES, *SIDE_SCHEMAS):
        try:
            Tables(home.path / "tables").read(name, MONTH)
        except StoreError as error:
            wrong.append(f"half-written: {error}")
    if one.by is None and one.code != 0:
        wrong.append(f"the run failed with {one.code}: {one.err[-1000:]}")
    # One that comes after the last step finds a month that is done.
    if one.by == signal.SIGINT and (one.code not in (0, 130) or one.seconds > 5 or "Traceback" in one.err):
        wrong.append(f"Ctrl-C ended with {one.code} after {one.seconds:.1f} s: {one.err[-1000:]}")
    if one.by == signal.SIGINT:
        wrong += [f"half-written: {path}" for path in home.path.glob("**/.writing-*")]
    return wrong + home.look()


def still_running(home: Path) -> list[str]:
    """Runs that Dagster calls unfinished although nothing runs any more."""
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        return [
            f"Dagster calls a killed run {run.status.value}: {run.run_id}"
            for run in instance.get_runs()
            if not run.is_finished
        ]


def differences(one: Path, other: Path) -> list[str]:
    """Where the tables of two homes part, in rows and in every column that is neither measured nor volatile."""
    wrong = []
    for name in (*TABLES, *SIDE_SCHEMAS):
        frames = [Tables(home / "tables").read(name, MONTH) for home in (one, other)]
        if frames[0] is None or frames[1] is None:
            wrong.append(f"lost: {name} was never made")
            continue
        rows, others = (by_key(name, frame) for frame in frames if frame is not None)
        wrong += [f"lost: {key} of {name}" for key in others.keys() - rows.keys()]
        wrong += [f"doubled: {key} of {name}" for key in rows.keys() - others.keys()]
        for key in rows.keys() & others.keys():
            if len(rows[key]) != len(others[key]):
                wrong.append(f"doubled: {key} of {name} stands {len(rows[key])} times, not {len(others[key])}")
            for field_name, value in rows[key][0].items():
                if value != others[key][0][field_name]:
                    wrong.append(f"differs: {field_name} of {key} in {name}: {value!r}, {others[key][0][field_name]!r}")
    return wrong


def by_key(name: str, frame: pl.DataFrame) -> dict[tuple[str, ...], list[dict[str, object]]]:
    """Rows of a table by what identifies them, with the columns that must be equal."""
    key = [TABLES[name].key] if name in TABLES else ["pr_id", "benchmark", "stage"]
    if name in SIDE_SCHEMAS:
        frame = frame.filter(pl.col("stage") == "screen")  # what is confirmed, the measured screen decides
    found: dict[tuple[str, ...], list[dict[str, object]]] = {}
    volatile = VOLATILE_COLUMNS if name in TABLES else ()
    for row in frame.drop(*volatile, *MEASURED_COLUMNS.get(name, ())).to_dicts():
        found.setdefault(tuple(row[part] for part in key), []).append(row)
    return found


@contextmanager
def databases(server: str | None) -> Iterator[list[str]]:
    """Names of databases made on a server, dropped at the end."""
    made: list[str] = []
    yield made
    if server is not None:
        for name in made:
            execute(server, f"DROP DATABASE {name}")


def execute(server: str, statement: str) -> None:
    """Say something to a PostgreSQL server."""
    opened = engine(server)
    with opened.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(statement))
    opened.dispose()


@click.command()
@click.option("--kills", default=100)
@click.option("--seed", default=20240229)
@click.option("--ledger", metavar="URL", help="PostgreSQL, on which a database is made for each home.")
def main(kills: int, seed: int, ledger: str | None) -> None:
    """Kill, compare, report."""
    chance = random.Random(seed)
    tally = Tally()
    started = time.monotonic()
    with databases(ledger) as made, tempfile.TemporaryDirectory(prefix="formulamine-kills-") as scratch:
        folder = Path(scratch)
        sample = write_sample(folder / "sample.git").path

        def fresh() -> Home:
            number = len(list(folder.glob("home-*.begun")))
            (folder / f"home-{number:03}.begun").touch()
            path = folder / f"home-{number:03}"
            if ledger is None:
                return Home(path, sample, f"sqlite:///{path / 'ledger.sqlite'}")
            name = f"kills_{folder.name.rpartition('-')[2].lower()}_{number}"
            execute(ledger, f"CREATE DATABASE {name}")
            made.append(name)
            return Home(path, sample, sa.make_url(ledger).set(database=name).render_as_string(hide_password=False))

        course = Course.of(fresh())
        click.echo(f"undisturbed: {course.remaining(fresh()):.0f} s, {course.around:.0f} s of them around the work")
        home, hits = fresh(), 0
        while hits < kills or home.recorded:
            last = hits >= kills
            by = signal.SIGINT if chance.random() < INTERRUPTED_SHARE else signal.SIGKILL
            phase = chance.choice(list(TABLES)) if not last and chance.random() < IN_A_PHASE_SHARE else ""
            delay = 3600 if last else chance.uniform(0, BEYOND_THE_END) * course.remaining(home, phase)
            at = f"{phase}: " if phase else ""
            one = hit(home.path, home.month, delay, by, at=at, variables=home.variables)
            wrong = after_a_hit(home, one)
            if one.by is None:
                wrong += differences(home.path, course.home.path) + still_running(home.path)
                checked = formulamine(home.path, "check", MONTH, variables=home.variables)
                wrong += [f"a check fails: {checked.out}{checked.err}"] if checked.code else []
                tally.finished += 1
                click.echo(f"{home.path.name} finished after {hits} kills in all")
                if not wrong:
                    shutil.rmtree(home.path)
                home = fresh()
            else:
                hits += 1
                tally.kills[phase_of(one.err)] += 1
                tally.by[one.by.name] += 1
                tally.slowest = max(tally.slowest, one.seconds if one.by == signal.SIGINT else 0)
                click.echo(f"{hits:4} {one.by.name} {delay:5.1f} s after {phase or 'the start'} in {phase_of(one.err)}")
            for line in wrong:
                click.echo(f"     WRONG in {home.path.name}: {line}")
            tally.wrong += wrong
        report(tally, time.monotonic() - started)
    sys.exit(1 if tally.wrong else 0)


def report(tally: Tally, seconds: float) -> None:
    """Print what came of it."""
    click.echo(f"\n{tally.by.total()} hits ({', '.join(f'{n} {by}' for by, n in tally.by.items())}), {seconds:.0f} s")
    for phase in ("the start", *TABLES, "the end"):
        click.echo(f"  in {phase:21} {tally.kills[phase]:4}")
    click.echo(f"Ctrl-C ended within {tally.slowest:.1f} s; {tally.finished} months finished and compared")
    for kind in ("lost", "doubled", "differs", "half-written"):
        click.echo(f"  {kind:13} {sum(line.startswith(kind + ':') for line in tally.wrong):4}")
    others = [
        line for line in tally.wrong if line.partition(":")[0] not in ("lost", "doubled", "differs", "half-written")
    ]
    click.echo(f"  anything else {len(others):4}")


if __name__ == "__main__":
    main()
