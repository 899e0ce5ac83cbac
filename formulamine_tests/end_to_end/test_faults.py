"""Faults of the world: one line, the right exit code, state intact, and the same command carries on afterwards."""

from __future__ import annotations

import fcntl
import shlex
import shutil
import sqlite3
import subprocess
from pathlib import Path

import polars as pl
import pytest

from formulamine import month as month_runs
from formulamine.demo.sample import REPOSITORY, write_sample
from formulamine.services.ledger import Ledger
from formulamine.services.store import SCHEMA_KEY
from formulamine.tables import PHASES
from formulamine_tests.end_to_end.conftest import in_process
from formulamine_tests.end_to_end.runs import (
    COMMAND,
    MONTH,
    endings,
    environment,
    expected_endings,
    formulamine,
    table,
    usable,
)
from formulamine_tests.services.histories import History, day


def test_second_run_of_a_month_is_refused_and_names_the_first(tmp_path: Path, home: Path) -> None:
    usable("DOC: one").write(tmp_path / "r")
    lock = home / "locks" / f"month-{MONTH}.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        first.write("4711")
        first.flush()
        ended = in_process(home, "month", MONTH, "--repo", f"a/r={tmp_path / 'r'}", "--select", "repositories")
        other = in_process(home, "month", "2024-01", "--select", "repositories")
    assert (ended.code, len(ended.errors)) == (1, 1)
    assert f"a run of {MONTH} is under way in process 4711" in ended.errors[0]
    assert other.code == 0
    assert in_process(home, "month", MONTH, "--select", "repositories").code == 0


def test_lock_taken_at_the_last_moment_is_told_the_same(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable("DOC: one").write(tmp_path / "r")
    lock = home / "locks" / f"month-{MONTH}.lock"
    real = month_runs.run_job
    lock.parent.mkdir(parents=True)
    with lock.open("w") as first:

        def another_is_faster(*arguments: object) -> list[object]:
            fcntl.flock(first, fcntl.LOCK_EX)
            return real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(month_runs, "run_job", another_is_faster)
        ended = in_process(home, "month", MONTH, "--repo", f"a/r={tmp_path / 'r'}")
    assert (ended.code, len(ended.errors)) == (1, 1)
    assert "is under way" in ended.errors[0]


def test_table_of_an_older_schema_is_told_and_never_misread(asked_home: Path) -> None:
    path = asked_home / "tables" / "pull_requests" / f"{MONTH}.parquet"
    pl.read_parquet(path).drop("title").write_parquet(path, metadata={SCHEMA_KEY: "older"})
    usable("DOC: one").write(asked_home.parent / "r")
    month = ["month", MONTH, "--repo", f"a/r={asked_home.parent / 'r'}", "--select", "judge"]
    for arguments in (["funnel", MONTH], ["check", MONTH], ["lineage", "a/b#1"], month):
        ended = in_process(asked_home, *arguments)
        assert (ended.code, ended.out) == (1, ""), arguments
        assert "was written with another version of the table's schema: delete it and run" in ended.errors[-1]
    assert in_process(asked_home, "month", MONTH, "--select", "discover").code == 0  # writes it anew


def test_damaged_table_is_told(home: Path) -> None:
    path = home / "tables" / "pull_requests" / f"{MONTH}.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 no")
    ended = in_process(home, "funnel", MONTH)
    assert (ended.code, len(ended.errors)) == (1, 1)
    assert "is damaged" in ended.errors[0]


def test_ledger_of_another_schema_is_told_and_left_alone(tmp_path: Path, home: Path) -> None:
    usable("DOC: one").write(tmp_path / "r")
    home.mkdir()
    Ledger(f"sqlite:///{home / 'ledger.sqlite'}").close()
    with sqlite3.connect(home / "ledger.sqlite") as ledger:
        ledger.execute("update ledger_schema set version = 99")
    ended = in_process(home, "month", MONTH, "--repo", f"a/r={tmp_path / 'r'}")
    assert ended.code == 1
    assert "has schema 99" in ended.errors[-1]


def test_check_of_a_month_made_in_part_says_what_is_missing(tmp_path: Path, home: Path) -> None:
    usable("DOC: one").write(tmp_path / "r")
    selected = in_process(home, "month", MONTH, "--repo", f"a/r={tmp_path / 'r'}", "--select", "repositories")
    assert selected.code == 0
    ended = in_process(home, "check", MONTH)
    assert (ended.code, len(ended.errors)) == (1, 1)
    assert "published_release" in ended.errors[0]


def test_select_of_what_needs_more_says_so(tmp_path: Path, home: Path) -> None:
    usable("DOC: one").write(tmp_path / "r")
    ended = in_process(home, "month", MONTH, "--repo", f"a/r={tmp_path / 'r'}", "--select", "judge")
    assert ended.code == 1
    assert "which was never made" in ended.errors[-1]


@pytest.mark.bubblewrap
@pytest.mark.parametrize(
    ("free", "assets"),
    [
        (1_000_000, "discover,judge"),
        pytest.param(4_750_000, "discover,judge,build", marks=pytest.mark.network),
    ],
)
def test_full_disk_ends_in_one_line_and_the_same_command_carries_on(tmp_path: Path, free: int, assets: str) -> None:
    """In a file system of its own, filled but for `free` bytes; then room is made."""
    sample, home, kept = tmp_path / "sample.git", tmp_path / "home", tmp_path / "kept"
    write_sample(sample)
    for folder in (home, kept):
        folder.mkdir()
    month = shlex.join([*COMMAND, "month", MONTH, "--repo", f"{REPOSITORY}={sample}", "--select", assets])
    script = (
        f"head -c {100_000_000 - free} /dev/zero > {home}/ballast; {month} > {kept}/out 2> {kept}/err; echo $?;"
        f"rm {home}/ballast; {month} > {kept}/out2 2> {kept}/err2; echo $?; rm -rf {home}/cache {home}/dagster;"
        f"cp -r {home} {kept}/home"
    )
    done = subprocess.run(
        ["bwrap", "--dev-bind", "/", "/", "--size", "100000000", "--tmpfs", str(home), "sh", "-c", script],
        cwd=tmp_path, env=environment(home, {"FORMULAMINE_MIN_FREE_MB": "0"}), capture_output=True, text=True,
        check=True, timeout=300,
    )  # fmt: skip
    err = (kept / "err").read_text()
    assert done.stdout.split() == ["1", "0"], err + (kept / "err2").read_text()
    assert "Traceback" not in err
    assert err.splitlines()[-1] == (
        f"formulamine: the disk of {home} is full: free some space and run the same command again"
    )
    reached = {key: ending for key, ending in expected_endings().items() if _phase(ending[0]) in assets}
    made = _endings_so_far(kept / "home", assets)
    assert {key: made.get(key) for key in reached} == reached


@pytest.mark.network
def test_too_little_space_for_a_build_ends_in_one_line_and_the_same_command_carries_on(tmp_path: Path) -> None:
    sample, home = tmp_path / "sample.git", tmp_path / "home"
    write_sample(sample)
    month = ["month", MONTH, "--repo", f"{REPOSITORY}={sample}", "--select", "discover,judge,build"]
    refused = formulamine(home, *month, variables={"FORMULAMINE_MIN_FREE_MB": str(2**40)})
    assert refused.code == 1
    assert "Traceback" not in refused.err
    assert "MB free, and a build needs FORMULAMINE_MIN_FREE_MB=" in refused.errors[-1]
    with sqlite3.connect(home / "ledger.sqlite") as ledger:
        assert not ledger.execute("select * from outcomes where step = 'env_payloads' and status = 'failed'").fetchall()
    assert formulamine(home, *month).code == 0


def _phase(asset: str) -> str:
    return next(phase for phase, names in PHASES.items() if asset in names)


def _endings_so_far(home: Path, assets: str) -> dict[int, tuple[str, str, str | None]]:
    numbers = dict(table(home, "pull_requests").select("pr_id", "number").rows())
    found: dict[int, tuple[str, str, str | None]] = {}
    for name in [name for phase in assets.split(",") for name in PHASES[phase] if name != "repositories"]:
        for pr_id, status, reason in table(home, name).select("pr_id", "status", "reason").rows():
            found[numbers[pr_id]] = (name, status, reason)
    return found


@pytest.mark.network
def test_unreachable_index_refuses_the_release_and_the_same_command_carries_on(demo_copy: Path) -> None:
    # Another index than the one that answered before, so that every environment is asked for again.
    nowhere = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "NO_PROXY": "127.0.0.1", "UV_HTTP_RETRIES": "0"}
    with sqlite3.connect(demo_copy / "ledger.sqlite") as ledger:
        ledger.execute("delete from outcomes where step = 'env_payloads' and item = 'formulamine__sample-42'")
    for name in ("uv", "environments"):  # the latter holds the build backend, made of what the index gave
        shutil.rmtree(demo_copy / "cache" / name)
    before = (demo_copy / "release" / MONTH / "manifest.json").read_bytes()
    ended = formulamine(demo_copy, "month", MONTH, variables=nowhere)
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert "refused, items are open (8 env_payloads index_unreachable)" in ended.errors[-1]
    assert (demo_copy / "release" / MONTH / "manifest.json").read_bytes() == before
    assert formulamine(demo_copy, "month", MONTH).code == 0
    assert endings(demo_copy) == expected_endings()


def test_hostile_repository_runs_nothing_and_breaks_nothing(tmp_path: Path, home: Path) -> None:
    marker, source = tmp_path / "it-ran", tmp_path / "hostile"
    run = f"touch {marker}"
    made = History()
    start = made.commit(
        "Start", day(5, month=1),
        {
            "asv.conf.json": '{"version": 1, "benchmark_dir": "benchmarks"}',
            "benchmarks/bench.py": f"import os; os.system('{run}')\n",
            "setup.py": f"import os; os.system('{run}')\n",
            "p/__init__.py": "def f(values):\n    return [x for x in values for _ in values]\n",
            ".gitattributes": "* filter=evil diff=evil merge=evil\n",
            ".gitmodules": f'[submodule "s"]\n\tpath = s\n\turl = ext::sh -c "{run}"\n\tupdate = !{run}\n',
            ".lfsconfig": f'[lfs]\n\turl = "ext::{run}"\n',
        },
    )  # fmt: skip
    told = ["p/with space.py", "p/with 'quotes\".py", "p/with\nnewline.py", "p/-rf", "p/$(touch x).py"]
    names = [*(name.encode() for name in told), b"p/\xff\xfe.py"]
    faster = "def f(values):\n    return list(values) * len(values)\n"
    one = made.commit(
        "PERF: faster f (#1)\n\nIt is 10x faster.".encode("latin-1"), day(3),
        {"p/__init__.py": faster, **dict.fromkeys(names, b"A = 1\n")}, start=start,
    )  # fmt: skip
    two = made.commit(
        "PERF: plus rapide, caché \xe9\xe8 (#2)".encode("latin-1"), day(4),
        {"p/__init__.py": "import functools\nf = functools.cache(list)\n"}, author=b"Andr\xe9 <a@b.c>",
        encoding=b"ISO-8859-1", start=one,
    )  # fmt: skip
    three = made.commit(
        b"PERF: \x1b]0;owned\x07\x1b[31mspeed \xff\xfe up (#3)", day(5),
        {"s": (b"160000", b"1" * 40), "out.py": (b"120000", b"../../../../etc/passwd"), "p/x.py": "B = 2\n"}, start=two,
    )  # fmt: skip
    made.commit("Later", day(2, month=3), {"p/later.py": "C = 3\n"}, start=three)
    made.write(source, bare=False)
    hooks = source / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("post-checkout", "pre-receive", "post-update", "reference-transaction", "post-merge", "fsmonitor"):
        (hooks / hook).write_text(f"#!/bin/sh\n{run}\n")
        (hooks / hook).chmod(0o755)
    with (source / ".git" / "config").open("a") as config:
        config.write(
            f'[core]\n\tfsmonitor = "{run}"\n\tsshCommand = "{run}"\n\tpager = "{run}"\n\thooksPath = {hooks}\n'
            f'\talternateRefsCommand = "{run}"\n[filter "evil"]\n\tclean = "{run}"\n\tsmudge = "{run}"\n'
            f'\tprocess = "{run}"\n[diff]\n\texternal = "{run}"\n[diff "evil"]\n\ttextconv = "{run}"\n'
            f'\tcommand = "{run}"\n[uploadpack]\n\tpackObjectsHook = "{run}"\n[gpg]\n\tprogram = "{run}"\n'
            f"[alias]\n\tfetch = !{run}\n\tcat-file = !{run}\n"
        )

    ended = in_process(home, "month", MONTH, "--repo", f"evil/r={source}", "--select", "discover,judge")

    assert ended.code == 0, ended.err
    pulls = table(home, "pull_requests").sort("number")
    assert pulls["number"].to_list() == [1, 2, 3]
    assert "plus rapide, caché éè" in pulls["title"][1]
    assert {one["path"] for one in pulls["files"][0]} >= set(told)
    assert table(home, "classifications")["status"].to_list() == ["done"] * 3
    for number in (1, 2, 3):
        story = formulamine(home, "lineage", f"evil/r#{number}")
        assert story.code == 0, story.err
        assert "\x1b" not in story.out
        assert "\x07" not in story.out
    assert not marker.exists()
