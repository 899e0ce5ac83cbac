"""The asset checks of what ships, each with what it must pass and what it must not."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from formulamine.checks import done_rows
from formulamine.services.container import Services
from formulamine.services.resolver import Interpreter
from formulamine.ship.assets import (
    ended,
    gate_results,
    open_items,
    refusal,
    release_folder,
    release_is_whole,
    statements_tell_nothing,
    told_of_statements,
)
from formulamine.ship.gates import ReleasedRow
from formulamine.ship.release import compose, write
from formulamine_tests.build.tables_of import MONTH, month_of, spoiled
from formulamine_tests.build.workbench import Workbench
from formulamine_tests.ship.evidence import Evidence, evidence

NEVER_SAID = {"section": "triage", "kind": "message", "text": "Nobody ever said this."}
REPORTED = {"text": "Summing up a long list takes most of the time of a report.", "why": "solution_overview"}
NOW = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(bench: Workbench) -> list[Evidence]:
    """Two pull requests, with all that the gates ask for below the home of `bench`."""
    return [evidence(bench), evidence(bench, number=8)]


@pytest.fixture
def shipped(home: Path, interpreters: dict[str, Interpreter], bench: Workbench, made: list[Evidence]) -> Services:
    """A home whose month was released."""
    shutil.copytree(bench.home, home)
    services = tables(interpreters, made)
    gates = gate_results(rows(services), MONTH, services)
    passed = [gate for gate in gates.values() if isinstance(gate, ReleasedRow)]
    assert len(passed) == 2
    write(compose(MONTH, passed, funnel=[], open_items=[], versions={}), release_folder(services, MONTH), NOW)
    return services


def tables(interpreters: dict[str, Interpreter], made: list[Evidence]) -> Services:
    fields = [one.item.model_dump(mode="json") for one in made]
    return month_of(interpreters, fields, "published_release")


def rows(services: Services) -> list[dict[str, object]]:
    from formulamine.pipeline import joined

    return joined("published_release", MONTH, services.tables)


def test_clean_statements_pass(shipped: Services) -> None:
    assert statements_tell_nothing(MONTH, shipped).detail == "2 statements are clean"


@pytest.mark.parametrize(
    ("table", "changes", "said"),
    [
        ("problem_statements", {"statement": "gauss_formula"}, "tells name: gauss_formula"),
        ("problem_statements", {"parts": [NEVER_SAID]}, "does not stand in its source"),
        ("problem_statements", {"removed": [REPORTED]}, "tells solution: Summing up a long list"),
        ("problem_statements", {"statement": "It is 10x faster, says @somebody."}, "tells timing: 10x faster"),
        ("problem_statements", {"statement": "faster, please"}, "does not stand in its source"),
        ("pull_requests", {"body": "something else"}, "message is not the pull request's"),
    ],
)
def test_statements_that_tell_or_make_up_do_not(
    shipped: Services, table: str, changes: dict[str, object], said: str
) -> None:
    found = statements_tell_nothing(MONTH, spoiled(shipped, table, **changes))
    assert not found.passed
    assert said in found.detail


def test_a_release_that_is_what_passes_now_passes(shipped: Services) -> None:
    found = release_is_whole(MONTH, shipped)
    assert found.passed, found.detail
    assert found.detail.startswith("2 rows, release ")


def test_an_empty_release_is_whole(home: Path, interpreters: dict[str, Interpreter]) -> None:
    services = month_of(interpreters, [], "published_release")
    write(compose(MONTH, [], funnel=[], open_items=[], versions={}), release_folder(services, MONTH), NOW)
    assert release_is_whole(MONTH, services).passed


@pytest.mark.parametrize(
    ("table", "changes", "said"),
    [
        ("speedup_measurements", {"speedup": 9.0}, "is held at verdict_differs"),
        ("classifications", {"difficulty": "hard"}, "was released with other content than passes the gates now"),
        ("problem_statements", {"status": "rejected"}, "the released pull requests are not those that pass every gate"),
    ],
)
def test_a_release_that_is_not_what_passes_now_does_not(
    shipped: Services, table: str, changes: dict[str, object], said: str
) -> None:
    found = release_is_whole(MONTH, spoiled(shipped, table, **changes))
    assert not found.passed
    assert said in found.detail


def test_a_release_that_was_touched_does_not_pass(shipped: Services) -> None:
    (release_folder(shipped, MONTH) / "README.md").write_text("better")
    assert release_is_whole(MONTH, shipped).detail == "README.md is not what the manifest says"


def test_a_month_without_a_release_does_not_pass(home: Path, interpreters: dict[str, Interpreter]) -> None:
    assert not release_is_whole(MONTH, month_of(interpreters, [], "published_release")).passed


def test_what_is_open_refuses_the_release_and_says_the_mend(home: Path, interpreters: dict[str, Interpreter]) -> None:
    waiting = {"status": "deferred", "reason": "limit", "record": None}
    broken = {"status": "failed", "reason": "index_unreachable", "record": None, "infrastructure": True}
    settled = {"status": "failed", "reason": "timeout", "record": None}
    made = month_of(
        interpreters,
        [
            {"pr_id": "acme__toy-1", "repo": "acme/toy", "images": waiting},
            {"pr_id": "acme__toy-2", "repo": "acme/toy", "env_payloads": broken},
            {"pr_id": "acme__toy-3", "repo": "acme/toy", "images": settled},
        ],
        "images",
    )
    found = open_items(MONTH, made)
    assert found == {"acme__toy-1": "images limit", "acme__toy-2": "env_payloads index_unreachable"}
    assert "1 env_payloads index_unreachable, 1 images limit" in refusal(MONTH, found)
    assert "--partial" in refusal(MONTH, found)
    assert dict(ended(MONTH, made))["images"] == {"deferred (limit)": 1, "done": 1, "failed (timeout)": 1}


def test_what_was_left_out_is_counted_for_the_ui(shipped: Services) -> None:
    removed = [REPORTED, {"text": "Use a | <dict>.", "why": "leak: name"}, {"text": "See #3.", "why": "leak: number"}]
    services = spoiled(shipped, "problem_statements", removed=removed, fidelity=0.75, extraction_tokens=100)
    told = told_of_statements(done_rows("problem_statements", MONTH, services))
    assert str(told.pop("removed sentences").value).count("| leak: name | Use a \\| \\<dict\\>. |") == 2
    assert told == {
        "sentences shown": 4, "sentences removed": 6, "sentences removed as leaks": 4, "tokens": 200, "fidelity": 0.75,
        "stated from the measurement alone": 0, "removed as leak: name": 2, "removed as leak: number": 2,
    }  # fmt: skip


def test_a_month_without_statements_counts_nothing(home: Path, interpreters: dict[str, Interpreter]) -> None:
    services = month_of(interpreters, [], "published_release")
    told = told_of_statements(done_rows("problem_statements", MONTH, services))
    assert set(told.values()) == {0}
