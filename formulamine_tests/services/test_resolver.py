"""uv's answers as of a day, from a real index, and what happens where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from formulamine.items import Cancelled
from formulamine.services import resolver as resolving
from formulamine.services.resolver import IndexUnreachable, InstallFailed, Resolver, Unresolvable
from formulamine.services.sandbox import Isolation, Sandbox

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
needs_network = pytest.mark.network
UNKNOWN = "formulamine-nobody-has-this-name-on-any-index"


def no_sandbox() -> Sandbox:
    raise AssertionError("nothing here has to be built")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uv-cache")


@pytest.fixture(scope="module")
def resolver(cache: Path) -> Resolver:
    return Resolver(cache, cache.parent, threading.Event())


def without_looking(fresh: Resolver, known: Resolver) -> Resolver:
    """A resolver that knows the interpreters already: looking for them starts each."""
    fresh.interpreters = known.interpreters
    return fresh


def names(pins: list[str]) -> list[str]:
    return [pin.partition("==")[0] for pin in pins]


class TestMachine:
    def test_the_version_is_uvs_own(self, resolver: Resolver) -> None:
        told = subprocess.run([resolver.uv, "--version"], capture_output=True, text=True, check=True).stdout
        assert told.split()[1] == resolver.version

    def test_the_running_series_is_on_offer(self, resolver: Resolver) -> None:
        assert HERE in resolver.interpreters

    def test_every_interpreter_is_what_it_says(self, resolver: Resolver) -> None:
        probe = "import sys; print('%d.%d.%d' % sys.version_info[:3], sys.prefix, sys.implementation.name)"
        for series, one in resolver.interpreters.items():
            told = subprocess.run([one.path, "-I", "-c", probe], capture_output=True, text=True, check=True).stdout
            assert told.split() == [one.version, str(one.prefix), "cpython"]
            assert one.version.startswith(f"{series}.")
            assert not one.path.is_symlink()

    def test_what_does_not_start_is_not_on_offer(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = tmp_path / "versions" / "3.99.0" / "bin" / "python"
        broken.parent.mkdir(parents=True)
        broken.write_text("#!/bin/sh\nexit 1\n")
        broken.chmod(0o755)
        monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
        assert "3.99" not in Resolver(cache, cache.parent, threading.Event()).interpreters


def test_nothing_asked_is_nothing_pinned(resolver: Resolver) -> None:
    assert resolver.compile([], HERE, None, no_sandbox) == []


@needs_network
class TestCompile:
    CUTOFF = datetime(2022, 6, 1, tzinfo=UTC)

    def test_pins_are_exact_and_sorted_and_markers_are_gone(self, resolver: Resolver) -> None:
        pins = resolver.compile(["jinja2", "tomli; python_version < '3'", "six"], HERE, None, no_sandbox)
        assert names(pins) == ["jinja2", "markupsafe", "six"]
        assert all(pin.count("==") == 1 and ";" not in pin and " " not in pin for pin in pins)

    def test_no_release_is_newer_than_the_cutoff(self, resolver: Resolver) -> None:
        assert resolver.compile(["six", "click"], HERE, self.CUTOFF, no_sandbox) == ["click==8.1.3", "six==1.16.0"]
        assert resolver.compile(["six"], HERE, datetime(2021, 5, 5, tzinfo=UTC), no_sandbox) == ["six==1.15.0"]

    def test_the_same_question_has_the_same_pins(self, resolver: Resolver, tmp_path: Path) -> None:
        question = ["requests", "click>=7"]
        first = resolver.compile(question, HERE, self.CUTOFF, no_sandbox)
        elsewhere = Resolver(tmp_path / "cache", tmp_path, threading.Event())
        assert elsewhere.compile(question[::-1], HERE, self.CUTOFF, no_sandbox) == first

    def test_the_same_question_is_asked_once(self, resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
        first = resolver.compile(["six", "click"], HERE, self.CUTOFF, no_sandbox)
        monkeypatch.setattr(resolver, "uv", Path("/no/uv"))
        assert resolver.compile(["click", "six", "six"], HERE, self.CUTOFF, no_sandbox) == first

    def test_an_unknown_name_is_told(self, resolver: Resolver) -> None:
        with pytest.raises(Unresolvable, match="not found in the package registry") as told:
            resolver.compile(["six", UNKNOWN], HERE, None, no_sandbox)
        assert told.value.unknown == {UNKNOWN}
        with pytest.raises(Unresolvable) as again:
            resolver.compile([UNKNOWN, "six"], HERE, None, no_sandbox)
        assert again.value.unknown == {UNKNOWN}

    def test_an_unknown_name_behind_another_unknown_one_is_told_in_turn(self, resolver: Resolver) -> None:
        wanted, dropped = {"six", UNKNOWN, UNKNOWN + "-either"}, set()
        while True:
            try:
                pins = resolver.compile(sorted(wanted - dropped), HERE, None, no_sandbox)
                break
            except Unresolvable as error:
                if not error.unknown:
                    raise
                dropped |= error.unknown
        assert names(pins) == ["six"]

    def test_what_contradicts_itself_knows_all_names(self, resolver: Resolver) -> None:
        with pytest.raises(Unresolvable) as told:
            resolver.compile(["six<1.10", "six>1.15"], HERE, None, no_sandbox)
        assert told.value.unknown == set()
        assert "\n" not in str(told.value)

    def test_what_was_not_there_yet_is_unresolvable_and_not_unknown(self, resolver: Resolver) -> None:
        with pytest.raises(Unresolvable) as told:
            resolver.compile(["ruff"], HERE, datetime(2015, 1, 1, tzinfo=UTC), no_sandbox)
        assert told.value.unknown == set()

    def test_a_warning_is_no_pin(self, resolver: Resolver) -> None:
        assert resolver.compile(["click[no-such-extra]==8.1.7"], HERE, None, no_sandbox) == ["click==8.1.7"]

    @pytest.mark.bubblewrap
    def test_what_must_be_built_to_be_read_is_asked_in_the_sandbox(self, resolver: Resolver) -> None:
        box = Sandbox(isolated=True, cgroups=Isolation.probe().cgroups, cancelled=threading.Event())
        asked: list[Sandbox] = []

        def sandbox() -> Sandbox:
            asked.append(box)
            return box

        # Has no wheel at all.
        pins = resolver.compile(["docopt==0.6.2"], HERE, None, sandbox)
        assert pins == ["docopt==0.6.2"]
        assert asked == [box]


@needs_network
class TestMakeEnvironment:
    def installed(self, folder: Path) -> list[str]:
        packages = folder / "lib" / f"python{HERE}" / "site-packages"
        return sorted(path.name for path in packages.glob("*.dist-info"))

    def test_it_holds_the_pins_and_nothing_else(self, resolver: Resolver, tmp_path: Path) -> None:
        resolver.make_environment(["six==1.16.0"], HERE, tmp_path / "env", no_sandbox)
        assert self.installed(tmp_path / "env") == ["six-1.16.0.dist-info"]
        told = subprocess.run(
            [tmp_path / "env" / "bin" / "python", "-c", "import six; print(six.__version__)"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert told.stdout == "1.16.0\n"

    def test_what_it_holds_is_no_link_into_the_cache(self, resolver: Resolver, tmp_path: Path) -> None:
        resolver.make_environment(["six==1.16.0"], HERE, tmp_path / "env", no_sandbox)
        (module,) = (tmp_path / "env").glob("lib/*/site-packages/six.py")
        assert not module.is_symlink()
        assert module.stat().st_nlink == 1

    @pytest.mark.bubblewrap
    def test_a_pin_that_is_not_there_is_an_error(self, resolver: Resolver, tmp_path: Path) -> None:
        box = Sandbox(isolated=True, cgroups=False, cancelled=threading.Event())
        with pytest.raises(InstallFailed, match=r"six"):
            resolver.make_environment(["six==99.0"], HERE, tmp_path / "env", lambda: box)

    @pytest.mark.bubblewrap
    def test_what_has_no_wheel_is_built_in_the_sandbox(self, resolver: Resolver, tmp_path: Path) -> None:
        box = Sandbox(isolated=True, cgroups=False, cancelled=threading.Event())
        resolver.make_environment(["docopt==0.6.2"], HERE, tmp_path / "env", lambda: box)
        assert self.installed(tmp_path / "env") == ["docopt-0.6.2.dist-info"]


class TestNoIndex:
    @pytest.fixture
    def cut_off(self, resolver: Resolver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolver:
        monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
        for name in ("UV_INDEX", "UV_INDEX_URL", "UV_FIND_LINKS", "UV_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        return without_looking(Resolver(tmp_path / "empty-cache", tmp_path, threading.Event()), resolver)

    def test_compiling_says_that_the_index_is_unreachable(self, cut_off: Resolver) -> None:
        with pytest.raises(IndexUnreachable) as told:
            cut_off.compile(["six"], HERE, None, no_sandbox)
        assert "\n" not in str(told.value)
        assert str(told.value)

    def test_it_is_asked_again_the_next_time(self, cut_off: Resolver) -> None:
        for _ in range(2):
            with pytest.raises(IndexUnreachable):
                cut_off.compile(["six"], HERE, None, no_sandbox)

    def test_installing_says_so_too(self, cut_off: Resolver, tmp_path: Path) -> None:
        with pytest.raises(IndexUnreachable):
            cut_off.make_environment(["six==1.16.0"], HERE, tmp_path / "env", no_sandbox)

    def test_an_environment_without_pins_needs_none(self, cut_off: Resolver, tmp_path: Path) -> None:
        cut_off.make_environment([], HERE, tmp_path / "env", no_sandbox)
        assert (tmp_path / "env" / "bin" / "python").exists()


def test_a_cancel_ends_uv_within_seconds(resolver: Resolver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index takes the connection and never answers."""
    import socket

    cancelled = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        asking = without_looking(Resolver(tmp_path / "cache", tmp_path, cancelled), resolver)
        threading.Timer(0.3, cancelled.set).start()
        started = time.monotonic()
        with pytest.raises(Cancelled):
            asking.compile(["six"], HERE, None, no_sandbox)
        assert time.monotonic() - started < 3
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if b"compile" in Path(f"/proc/{pid}/cmdline").read_bytes()]


class TestOneQuestion:
    """Asked by several threads at once it is one resolution."""

    @pytest.fixture
    def asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolver:
        monkeypatch.setattr(Resolver, "_compile", self.answer)
        self.begun, self.may_end, self.count = threading.Event(), threading.Event(), 0
        self.outcome: list[str] | Exception = ["a==1"]
        return Resolver(tmp_path / "uv", tmp_path, threading.Event())

    def answer(self, *_: object) -> list[str]:
        self.count += 1
        self.begun.set()
        assert self.may_end.wait(10)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def ask(self, resolver: Resolver, *lines: str) -> list[str]:
        return resolver.compile(lines, HERE, None, no_sandbox)

    def both(self, resolver: Resolver) -> list[Future[list[str]]]:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(self.ask, resolver, "a", "b")
            assert self.begun.wait(10)
            second = pool.submit(self.ask, resolver, "b", "a", "b")
            self.may_end.set()
        return [first, second]

    def test_and_one_answer(self, asked: Resolver) -> None:
        assert [one.result() for one in self.both(asked)] == [["a==1"], ["a==1"]]
        assert self.ask(asked, "a", "b") == ["a==1"]
        assert self.count == 1

    def test_an_answer_that_there_is_none_is_kept(self, asked: Resolver) -> None:
        self.outcome = Unresolvable("no such set", frozenset())
        assert all(isinstance(one.exception(), Unresolvable) for one in self.both(asked))
        with pytest.raises(Unresolvable):
            self.ask(asked, "a", "b")
        assert self.count == 1

    def test_what_is_no_answer_is_asked_again(self, asked: Resolver) -> None:
        self.outcome = IndexUnreachable("nobody")
        self.both(asked)
        self.outcome, before = ["a==2"], self.count
        assert self.ask(asked, "a", "b") == ["a==2"]
        assert self.count == before + 1


def test_answers_of_uv_are_read_by_signs_that_it_writes() -> None:
    """Both older and present versions of uv: the older ones draw a tree and break lines."""
    not_found = "was not found in the package registry"
    older = (
        f"  × No solution found when resolving dependencies:\n  ╰─▶ Because a-b {not_found} and\n      you require a-b"
    )
    newer = f"  cause: Because a-b {not_found} and c {not_found}"
    for output, unknown in ((older, {"a-b"}), (newer, {"a-b", "c"})):
        failure = resolving._failure(output)
        assert isinstance(failure, Unresolvable)
        assert failure.unknown == unknown
    broken = "╰─▶ Because a-rather-long-name was not found in the package\n      registry and you require it"
    failure = resolving._failure(broken)
    assert isinstance(failure, Unresolvable)
    assert failure.unknown == {"a-rather-long-name"}
