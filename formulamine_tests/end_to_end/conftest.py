"""What end-to-end tests share: the demo's month, run once, and runs in this process that leave no trace in it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from formulamine.cli import main
from formulamine.month import POSTGRES_VARIABLE
from formulamine.services.resolver import Interpreter, Resolver
from formulamine.services.store import Tables
from formulamine.tables import TABLES
from formulamine_tests.end_to_end.runs import Ended, environment
from formulamine_tests.services.postgres import Cluster, cluster


@dataclass(frozen=True)
class Demo:
    """The demo's month as it ended."""

    home: Path
    ended: Ended


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo, run once in a home of its own, as `make demo` does it. Tests that write take a copy."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "formulamine.demo"], cwd=folder, env=environment(folder / "home"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    return Demo(folder / ".formulamine-demo", Ended(done.returncode, done.stdout, done.stderr))


@pytest.fixture(scope="package", autouse=True)
def _interpreters_once() -> Iterator[None]:
    """Look for interpreters once for all runs in this process: starting each of them takes seconds."""
    look, found = Resolver.interpreters.func, list[dict[str, Interpreter]]()

    def interpreters(resolver: Resolver) -> dict[str, Interpreter]:
        if not found:
            found.append(look(resolver))
        return found[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Resolver, "interpreters", property(interpreters))
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A server of PostgreSQL for all tests that want a database of it."""
    with cluster() as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def databases(request: pytest.FixtureRequest) -> Callable[[], dict[str, str]]:
    """Makes variables that put a new home's ledger and Dagster's storage on each database."""
    if request.param == "sqlite":
        return dict
    running: Cluster = request.getfixturevalue("postgres")
    return lambda: {"FORMULAMINE_LEDGER_URL": running.new_database(), POSTGRES_VARIABLE: running.new_database()}


@pytest.fixture
def database(databases: Callable[[], dict[str, str]]) -> dict[str, str]:
    """The same for the one home of a test."""
    return databases()


@pytest.fixture
def demo_copy(demo: Demo, tmp_path: Path) -> Path:
    """A home that holds what the demo's month left."""
    assert demo.ended.code == 0, demo.ended.err
    return Path(shutil.copytree(demo.home, tmp_path / "home", symlinks=True))


@pytest.fixture
def asked_home(home: Path) -> Path:
    """A home with tables of one pull request and nothing else."""
    tables = Tables(home / "tables")
    for name, table in TABLES.items():
        tables.write(name, "2024-02", pl.DataFrame(schema=table.schema()))
    schema = TABLES["pull_requests"].schema()
    row = {
        **dict.fromkeys(schema), "pr_id": "a__b-1", "repo": "a/b", "number": 1, "title": "One", "files": [],
        "merged_at": datetime(2024, 2, 1, tzinfo=UTC), "base_sha": "0" * 40, "status": "done", "detail": "",
        "run_id": "run", "seconds": 0.0, "cost_usd": 0.0,
    }  # fmt: skip
    tables.write("pull_requests", "2024-02", pl.DataFrame([row], schema=schema))
    return home


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A run in this process sets variables, signal handlers and a log handler; they go again with the test."""
    logger = logging.getLogger("formulamine")
    handlers, level, variables = logger.handlers[:], logger.level, dict(os.environ)
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        logger.handlers[:], logger.level = handlers, level
        os.environ.clear()
        os.environ.update(variables)
        for number, handler in signals.items():
            signal.signal(number, handler)


def in_process(home: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> Ended:
    """Run the command in this process, where importing Dagster is paid for once."""
    with undisturbed():
        os.environ.update({"FORMULAMINE_HOME": str(home), **(variables or {})})
        done = CliRunner().invoke(main, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Ended(done.exit_code, done.stdout, done.stderr)
