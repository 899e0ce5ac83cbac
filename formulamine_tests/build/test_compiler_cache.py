"""What compilers made, kept for the next build: who hits, who may write, and what a spoiled cache does."""

import os
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from formulamine.build import compiler_cache
from formulamine.build.cache import ready
from formulamine.build.compiler_cache import SHIMS, CompilerCache, compiles
from formulamine.build.pair import Pair, Side
from formulamine.build.room import Room
from formulamine.settings import DiskSettings
from formulamine_tests.build.workbench import Files, Workbench, project
from formulamine_tests.services.histories import History, day

needs_ccache = pytest.mark.skipif(
    not SHIMS.is_dir() and not os.environ.get("CI"), reason="no ccache: apt-get install ccache"
)
# A tiny extension, compiled as setuptools would: with debug information, which names the folder of the sources.
SOURCE = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "speed", "%s", -1, 0};
PyMODINIT_FUNC PyInit_speed(void) { return PyModule_Create(&module); }
"""
COMPILE = """
import subprocess, sysconfig
def build_wheel(output, settings=None, metadata=None, real=build_wheel):
    include = sysconfig.get_paths()["include"]
    subprocess.run(["gcc", "-g", "-O1", "-fPIC", "-I", include, "-c", "speed.c", "-o", "speed.o"], check=True)
    subprocess.run(["gcc", "-shared", "speed.o", "-o", "src/toy/speed.so"], check=True)
    if "CCACHE_DIR" in os.environ:
        with open("src/toy/statistics.txt", "w") as told:
            subprocess.run(["ccache", "--print-stats"], stdout=told, check=True)
    {more}
    return real(output)
"""


def compiled(says: str = "one", more: str = "pass") -> Files:
    hook = COMPILE.format(more=textwrap.indent(textwrap.dedent(more), "    ").strip())
    return {**project(hook=hook), "speed.c": SOURCE % says}


def repository(bench: Workbench, *commits: Files) -> list[str]:
    """Write one commit after the other; their ids."""
    history = History()
    for number, files in enumerate(commits):
        history.commit(f"Work (#{number})", day(1 + number), files, start=number or None)
    bench.repo, bench.url = "acme/toy", str(bench.home / "source.git")
    return history.write(Path(bench.url))[1:]


def built(bench: Workbench, base: str, head: str) -> Pair:
    item = bench.simple_input((base, head))
    return bench.backend.pair(item.recipe(), item.url, bench.sandbox, item.pr_id)


def kept_of(bench: Workbench, pair: Pair) -> Path:
    """Where the compiled objects of a pair's repository are kept."""
    folder = bench.backend._compiled(pair.recipe)
    assert ready(folder)
    return folder


def hits(side: Side) -> int:
    """What ccache counted as found while a side was built, each build in a copy without counters."""
    told = (side.site / "toy" / "statistics.txt").read_text().splitlines()
    numbers = {name: int(value) for name, value in (line.split("\t") for line in told)}
    found = numbers["direct_cache_hit"] + numbers["preprocessed_cache_hit"]
    assert found + numbers["cache_miss"] == 1
    return found


def objects(folder: Path) -> dict[str, bytes]:
    """Contents of everything below a folder."""
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def text_in(pair: Pair) -> tuple[bool, bool]:
    """Whether each side's extension says what its own source says: base "one", head "two"."""
    base, head = ((side.site / "toy" / "speed.so").read_bytes() for side in (pair.base, pair.head))
    return b"one\0" in base, b"two\0" in head


def spoil_contents(folder: Path) -> None:
    for one in folder.rglob("*"):
        if one.is_file():
            one.write_bytes(b"\0" * 100 + one.read_bytes()[:50])


def put_a_link_and_a_configuration(folder: Path) -> None:
    (folder / "ccache.conf").write_text("compiler = /bin/false\nprefix_command = /bin/false\n")
    (folder / "0").mkdir(exist_ok=True)
    (folder / "0" / f"{'a' * 30}R").symlink_to("/etc/passwd")


@needs_ccache
@pytest.mark.bubblewrap
def test_the_second_build_of_the_same_source_hits_and_gives_the_same_bytes(jail: Workbench) -> None:
    pair = built(jail, *repository(jail, compiled(), {"other.txt": "another commit"}))
    assert (hits(pair.base), hits(pair.head)) == (0, 1)
    one, two = ((side.site / "toy" / "speed.so").read_bytes() for side in (pair.base, pair.head))
    assert one == two, "debug information names one place, wherever it was compiled"


@needs_ccache
@pytest.mark.bubblewrap
def test_what_a_head_side_compiles_is_kept_only_once_it_is_a_base(jail: Workbench) -> None:
    evil = """
    place = os.environ["CCACHE_DIR"]
    for parent, _, names in os.walk(place):
        for name in names:
            with open(os.path.join(parent, name), "ab") as file:
                file.write(b"of head")
    """
    changes = compiled("two", evil), {"other.txt": "1"}, {"other.txt": "2"}
    start, changed, merged, later = repository(jail, compiled(), *changes)
    pair = built(jail, start, changed)
    kept = kept_of(jail, pair)
    before = objects(kept)
    assert text_in(pair) == (True, True)
    assert before
    assert not any(b"of head" in content for content in before.values())
    assert hits(built(jail, start, merged).head) == 0, "another pull request finds nothing of it"
    assert objects(kept) == before
    built(jail, changed, later)
    assert any(b"of head" in content for content in objects(kept).values()), "history by now, and no pull request's"


@needs_ccache
@pytest.mark.bubblewrap
def test_what_a_merged_head_compiled_is_found_by_the_next(jail: Workbench) -> None:
    start, changed, later = repository(jail, compiled(), {"speed.c": SOURCE % "two"}, {"other.txt": "1"})
    assert hits(built(jail, start, changed).head) == 0
    pair = built(jail, changed, later)
    assert hits(pair.head) == 1
    assert b"two\0" in (pair.head.site / "toy" / "speed.so").read_bytes()


@needs_ccache
@pytest.mark.bubblewrap
@pytest.mark.parametrize("spoil", [spoil_contents, put_a_link_and_a_configuration])
def test_a_spoiled_cache_breaks_no_build(jail: Workbench, spoil: Callable[[Path], None]) -> None:
    commits = repository(jail, compiled(), {"other.txt": "one"}, {"other.txt": "another"}, {"speed.c": SOURCE % "two"})
    spoil(kept_of(jail, built(jail, commits[0], commits[1])))
    assert text_in(built(jail, commits[2], commits[3])) == (True, True)


@needs_ccache
@pytest.mark.bubblewrap
def test_what_a_base_side_puts_beside_the_objects_is_not_taken_on(jail: Workbench) -> None:
    more = """
    place = os.environ["CCACHE_DIR"]
    os.makedirs(place + "/0", exist_ok=True)
    os.symlink("/etc/passwd", place + "/0/aaaaaaR")
    os.mkfifo(place + "/0/bbbbbbR")
    open(place + "/ccache.conf", "w").write("compiler = /bin/false")
    open(place + "/0/program.sh", "w").write("exit 1")
    open(place + "/0/ccccccR", "w").close()
    os.chmod(place + "/0/ccccccR", 0)
    os.makedirs(place + "/locked/in")
    os.chmod(place + "/locked", 0)
    """
    pair = built(jail, *repository(jail, compiled(more=more), {"other.txt": "one"}))
    names = {Path(name).name for name in objects(kept_of(jail, pair))}
    assert names
    assert all(len(name) > 20 for name in names), names


def test_beyond_the_limit_what_was_used_last_is_kept(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cache = CompilerCache(tmp_path, Room(tmp_path, DiskSettings(), cancelled), 1, cancelled)
    folder, copy = cache.folder("acme/toy", "3.11", []), tmp_path / "copy"
    for turn, letter in enumerate("abc"):
        (copy / letter).mkdir(parents=True)
        one = copy / letter / f"{letter * 30}R"
        one.write_bytes(bytes(400 * 1024))
        os.utime(one, (turn, turn))
        cache.keep(folder, copy)
    assert sorted(name[0] for name in objects(folder)) == ["b", "c"]


@pytest.mark.bubblewrap
@pytest.mark.parametrize("why", ["no ccache", "switched off"])
def test_without_it_a_build_is_as_ever(jail: Workbench, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "no ccache":
        monkeypatch.setattr("formulamine.build.local.SHIMS", jail.home / "nowhere")
    else:
        jail.backend._disk = DiskSettings(compiler_cache_mb=0)
    pair = built(jail, *repository(jail, compiled(), {"speed.c": SOURCE % "two"}))
    assert text_in(pair) == (True, True)
    assert not (jail.home / "cache" / "compilers").exists()


def test_who_is_offered_one() -> None:
    assert compiles(["setup.py", "src/toy/_speed.pyx"])
    assert compiles(["deep/in/it.cpp"])
    assert not compiles(["toy/c.py", "README.c.md", "docs/cc"])


class Killed(BaseException):
    """Stands for a kill: nothing that handles errors sees it."""


def test_a_kill_while_it_is_replaced_leaves_none_and_the_next_build_starts_cold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = threading.Event()
    room = Room(tmp_path, DiskSettings(), cancelled)
    cache = CompilerCache(tmp_path, room, 1, cancelled)
    folder, copy = cache.folder("acme/toy", "3.11", []), tmp_path / "copy"
    (copy / "a").mkdir(parents=True)
    (copy / "a" / f"{'b' * 30}R").write_bytes(b"object")
    cache.keep(folder, copy)
    cache.lend(folder, tmp_path / "lent")
    assert list(objects(tmp_path / "lent")) == [f"a/{'b' * 30}R"]

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(compiler_cache, "write_atomically", killed)
        with pytest.raises(Killed):
            cache.keep(folder, copy)
    cache.lend(folder, tmp_path / "cold")
    assert not objects(tmp_path / "cold")
    Room(tmp_path, DiskSettings(), cancelled).tidy()
    assert not folder.exists()
    cache.keep(folder, copy)
    assert ready(folder)
    assert Room(tmp_path, DiskSettings(cache_ceiling_mb=1, min_free_mb=0), cancelled).keep_below_ceiling() == 0


def test_builds_of_one_repository_at_once_each_find_a_whole_one(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cache = CompilerCache(tmp_path, Room(tmp_path, DiskSettings(), cancelled), 1, cancelled)
    folder, problems = cache.folder("acme/toy", "3.11", []), []

    def work(number: int) -> None:
        for turn in range(5):
            lent, made = tmp_path / f"lent-{number}-{turn}", tmp_path / f"made-{number}-{turn}"
            cache.lend(folder, lent)
            if len(set(objects(lent).values())) > 1:
                problems.append(number)
            (made / "a").mkdir(parents=True)
            for letter in "bcdefg":
                (made / "a" / f"{letter * 30}R").write_bytes(b"%d" % number)
            cache.keep(folder, made)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not problems
    assert len(objects(folder)) == 6
