"""Fixtures of the tests of build, shared with those of verify and ship."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from formulamine.services.resolver import Interpreter
from formulamine_tests.build.workbench import SERIES, Index, Workbench, project


@pytest.fixture(scope="session")
def uv_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uv")


@pytest.fixture(scope="session")
def interpreters() -> dict[str, Interpreter]:
    """The one that runs the tests: asking every Python of a machine for its version takes seconds."""
    real = Path(os.path.realpath(sys.executable))
    return {SERIES: Interpreter(SERIES, platform.python_version(), real, Path(sys.base_prefix))}


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory: pytest.TempPathFactory, interpreters: dict[str, Interpreter], uv_cache: Path) -> Path:
    """A cache in which empty environments and the base side of a plain `project()` stand, as an earlier run left it."""
    made = Workbench(tmp_path_factory.mktemp("warm"), interpreters, uv_cache=uv_cache)
    made.own_tools()
    item = made.simple_input(made.repository(project()))
    pair = made.backend.pair(item.recipe(), item.url, made.sandbox, item.pr_id)
    shutil.rmtree(pair.head.tree.parent)
    shutil.rmtree(made.home / "cache" / "suites")
    return made.home / "cache"


@pytest.fixture
def bench(tmp_path: Path, interpreters: dict[str, Interpreter], uv_cache: Path, warm_cache: Path) -> Workbench:
    """Services without isolation, for the tests' own code, and with asv_runner at hand."""
    shutil.copytree(warm_cache, tmp_path / "cache", symlinks=True)
    made = Workbench(tmp_path, interpreters, uv_cache=uv_cache)
    made.own_tools()
    return made


@pytest.fixture
def jail(tmp_path: Path, interpreters: dict[str, Interpreter], uv_cache: Path) -> Workbench:
    """The same under bubblewrap."""
    made = Workbench(tmp_path, interpreters, isolated=True, uv_cache=uv_cache)
    made.own_tools()
    return made


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index that uv asks instead of the machine's own."""
    made = Index()
    for name in ("UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{made.url}/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def unreachable_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that refuses connections."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
