"""The probes of `formulamine doctor`: each asks the service that a month would use, and changes nothing.

Here belong what is looked at, and for each gap what it disables and the mend. How probes run and how their findings
read is in `doctor.py`. What no part of the pipeline uses yet is looked at too, and said to be so.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

import docker
import sqlalchemy as sa

from formulamine.discover.registry import Registry, RegistryError
from formulamine.doctor import CONNECT_S, Examination, Finding, Probe, State, who
from formulamine.doctor_models import models
from formulamine.doctor_sandbox import LIMITS, sandbox
from formulamine.month import POSTGRES_VARIABLE, try_postgres
from formulamine.services.git import Git, GitError, is_url
from formulamine.services.ledger import SCHEMA_VERSION, engine, place, why
from formulamine.services.resolver import IndexUnreachable, Interpreter, Resolver, Unresolvable
from formulamine.services.sandbox import Sandbox
from formulamine.settings import SettingsError
from formulamine.verify.calibrate import read_trials, trials_file
from formulamine.verify.calibration import told

GIT_NEEDED = (2, 38)
LOW_DISK_GB = 10  # one month of a repository with C extensions has filled seven
LEDGER = "FORMULAMINE_LEDGER_URL"
NO_LEDGER = "every command that computes: outcomes have nowhere to go"
NO_HISTORY = "every run: Dagster has nowhere to keep it"
NO_RESOLUTION = "env_payloads and images: pull requests fail until the index answers"
NO_INTERPRETERS = "env_payloads: no pull request resolves"


def python(_: Examination) -> list[Finding]:
    """The Python that runs us."""
    state = State.OK if sys.version_info >= (3, 11) else State.MISSING
    value = f"{platform.python_version()}, {sys.executable}, as {who()}"
    return [Finding("python", state, value, needed=True)]


def git(examination: Examination) -> list[Finding]:
    """The version of git."""
    disables, mend = "everything: repositories are read through git", "install git 2.38 or later"
    if shutil.which("git") is None:
        return [Finding("git", State.MISSING, "", disables, mend, needed=True)]
    try:
        version = Git(examination.scratch / "mirrors", examination.ended).version()
    except GitError as error:
        return [Finding("git", State.MISSING, str(error), disables, mend, needed=True)]
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < GIT_NEEDED:
        return [Finding("git", State.MISSING, f"{version} is too old", disables, mend, needed=True)]
    return [Finding("git", State.OK, f"{version}, {shutil.which('git')}", needed=True)]


def interpreters(examination: Examination) -> list[Finding]:
    """Uv, the interpreters that it offers, and what building C extensions for them takes."""
    resolver = Resolver(examination.scratch / "uv", examination.scratch, examination.ended)
    on_offer = sorted(resolver.interpreters.values(), key=lambda one: int(one.series.partition(".")[2]))
    told = ", ".join(f"{one.series} ({one.path})" for one in on_offer)
    mend = "install CPython 3.8 to 3.13 with your package manager or pyenv"
    compiler = shutil.which("cc", path="/usr/bin:/bin")  # what a sandbox sees
    bare = [one.series for one in on_offer if not any(one.prefix.glob(f"include/python{one.series}*/Python.h"))]
    no_extension = "images of repositories with C extensions: their builds fail"
    return [
        Finding("uv", State.OK, f"{resolver.version}, {resolver.uv}", needed=True),
        Finding("interpreters", State.OK, told, needed=True)
        if on_offer
        else Finding("interpreters", State.MISSING, "none found", NO_INTERPRETERS, mend, needed=True),
        Finding("compiler", State.OK, compiler)
        if compiler
        else Finding("compiler", State.MISSING, "no cc in /usr/bin", no_extension, "apt-get install gcc libc6-dev"),
        Finding("python headers", State.MISSING, f"not of {', '.join(bare)}", f"with these series, {no_extension}",
                "install them, on Debian python3-dev")
        if bare or not on_offer
        else Finding("python headers", State.OK, "of every interpreter"),
    ]  # fmt: skip


def index(examination: Examination) -> list[Finding]:
    """Whether the package index answers uv, with the settings that a month would use."""
    mend = "check the network, the proxy and UV_DEFAULT_INDEX"
    series = f"{sys.version_info.major}.{sys.version_info.minor}"
    resolver = Resolver(examination.scratch / "uv", examination.scratch, examination.ended)
    # Our own Python: finding all others takes longer than the index does.
    ours = Interpreter(series, platform.python_version(), Path(sys.executable), Path(sys.base_prefix))
    resolver.interpreters = {series: ours}

    def no_sandbox() -> Sandbox:
        raise Unresolvable("the index has no wheel of iniconfig", frozenset())

    try:
        resolver.compile(["iniconfig"], series, None, no_sandbox)
    except (IndexUnreachable, Unresolvable) as error:
        return [Finding("package index", State.UNREACHABLE, str(error)[:300], NO_RESOLUTION, mend, needed=True)]
    named = [name for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX") if os.environ.get(name)]
    return [
        Finding("package index", State.OK, f"answers ({f'of {named[0]}' if named else 'the default'})", needed=True)
    ]


def home(examination: Examination) -> list[Finding]:
    """FORMULAMINE_HOME: whether it can be written, and room on its disk."""
    folder = examination.settings.home
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free / 2**30
    value = f"{folder}{'' if folder.exists() else ' (made by the first month)'}"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        disables = "every command that computes"
        mend = "make it writable, or set FORMULAMINE_HOME"
        return [Finding("home", State.MISSING, f"{value}: {there} cannot be written by {who()}", disables, mend, True)]
    low = f"months with compiled packages may fill it: {LOW_DISK_GB} GB are a start" if free < LOW_DISK_GB else ""
    mend = "free some space, or set FORMULAMINE_HOME to another disk" if low else ""
    state = State.MISSING if low else State.OK
    return [
        Finding("home", State.OK, value, needed=True),
        Finding("free disk", state, f"{free:.1f} GB", low, mend),
    ]


def sizes(examination: Examination) -> list[Finding]:
    """How much of the disk is ours."""
    told = []
    for name in ("cache", "mirrors", "blobs"):
        size, whole = _size(examination.settings.home / name, examination)
        told.append(f"{name} {'' if whole else 'over '}{size / 2**20:.0f} MB")
    return [Finding("disk used", State.OK, ", ".join(told))]


def _size(folder: Path, examination: Examination) -> tuple[int, bool]:
    """Bytes of files below a folder, and whether there was time to see them all."""
    size = 0
    for top, _, names in os.walk(folder):
        if examination.ended.is_set():
            return size, False
        for name in names:
            path = Path(top, name)
            if not path.is_symlink() and path.exists():
                size += path.stat().st_blocks * 512
    return size, True


def ledger(examination: Examination) -> list[Finding]:
    """The ledger, which is looked at and never made."""
    try:
        opened = engine(examination.settings.ledger_url, CONNECT_S)
    except ValueError as error:
        mend = f"mend {LEDGER}, or leave it out"
        return [Finding("ledger", State.UNREACHABLE, f"{LEDGER} {error}", NO_LEDGER, mend, needed=True)]
    told = place(opened.url)
    if opened.dialect.name == "sqlite":
        file = Path(opened.url.database or "")
        if not file.exists():
            return [Finding("ledger", State.OK, f"{told} (made by the first month)", needed=True)]
        opened = sa.create_engine("sqlite://", creator=lambda: _only_read(file), poolclass=sa.NullPool)
    try:
        with opened.connect() as connection:
            if not sa.inspect(connection).has_table("ledger_schema"):
                return [Finding("ledger", State.OK, f"{told}, empty (made by the first month)", needed=True)]
            version = connection.scalar(sa.text("select version from ledger_schema"))
            rows = connection.scalar(sa.text("select count(*) from outcomes"))
    except sa.exc.DBAPIError as error:
        mend = f"start its server, or check {LEDGER}"
        return [Finding("ledger", State.UNREACHABLE, f"{told}: {why(error)}", NO_LEDGER, mend, needed=True)]
    finally:
        opened.dispose()
    value = f"{told}, schema {version}, {rows} outcomes"
    if version != SCHEMA_VERSION:
        mend = f"use the formulamine that wrote it, or another FORMULAMINE_HOME: this one reads {SCHEMA_VERSION}"
        return [Finding("ledger", State.UNREACHABLE, value, NO_LEDGER, mend, needed=True)]
    return [Finding("ledger", State.OK, value, needed=True)]


def _only_read(file: Path) -> sqlite3.Connection:
    """An SQLite file without a trace: where nobody writes it, reading must not make the files of its log either."""
    in_use = file.with_name(f"{file.name}-wal").exists()
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro{'' if in_use else '&immutable=1'}", uri=True)


def dagster_storage(examination: Examination) -> list[Finding]:
    """Where Dagster keeps runs and events."""
    settings, name = examination.settings, "dagster storage"
    url = settings.paths.dagster_postgres_url
    if not url:
        return [Finding(name, State.OK, f"SQLite in {settings.home / 'dagster'}", needed=True)]
    try:
        told = try_postgres(url, CONNECT_S)
    except SettingsError as error:
        what, _, mend = str(error).rpartition(": ")
        return [Finding(name, State.UNREACHABLE, what, NO_HISTORY, mend, needed=True)]
    return [Finding(name, State.OK, f"{told} (of {POSTGRES_VARIABLE})", needed=True)]


def registry(examination: Examination) -> list[Finding]:
    """The repositories that months cover; URLs are not asked."""
    try:
        entries = Registry(examination.settings.home / "repositories.toml").visible()
    except RegistryError as error:
        return [Finding("repositories", State.UNREACHABLE, str(error), "every month", "mend the file", needed=True)]
    if not entries:
        mend = "formulamine repositories add [OWNER/NAME=]PATH_OR_URL, or month --repo"
        return [Finding("repositories", State.MISSING, "none registered", "a month without --repo", mend)]
    mirrors, look = Git(examination.settings.home / "mirrors"), Git(examination.scratch / "look", examination.ended)
    counts, gone = {"mirrored": 0, "local": 0, "URLs not mirrored yet": 0}, []
    for entry in entries:
        if mirrors.mirror_path(entry.name).exists():
            counts["mirrored"] += 1
        elif is_url(entry.source):
            counts["URLs not mirrored yet"] += 1
        else:
            try:
                look.inspect_source(entry.source)
                counts["local"] += 1
            except GitError:  # counted, and named: `month` tells each one's fault
                gone.append(entry.name)
    told = [f"{count} {what}" for what, count in counts.items() if count]
    told += [f"{len(gone)} cannot be read ({', '.join(gone[:5])}{', ...' if len(gone) > 5 else ''})"] if gone else []
    value = f"{len(entries)} registered: {', '.join(told)}"
    if len(gone) == len(entries):
        mend = "give each a path or URL that can be read: formulamine repositories add"
        return [Finding("repositories", State.UNREACHABLE, value, "every month", mend, needed=True)]
    return [Finding("repositories", State.OK, value, f"pull requests of {len(gone)} repositories" if gone else "")]


def calibration(examination: Examination) -> list[Finding]:
    """What trials say of the verdict's errors."""
    mend = "formulamine calibrate MONTH, once a month has built something"
    try:
        trials = read_trials(examination.settings.home)
    except (ValueError, TypeError) as error:
        told_why = f"{trials_file(examination.settings.home)} holds what is no trial: {error}"
        return [Finding("calibration", State.UNREACHABLE, told_why, "what controls are held to", "remove the file")]
    if not trials:
        return [Finding("calibration", State.NOT_USED, "no trials: controls are held to an assumed rate", mend=mend)]
    return [Finding("calibration", State.OK, told(trials))]


def docker_engine(examination: Examination) -> list[Finding]:
    """A Docker engine and its client, which the docker backend and deploy/ use."""
    docker_settings = examination.settings.docker
    disables = "--backend docker"
    try:
        engine = docker.from_env(timeout=CONNECT_S)
        version = f"engine {engine.version()['Version']} answers"
        tags = {tag for image in engine.images.list() for tag in image.tags}
        engine.close()
    except docker.errors.DockerException:
        return [Finding("docker", State.NOT_USED, "no engine answers", disables, "start one, or set DOCKER_HOST")]
    if shutil.which("docker") is None:
        return [Finding("docker", State.MISSING, f"{version}, no client", disables, "install docker-cli or docker.io")]
    pattern = re.escape(docker_settings.base_image).replace(re.escape("{python}"), r"3\.\d+")
    here = sorted(tag for tag in tags if re.fullmatch(pattern, tag))
    bases = f"base images here: {', '.join(here)}" if here else f"{docker_settings.base_image} is pulled when needed"
    pushed = f"pushed to {docker_settings.registry}" if docker_settings.registry else "pushed nowhere"
    return [Finding("docker", State.OK, f"{version}; {bases}; {pushed}")]


def later(_: Examination) -> list[Finding]:
    """What a later formulamine will use: whether its variables are set, never what they hold."""
    things = (
        ("github tokens", ("GITHUB_TOKEN", "GH_TOKEN"), "pull requests come from git alone"),
        ("hub", ("HF_TOKEN", "HF_ENDPOINT"), "releases are folders, not uploads"),
    )
    findings = []
    for name, variables, instead in things:
        given = [variable for variable in variables if os.environ.get(variable)]
        told = f"{', '.join(given)} set" if given else "nothing set"
        findings.append(Finding(name, State.NOT_USED, f"{told}; {instead}"))
    return findings


PROBES: Sequence[Probe] = (
    Probe(("python",), python, "everything", needed=True),
    Probe(("git",), git, "everything", needed=True),
    Probe(("uv", "interpreters"), interpreters, NO_INTERPRETERS, needed=True),
    Probe(("sandbox", *(f"limit: {name}" for name in LIMITS)), sandbox, "images and speedup_measurements", needed=True),
    Probe(("home",), home, "every command that computes", needed=True),
    Probe(("disk used",), sizes, ""),
    Probe(("ledger",), ledger, NO_LEDGER, needed=True),
    Probe(("dagster storage",), dagster_storage, NO_HISTORY, needed=True),
    Probe(("package index",), index, NO_RESOLUTION, needed=True),
    Probe(("repositories",), registry, "", needed=False),
    Probe(("calibration",), calibration, ""),
    Probe(("docker",), docker_engine, ""),
    Probe(("models",), models, "what asks a model"),
    Probe(("github tokens", "hub"), later, ""),
)
