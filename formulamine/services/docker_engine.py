"""A Docker engine: files in and out of containers, and images made layer by layer.

Here belongs what is said to the engine. Everything travels through its API as tar archives and nothing is mounted from
this machine, so that the engine may be elsewhere (DOCKER_HOST) and need not see our files. What runs in a container,
under which limits, stands in `docker_sandbox.py`; what an image holds is the build's matter.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from formulamine.items import Cancelled
from formulamine.services.archives import BadArchive, files_of, pack, unpack, write_image
from formulamine.services.processes import is_alive, this_process
from formulamine.services.sandbox import NoSandbox, network_variables

if TYPE_CHECKING:
    import docker

OWNER_LABEL = "formulamine.owner"
"""Says whose a container is: this home, and the process that made it."""
UNPRIVILEGED = 1000  # user and group that run in containers, as under bubblewrap
ANSWER_S = 600  # of one call to the engine; pushing and committing gigabytes take minutes
POLL_S = 0.1
SPOOLED = 16 * 2**20  # bytes of an archive kept in memory before it goes to a file
CHUNK_BYTES = 1 << 20
TAKEN_MB = 16_384  # of what one container may give back

_log = logging.getLogger(__name__)


class NoEngine(NoSandbox):
    """No Docker engine answers, or it lacks an image that it cannot get; the message says the mend."""


class EngineError(Exception):
    """The engine refused something; the message is its own."""


class CommandRefused(Exception):
    """A command of ours in a container failed; the message is the end of what it printed."""


class Engine:
    """One engine. Containers made through it are removed by whoever made them, or, after a kill, by `sweep`."""

    def __init__(self, home: Path, cancelled: threading.Event) -> None:
        self._home = hashlib.sha256(str(home).encode()).hexdigest()[:12]
        self._scratch_in = home
        self._cancelled = cancelled
        self._removals = ThreadPoolExecutor(1, thread_name_prefix="removal")

    @cached_property
    def client(self) -> docker.DockerClient:
        """The connection, made when first used; what killed runs left in the engine is removed then.

        Raises:
            NoEngine: nobody answers.
            EngineError: the engine refuses.
        """
        import docker  # a third of a second to import, and only the docker backend needs it

        try:
            client = docker.from_env(timeout=ANSWER_S)
            client.ping()
        except (docker.errors.DockerException, OSError) as error:
            raise NoEngine(f"no Docker engine answers ({_said(error)}): start one, or set DOCKER_HOST") from error
        self.__dict__["client"] = client  # sweeping uses it
        self.sweep()
        return client

    @property
    def owner(self) -> str:
        """Label of what this process makes."""
        return f"{self._home} {this_process()}"

    def find(self, reference: str) -> str | None:
        """Id of an image that the engine has, else None."""
        import docker

        try:
            return str(self.client.images.get(reference).id)
        except docker.errors.ImageNotFound:
            return None

    def require(self, reference: str) -> str:
        """Id of an image, pulled where the engine lacks it.

        Raises:
            NoEngine: there is none by that name.
        """
        import docker

        found = self.find(reference)
        if found is not None:
            return found
        try:
            self.client.images.pull(reference)
        except docker.errors.APIError as error:
            raise NoEngine(
                f"there is no image {reference} ({_said(error)}): make it, or set FORMULAMINE_BASE_IMAGE"
            ) from error
        return str(self.client.images.get(reference).id)

    def inspect(self, image: str) -> dict[str, Any]:
        """What the engine says of an image."""
        with _told():
            return dict(self.client.images.get(image).attrs)

    @contextmanager
    def container(self, image: str, argv: Sequence[str], **options: Any) -> Iterator[str]:
        """A container that is made, not started, and gone afterwards with its volumes; gives its id."""
        made = self.create(image, argv, **options)
        try:
            yield made
        finally:
            self.remove(made)

    def create(self, image: str, argv: Sequence[str], **options: Any) -> str:
        """Make a container, labelled as ours.

        Raises:
            EngineError: the engine refuses.
        """
        with _told():
            made = self.client.api.create_container(image, list(argv), labels={OWNER_LABEL: self.owner}, **options)
        return str(made["Id"])

    def remove(self, container: str) -> None:
        """Kill and remove a container with its volumes; one that is gone is fine."""
        import docker

        with _told(), suppress(docker.errors.NotFound):
            self.client.api.remove_container(container, v=True, force=True)

    def remove_later(self, container: str) -> None:
        """Remove a container that has ended, while its maker goes on; `settle` and `close` wait for it."""
        self._removals.submit(self._removed, container)

    def _removed(self, container: str) -> None:
        try:
            self.remove(container)
        except EngineError as error:
            _log.warning("a container was left in the engine, and the next run removes it: %s", error)

    def settle(self) -> None:
        """Wait for what is being removed by now: until then its image is in use."""
        self._removals.submit(int).result()  # one after the other, so all before it are done

    def close(self) -> None:
        """Wait for what is being removed, for good."""
        self._removals.shutdown()

    def put(self, container: str, folder: str, content: Iterable[tuple[str, Path]], user: int = UNPRIVILEGED) -> None:
        """Put host files and folders into a folder of a container, as `user`, by the names given."""
        with tempfile.SpooledTemporaryFile(SPOOLED) as archive:
            pack(archive, content, user)
            archive.seek(0)
            with _told():
                self.client.api.put_archive(container, folder, archive)

    def take(self, container: str, path: str, destination: Path) -> None:
        """Take a folder of a container in place of a folder here.

        Raises:
            BadArchive: it holds what no build may leave behind.
        """
        api = self.client.api
        place = f"{api.base_url}/v{api.api_version}/containers/{container}/archive"
        with _told(), tempfile.TemporaryFile(dir=self._scratch_in) as archive:
            # Asked for by hand, since `get_archive` cannot be ended in the midst: an engine that goes on giving holds
            # the container, and answers nothing more about it.
            with api.get(place, params={"path": path}, stream=True, timeout=api.timeout) as answer:
                answer.raise_for_status()
                size = 0
                for chunk in answer.iter_content(CHUNK_BYTES):
                    if self._cancelled.is_set():
                        raise Cancelled(path)
                    archive.write(chunk)
                    size += len(chunk)
                    if size > TAKEN_MB * 2**20:
                        raise BadArchive(f"{path} holds over {TAKEN_MB} MB")
            archive.seek(0)
            for entry in destination.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            unpack(archive, PurePosixPath(path).name, destination)

    def layer(
        self,
        image: str,
        content: Sequence[tuple[str, Path]],
        name: str,
        labels: Mapping[str, str],
        environment: Mapping[str, str],
    ) -> str:
        """An image with one more layer, of host files owned by root; its id.

        Args:
            image: below the new layer.
            content: (path inside without its slash, host path).
            name: "repository:tag" of the new image.
            labels: of the new image, beside those of the one below.
            environment: variables added to those of the one below.

        Raises:
            EngineError: the engine refuses.
        """
        told = self.inspect(image)
        if self._knows_layers_alone:
            with tempfile.SpooledTemporaryFile(SPOOLED, dir=str(self._scratch_in)) as archive:
                made = write_image(archive, told, content, name, labels, environment)
                with _told():
                    loaded = [one.id for one in self.client.images.load(archive)]
            if loaded != [made]:
                raise EngineError(f"{name} was given as {made} and is {loaded}")
            return made
        repository, _, tag = name.rpartition(":")
        with _told(), self.container(image, ["/bin/true"]) as container:
            self.put(container, "/", content, user=0)
            settings = {"Labels": _clean(labels), "Env": [f"{key}={value}" for key, value in environment.items()]}
            settings["Cmd"] = told["Config"]["Cmd"] or ["/bin/sh"]
            answer = self.client.api.commit(container, repository=repository, tag=tag, conf=settings)
        return str(answer["Id"])

    @cached_property
    def _knows_layers_alone(self) -> bool:
        """Whether the engine takes an image's own layer without those below; containerd's store of images does not."""
        with _told():
            status = self.client.info().get("DriverStatus") or []
        return not any("containerd.snapshotter" in str(value) for _, value in status)

    def installed(
        self,
        image: str,
        script: str,
        arguments: Sequence[str],
        name: str,
        labels: Mapping[str, str],
        network: str,
        timeout_s: float,
    ) -> str:
        """An image with a layer that a script of ours made as root, with network; its id. Never for foreign code.

        Raises:
            CommandRefused: the script failed, or did not end in time; the message is the end of what it printed.
            EngineError: the engine refuses.
        """
        repository, _, tag = name.rpartition(":")
        # What only this command is told is told in its arguments: a container's variables would become the image's.
        variables = [f"{key}={value}" for key, value in network_variables().items()]
        argv = ["env", *variables, "/bin/sh", "-ec", script, "sh", *arguments]
        with _told():
            host = self.client.api.create_host_config(network_mode=network)
            with self.container(image, argv, host_config=host, user="0:0") as made:
                self.client.api.start(made)
                until = time.monotonic() + timeout_s
                while (state := self.client.api.inspect_container(made)["State"])["Running"]:
                    if self._cancelled.wait(POLL_S * 5):
                        raise Cancelled(name)
                    if time.monotonic() > until:
                        raise CommandRefused(f"did not end within {timeout_s:.0f} s")
                if state["ExitCode"]:
                    raise CommandRefused(self.client.api.logs(made, tail=50).decode("utf-8", "replace"))
                settings = {"Labels": _clean(labels), "Cmd": ["/bin/sh"]}
                answer = self.client.api.commit(made, repository=repository, tag=tag, conf=settings)
        return str(answer["Id"])

    def stands_on(self, image: str, below: str) -> bool:
        """Whether an image has all layers of another below its own."""
        layers, lower = (self.inspect(one)["RootFS"]["Layers"] for one in (image, below))
        return bool(layers[: len(lower)] == lower)

    def contents(self, images: Sequence[str]) -> dict[str, dict[str, str]]:
        """SHA-256 of every file in every layer of images by its path, those that a later layer hides included.

        Returns:
            For each image a path (with its layer before it) and a digest.
        """
        with tempfile.TemporaryFile(dir=self._scratch_in) as saved:
            self._save(images, saved)
            layers: dict[str, dict[str, str]] = {}
            with tarfile.open(fileobj=saved) as whole:
                listed = whole.extractfile("manifest.json")
                assert listed is not None
                made_of = {one["Config"].removesuffix(".json")[-64:]: one["Layers"] for one in json.load(listed)}
                for layer in {name for names in made_of.values() for name in names}:
                    stream = whole.extractfile(layer)
                    assert stream is not None
                    layers[layer] = {f"{layer[-75:][:12]}:{path}": digest for path, digest in files_of(stream)}
        return {
            image: {path: digest for name in made_of[image[-64:]] for path, digest in layers[name].items()}
            for image in images
        }

    def _save(self, images: Sequence[str], file: IO[bytes]) -> None:
        """Images as one archive with each layer once, which the client can do and its library cannot."""
        client = subprocess.Popen(
            ["docker", "save", *images],
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE, env=client_environment(),
        )  # fmt: skip
        while client.poll() is None:
            if self._cancelled.wait(POLL_S):
                client.kill()
                client.wait()
                raise Cancelled("docker save")
        assert client.stderr is not None
        with client.stderr as errors:
            if client.returncode:
                raise EngineError(errors.read().decode("utf-8", "replace").strip())
        file.seek(0)

    def push(self, image: str, name: str) -> str:
        """Push an image as "registry/repository:tag" and read back what is there now; "registry/repository@digest".

        Raises:
            EngineError: it could not be pushed, or does not read back as what was pushed.
        """
        repository, _, tag = name.rpartition(":")
        with _told():
            self.client.api.tag(image, repository, tag)
            pushed = ""
            for line in self.client.api.push(repository, tag, stream=True, decode=True):
                if "error" in line:
                    raise EngineError(str(line["error"]))
                pushed = line.get("aux", {}).get("Digest", pushed)
            there = str(self.client.images.get_registry_data(f"{repository}@{pushed}").id) if pushed else "nothing"
        if not pushed or there != pushed:
            raise EngineError(f"{name} was pushed as {pushed or 'nothing'} and reads back as {there}")
        return f"{repository}@{pushed}"

    def sweep(self) -> int:
        """Remove containers of this home whose process is gone; how many."""
        removed = 0
        with _told():
            listed = self.client.api.containers(all=True, filters={"label": OWNER_LABEL})
        for one in listed:
            home, _, process = one["Labels"][OWNER_LABEL].partition(" ")
            if home == self._home and not is_alive(process):
                self.remove(one["Id"])
                removed += 1
        return removed


def _clean(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels of an image: it would inherit those of the container it was made in, which tell of this machine."""
    return {**labels, OWNER_LABEL: ""}


def client_environment() -> dict[str, str]:
    """Environment of the engine's client: where the engine is, and nothing of ours."""
    told = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
    return {**told, "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


@contextmanager
def _told() -> Iterator[None]:
    """Turn what the engine, or the way to it, says is wrong into our own error."""
    import docker
    import requests

    try:
        yield
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise EngineError(_said(error)) from error


def _said(error: Exception) -> str:
    """What an error of the engine says, in one line."""
    return " ".join(str(getattr(error, "explanation", "") or error).split())[:300]
