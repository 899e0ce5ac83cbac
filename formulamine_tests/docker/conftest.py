"""An engine, a workbench that builds in it, and a registry on this machine."""

import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from formulamine.build.docker import DockerBackend
from formulamine.build.images import ImageStep
from formulamine.services.docker_engine import Engine
from formulamine.services.docker_sandbox import DockerSandboxes
from formulamine.services.resolver import Interpreter
from formulamine.services.sandbox import Sandbox
from formulamine.settings import BuildSettings, DockerSettings
from formulamine_tests.build.conftest import interpreters, uv_cache
from formulamine_tests.build.workbench import Workbench
from formulamine_tests.docker.engine import BASE_IMAGE

__all__ = ["interpreters", "uv_cache"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine; what a test made in it goes with the test."""
    made = Engine(tmp_path, threading.Event())
    before = {image.id for image in made.client.images.list(all=True)}
    yield made
    made.close()
    left = made.client.api.containers(all=True, filters={"label": f"formulamine.owner={made.owner}"})
    for image in made.client.images.list():
        if image.id not in before:
            for tag in image.tags:
                made.client.images.remove(tag, force=True)
    made.client.close()
    assert not left, "a container was left behind"


@dataclass
class DockerBench(Workbench):
    """A workbench whose backend is docker."""

    engine: Engine = field(default_factory=lambda: Engine(Path("/tmp"), threading.Event()))
    docker: DockerSettings = field(default_factory=lambda: DockerSettings(base_image=BASE_IMAGE, docker_network="host"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.chosen = DockerSandboxes(self.engine, self.docker.docker_network, self.cancelled)
        self.backend = self.backend_with(self.docker)

    def backend_with(self, settings: DockerSettings) -> DockerBackend:
        cache = self.home / "cache" / "docker"
        shared = (cache, self.git, self.resolver, self.build, self.disk)
        return DockerBackend(*shared, settings, self.engine, self.cancelled)

    def sandbox(self) -> Sandbox:
        return self.chosen.for_commits(())

    def image_step(self) -> ImageStep:
        return self.image_step_on(self.chosen)


@pytest.fixture
def dock(tmp_path: Path, interpreters: dict[str, Interpreter], uv_cache: Path, engine: Engine) -> DockerBench:
    """Services whose builds run in containers, with asv_runner at hand."""
    made = DockerBench(
        tmp_path, interpreters, uv_cache=uv_cache, engine=engine, build=BuildSettings(build_memory_mb=512)
    )
    made.own_tools()
    return made


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry that takes whatever it is given; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    configuration = tmp_path / "registry.yml"
    configuration.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    with (tmp_path / "registry.log").open("wb") as log:
        server = subprocess.Popen(["docker-registry", "serve", str(configuration)], stdout=log, stderr=log)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://{address}/v2/", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        server.kill()
        server.wait()
