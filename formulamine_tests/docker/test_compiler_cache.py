"""The compiler cache in containers: the second build hits, and nothing of it ships."""

import pytest

from formulamine.build.cache import ready
from formulamine_tests.build.test_compiler_cache import SOURCE, compiled, hits, objects, repository, text_in
from formulamine_tests.docker.conftest import DockerBench
from formulamine_tests.docker.engine import BASE_IMAGE

pytestmark = [pytest.mark.docker, pytest.mark.network]  # Debian's ccache is installed


def test_the_next_base_side_hits_and_neither_ccache_nor_heads_objects_are_kept_in_what_ships(dock: DockerBench) -> None:
    start, other, changed = repository(dock, compiled(), {"other.txt": "another"}, {"speed.c": SOURCE % "two"})
    for base in (start, other):
        item = dock.simple_input((base, changed))
        pair = dock.backend.pair(item.recipe(), item.url, dock.sandbox, item.pr_id)
        assert text_in(pair) == (True, True)
        (kept,) = (one for one in (dock.home / "cache" / "docker" / "compilers").iterdir() if one.is_dir())
        assert ready(kept)
        assert hits(kept) == (base == other)
        assert len([name for name in objects(kept) if name.endswith("R")]) == 1, "of the base side's source alone"
    layers = dock.engine.inspect(pair.ships)["RootFS"]["Layers"]
    base_layers = dock.engine.inspect(BASE_IMAGE)["RootFS"]["Layers"]
    assert len(layers) == len(base_layers) + 2, "an environment, and the code"
    assert not [path for path in dock.engine.contents([pair.ships])[pair.ships] if "ccache" in path]


def test_an_engine_that_cannot_install_it_builds_without(
    dock: DockerBench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formulamine.build.docker.INSTALL_PACKAGES", "echo no such package; exit 100")
    item = dock.simple_input(tuple(repository(dock, compiled(), {"speed.c": SOURCE % "two"})))
    pair = dock.backend.pair(item.recipe(), item.url, dock.sandbox, item.pr_id)
    assert text_in(pair) == (True, True)
    assert "without a compiler cache" in caplog.text
    assert not (dock.home / "cache" / "docker" / "compilers").exists()
