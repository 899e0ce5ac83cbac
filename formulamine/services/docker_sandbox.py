"""The sandbox of the docker backend: one command in a container of its own, under limits.

Here belongs what holds while foreign code runs in a container: no network unless asked for, a root that cannot be
written, an unprivileged user without capabilities, bounded memory, processes, output and time. What goes in and comes
out is copied (`docker_engine.py`); nothing of this machine is mounted.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from formulamine.services.docker_engine import UNPRIVILEGED, Engine, client_environment
from formulamine.services.sandbox import (
    MAX_FILE_MB,
    MAX_PROCESSES,
    TMP_MB,
    Command,
    Running,
    Sandbox,
    environment_of,
    kill,
)

GIVEN = "/opt/formulamine/given"
"""Where commands see host files that are no part of an image."""
LIMITS = ["network", "filesystem", "wall_time", "total_memory", "process_count", "file_size"]
# The engine keeps what a container prints on its own disk: the last of it is enough, a flood of it must not fill that.
LOG = {"max-size": "1m", "max-file": "2"}


@dataclass
class InContainer(Running):
    """A command in a container, seen through the client that is attached to it."""

    engine: Engine
    container: str
    written: Sequence[tuple[str, Path]]

    def out_of_memory(self) -> bool:
        """Whether the kernel killed the container for want of memory."""
        state = self.engine.client.api.inspect_container(self.container)["State"]
        return bool(state["OOMKilled"])

    def bring_back(self) -> None:
        """Take what may have been written."""
        for inside, path in self.written:
            self.engine.take(self.container, inside, path)

    def close(self) -> None:
        """Kill and remove the container, and with it its volumes; of one that has ended that is left to the engine."""
        try:
            if self.process.poll() is not None:
                self.engine.remove_later(self.container)
            else:
                self.engine.remove(self.container)
        finally:
            kill(self.process)


class DockerSandbox(Sandbox):
    """Runs commands in containers. A command names its image and where it sees each path."""

    def __init__(self, engine: Engine, network: str, cancelled: threading.Event) -> None:
        super().__init__(isolated=True, cgroups=False, cancelled=cancelled)
        self._engine = engine
        self._network = network

    @property
    def limits(self) -> list[str]:
        """Limits that hold for every command run here."""
        return LIMITS

    def _start(self, command: Command, stdin: int, stderr: int) -> Running:
        written = [(command.inside[path], path) for path in command.writable]
        changed = [(command.inside[path], path) for path in command.changed]
        given = [(command.inside[path], path) for path in command.readable if command.inside[path].startswith(GIVEN)]
        volumes = sorted({str(PurePosixPath(inside).parent) for inside, _ in (*changed, *given)})
        from docker.types import LogConfig, Ulimit  # slow to import, as all of it

        api = self._engine.client.api
        host = api.create_host_config(
            network_mode=self._network if command.network else "none",
            read_only=True,
            mem_limit=f"{command.memory_mb}m",
            memswap_limit=f"{command.memory_mb}m",
            pids_limit=MAX_PROCESSES,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            tmpfs={"/tmp": f"size={TMP_MB}m,mode=1777,exec"},
            ulimits=[Ulimit(name="fsize", soft=MAX_FILE_MB * 2**20, hard=MAX_FILE_MB * 2**20)],
            init=True,
            log_config=LogConfig(type="json-file", config=LOG),
        )
        container = self._engine.create(
            command.image,
            # The home of an unprivileged user, which no image has.
            ["/bin/sh", "-c", 'mkdir -p /tmp/home; exec "$@"', "sh", *command.argv],
            user=f"{UNPRIVILEGED}:{UNPRIVILEGED}",
            environment=environment_of(command, isolated=True),
            working_dir=str(command.cwd),
            volumes=volumes,
            # With "none" the engine would set up a network namespace of its own making, at twice a container's start.
            network_disabled=not command.network,
            host_config=host,
            stdin_open=stdin == subprocess.PIPE,
        )
        try:
            for volume in volumes:
                content = [(PurePosixPath(inside).name, path) for inside, path in (*changed, *given)
                           if str(PurePosixPath(inside).parent) == volume]  # fmt: skip
                self._engine.put(container, volume, content)
            argv = ["docker", "start", "--attach", *(["--interactive"] if stdin == subprocess.PIPE else []), container]
            process = self._spawner.spawn(
                lambda: subprocess.Popen(
                    argv, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, cwd="/", start_new_session=True,
                    env=client_environment(),
                )
            )  # fmt: skip
        except BaseException:
            self._engine.remove(container)
            raise
        return InContainer(process, None, self._engine, container, written)


class DockerSandboxes:
    """The sandbox of the docker backend, in which any code may run: every limit holds there."""

    def __init__(self, engine: Engine, network: str, cancelled: threading.Event) -> None:
        self._sandbox = DockerSandbox(engine, network, cancelled)

    def for_commits(self, commits: Iterable[str]) -> Sandbox:
        """The same one for all."""
        return self._sandbox
