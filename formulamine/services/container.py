"""Everything a month needs of the outside world, made once for a run.

Here belongs putting services together from settings. No service is opened before it is used, and none knows a phase.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from formulamine.services.cores import Cores
from formulamine.services.docker_engine import Engine
from formulamine.services.docker_sandbox import DockerSandboxes
from formulamine.services.git import Git
from formulamine.services.ledger import Ledger
from formulamine.services.llm import Llm
from formulamine.services.resolver import Resolver
from formulamine.services.sandbox import ChoosesSandbox, Sandboxes
from formulamine.services.store import Blobs, Tables
from formulamine.settings import Settings

Backend = Literal["local", "docker"]
"""Where code is built and measured."""


@dataclass
class Services:
    """Services of one run. `cancelled` ends whatever any of them is doing."""

    settings: Settings
    backend: Backend = "local"
    trust: bool = False
    is_ours: Callable[[str], bool] = lambda commit: False
    cancelled: threading.Event = field(default_factory=threading.Event)

    @cached_property
    def ledger(self) -> Ledger:
        """Outcomes of items."""
        self.settings.home.mkdir(parents=True, exist_ok=True)
        return Ledger(self.settings.ledger_url)

    @cached_property
    def scratch(self) -> Path:
        """Folder for what must not outlive this process; what killed ones left there is removed."""
        parent = self.settings.home / "scratch"
        own = parent / str(os.getpid())
        own.mkdir(parents=True, exist_ok=True)
        for left in parent.iterdir():
            if not Path("/proc", left.name).exists():
                shutil.rmtree(left, ignore_errors=True)  # another run may be removing it too
        return own

    def close(self) -> None:
        """End whatever still runs, and give back what is open."""
        self.cancelled.set()
        if "cores" in self.__dict__:
            self.cores.close()
        if "llm" in self.__dict__:
            self.llm.close()
        if "engine" in self.__dict__:
            self.engine.close()
        if "ledger" in self.__dict__:
            self.ledger.close()
        if "scratch" in self.__dict__:
            shutil.rmtree(self.scratch, ignore_errors=True)

    @cached_property
    def tables(self) -> Tables:
        """Tables by month."""
        return Tables(self.settings.home / "tables")

    @cached_property
    def blobs(self) -> Blobs:
        """Patches, recipes, logs and raw samples."""
        return Blobs(self.settings.home / "blobs")

    @cached_property
    def git(self) -> Git:
        """Mirrors."""
        return Git(self.settings.home / "mirrors", self.cancelled)

    @cached_property
    def cores(self) -> Cores:
        """Processes for what computes in Python."""
        return Cores(min(self.settings.workers.discover_workers, len(os.sched_getaffinity(0))))

    @cached_property
    def resolver(self) -> Resolver:
        """Resolution by uv, and the interpreters on offer."""
        return Resolver(self.settings.home / "cache" / "uv", self.scratch, self.cancelled)

    @cached_property
    def sandboxes(self) -> Sandboxes:
        """Where foreign code runs on this machine."""
        return Sandboxes(trust=self.trust, is_ours=self.is_ours, cancelled=self.cancelled)

    @cached_property
    def engine(self) -> Engine:
        """The Docker engine. Nobody is asked before it is used."""
        return Engine(self.settings.home, self.cancelled)

    @cached_property
    def llm(self) -> Llm:
        """Models, where some are configured."""
        return Llm(self.settings.llm, self.settings.home / "cache", self.cancelled)

    def sandboxes_of(self, backend: Backend) -> ChoosesSandbox:
        """Where foreign code runs on a backend."""
        if backend == "local":
            return self.sandboxes
        return DockerSandboxes(self.engine, self.settings.docker.docker_network, self.cancelled)
