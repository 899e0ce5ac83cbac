"""A recipe: everything needed to build both sides of a pull request, as typed data.

Two backends will carry out the same recipe. It names no machine, no path, no address and no digest, so that its hash
identifies what was built wherever that was.
"""

from __future__ import annotations

from pydantic import Field

from formulamine.build.cache import key_of
from formulamine.records import Record

RECIPE_VERSION = "2"


class Recipe(Record):
    """How base and head are built, and which suite measures them."""

    version: str = RECIPE_VERSION
    repo: str
    base_sha: str
    merge_sha: str
    python_version: str
    distribution: str
    package_root: str
    pins: list[str]
    pins_base: list[str]
    build_pins: list[str]
    environment_variables: dict[str, str]
    config_settings: dict[str, str] = Field(default={})
    """Settings of the build backend (PEP 517)."""
    system_packages: list[str] = Field(default=[])
    """Debian packages beside those of the base image, sorted."""
    benchmark_dir: str

    def pins_of(self, commit: str) -> list[str]:
        """Run-time pins of a side."""
        return self.pins_base if self.pins_base and commit == self.base_sha else self.pins

    def to_blob(self) -> bytes:
        """Bytes whose hash is the recipe's."""
        return self.model_dump_json().encode()

    def environment_key(self, commit: str, interpreter: str) -> str:
        """Key of a side's environment, shared by every pull request with the same pins."""
        return key_of("environment", RECIPE_VERSION, interpreter, self.pins_of(commit), self.system_packages)

    def side_key(self, commit: str, interpreter: str) -> str:
        """Key of a built side."""
        build = [self.build_pins, self.environment_variables, self.package_root]
        build += [self.config_settings, self.system_packages]
        return key_of("side", RECIPE_VERSION, self.repo, commit, interpreter, *build)
