"""The manifest of a build: what both sides were seen to be, written by us and kept outside whatever was built.

Here belongs its form. What is true of a build is asked in `facts.py`. It names no machine and no path of the host, so
that the same build has the same manifest wherever it was made, but for the libraries of another system.
"""

from __future__ import annotations

from formulamine.records import Record

MANIFEST_VERSION = "1"


class SideManifest(Record):
    """One side."""

    commit: str
    tag: str
    """The one tag of its repository, from which a version is read; empty where it has none."""
    interpreter: str
    """Version of its Python."""
    pins: list[str]
    """Distributions of its environment, each with its version."""
    starters: list[str]
    """Files of its environment that run code whenever its Python starts, each known or brought by a distribution."""
    import_names: list[str]
    import_path: str
    """File that it imports, from its own folder on."""
    version: str
    """What the package says of itself."""
    benchmarks_discovered: int
    benchmarks_missing: list[str]
    """Named by the source of the suite and not discovered: at most twenty, where `suite_errors` may tell why."""
    suite_errors: list[str]
    digests: dict[str, str]
    """Of its environment's `lib`, of the installed package and of its sources."""


class Manifest(Record):
    """Both sides and the suite."""

    version: str = MANIFEST_VERSION
    formulamine: str
    """Version of what wrote this."""
    recipe: str
    """SHA-256 of the recipe."""
    repo: str
    rules: list[str]
    """Rules of verification that passed on both sides, in order."""
    benchmarks_in_source: int
    suite_digest: str
    base: SideManifest
    head: SideManifest

    def to_blob(self) -> bytes:
        """Bytes whose hash is the manifest's."""
        return self.model_dump_json().encode()
