"""Room on the disk: what is refused, what goes and in which order, what nobody removes, and what a kill leaves."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from formulamine import cli, refusals
from formulamine.build.cache import Uses, discard, marker_of, ready, size_of, unused
from formulamine.build.room import GROUPS, MB, Cached, Folders, NoRoom, Room, freed, least_recently_used
from formulamine.items import Cancelled
from formulamine.settings import DiskSettings, Settings
from formulamine_tests.build.workbench import Workbench, project

TEXT = b"x" * 4096
SPAWNED = multiprocessing.get_context("spawn")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def room_of(root: Path, ceiling_mb: int = 0, min_free_mb: int = 0) -> Room:
    settings = DiskSettings(cache_ceiling_mb=ceiling_mb, min_free_mb=min_free_mb)
    return Room(root, settings, threading.Event())


def megabytes(count: float) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "content").write_bytes(b"x" * int(count * MB))

    return make


def have(room: Room, folder: Path, count: float = 1) -> Path:
    """A folder as an item made it that has ended since."""
    room.made(folder, megabytes(count))
    room.uses.let_go_of_all()
    return folder


def used_at(folder: Path, when: float) -> None:
    os.utime(marker_of(folder), (when, when))


class TestSpace:
    def test_a_build_does_not_start_where_too_little_is_free(self, root: Path) -> None:
        free = shutil.disk_usage(root.parent).free // MB
        room, folder = room_of(root, min_free_mb=free * 2), root / "sides" / "a"
        with pytest.raises(
            NoRoom, match=r"MB free, and a build needs FORMULAMINE_MIN_FREE_MB=\d+: free some space"
        ) as told:
            room.made(folder, megabytes(1))
        assert "\n" not in str(told.value)
        assert str(root) in str(told.value)
        assert not folder.exists()

    def test_what_stands_is_found_on_a_full_disk_too(self, root: Path) -> None:
        folder = have(room_of(root), root / "sides" / "a")
        assert room_of(root, min_free_mb=2**40).made(folder, megabytes(1)) == folder

    def test_every_disk_that_a_build_fills_is_asked(self, root: Path, tmp_path: Path) -> None:
        engine = tmp_path / "engine"
        engine.mkdir()
        free = {root: 10 * MB, engine: 3 * MB}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[folder]))
            for disks, enough in (((), 10), ((engine,), 3)):
                for wanted in (enough, enough + 1):
                    settings = DiskSettings(min_free_mb=wanted)
                    room = Room(root, settings, threading.Event(), disks=lambda disks=disks: disks)
                    if wanted == enough:
                        room.check()
                    else:
                        with pytest.raises(NoRoom, match=str(disks[0] if disks else root)):
                            room.check()

    def test_the_run_ends_and_no_item_has_failed(self, bench: Workbench) -> None:
        item = bench.simple_input(bench.repository(project("def work(): return 5\n")))
        full = DiskSettings(min_free_mb=2**40)
        refusing = Workbench(bench.home, bench.interpreters, uv_cache=bench.uv_cache, disk=full)
        refusing.own_tools()
        with pytest.raises(NoRoom):
            refusing.image_step()(item)

    def test_the_command_ends_in_that_line(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        error = NoRoom("the disk of /x has 1 MB free: mend it")
        assert refusals.disk_fault(error, Settings()) == "the disk of /x has 1 MB free: mend it"
        assert isinstance(error, OSError)


class TestCeiling:
    def test_least_recently_used_ones_go_first(self, root: Path) -> None:
        room = room_of(root)
        folders = [have(room, root / GROUPS[n % len(GROUPS)] / str(n), 0.9) for n in range(8)]
        for n, folder in enumerate(folders):
            used_at(folder, 1000 + n)
        room = room_of(root, ceiling_mb=6)
        room.made(folders[0], megabytes(1))  # found again, so used just now
        have(room, root / "sides" / "new", 0.9)
        assert [ready(folder) for folder in folders] == [True, False, False, False, True, True, True, True]
        assert sum(one.bytes for one in Folders(root).cached()) <= 6 * MB
        assert not any(folder.exists() for folder in folders[1:4])

    def test_without_one_everything_stays(self, root: Path) -> None:
        room = room_of(root, ceiling_mb=0)
        assert all(ready(have(room, root / "sides" / str(n))) for n in range(3))
        assert room.keep_below_ceiling() == 0

    def test_nothing_else_in_the_cache_counts_or_goes(self, root: Path) -> None:
        kept = []
        for name in ("uv/wheels/w", "llm/answers/a", "llm-2/a", "sides.txt", "other/b"):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * 3 * MB)
            kept.append(path)
        have(room_of(root, ceiling_mb=2), root / "sides" / "a")
        assert all(path.exists() for path in kept)
        assert ready(root / "sides" / "a")

    def test_what_a_thread_works_with_stays_until_it_lets_go(self, root: Path) -> None:
        mine, other = room_of(root), room_of(root, ceiling_mb=1)
        held = mine.made(root / "sides" / "held", megabytes(2))
        used_at(held, 1000)
        have(other, root / "sides" / "free")
        other.keep_below_ceiling()
        assert ready(held)
        assert not (root / "sides" / "free").exists()
        mine.uses.let_go_of_all()
        other.keep_below_ceiling()
        assert not held.exists()

    def test_what_the_caller_works_with_stays_too(self, root: Path) -> None:
        room = room_of(root, ceiling_mb=1)
        both = [room.made(root / "sides" / name, megabytes(2)) for name in "ab"]
        assert all(map(ready, both))

    def test_a_thread_that_ended_works_with_nothing(self, root: Path) -> None:
        room, folder = room_of(root), root / "sides" / "a"
        with ThreadPoolExecutor(1) as pool:
            pool.submit(room.made, folder, megabytes(2)).result()
            with unused(root, folder) as is_free:
                assert not is_free
        with unused(root, folder) as is_free:
            assert is_free

    def test_of_a_kind_only_the_latest_is_held(self, root: Path) -> None:
        room = room_of(root)
        first, second = (room.made(root / "environments" / name, megabytes(0)) for name in "ab")
        for folder in (first, second, second):
            room.uses.only_latest("build environment", folder)
        for folder, expected in ((first, True), (second, False)):
            with unused(root, folder) as is_free:
                assert is_free == expected

    def test_a_folder_without_a_size_is_measured_once(self, root: Path) -> None:
        folder = have(room_of(root), root / "suites" / "old", 3)
        marker_of(folder).write_bytes(b"")
        used_at(folder, 1234)
        [found] = Folders(root).cached()
        assert (found.bytes, found.used_at) == (size_of(folder), 1234)
        assert found.bytes >= 3 * MB
        assert int(marker_of(folder).read_text()) == found.bytes

    def test_files_of_several_names_are_shared(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "file").write_bytes(b"x" * 2 * MB)
        alone = size_of(tmp_path / "a")
        os.link(tmp_path / "a" / "file", tmp_path / "b")
        assert alone - size_of(tmp_path / "a") == MB

    def test_what_a_build_locked_up_is_removed(self, root: Path) -> None:
        def make(folder: Path) -> None:
            (folder / "locked" / "up").mkdir(parents=True)
            (folder / "locked" / "up" / "file").write_bytes(TEXT)
            (folder / "locked").chmod(0o000)

        room = room_of(root)
        folder = room.made(root / "sides" / "a", make)
        room.uses.let_go_of_all()
        discard(folder)
        assert not folder.exists()


THINGS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 5), st.integers(-1, 12), st.booleans()), min_size=0, max_size=12
)


@given(THINGS, st.integers(-10, 300))
def test_no_more_goes_than_must_and_never_what_others_need(
    things: list[tuple[int, int, int, bool]], excess: int
) -> None:
    """Of things of some size, use, place to stand on (an earlier one) and whether somebody works with them."""
    cached = [
        Cached(Path(f"/{n}"), size, float(used), f"id{n}", f"id{below}" if 0 <= below < n else "")
        for n, (size, used, below, _) in enumerate(things)
    ]
    held = {f"id{n}" for n, (*_, is_held) in enumerate(things) if is_held}
    asked: list[str] = []

    def remove(one: Cached) -> bool:
        asked.append(one.identity)
        return one.identity not in held

    gone = freed(excess, cached, remove)
    stay = [one for one in cached if one not in gone]
    assert not {one.identity for one in gone} & held
    assert not {one.stands_on for one in stay} & {one.identity for one in gone}, "what others stand on stays"
    assert len(asked) == len(set(asked))
    total = sum(one.bytes for one in gone)
    if total < excess:  # everything that could go is gone
        needed = set(held)
        for one in reversed(cached):
            needed |= {one.stands_on} if one.identity in needed else set()
        assert {one.identity for one in stay} <= needed
    elif gone:
        assert total - gone[-1].bytes < excess, "the last one had to go"


@given(THINGS)
def test_the_order_is_by_use_and_from_the_top(things: list[tuple[int, int, int, bool]]) -> None:
    cached = [
        Cached(Path(f"/{n}"), size, float(used), f"id{n}", f"id{below}" if 0 <= below < n else "")
        for n, (size, used, below, _) in enumerate(things)
    ]
    order = least_recently_used(cached)
    assert sorted(order, key=lambda one: str(one.path)) == sorted(cached, key=lambda one: str(one.path))
    place = {one.identity: n for n, one in enumerate(order)}
    for one in cached:
        if one.stands_on:
            assert place[one.identity] < place[one.stands_on]
    alone = [one for one in order if not one.stands_on and one.identity not in {other.stands_on for other in cached}]
    assert [one.used_at for one in alone] == sorted(one.used_at for one in alone)


class TestUses:
    def test_one_who_removes_is_waited_for_and_a_cancel_is_seen(self, root: Path) -> None:
        cancelled = threading.Event()
        uses = Uses(root, cancelled)
        with unused(root, root / "sides" / "a") as is_free:
            assert is_free
            uses.hold(root / "sides" / "b")
            cancelled.set()
            with pytest.raises(Cancelled):
                uses.hold(root / "sides" / "a")
        uses.hold(root / "sides" / "a")

    def test_holding_twice_is_holding_once(self, root: Path) -> None:
        uses, path = Uses(root, threading.Event()), root / "a"
        uses.hold(path)
        uses.hold(path)
        uses.let_go(path)
        with unused(root, path) as is_free:
            assert is_free

    def test_nobody_works_with_what_a_killed_process_held(self, root: Path) -> None:
        told = SPAWNED.Event()
        other = SPAWNED.Process(target=_works_with, args=(root, root / "sides" / "a", told))
        other.start()
        assert told.wait(60)
        with unused(root, root / "sides" / "a") as is_free:
            assert not is_free
        other.kill()
        other.join()
        with unused(root, root / "sides" / "a") as is_free:
            assert is_free


def _works_with(root: Path, folder: Path, told: Event) -> None:
    room = room_of(root)
    room.made(folder, megabytes(1))
    told.set()
    signal.pause()


class TestTidy:
    def test_what_killed_runs_left_goes_and_the_rest_stays(self, root: Path) -> None:
        whole = have(room_of(root), root / "sides" / "whole")
        half = root / "docker" / "environments" / "half"
        (half / "lib").mkdir(parents=True)
        beside = [half.parent / ".half.pins", half.parent / ".gone.ready", half.parent / ".writing-abc"]
        for path in beside:
            path.write_bytes(TEXT)
            os.utime(path, (1000, 1000))
        fresh, lock, stranger = half.parent / ".writing-def", half.parent / ".half.lock", root / "uv" / "half"
        stranger.mkdir(parents=True)
        for path in (fresh, lock):
            path.write_bytes(b"")
        room_of(root).made(whole, megabytes(1))
        assert not any(path.exists() for path in (half, *beside))
        assert all(path.exists() for path in (whole, marker_of(whole), fresh, lock, stranger))

    def test_what_another_is_making_stays(self, root: Path) -> None:
        going, go = threading.Event(), threading.Event()

        def slowly(folder: Path) -> None:
            (folder.parent / f".{folder.name}.pins").write_bytes(b"")
            going.set()
            assert go.wait(60)
            (folder / "content").write_bytes(TEXT)
            (folder.parent / f".{folder.name}.pins").unlink()

        room, folder = room_of(root), root / "sides" / "a"
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(room.made, folder, slowly)
            assert going.wait(60)
            room_of(root).tidy()
            go.set()
            assert made.result() == folder
        assert (folder / "content").read_bytes() == TEXT

    def test_what_failed_leaves_nothing(self, root: Path) -> None:
        def fail(folder: Path) -> None:
            (folder / "content").write_bytes(TEXT)
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            room_of(root).made(root / "sides" / "a", fail)
        assert not (root / "sides" / "a").exists()

    @pytest.mark.parametrize("after_s", [0.0, 0.002, 0.01, 0.05])
    def test_a_kill_in_the_midst_of_a_removal_leaves_none_that_counts(self, root: Path, after_s: float) -> None:
        folder = have(room_of(root), root / "sides" / "a", 0)
        for n in range(3000):
            (folder / str(n)).write_bytes(b"")
        script = (
            "import sys; from pathlib import Path; from formulamine.build.cache import discard; print(flush=True);"
            "discard(Path(sys.argv[1]))"
        )
        with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.read(1)
            time.sleep(after_s)
            other.kill()
        if ready(folder):
            assert len(list(folder.iterdir())) == 3001, "whole, or not there"
        else:
            room_of(root).tidy()
            assert not folder.exists()


def _keeps_making(root: Path, seed: int) -> None:
    """One process of several: folders of a few names, each looked at while it is held."""
    room = room_of(root, ceiling_mb=2)
    for n in range(40):
        room.uses.let_go_of_all()
        for name in {str((n * seed) % 5), str((n + seed) % 5)}:
            folder = room.made(root / "sides" / name, megabytes(0.7))
            assert (folder / "content").stat().st_size == int(0.7 * MB)
        time.sleep(0.001 * seed)
        assert all((root / "sides" / name / "content").exists() for name in (str((n * seed) % 5), str((n + seed) % 5)))


def test_processes_that_make_and_remove_at_once_never_miss_what_they_work_with(root: Path) -> None:
    several = [SPAWNED.Process(target=_keeps_making, args=(root, seed)) for seed in (1, 2, 3)]
    for one in several:
        one.start()
    for one in several:
        one.join(120)
    assert [one.exitcode for one in several] == [0, 0, 0]
    room = room_of(root, ceiling_mb=2)
    room.keep_below_ceiling()
    assert sum(one.bytes for one in Folders(root).cached()) <= 2 * MB


def test_what_was_removed_is_built_again_and_is_the_same(bench: Workbench) -> None:
    item = bench.simple_input(bench.repository(project("def work(): return 6\n")))
    first = bench.image_step()(item)
    assert bench.backend.standing(item.recipe()) is not None
    room = bench.backend._room
    room.uses.let_go_of_all()
    cache = bench.home / "cache"
    for one in Folders(cache).cached():
        Folders(cache).remove(one)
    assert bench.backend.standing(item.recipe()) is None
    assert bench.image_step()(item) == first


def test_the_funnel_has_nothing_to_do_with_room(home: Path) -> None:
    """Questions import nothing of the build."""
    script = "import sys, formulamine.cli, formulamine.lineage; sys.exit('formulamine.build.room' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert CliRunner().invoke(cli.main, ["funnel", "2024-02"]).exit_code == 1
