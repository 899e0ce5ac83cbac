"""The compiler cache in containers: the second build hits, and nothing of it ships."""

import pytest

from formulamine.build.pair import Pair
from formulamine_tests.build.test_compiler_cache import SOURCE, compiled, hits, objects, repository, text_in
from formulamine_tests.docker.conftest import DockerBench
from formulamine_tests.docker.engine import BASE_IMAGE

pytestmark = [pytest.mark.docker, pytest.mark.network]  # Debian's ccache is installed


def pair_of(dock: DockerBench, base: str, head: str) -> Pair:
    item = dock.simple_input((base, head))
    return dock.backend.pair(item.recipe(), item.url, dock.sandbox, item.pr_id)


def test_the_next_pull_request_hits_and_nothing_of_ccache_ships(dock: DockerBench) -> None:
    start, changed, later = repository(dock, compiled(), {"speed.c": SOURCE % "two"}, {"other.txt": "another"})
    first = pair_of(dock, start, changed)
    assert text_in(first) == (True, True)
    kept = dock.backend._compiled(first.recipe)
    assert (hits(first.base), hits(first.head)) == (0, 0)
    assert len([name for name in objects(kept) if name.endswith("R")]) == 1, "of the base side's source alone"
    pair = pair_of(dock, changed, later)
    assert hits(pair.head) == 1
    layers = dock.engine.inspect(pair.ships)["RootFS"]["Layers"]
    base_layers = dock.engine.inspect(BASE_IMAGE)["RootFS"]["Layers"]
    assert len(layers) == len(base_layers) + 2, "an environment, and the code"
    assert not [path for path in dock.engine.contents([pair.ships])[pair.ships] if "ccache" in path]


def test_an_engine_that_cannot_install_it_builds_without(
    dock: DockerBench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formulamine.build.docker.INSTALL_PACKAGES", "echo no such package; exit 100")
    pair = pair_of(dock, *repository(dock, compiled(), {"speed.c": SOURCE % "two"}))
    assert text_in(pair) == (True, True)
    assert "without a compiler cache" in caplog.text
    assert not (dock.home / "cache" / "docker" / "compilers").exists()
