"""`doctor`: it tells what is, in time, without a trace and without a secret."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from formulamine import doctor_probes, doctor_sandbox
from formulamine.demo.sample import REPOSITORY, write_sample
from formulamine.doctor import Examination, Finding, Probe, Report, State, doctor
from formulamine.services.ledger import Ledger
from formulamine.services.sandbox import Isolation, Sandbox
from formulamine.settings import Settings

SECRET = "sesame-open"


@pytest.fixture
def look(home: Path, tmp_path: Path) -> Examination:
    return Examination(Settings(), tmp_path)


@pytest.fixture
def silent() -> Iterator[int]:
    """Port of a server that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(20)
        yield server.getsockname()[1]


def files(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def one(findings: list[Finding]) -> Finding:
    [found] = findings
    return found


def test_a_probe_that_hangs_is_unreachable_and_the_rest_is_told(home: Path) -> None:
    quick = Probe(("quick",), lambda _: [Finding("quick", State.OK, needed=True)], "")

    def wait(_: Examination) -> list[Finding]:
        threading.Event().wait(60)
        return []

    hangs = Probe(("first", "second"), wait, "all of it", needed=True)
    started = time.monotonic()
    report = doctor(Settings(), [hangs, quick], limit_s=0.3)
    assert time.monotonic() - started < 5
    assert [(found.name, found.state) for found in report.findings] == [
        ("first", State.UNREACHABLE), ("second", State.UNREACHABLE), ("quick", State.OK),
    ]  # fmt: skip
    assert report.findings[0].disables == "all of it"
    assert report.exit_code == 1


def test_what_a_probe_did_not_foresee_is_not_swallowed(home: Path) -> None:
    def broken(_: Examination) -> list[Finding]:
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError):
        doctor(Settings(), [Probe(("broken",), broken, "")])


def test_only_what_is_needed_decides_the_exit_code() -> None:
    gap = Finding("headers", State.MISSING, "none", "C extensions", "install them")
    fine = Finding("git", State.OK, "2.39", needed=True)
    report = Report([fine, gap, Finding("hub", State.NOT_USED)])
    assert (report.ready, report.exit_code) == (True, 0)
    assert "disables: C extensions" in report.render()
    assert "mend: install them" in report.render()
    assert json.loads(report.to_json())["findings"][1]["state"] == "missing"
    refused = Report([gap, Finding("git", State.MISSING, needed=True)])
    assert (refused.ready, refused.exit_code) == (False, 1)
    assert "no month can be run here yet: git" in refused.render()


def test_with_everything_unreachable_it_ends_in_ten_seconds_and_tells_no_secret(
    home: Path, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = f"postgresql+psycopg2://user:{SECRET}@127.0.0.1:{silent}/db?password={SECRET}"
    monkeypatch.setenv("FORMULAMINE_LEDGER_URL", database)
    monkeypatch.setenv("FORMULAMINE_DAGSTER_POSTGRES_URL", database)
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{silent}")
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.setenv(name, f"http://user:{SECRET}@127.0.0.1:{silent}/simple")
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GITHUB_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    # In a process of its own: what hangs must not keep it from ending either.
    program = "from formulamine.doctor import *; r = doctor(Settings()); print(r.render()); print(r.to_json())"
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    taken = time.monotonic() - started
    assert SECRET not in ended.stdout + ended.stderr
    assert re.search(r"unreachable +ledger", ended.stdout)
    assert re.search(r"unreachable +dagster storage", ended.stdout)
    assert re.search(r"unreachable +package index", ended.stdout)
    assert re.search(r"not used yet +docker +no engine answers", ended.stdout)
    assert "GITHUB_TOKEN set" in ended.stdout
    assert not home.exists()
    loading = "import formulamine.doctor_probes"
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", loading], check=True)
    assert taken - (time.monotonic() - started) < 8.5  # the limit and what comes after; loading takes a second or two


def test_a_login_in_a_url_that_a_tool_told_is_not_told_on() -> None:
    told = Finding("index", State.UNREACHABLE, f"failed: https://user:{SECRET}@host/simple", mend=f"//{SECRET}@x")
    assert SECRET not in f"{told.cleaned()}"
    assert "https://***@host/simple" in told.cleaned().value


def test_a_ledger_is_looked_at_without_a_trace(look: Examination, home: Path) -> None:
    assert "made by the first month" in one(doctor_probes.ledger(look)).value
    assert not home.exists()
    home.mkdir()
    ledger = Ledger(look.settings.ledger_url)
    open_ = one(doctor_probes.ledger(look))
    ledger.close()
    before = files(home)
    closed = one(doctor_probes.ledger(look))
    assert files(home) == before
    assert open_ == closed
    assert (closed.state, closed.value.endswith("ledger.sqlite, schema 2, 0 outcomes")) == (State.OK, True)


@pytest.mark.parametrize("url", ["nonsense-sesame", "mysql://u:sesame@host/db", "postgresql://u:sesame@127.0.0.1:1/x"])
def test_a_ledger_that_cannot_be_opened_is_a_gap(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("FORMULAMINE_LEDGER_URL", url)
    monkeypatch.setenv("FORMULAMINE_DAGSTER_POSTGRES_URL", url)
    for probe in (doctor_probes.ledger, doctor_probes.dagster_storage):
        found = one(probe(Examination(Settings(), tmp_path)))
        assert (found.state, found.needed) == (State.UNREACHABLE, True)
        assert found.disables
        assert found.mend
        assert "sesame" not in str(found)


def test_a_damaged_ledger_is_a_gap(look: Examination, home: Path) -> None:
    home.mkdir()
    (home / "ledger.sqlite").write_bytes(b"this is no database" * 99)
    found = one(doctor_probes.ledger(look))
    assert (found.state, "not a database" in found.value) == (State.UNREACHABLE, True)


def test_repositories_are_counted_by_where_they_can_be_read(look: Examination, home: Path, tmp_path: Path) -> None:
    assert one(doctor_probes.registry(look)).state is State.MISSING
    home.mkdir()
    file = home / "repositories.toml"
    write_sample(tmp_path / "sample.git")
    rows = {REPOSITORY: tmp_path / "sample.git", "a/gone": tmp_path / "gone", "a/far": "https://localhost/a/far"}
    file.write_text("".join(f'[[repository]]\nname = "{name}"\nsource = "{path}"\n' for name, path in rows.items()))
    before = files(home)
    found = one(doctor_probes.registry(look))
    assert found.value == "3 registered: 1 local, 1 URLs not mirrored yet, 1 cannot be read (a/gone)"
    assert (found.state, found.needed, files(home)) == (State.OK, False, before)
    file.write_text(f'[[repository]]\nname = "a/gone"\nsource = "{tmp_path}/gone"\n')
    assert (one(doctor_probes.registry(look)).state, one(doctor_probes.registry(look)).needed) == (
        State.UNREACHABLE, True,
    )  # fmt: skip
    file.write_text("[[repository")
    assert one(doctor_probes.registry(look)).state is State.UNREACHABLE


def test_an_old_git_and_none_are_gaps(look: Examination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(doctor_probes.git(look)).state is State.OK
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    assert one(doctor_probes.git(Examination(look.settings, tmp_path))).state is State.MISSING
    (programs / "git").write_text("#!/bin/sh\necho git version 2.30.2\n")
    (programs / "git").chmod(0o755)
    found = one(doctor_probes.git(Examination(look.settings, tmp_path)))
    assert (found.state, found.value) == (State.MISSING, "2.30.2 is too old")


def test_a_machine_without_interpreters_or_compiler(look: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_probes.Resolver, "interpreters", {})
    monkeypatch.setattr(doctor_probes.shutil, "which", lambda *_, **__: None)
    state = {found.name: (found.state, found.needed) for found in doctor_probes.interpreters(look)}
    assert state["interpreters"] == (State.MISSING, True)
    assert state["compiler"] == (State.MISSING, False)


def test_without_bubblewrap_no_limit_is_claimed(look: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_sandbox.Isolation, "probe", lambda: Isolation(False, "not installed", False))
    found = doctor_sandbox.sandbox(look)
    assert {one.state for one in found} == {State.MISSING}
    assert (found[0].needed, "not installed" in found[0].value) == (True, True)


@pytest.mark.bubblewrap
def test_without_a_cgroup_two_limits_are_gaps_that_trust_accepts(
    look: Examination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_sandbox.Isolation, "probe", lambda: Isolation(True, "", False))
    found = {one.name: one for one in doctor_sandbox.sandbox(look)}
    gaps = {name for name, one in found.items() if one.state is not State.OK}
    assert gaps == {"limit: total memory", "limit: process count"}
    assert not any(found[name].needed for name in gaps)
    assert "--trust" in found["limit: total memory"].mend


def test_a_limit_that_does_not_hold_is_seen(look: Examination) -> None:
    bare = Sandbox(isolated=False, cgroups=False, cancelled=look.ended)
    for name in ("network", "filesystem"):
        assert not doctor_sandbox.ALWAYS[name](bare, look.scratch), name
    assert not doctor_sandbox.BY_CGROUP["process count"](bare, look.scratch)


@pytest.mark.bubblewrap
@pytest.mark.network
def test_on_a_machine_that_has_all_a_month_can_be_run(home: Path) -> None:
    report = doctor(Settings(), limit_s=60)
    found = {one.name: one for one in report.findings}
    for name in ("python", "git", "uv", "interpreters", "sandbox", "home", "ledger", "dagster storage"):
        assert found[name].state is State.OK, found[name]
    for name in doctor_sandbox.ALWAYS:
        assert found[f"limit: {name}"].state is State.OK
    assert found["docker"].state in (State.OK, State.NOT_USED)
    for name in ("models", "github tokens", "hub"):
        assert found[name].state is State.NOT_USED
    assert (report.exit_code, home.exists()) == (0, False)
