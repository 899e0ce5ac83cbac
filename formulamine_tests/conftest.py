"""What every test gets: no FORMULAMINE_* variable of the caller, and markers that say why a test is skipped."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import uv

from formulamine.interrupts import SIGNALS
from formulamine.services.sandbox import Isolation
from formulamine_tests.browser.page import why_no_browser
from formulamine_tests.docker.engine import why_no_docker, why_no_registry
from formulamine_tests.services.postgres import why_no_postgres


@cache
def why_no_bubblewrap() -> str:
    isolation = Isolation.probe()
    return "" if isolation.bubblewrap else isolation.why_not


@cache
def why_no_network() -> str:
    asked = subprocess.run(
        [uv.find_uv_bin(), "pip", "compile", "-", "--quiet", "--no-cache"],
        input="iniconfig", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return "" if asked.returncode == 0 else f"no package index answers: {asked.stderr.strip()[-200:]}"


SERVICES = {
    "bubblewrap": why_no_bubblewrap,
    "network": why_no_network,
    "postgres": why_no_postgres,
    "browser": why_no_browser,
    "docker": why_no_docker,
    "registry": why_no_registry,
}


# What one worker does, one test after the other: whole months of the sample. They must come to exactly its verdicts, so
# no two are measured at once; and many tests work with what one of them left.
MONTHS = "months"
# The same for what uses the engine: its images and containers are counted, and those that a test made are removed.
ENGINE = "engine"


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file go to one worker, which makes the fixtures of a module once, where no mark says otherwise.

    What takes longest begins first, and what is short fills the end. What writes gigabytes of images comes when most of
    the months are done: flushing them to disk holds up whatever keeps time.
    """
    for item in items:
        if item.get_closest_marker("docker"):
            item.add_marker(pytest.mark.xdist_group(ENGINE))
        elif "demo" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group(MONTHS))
        elif not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(Path(__file__).parent))))
    order = {MONTHS: 0, ENGINE: 2}
    items.sort(key=lambda item: order.get(_group(item), 1 if item.path.parent.name == "end_to_end" else 3))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(ids: list[str]) -> None:
    """End at once where workers do not see groups: tests would meet that must not, and nobody would be told."""
    if not all("@" in one for one in ids):
        pytest.exit(
            "groups do not reach the workers: give --dist loadgroup, and the pytest of pyproject.toml", returncode=4
        )


def _group(item: pytest.Item) -> str:
    mark = item.get_closest_marker("xdist_group")
    assert mark is not None
    return str(mark.args[0])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run and say why; CI installs every service, so there a missing one is a failure."""
    for marker, why_not in SERVICES.items():
        if item.get_closest_marker(marker) and (reason := why_not()):
            if os.environ.get("CI"):
                pytest.fail(f"CI must have it: {reason}")
            pytest.skip(reason)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """A command interrupted in this process ignores signals from then on, and so would all that tests start later."""
    before = {one: signal.getsignal(one) for one in SIGNALS}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests decides them."""
    for name in [name for name in os.environ if name.startswith("FORMULAMINE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A FORMULAMINE_HOME of the test's own, in a working directory without an .env file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORMULAMINE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
