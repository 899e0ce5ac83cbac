"""Every FORMULAMINE_* knob, typed, with its default, its unit and where the default comes from.

Knobs are grouped by the steps that read them: a step names its group, and the group is in its fingerprint. What does
not change an answer (workers, paths, limits of a run) stands in groups that no step names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

# Models of a task, cheap ones first: "openai:gpt-5-mini, anthropic:claude-opus-5-5".
CHAIN = r"^\s*((openai|anthropic):[^\s,]+\s*(,\s*(openai|anthropic):[^\s,]+\s*)*)?$"


class SettingsError(Exception):
    """A setting cannot be used; the message names it and the mend."""


class _Group(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="FORMULAMINE_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )


class Paths(_Group):
    """Where state lives."""

    home: Path = Field(Path(".formulamine"), description="state of formulamine; made absolute")
    ledger_url: str = Field("", description="SQLAlchemy URL of the ledger; empty: SQLite in FORMULAMINE_HOME")
    dagster_postgres_url: str = Field(
        "", description="SQLAlchemy URL of Dagster's runs and events (postgresql+psycopg2://...); empty: SQLite"
    )


class Workers(_Group):
    """Threads a step (fc-data's); what computes takes at most the machine's cores."""

    discover_workers: int = Field(5, ge=1)
    judge_workers: int = Field(5, ge=1)
    resolve_workers: int = Field(16, ge=1)
    build_workers: int = Field(3, ge=1)


class SieveSettings(_Group):
    """Limits beyond which a pull request is no candidate."""

    max_files: int = Field(500, ge=1, description="changed files; the paper")
    max_changed_lines: int = Field(80_000, ge=1, description="added and removed lines; the paper (fc-data: 40,000)")
    max_patch_tokens: int = Field(64_000, ge=1, description="characters / 4; the paper (fc-data: 16,000): recall first")


class ResolveSettings(_Group):
    """What decides an interpreter and its pins."""

    min_python: str = Field("3.8", pattern=r"^3\.\d+$", description="oldest series tried; the paper")
    max_python: str = Field("", pattern=r"^(3\.\d+)?$", description="youngest series tried; empty: any")


class BuildSettings(_Group):
    """Limits of a build."""

    build_timeout_s: int = Field(1800, ge=1, description="seconds of one build command; Harbor adapter")
    build_memory_mb: int = Field(8192, ge=128, description="total memory of one build, megabytes")


class DockerSettings(_Group):
    """The docker backend. The engine is the one that DOCKER_HOST names."""

    base_image: str = Field(
        "python:{python}-bookworm",
        description="image below all others; {python} is the series; with git, a compiler and Python's headers",
    )
    docker_network: str = Field("bridge", description="network of steps that install; the others have none")
    registry: str = Field("", description="where images are pushed, as registry.example.org/name; empty: nowhere")

    def image_of(self, series: str) -> str:
        """The base image of an interpreter series."""
        return self.base_image.replace("{python}", series)


class DiskSettings(_Group):
    """Room on the disk. No step names this group: what was removed is made again, and is the same."""

    min_free_mb: int = Field(
        2048, ge=0, description="megabytes that must be free where a build starts: one build and its layers"
    )
    cache_ceiling_mb: int = Field(
        51_200,
        ge=0,
        description="megabytes of environments, trees, suites and images kept, least recently used go first; 0: any",
    )
    compiler_cache_mb: int = Field(
        512, ge=0, description="of that, compiled objects of each repository (ccache), for its next build; 0: none"
    )


class MeasureSettings(_Group):
    """What a speedup must show, and how long one benchmark may take."""

    min_speedup: float = Field(1.05, gt=1, description="estimate, base time / head time; the paper")
    min_lower_bound: float = Field(1.02, ge=1, description="lower confidence bound; our noise experiment")
    measure_timeout_s: int = Field(
        3600, ge=1, description="seconds of one measurement; a large suite screens in ten minutes"
    )
    control_share: float = Field(0.5, ge=0, le=1, description="share of pull requests with an A/A control, by hash")
    control_cases: int = Field(5, ge=0, description="benchmark cases of a control, measured base against base")
    benchmark_timeout_s: int = Field(60, ge=1, description="seconds of one benchmark case; ASV")
    measure_memory_mb: int = Field(8192, ge=128, description="total memory of one side, megabytes")
    test_timeout_s: int = Field(3600, ge=1, description="seconds of one side's tests, all files together; fc-data")
    test_files: int = Field(20, ge=0, description="test files run on both sides of what got faster, the nearest first")


class LoadSettings(_Group):
    """When a machine is too busy to begin a measurement. No step names this group: it says when, not what."""

    max_load: float = Field(
        16.0, gt=0, description="load of the last minute for each core; at 10 the demo's verdicts were as expected"
    )
    load_max_wait_s: int = Field(900, ge=0, description="seconds that one run waits altogether, then it defers")


class LlmSettings(_Group):
    """Which models are asked, how, and for how much; a key comes from OPENAI_API_KEY or ANTHROPIC_API_KEY.

    No step names this group: what decides an answer enters fingerprints by `Llm.decides`.
    """

    judge_models: str = Field(
        "", pattern=CHAIN, description='classification: "provider:model" by comma, cheap ones first; empty: by rules'
    )
    judge_again_models: str = Field(
        "", pattern=CHAIN, description="who judges a sample a second time, likewise; empty: nobody"
    )
    judge_again_yes_share: float = Field(0.05, ge=0, le=1, description="how much of what got a yes is in that sample")
    # More of them: a wrong yes costs a measurement, a wrong no loses the pull request for good.
    judge_again_no_share: float = Field(0.1, ge=0, le=1, description="how much of what got a no is in that sample")
    statement_models: str = Field("", pattern=CHAIN, description="problem statements, likewise; empty: by rules")
    repair_models: str = Field("", pattern=CHAIN, description="failed builds, likewise; empty: nothing is repaired")
    repair_turns: int = Field(10, ge=1, description="changes of a recipe that one failed build may take; the paper")
    repair_budget_usd: float = Field(1.0, ge=0, description="dollars that one failed build may take")
    llm_budget_usd: float = Field(10.0, ge=0, description="dollars that one run may spend on models")
    llm_budget_tokens: int = Field(10_000_000, ge=0, description="tokens that one run may spend, in and out")
    llm_timeout_s: int = Field(120, ge=1, description="seconds of one request")
    llm_retries: int = Field(3, ge=0, description="further tries of a request that failed for the server; fc-data")
    llm_repairs: int = Field(2, ge=0, description="times that a model may mend an answer that cannot be read")
    llm_max_wait_s: int = Field(3600, ge=0, description="seconds that a rate limit is waited for; fc-data")
    llm_max_output_tokens: int = Field(8192, ge=1, description="tokens of one answer, what a model thinks included")
    openai_base_url: str = Field("", description="any server that speaks OpenAI's protocol; empty: OPENAI_BASE_URL")
    openai_mode: Literal["tools", "json_schema"] = Field(
        "tools", description="how a server of that protocol is asked for a typed answer"
    )
    anthropic_base_url: str = Field("", description="the same for Anthropic's; empty: ANTHROPIC_BASE_URL")


class ReleaseSettings(_Group):
    """What may be published."""

    release_environments: str = Field("docker", description="backends whose measurements are publishable, by comma")

    @property
    def environments(self) -> frozenset[str]:
        """The same as a set."""
        return frozenset(name.strip() for name in self.release_environments.split(",") if name.strip())


class Settings:
    """All groups, read from the environment and from `.env` in the working directory."""

    def __init__(self) -> None:
        """Read and check every knob.

        Raises:
            SettingsError: one of them is malformed.
        """
        try:
            self.paths = Paths()
            self.workers = Workers()
            self.sieve = SieveSettings()
            self.resolve = ResolveSettings()
            self.build = BuildSettings()
            self.docker = DockerSettings()
            self.disk = DiskSettings()
            self.measure = MeasureSettings()
            self.load = LoadSettings()
            self.llm = LlmSettings()
            self.release = ReleaseSettings()
        except ValidationError as error:
            first = error.errors()[0]
            name = "FORMULAMINE_" + "_".join(str(part) for part in first["loc"]).upper()
            raise SettingsError(
                f"{name}={first['input']!r}: {first['msg']}; mend it in the environment or .env"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"the .env file of this folder cannot be read ({error}): mend it or move it") from error

    @cached_property
    def home(self) -> Path:
        """FORMULAMINE_HOME, absolute."""
        return self.paths.home.expanduser().absolute()

    @property
    def ledger_url(self) -> str:
        """Where the ledger is."""
        return self.paths.ledger_url or f"sqlite:///{self.home / 'ledger.sqlite'}"

    @property
    def cores(self) -> int:
        """Cores that this process may use."""
        return len(os.sched_getaffinity(0))

    @property
    def build_workers(self) -> int:
        """Builds at a time: at most one a core, and no more than fit in memory."""
        fit = memory_mb() // self.build.build_memory_mb
        return max(1, min(self.workers.build_workers, self.cores, fit))


def memory_mb(system: Path = Path("/")) -> int:
    """Total memory that this process may use: what the machine has, or what its control group leaves of that."""
    (total,) = (
        int(line.split()[1]) // 1024
        for line in (system / "proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    return min([total, *(limit // 2**20 for limit in _memory_limits(system))])


def _memory_limits(system: Path) -> Iterator[int]:
    """Limits of the control group of this process and of those above it, in either version of the interface."""
    mount = system / "sys/fs/cgroup"
    for line in (system / "proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (mount / "memory", "memory.limit_in_bytes") if controllers else (mount, "memory.max")
        # In a container the path may be the host's, and only its last part, or none, is seen here.
        group = Path(own.lstrip("/"))
        for folder in {top, *(top / one for one in (group, *group.parents))}:
            with suppress(FileNotFoundError, NotADirectoryError):
                told = (folder / name).read_text().strip()
                if told.isdigit():  # else "max"
                    yield int(told)
