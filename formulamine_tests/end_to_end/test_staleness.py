"""What the UI calls stale, asked as the UI asks it: a downstream asset exactly when content or code changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster_graphql.test.utils import execute_dagster_graphql

import formulamine.discover.steps
from formulamine import definitions
from formulamine.tables import PHASES, TABLES
from formulamine_tests.end_to_end.conftest import in_process, undisturbed
from formulamine_tests.end_to_end.runs import MONTH, contents, table, usable

RAISED = "candidate_prs"
QUERY = """query($month: String!) { assetNodes { assetKey { path }
    staleStatus(partition: $month) staleCauses(partition: $month) { key { path } category reason } } }"""


@dg.definitions
def raised() -> dg.Definitions:
    """The graph after somebody raised the version of one step."""

    def raise_version(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(code_version="raised") if spec.key == dg.AssetKey(RAISED) else spec

    return definitions.build().map_asset_specs(func=raise_version)


@dataclass(frozen=True)
class Home:
    """A home that months are run in, and the questions that the UI asks about it."""

    path: Path
    variables: Mapping[str, str]

    def run(self, *arguments: str, code: int = 0) -> None:
        ended = in_process(self.path, "month", MONTH, *arguments, variables=self.variables)
        assert ended.code == code, ended.err

    def stale(self, module: str = "formulamine.definitions", attribute: str = "defs") -> dict[str, tuple[str, str]]:
        """Assets that are not fresh, with category and reason of the first cause."""
        with undisturbed():
            os.environ.update(
                {**self.variables, "FORMULAMINE_HOME": str(self.path), "DAGSTER_HOME": str(self.path / "dagster")}
            )
            target = InProcessWorkspaceLoadTarget(
                InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name=module, attribute=attribute))
            )
            with dg.DagsterInstance.get() as instance, WorkspaceProcessContext(instance, target) as process:
                answer = execute_dagster_graphql(process.create_request_context(), QUERY, {"month": MONTH})
        nodes = {node["assetKey"]["path"][-1]: node for node in answer.data["assetNodes"]}
        assert set(TABLES) <= set(nodes)
        return {
            name: (nodes[name]["staleStatus"], nodes[name]["staleCauses"][0]["category"])
            for name in TABLES
            if nodes[name]["staleStatus"] != "FRESH"
        }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, databases: Callable[[], dict[str, str]]) -> Home:
    """A month made whole; every test leaves it so."""
    folder = tmp_path_factory.mktemp("staleness")
    usable("DOC: one", "DOC: two").write(folder / "first")
    home = Home(folder / "home", databases())
    home.run("--repo", f"a/first={folder / 'first'}")
    return home


def test_same_content_materialized_again_leaves_everything_fresh(made: Home) -> None:
    before = contents(made.path)
    assert made.stale() == {}
    made.run("--select", "discover")
    assert contents(made.path) == before
    assert made.stale() == {}
    made.run("--select", "discover", "--force")
    assert contents(made.path) == before
    assert made.stale() == {}


def test_a_failed_item_that_is_done_now_makes_what_follows_stale(made: Home) -> None:
    aside = made.path.parent / "aside"
    second = made.path.parent / "second"
    usable("DOC: three").write(second)
    second.rename(aside)
    registered = made.path / "repositories.toml"
    registered.write_text(
        registered.read_text() + f'\n[[repository]]\nname = "b/second"\nsource = "{second}"\n', encoding="utf-8"
    )
    made.run("--partial")
    assert table(made.path, "repositories").sort("repo")["status"].to_list() == ["done", "failed"]
    assert made.stale() == {}

    aside.rename(second)
    made.run("--select", "repositories")
    assert table(made.path, "repositories")["status"].to_list() == ["done", "done"]
    stale = made.stale()
    assert stale["pull_requests"] == ("STALE", "DATA")
    assert "repositories" not in stale

    made.run("--select", "discover")
    assert not set(PHASES["discover"]) & set(made.stale())
    made.run()
    assert made.stale() == {}


def test_a_raised_version_makes_the_step_stale_and_equal_content_nothing_after_it(
    made: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made.stale(__name__, "raised")[RAISED] == ("STALE", "CODE")
    assert not {"repositories", "pull_requests"} & set(made.stale(__name__, "raised"))

    before = contents(made.path)
    monkeypatch.setattr(definitions, "defs", raised())
    monkeypatch.setattr(formulamine.discover.steps, "CANDIDATE_PRS_VERSION", "raised")
    made.run("--select", RAISED)
    assert contents(made.path) == before
    assert made.stale(__name__, "raised") == {}
