"""What a person does in the UI: cancel a month, materialize it, look at its pictures, ask for one's story."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from formulamine.demo.sample import REPOSITORY, write_sample
from formulamine_tests.browser.page import Page, browsing
from formulamine_tests.end_to_end.runs import (
    MONTH,
    QUICK,
    broken_blobs,
    endings,
    expected_endings,
    formulamine,
    half_written,
    locks_held,
    processes_of,
    table,
)
from formulamine_tests.end_to_end.ui import Ui, running_ui, until

pytestmark = [pytest.mark.browser, pytest.mark.network, pytest.mark.bubblewrap, pytest.mark.xdist_group("months")]
JOB = "/locations/formulamine.definitions/jobs/month"
CANCELLED_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """The UI over a home in which the sample is registered and nothing was made yet."""
    folder = tmp_path_factory.mktemp("ui")
    write_sample(folder / "sample.git")
    assert formulamine(folder / "home", "repositories", "add", f"{REPOSITORY}={folder / 'sample.git'}").code == 0
    with running_ui(folder / "home", QUICK) as running:
        yield running


@pytest.fixture(scope="module")
def page(ui: Ui, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(f"http://127.0.0.1:{ui.port}", tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def materialize(ui: Ui, page: Page) -> str:
    """Launch the month from the job's page, and open the run's."""
    known = set(ui.runs())
    page.open(JOB)
    page.click("Materialize all…")
    page.write(MONTH, "ex:")
    page.click("Launch 1 run")
    until(lambda: set(ui.runs()) - known, "the run that was launched")
    [run] = set(ui.runs()) - known
    page.open(f"/runs/{run}")
    return run


def of_runs(home: Path) -> Counter[str]:
    """Processes of a home but one that the code server makes at its first run, and keeps for the next."""
    return Counter(one for one in processes_of(home) if "multiprocessing.resource_tracker" not in one)


@dataclass(frozen=True)
class Cancelled:
    """What a cancel left behind."""

    status: str
    seconds: float
    """From the click that confirms it until the run and all of its processes had ended."""
    left: list[str]
    locks: list[str]
    files: list[str]
    """Half-written ones, and blobs that are not what their name says."""
    mounts: list[str]


def cancel(ui: Ui, page: Page, part: str) -> Cancelled:
    """Launch the month and cancel it by clicks while a process runs whose command line has a part."""
    before = of_runs(ui.home)
    run = materialize(ui, page)
    until(lambda: any(part in one for one in of_runs(ui.home)), part)
    page.click("Terminate")
    page.read("1 run will be terminated")
    page.photograph(f"terminate-{part}")
    page.click("Terminate 1 run")
    clicked = time.monotonic()
    while (left := of_runs(ui.home) - before) or ui.status(run) in ("STARTED", "CANCELING"):
        if time.monotonic() > clicked + 30:
            break
        time.sleep(0.05)
    seconds = time.monotonic() - clicked
    page.read("Canceled")
    page.photograph(f"cancelled-{part}")
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(ui.home) in line]
    files = broken_blobs(ui.home) + half_written(ui.home)
    return Cancelled(ui.status(run), seconds, list(left), locks_held(ui.home), files, mounts)


@pytest.fixture(scope="module")
def cancelled(ui: Ui, page: Page) -> dict[str, Cancelled]:
    """The month, cancelled in the middle of its first build, and launched again and cancelled in a measurement."""
    return {part: cancel(ui, page, part) for part in ("backend_hooks.py", "/harness")}


@pytest.fixture(scope="module")
def materialized(ui: Ui, page: Page, cancelled: dict[str, Cancelled]) -> str:
    """The same month once more by clicks, to its end."""
    run = materialize(ui, page)
    page.read("Success", 600)
    page.photograph("materialized")
    return run


@pytest.mark.parametrize("part", ["backend_hooks.py", "/harness"])
def test_cancel_in_a_build_and_in_a_measurement_leaves_nothing(cancelled: dict[str, Cancelled], part: str) -> None:
    one = cancelled[part]
    assert one.status == "CANCELED"
    assert one.seconds < CANCELLED_WITHIN_S
    assert (one.left, one.locks, one.files, one.mounts) == ([], [], [], [])


def test_month_is_materialized_by_clicking_and_every_step_is_green(ui: Ui, page: Page, materialized: str) -> None:
    page.open(f"/runs/{materialized}")
    page.read("Succeeded (")
    assert "Errored (0)" in page.text()
    assert ui.status(materialized) == "SUCCESS"
    assert endings(ui.home) == expected_endings()
    page.open("/assets/published_release")
    page.read("Latest materialization")
    page.read(MONTH)


def test_metadata_of_a_month_says_how_rows_ended(page: Page, materialized: str) -> None:
    page.open(f"/assets/speedup_measurements?view=partitions&partition={MONTH}")
    page.read("not_faster")
    page.photograph("metadata")
    told = page.text()
    for pr_id in ("formulamine__sample-32", "formulamine__sample-40"):
        assert pr_id in told


def test_pictures_behind_a_click_are_drawn(page: Page, materialized: str) -> None:
    for asset, name in (
        ("published_release", "funnel"),
        ("speedup_measurements", "speedups"),
        ("speedup_measurements", "benchmarks formulamine__sample-38"),
    ):
        page.open(f"/assets/{asset}?view=partitions&partition={MONTH}")
        page.click_beside(name, "[Show Markdown]")
        page.read("Close")
        page.photograph(name)
        assert [width > 300 for width in page.drawn()] == [True], name
        page.click("Close")


def test_story_of_a_pull_request_is_added_and_materialized(ui: Ui, page: Page, materialized: str) -> None:
    page.open("/assets/pr_lineage")
    page.click("Materialize…")
    page.click("Add a partition")
    page.read("Partition name")
    page.write("formulamine__sample-38")
    page.photograph("add-partition")
    page.click("Save")
    known = set(ui.runs())
    page.click("Launch 1 run")
    until(lambda: set(ui.runs()) - known, "the run that was launched")
    [run] = set(ui.runs()) - known
    assert ui.ended(run) == "SUCCESS", ui.told(run)
    page.open("/assets/pr_lineage?view=partitions&partition=formulamine__sample-38")
    page.read("is in release")
    page.photograph("story")
    speedup = table(ui.home, "speedup_measurements").filter(pr_id="formulamine__sample-38")["speedup"].item()
    assert f"{speedup:.2f}" in page.text()
