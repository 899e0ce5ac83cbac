"""Images as part of what a home caches: which go, which stay, and what a kill leaves in the engine."""

import os
import threading
from pathlib import Path

import pytest

from formulamine.build.docker import MEASURES
from formulamine.build.image_room import Images, disks_of
from formulamine.build.room import MB, Folders, NoRoom, Room, freed
from formulamine.services.docker_engine import Engine
from formulamine.settings import DiskSettings
from formulamine_tests.build.workbench import project
from formulamine_tests.docker.conftest import DockerBench
from formulamine_tests.docker.engine import BASE_IMAGE
from formulamine_tests.docker.test_images import HEAD, built

pytestmark = pytest.mark.docker


class Shop:
    """A home that keeps images of one file."""

    def __init__(self, home: Path, engine: Engine, ceiling_mb: int = 0, registry: str = "") -> None:
        self.root, self.engine = home / "cache", engine
        self.images = Images(self.root, self.root / "docker" / "images", engine, registry)
        settings = DiskSettings(cache_ceiling_mb=ceiling_mb, min_free_mb=0)
        self.room = Room(self.root, settings, threading.Event(), shelves=[self.images])
        self.base = engine.require(BASE_IMAGE)

    def make(self, name: str, below: str = "", count: float = 1, text: bytes = b"x") -> str:
        """An image as an item made it that has ended since."""
        below = below or self.base
        content = self.root / "content"
        content.write_bytes(text * int(count * MB))
        image, _ = self.images.made(
            name, below, lambda: self.engine.layer(below, [("opt/content", content)], name, {}, {}), self.room.uses
        )
        self.room.uses.let_go_of_all()
        return image

    def used_at(self, name: str, when: float) -> None:
        os.utime(self.images.path(name), (when, when))


@pytest.fixture
def shop(tmp_path: Path, engine: Engine) -> Shop:
    (tmp_path / "cache").mkdir()
    return Shop(tmp_path, engine)


def names(tmp_path: Path, *several: str) -> list[str]:
    """Names that no other test has in this engine."""
    return [f"formulamine/room-{abs(hash(str(tmp_path))):x}:{one}" for one in several]


def test_least_recently_used_images_go_and_never_a_base_or_what_others_named(
    shop: Shop, tmp_path: Path, engine: Engine
) -> None:
    first, second, foreign, strange = names(tmp_path, "first", "second", "foreign", "strange")
    for n, name in enumerate((first, second, foreign)):
        shop.make(name, count=2, text=bytes([65 + n]))
        shop.used_at(name, 1000 - n)
    assert [round(one.bytes / MB) for one in shop.images.cached()] == [2, 2, 2], "its own layer alone counts"
    assert engine.client.api.tag(foreign, "example.org/somebody/image", "1")
    engine.layer(shop.base, [("opt/content", shop.root / "content")], strange, {}, {})  # of another home
    shop.used_at(second, 2000)
    small = Shop(tmp_path, engine, ceiling_mb=5)  # three times two, and something for the folder of each
    freed = small.room.keep_below_ceiling()
    found = {name: engine.find(name) is not None for name in (first, second, foreign, strange, BASE_IMAGE)}
    assert found == {first: False, second: True, foreign: True, strange: True, BASE_IMAGE: True}
    assert round(freed / MB) == 2
    assert not shop.images.path(first).exists()
    engine.client.images.remove("example.org/somebody/image:1")


def test_what_stands_on_another_goes_before_it_and_keeps_it(shop: Shop, tmp_path: Path, engine: Engine) -> None:
    below, above = names(tmp_path, "below", "above")
    lower = shop.make(below, count=2)
    shop.make(above, below=lower, count=2, text=b"y")
    shop.used_at(below, 1000)
    Shop(tmp_path, engine, ceiling_mb=3).room.keep_below_ceiling()
    assert (engine.find(below) is None, engine.find(above) is None) == (False, True)


def test_what_is_in_use_stays(shop: Shop, tmp_path: Path, engine: Engine) -> None:
    held, contained = names(tmp_path, "held", "contained")
    for name in (held, contained):
        shop.make(name, text=name.encode()[-1:])
    assert shop.images.found(held, shop.room.uses)
    small = Shop(tmp_path, engine, ceiling_mb=1)
    with engine.container(contained, ["/bin/true"]):
        small.room.keep_below_ceiling()
        assert all(engine.find(name) for name in (held, contained))
    small.room.keep_below_ceiling()
    assert engine.find(contained) is None
    assert engine.find(held)


def test_names_under_which_we_pushed_go_too(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "cache").mkdir()
    shop = Shop(tmp_path, engine, ceiling_mb=1, registry="127.0.0.1:9/acme")
    [name] = names(tmp_path, "pushed")
    image = shop.make(name, count=2)
    repository, _, tag = name.removeprefix("formulamine/").rpartition(":")
    assert engine.client.api.tag(image, f"127.0.0.1:9/acme/{repository}", tag)
    shop.room.keep_below_ceiling()
    assert engine.find(image) is None


def test_an_image_that_lost_its_name_is_removed_by_the_next_run(shop: Shop, tmp_path: Path, engine: Engine) -> None:
    below, name = names(tmp_path, "below", "name")
    before = shop.make(name)
    after = shop.make(name, below=shop.make(below, text=b"z"))
    assert before != after
    assert engine.find(before), "somebody may still work with it"
    holder = Shop(tmp_path, engine)
    holder.images.found(name, holder.room.uses)
    Shop(tmp_path, engine).room.tidy()
    assert engine.find(before), "somebody does"
    holder.room.uses.let_go_of_all()
    Shop(tmp_path, engine).room.tidy()
    assert engine.find(before) is None
    assert engine.find(name) == after


def test_records_are_mended_after_a_kill(shop: Shop, tmp_path: Path, engine: Engine) -> None:
    never, unwritten, gone = names(tmp_path, "never", "unwritten", "gone")
    with pytest.raises(KeyboardInterrupt):
        shop.images.made(never, shop.base, _killed, shop.room.uses)
    content = shop.root / "content"
    content.write_bytes(b"x" * 2 * MB)

    def killed_after() -> str:
        engine.layer(shop.base, [("opt/content", content)], unwritten, {}, {})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shop.images.made(unwritten, shop.base, killed_after, shop.room.uses)
    shop.make(gone)
    engine.client.images.remove(gone)
    shop.room.uses.let_go_of_all()
    assert len(shop.images.cached()) == 1
    Shop(tmp_path, engine).room.tidy()
    [found] = shop.images.cached()
    assert found.path == shop.images.path(unwritten)
    assert round(found.bytes / MB) == 2
    assert not shop.images.path(never).exists()
    assert not shop.images.path(gone).exists()


def _killed() -> str:
    raise KeyboardInterrupt


def test_removed_images_and_folders_are_made_again_and_a_pair_in_use_stays(
    dock: DockerBench,
) -> None:
    commits = dock.repository(project(), HEAD)
    image = built(dock, commits)
    recipe = dock.simple_input(commits).recipe()
    pair = dock.backend.standing(recipe)
    assert pair is not None
    [name] = [one for one in dock.engine.inspect(pair.ships)["RepoTags"] if one.startswith("formulamine/")]
    images = dock.backend_with(dock.docker)._images
    assert freed(2**50, images.cached(), images.remove) == [], "the thread works with it"
    dock.backend._room.uses.let_go_of_all()
    assert len(freed(2**50, images.cached(), images.remove)) == 5, (
        "two environments, what builds, what ships, what measures"
    )
    assert [dock.engine.find(one) for one in (name, name + MEASURES)] == [None, None]
    for one in Folders(dock.home / "cache").cached():
        assert Folders(dock.home / "cache").remove(one)
    again = built(dock, commits)
    same = {"base_digest", "measure_digest"}  # git notes times and inodes in its index
    before, after = image.model_dump(exclude=same), again.model_dump(exclude=same)
    assert {name: (value, after[name]) for name, value in before.items() if value != after[name]} == {}


def test_the_engines_own_disk_counts_where_it_is_here(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    [disk] = disks_of(engine)
    assert disk == Path(engine.client.info()["DockerRootDir"])
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    assert disks_of(engine) == []


def test_too_little_space_ends_the_run_before_a_layer(dock: DockerBench) -> None:
    commits = dock.repository(project(), HEAD)
    image = built(dock, commits)
    dock.engine.settle()
    for tag in dock.engine.inspect(image.measure_digest)["RepoTags"]:
        dock.engine.client.images.remove(tag)
    dock.disk = DiskSettings(min_free_mb=2**40)
    dock.backend = dock.backend_with(dock.docker)
    dock.own_tools()
    with pytest.raises(NoRoom):
        dock.image_step()(dock.simple_input(commits))
