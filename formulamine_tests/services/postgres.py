"""A throw-away PostgreSQL for tests: Debian's programs, a folder of its own, a free port, gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg2

PASSWORD = "p@ss/w:rd" + secrets.token_hex(4)  # what must be quoted in a URL, and must never be seen
QUOTED_PASSWORD = PASSWORD.replace("@", "%40").replace("/", "%2F").replace(":", "%3A")
MEND = "apt-get install postgresql"


@dataclass
class Cluster:
    """A running server."""

    port: int
    data: Path
    programs: Path
    account: str | None
    """The user that it runs as: it refuses root."""
    _made: Iterator[int] = field(default_factory=count)

    def url(self, password: str = QUOTED_PASSWORD, port: int | None = None, database: str = "postgres") -> str:
        return f"postgresql+psycopg2://tester:{password}@127.0.0.1:{port or self.port}/{database}"

    def new_database(self, *settings: str) -> str:
        """URL of a new, empty database, with settings as "timezone = 'Asia/Tokyo'"."""
        name = f"test_{next(self._made)}"
        self.execute(f"CREATE DATABASE {name}")
        for setting in settings:
            self.execute(f"ALTER DATABASE {name} SET {setting}")
        return self.url(database=name)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="tester", password=PASSWORD, dbname=database
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def control(self, *arguments: str) -> None:
        """Say something to `pg_ctl`."""
        _run([self.programs / "pg_ctl", "-D", self.data, "-w", *arguments], self.account)

    def start(self) -> None:
        folder = self.data.parent
        options = f"-p {self.port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=60"
        self.control("-l", str(folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self.control("-m", "immediate", "stop")


def why_no_postgres() -> str:
    """Why no server can be started here; empty where one can."""
    if _programs() is None:
        return f"PostgreSQL's programs are missing: {MEND}"
    return "" if os.getuid() or _account() else f"PostgreSQL refuses root and there is no user postgres: {MEND}"


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A server on a free port."""
    programs, account = _programs(), _account() if os.getuid() == 0 else None
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="formulamine-postgres-"))
    if account:
        shutil.chown(folder, account)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Cluster(port, folder / "data", programs, account)
    secret = folder / "secret"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    initdb = [programs / "initdb", "-D", made.data, "-U", "tester", f"--pwfile={secret}", "-A", "scram-sha-256"]
    try:
        _run([*initdb, "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"], account)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder)


def _run(argv: list[str | Path], account: str | None) -> None:
    # Its output is not a pipe: the server inherits it and would hold it open.
    subprocess.run(
        argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd="/",
        **({"user": account, "group": account, "extra_groups": []} if account else {}),
    )  # fmt: skip


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def _account() -> str | None:
    names = {one.pw_name for one in pwd.getpwall()}
    return "postgres" if "postgres" in names else None
