"""Control groups of this machine, and what looks like one and is none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from formulamine.services import cgroup
from formulamine.services.cgroup import Cgroup


def ours() -> list[Path]:
    return [path for path in cgroup.ROOT.glob(f"**/{cgroup.FOLDER}/{os.getpid()}-*") if path.is_dir()]


@pytest.fixture
def group() -> Iterator[Cgroup]:
    if not Cgroup.available():
        pytest.skip("no cgroup with memory and pids is writable here")
    group = Cgroup.create(64, 20)
    yield group
    group.kill()
    group.remove()
    assert ours() == []


def limit(group: Cgroup, *names: str) -> int:
    (value,) = [
        int((folder / name).read_text()) for folder in group.folders for name in names if (folder / name).exists()
    ]
    return value


def inside(group: Cgroup, script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sh", "-c", f'{group.enter} exec "$@"', "sh", sys.executable, "-c", script])


def test_asking_leaves_nothing_behind() -> None:
    Cgroup.available()
    assert ours() == []


def test_a_group_has_both_limits(group: Cgroup) -> None:
    assert limit(group, "memory.max", "memory.limit_in_bytes") == 64 * 2**20
    assert limit(group, "pids.max") == 20
    assert not group.out_of_memory()


def test_what_enters_is_limited_and_the_kernels_kill_is_seen(group: Cgroup) -> None:
    process = inside(group, "held = bytearray(b'x') * 200_000_000")
    assert process.wait(timeout=20) == -9
    assert group.out_of_memory()


def test_what_stays_within_is_not_touched(group: Cgroup) -> None:
    assert inside(group, "held = bytearray(b'x') * 10_000_000").wait(timeout=20) == 0
    assert not group.out_of_memory()


def test_a_group_is_killed_with_all_its_sessions(group: Cgroup) -> None:
    process = inside(group, "import os, time; os.fork() or os.setsid(); print(flush=True); time.sleep(60)")
    while sum(len((folder / "cgroup.procs").read_text().split()) for folder in group.folders[:1]) < 2:
        pass
    group.kill()
    assert process.wait(timeout=5) == -9
    group.remove()
    assert ours() == []
    group.remove()


def test_a_dead_runs_group_is_cleared_and_a_live_ones_is_not(group: Cgroup) -> None:
    """Ours is empty as one is that its sandbox has not entered yet."""
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    left = [folder.parent / f"{ended.pid}-left" for folder in group.folders]
    for folder in left:
        folder.mkdir()
    assert Cgroup.available()
    assert [folder.exists() for folder in left] == [False] * len(left)
    assert all(folder.exists() for folder in group.folders)


class TestNoCgroups:
    """Folders that are no cgroups enforce nothing, so nothing is claimed."""

    def test_a_machine_without(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cgroup, "ROOT", tmp_path / "nowhere")
        assert not Cgroup.available()

    @pytest.mark.parametrize("files", [[], ["cgroup.controllers", "cgroup.subtree_control"]], ids=["v1", "v2"])
    def test_plain_folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str]) -> None:
        for name in ("memory", "pids"):
            (tmp_path / name).mkdir()
        for name in files:
            (tmp_path / name).write_text("")
        monkeypatch.setattr(cgroup, "ROOT", tmp_path)
        assert not Cgroup.available()
        assert not list(tmp_path.glob(f"**/{os.getpid()}-*"))
