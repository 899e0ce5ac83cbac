"""Every FORMULAMINE_* knob, typed, with its default, its unit and where the default comes from.

Knobs are grouped by the steps that read them: a step names its group, and the group is in its fingerprint. What does
not change an answer (workers, paths, limits of a run) stands in groups that no step names.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


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


class BuildSettings(_Group):
    """Limits of a build."""

    build_timeout_s: int = Field(1800, ge=1, description="seconds of one build command; Harbor adapter")
    build_memory_mb: int = Field(8192, ge=128, description="total memory of one build, megabytes")


class MeasureSettings(_Group):
    """What a speedup must show, and how long one benchmark may take."""

    min_speedup: float = Field(1.05, gt=1, description="estimate, base time / head time; the paper")
    min_lower_bound: float = Field(1.02, ge=1, description="lower confidence bound; our noise experiment")
    measure_timeout_s: int = Field(
        3600, ge=1, description="seconds of one measurement; a large suite screens in ten minutes"
    )
    control_cases: int = Field(2, ge=0, description="benchmark cases measured base against base, each pull request")
    benchmark_timeout_s: int = Field(60, ge=1, description="seconds of one benchmark case; ASV")
    measure_memory_mb: int = Field(8192, ge=128, description="total memory of one side, megabytes")


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
            self.measure = MeasureSettings()
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
