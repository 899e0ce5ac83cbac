"""One recipe on two backends; layers that are shared; nothing of head in what ships; a registry that is read back."""

import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from formulamine.build import digests
from formulamine.build.docker import ENVIRONMENT, MEASURES, SITE, TREE
from formulamine.build.failures import MissingSystemPackage
from formulamine.build.pair import Pair
from formulamine.build.reasons import ImageReason
from formulamine.items import Done, Failed
from formulamine.records import Image
from formulamine.services import docker_engine
from formulamine.services.docker_engine import Engine
from formulamine_tests.build.workbench import Workbench, project
from formulamine_tests.docker.conftest import DockerBench
from formulamine_tests.docker.engine import BASE_IMAGE

pytestmark = pytest.mark.docker

HEAD = {"src/toy/__init__.py": "def work(): return 1999000  # what only head says\n"}


def built(bench: Workbench, commits: tuple[str, str], **changes: object) -> Image:
    outcome = bench.image_step()(bench.simple_input(commits, **changes))
    assert isinstance(outcome, Done), outcome
    assert isinstance(outcome.record, Image)
    return outcome.record


def pair_of(bench: DockerBench, commits: tuple[str, str]) -> Pair:
    pair = bench.backend.standing(bench.simple_input(commits).recipe())
    assert pair is not None
    return pair


def in_image(image: str, *argv: str) -> str:
    command = ["docker", "run", "--rm", "--network", "none", image, *argv]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_same_recipe_gives_the_same_facts_on_both_backends(dock: DockerBench, tmp_path: Path) -> None:
    commits = dock.repository(project(), HEAD)
    here = Workbench(tmp_path / "local", dock.interpreters, uv_cache=dock.uv_cache)
    here.own_tools()
    here.repo, here.url = dock.repo, dock.url
    local, contained = built(here, commits), built(dock, commits)
    # What one run decides otherwise than the other: where it ran, and what that is called.
    where = {"backend", "base_digest", "measure_digest", "bytes", "limits", "manifest_sha256"}
    assert local.model_dump(exclude=where) == contained.model_dump(exclude=where)
    assert (local.backend, contained.backend) == ("local", "docker")
    assert contained.base_digest.startswith("sha256:")
    assert contained.base_digest != contained.measure_digest
    assert {"network", "filesystem", "wall_time", "total_memory", "process_count"} <= set(contained.limits)


def test_pull_requests_share_layers_and_ship_one_commit_without_head(dock: DockerBench) -> None:
    commits = dock.repository(project(), HEAD)
    first = built(dock, commits)
    pair, repo, url = pair_of(dock, commits), dock.repo, dock.url
    second = built(dock, dock.repository(project(), {"news.txt": "else\n"}))

    layers = [dock.engine.inspect(image)["RootFS"]["Layers"] for image in (first.base_digest, second.base_digest)]
    assert layers[0][:-1] == layers[1][:-1], "base and environment are shared"
    base = dock.engine.inspect(BASE_IMAGE)["RootFS"]["Layers"]
    assert len(layers[0]) == len(base) + 2, "on the base image an environment, and the code"
    assert dock.engine.inspect(first.measure_digest)["RootFS"]["Layers"][:-1] == layers[0], "head is on top of all"

    labels = dock.engine.inspect(first.base_digest)["Config"]["Labels"]
    assert labels["formulamine.pr"] == "acme__toy-7"
    assert labels["formulamine.recipe"] == first.recipe_hash
    assert labels["formulamine.version"]

    assert in_image(first.base_digest, "python", "-c", "import toy; print(toy.__file__)").strip().startswith(SITE)
    git = ["git", "-c", "safe.directory=*", "-C", TREE]
    assert in_image(first.base_digest, *git, "rev-list", "--all", "--count").strip() == "1"
    assert in_image(first.base_digest, *git, "remote").strip() == ""
    assert in_image(first.base_digest, *git, "status", "--porcelain").strip() == ""
    assert in_image(first.base_digest, "sh", "-c", f"find {TREE}/.git/logs -type f | wc -l").strip() == "0"
    assert in_image(first.base_digest, "sh", "-c", f"test -w {ENVIRONMENT} && id -u").strip() == "0"

    only = set(digests.head_only(dock.git, repo, url, pair.recipe))
    assert dock.backend.holding([(pair, only)]) == [[]]
    [found] = dock.backend.holding([(replace(pair, ships=pair.measures), only)])
    assert any(path.endswith("head/tree/src/toy/__init__.py") for path in found), found


def test_head_in_a_layer_that_a_later_one_hides_is_found(dock: DockerBench) -> None:
    commits = dock.repository(project(), HEAD)
    built(dock, commits)
    pair = pair_of(dock, commits)
    hidden = dock.home / "hidden.py"
    hidden.write_text(HEAD["src/toy/__init__.py"])
    leaky = dock.engine.layer(pair.ships, [("opt/notes.py", hidden)], "formulamine/leaky:1", {}, {})
    hidden.write_text("nothing to see\n")
    hiding = dock.engine.layer(leaky, [("opt/notes.py", hidden)], "formulamine/leaky:2", {}, {})
    only = set(digests.head_only(dock.git, dock.repo, dock.url, pair.recipe))
    [found] = dock.backend.holding([(replace(pair, ships=hiding), only)])
    assert [path.partition(":")[2] for path in found] == ["opt/notes.py"]


def test_images_that_were_removed_are_made_again_from_the_folders(dock: DockerBench) -> None:
    commits = dock.repository(project(), HEAD)
    image = built(dock, commits)
    recipe = dock.simple_input(commits).recipe()
    [name] = dock.engine.inspect(image.base_digest)["RepoTags"]
    for tag in (name + MEASURES, name):
        dock.engine.client.images.remove(tag, force=True)
    assert dock.backend.standing(recipe) is None
    pair = dock.backend.pair(recipe, dock.url, dock.sandbox, "acme__toy-7")
    assert dock.backend.unlike(pair, dock.backend.digests(pair)) == ""


@pytest.mark.registry
def test_what_is_pushed_is_recorded_by_the_digest_that_reads_back(dock: DockerBench, registry: str) -> None:
    dock.backend = dock.backend_with(dock.docker.model_copy(update={"registry": f"{registry}/acme"}))
    dock.own_tools()
    commits = dock.repository(project(), HEAD)
    image = built(dock, commits)
    name, _, digest = image.base_digest.partition("@")
    assert name == f"{registry}/acme/{dock.repo.replace('/', '--')}"
    data = dock.engine.client.images.get_registry_data(image.base_digest)
    assert data.id == digest
    assert not image.measure_digest.startswith(registry), "head never leaves"


def test_a_failed_push_is_not_done(dock: DockerBench) -> None:
    dock.backend = dock.backend_with(dock.docker.model_copy(update={"registry": "127.0.0.1:9/acme"}))
    dock.own_tools()
    outcome = dock.image_step()(dock.simple_input(dock.repository(project(), HEAD)))
    assert isinstance(outcome, Failed)
    assert outcome.reason == ImageReason.PUSH_FAILED
    assert outcome.infrastructure


def test_a_base_image_without_the_interpreter_is_named(dock: DockerBench) -> None:
    commits = dock.repository(project(requires_python=""), HEAD)
    outcome = dock.image_step()(dock.simple_input(commits, python_version="3.8"))
    assert isinstance(outcome, Failed)
    assert outcome.reason == ImageReason.NO_BASE_IMAGE
    assert BASE_IMAGE in outcome.error
    assert not outcome.settled, "somebody may set another image"


def test_a_setup_that_leaves_links_and_devices_reaches_nothing(dock: DockerBench) -> None:
    hook = """
    def build_wheel(output, settings=None, metadata=None, real=build_wheel):
        name = real(output)
        os.symlink("/etc/passwd", os.path.join(output, "stolen"))
        os.link(os.path.join(output, name), os.path.join(output, "again"))
        os.mkfifo(os.path.join(output, "pipe"))
        os.symlink("/root", "src/toy/home")
        return name
    """
    image = built(dock, dock.repository(project(hook=hook), HEAD))
    saved = io.BytesIO(b"".join(dock.engine.client.images.get(image.base_digest).save()))
    with tarfile.open(fileobj=saved) as whole:
        names = [name for name in whole.getnames() if "stolen" in name or "pipe" in name]
    assert not names


def test_a_build_that_gives_back_what_nobody_takes_has_failed(
    dock: DockerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_engine, "TAKEN_MB", 1)
    hook = """
    def build_wheel(output, settings=None, metadata=None, real=build_wheel):
        with open("src/toy/large.py", "w") as file:
            file.write("#" * (2 << 20))
        return real(output)
    """
    outcome = dock.image_step()(dock.simple_input(dock.repository(project(hook=hook), HEAD)))
    assert isinstance(outcome, Failed), outcome
    assert (outcome.reason, outcome.infrastructure) == (ImageReason.BUILD_FAILED, False)
    assert "what was built cannot be taken" in outcome.error
    assert "over 1 MB" in outcome.error


@pytest.mark.parametrize("alive", [True, False])
def test_only_containers_of_dead_processes_are_swept(
    engine: Engine, alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = engine.owner
    if not alive:
        ended = subprocess.Popen(["true"])
        ended.wait()
        place, _, process = mine.rpartition(" ")
        dead = f"{place} {ended.pid}@{process.partition('@')[2]}"
        monkeypatch.setattr(type(engine), "owner", property(lambda self: dead))
    container = engine.create(BASE_IMAGE, ["sleep", "1000"])
    monkeypatch.undo()
    try:
        assert engine.sweep() == (0 if alive else 1)
    finally:
        engine.remove(container)


WANTS_BZIP = """
    def build_wheel(output, settings=None, metadata=None, real=build_wheel):
        if not os.path.exists("/usr/include/bzlib.h"):
            raise RuntimeError("toy.c:1:10: fatal error: bzlib.h: No such file or directory")
        return real(output)
"""


@pytest.mark.network
def test_a_system_package_that_the_log_asks_for_is_a_layer_below(dock: DockerBench) -> None:
    image = built(dock, dock.repository(project(hook=WANTS_BZIP), HEAD))
    assert (image.route, image.attempts) == ("default", 2)
    assert image.adaptation == '{"system_packages":["libbz2-dev"]}'
    base = dock.engine.inspect(BASE_IMAGE)["RootFS"]["Layers"]
    assert len(dock.engine.inspect(image.base_digest)["RootFS"]["Layers"]) == len(base) + 3
    assert (
        in_image(image.base_digest, "sh", "-c", "ls /usr/include/bzlib.h; ls /var/lib/apt/lists | wc -l").split()[1]
        == "0"
    )
    again = built(dock, dock.repository(project(hook=WANTS_BZIP), {"news.txt": "else\n"}))
    assert (again.route, again.attempts) == ("default", 2), "of another repository nothing is known"


def test_what_the_host_lacks_is_named_by_the_local_backend(dock: DockerBench, tmp_path: Path) -> None:
    here = Workbench(tmp_path / "local", dock.interpreters, uv_cache=dock.uv_cache)
    here.own_tools()
    item = here.simple_input(here.repository(project(), HEAD))
    recipe = item.recipe().model_copy(update={"system_packages": ["libformulamine-none-dev"]})
    with pytest.raises(MissingSystemPackage, match="libformulamine-none-dev"):
        here.backend.pair(recipe, item.url, here.sandbox, item.pr_id)
