"""How a command ends that cannot do what it was asked: one line that says what and the mend, and an exit code.

Exit codes: 0 done, 1 could not finish, 2 refused before anything started, 130 interrupted. Here belong the ways from a
known fault to that line; commands themselves stand in `cli.py`. Heavy imports happen inside functions.
"""

from __future__ import annotations

import errno
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from formulamine.interrupts import SIGNALS
from formulamine.settings import Settings

if TYPE_CHECKING:
    from formulamine.discover.registry import RegistryEntry
    from formulamine.services.git import Git

DONE, COULD_NOT_FINISH, REFUSED, INTERRUPTED = 0, 1, 2, 130
ROOM = 2**20  # bytes; SQLite needs some tens of kilobytes beside its file
DATABASE_FAULTS = ("disk I/O error", "unable to open database", "readonly database", "database is locked")


def refuse(message: object, code: int = REFUSED) -> NoReturn:
    """End with one line."""
    click.echo("formulamine: " + " ".join(str(message).split()), err=True)
    sys.exit(code)


def interrupted() -> NoReturn:
    """End with the line of an interrupt. Another one would find nothing left to end, and is ignored."""
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    refuse("interrupted: the same command carries on from here", INTERRUPTED)


def selected(select: str | None) -> list[str] | None:
    """Asset names of `--select`, phases replaced by their assets; None for all."""
    if select is None:
        return None
    from formulamine.tables import PHASES, TABLES

    names: list[str] = []
    for word in filter(None, (part.strip() for part in select.split(","))):
        names += PHASES.get(word, [word])
    unknown = [name for name in names if name not in TABLES]
    if unknown or not names:
        refuse(f"--select {select!r}: no asset {', '.join(unknown)}; there are {', '.join(TABLES)}")
    return list(dict.fromkeys(names))


def register(settings: Settings, repos: tuple[str, ...], file: Path | None) -> None:
    """Add repositories to the registry, or end with exit code 2 where one cannot be, or none is there at all."""
    from formulamine.discover.registry import Registry, RegistryError, load_file, parse_repo_argument
    from formulamine.services.git import Git, GitError

    registry = Registry(settings.home / "repositories.toml")
    try:
        # Looked at in a folder that goes again: a refused command leaves nothing in FORMULAMINE_HOME.
        with tempfile.TemporaryDirectory(prefix="formulamine-look-") as scratch:
            git = Git(Path(scratch))
            added = [parse_repo_argument(text, git) for text in repos] + (load_file(file, git) if file else [])
            known = {entry.name.casefold(): entry for entry in (*registry.entries(), *added)}
            covered = [entry for entry in known.values() if not entry.hidden]
            refuse_unusable(covered, git, Git(settings.home / "mirrors"))
        if added:
            registry.add(added)
    except (RegistryError, GitError) as error:
        refuse(error)
    except OSError as error:
        refuse(disk_fault(error, settings), COULD_NOT_FINISH)


def refuse_unusable(entries: Sequence[RegistryEntry], git: Git, mirrors: Git) -> None:
    """End with exit code 2 unless one of these can be mined: mirrored already, a URL, or a local repository."""
    from formulamine.services.git import GitError, is_url

    faults = []
    for entry in entries:
        if is_url(entry.source) or mirrors.mirror_path(entry.name).exists():
            return
        try:
            git.inspect_source(entry.source)
            return
        except GitError as error:
            faults.append(f"{entry.name}: {error}")
    why = f"no registered repository can be used ({'; '.join(faults)})" if faults else "no repository is registered"
    refuse(f"{why}: name one with --repo [OWNER/NAME=]PATH_OR_URL")


def run_or_refuse(
    settings: Settings, job: str, month: str, assets: list[str] | None, options: dict[str, Any], *, checks: bool = False
) -> list[Any]:
    """Run a job, or end with one line and exit code 1 where it cannot finish."""
    import sqlalchemy.exc
    from dagster import DagsterError

    from formulamine.discover.registry import RegistryError
    from formulamine.items import Cancelled
    from formulamine.month import CheckCrashed, run_job
    from formulamine.services.git_process import GitError
    from formulamine.services.ledger import LedgerError
    from formulamine.services.store import LockHeld, StoreError
    from formulamine.ship.assets import ReleaseRefused

    try:
        return run_job(settings, job, month, assets, options)
    except (LockHeld, StoreError, LedgerError, ReleaseRefused, GitError, RegistryError, CheckCrashed) as error:
        refuse(error, COULD_NOT_FINISH)
    except Cancelled:
        interrupted()
    except (OSError, sqlite3.OperationalError, sqlalchemy.exc.OperationalError) as error:
        refuse(disk_fault(error, settings), COULD_NOT_FINISH)
    except DagsterError as error:
        refuse(error, COULD_NOT_FINISH)


def disk_fault(error: Exception, settings: Settings) -> str:
    """A full disk, or a database file that cannot be used, in one line; any other fault of a database as it is."""
    from formulamine.build.room import NoRoom

    if isinstance(error, NoRoom):
        return str(error)
    told = str(getattr(error, "orig", error))
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not full and "disk I/O error" in told:  # what SQLite says where there is no room beside its file
        full = shutil.disk_usage(settings.home).free < ROOM
    if full or "disk is full" in told or "No space left" in told:
        return f"the disk of {settings.home} is full: free some space and run the same command again"
    if isinstance(error, OSError) or any(fault in told for fault in DATABASE_FAULTS):
        return f"{told} (state is in {settings.home}): mend that and run the same command again"
    raise error
