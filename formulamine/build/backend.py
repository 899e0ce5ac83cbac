"""Carrying out a recipe: environments, built trees and suites as folders of a cache.

Here belongs what every backend does, in which order. What one does in its own way is at the end of `Backend` and in
`local.py` and `docker.py`. What a recipe says is decided in `payloads.py`; whether what was built is what it claims to
be is asked in `facts.py`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from formulamine.build import wheels
from formulamine.build.cache import key_of, remove
from formulamine.build.compiler_cache import CompilerCache, compiles
from formulamine.build.declarations import BuildSystem, build_system, parse_pyproject
from formulamine.build.failures import last_line
from formulamine.build.pair import Digests, Pair, Seen, Side
from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine.build.recipe import Recipe
from formulamine.build.room import Room
from formulamine.build.wheels import HOOKS
from formulamine.services.archives import BadArchive
from formulamine.services.git import Git
from formulamine.services.git_process import CommandFailed
from formulamine.services.resolver import InstallFailed, Interpreter, Resolver
from formulamine.services.sandbox import DISK_FULL_MB, Command, Sandbox
from formulamine.settings import BuildSettings, DiskSettings

# What the harness needs beside the environment under test, never from it: a project may bring another version.
TOOLS = ("asv-runner==0.3.2",)
# What runs tests, with all that it needs: the last releases that every interpreter from 3.8 on can run.
TEST_TOOLS = (
    "pytest==8.3.5", "exceptiongroup==1.2.2", "iniconfig==2.0.0", "packaging==24.2", "pluggy==1.5.0", "tomli==2.0.2",
)  # fmt: skip


WORK = "/opt/formulamine/work"
"""Where a build sees its folders, on a backend that has fixed places."""


class Backend(ABC):
    """Builds recipes into folders of a cache."""

    name: Literal["local", "docker"]
    installs_packages: bool
    """Whether a recipe's system packages are installed where they are missing."""

    def __init__(
        self,
        cache: Path,
        git: Git,
        resolver: Resolver,
        settings: BuildSettings,
        disk: DiskSettings,
        cancelled: threading.Event,
    ) -> None:
        self._cache = cache
        self._cancelled = cancelled
        self._git = git
        self._resolver = resolver
        self._settings = settings
        self._disk = disk
        self._room = Room(cache, disk, cancelled)

    def pair(self, recipe: Recipe, url: str, sandbox: Callable[[], Sandbox], pr_id: str) -> Pair:
        """Both sides of a recipe, built where they are missing.

        Args:
            recipe: what to build.
            url: where the repository is, should its mirror be gone.
            sandbox: where code of the repository runs.
            pr_id: whose recipe it is, for people who look at what was made.

        Raises:
            BuildFailed: a side does not build.
            IndexUnreachable: the index did not answer.
            NoSandbox: this code may not run here.
        """
        self._room.uses.let_go_of_all()  # of the item before: a thread works on one at a time
        for commit in (recipe.base_sha, recipe.merge_sha):
            self._make_side(recipe, url, commit, sandbox)
        self._make_suite(recipe, self._located(recipe).head.tree)
        self._make_tools(recipe.python_version, sandbox)
        return self._finished(self._located(recipe), pr_id)

    def standing(self, recipe: Recipe) -> Pair | None:
        """Both sides of a recipe where everything of them still stands, else None. Makes nothing."""
        if not self.offers(recipe.python_version):
            return None
        pair = self._located(recipe)
        folders = [side.tree.parent for side in (pair.base, pair.head)]
        folders += [pair.base.environment, pair.head.environment, pair.suite_parent.parent]
        return pair if all(map(self._room.standing, folders)) else None

    def environment(
        self, key: str, pins: Sequence[str], series: str, sandbox: Callable[[], Sandbox], packages: Sequence[str] = ()
    ) -> Path:
        """An environment with pins and nothing else, shared by all that need the same.

        Raises:
            BuildFailed: a pin cannot be installed.
        """

        def make(folder: Path) -> None:
            try:
                self._install(pins, series, folder, sandbox, packages)
            except InstallFailed as error:
                raise BuildFailed(ImageReason.INSTALL_FAILED, last_line(str(error)), str(error)) from error

        return self._room.made(self._cache / "environments" / key, make)

    def build_environment(
        self, build_pins: Sequence[str], series: str, sandbox: Callable[[], Sandbox], packages: Sequence[str] = ()
    ) -> Path:
        """The environment in which wheels are built, apart from the one that ships."""
        key = key_of("build", self.identity(series), sorted(build_pins), list(packages))
        return self.environment(key, build_pins, series, sandbox, packages)

    def call_hook(
        self,
        hook: str,
        system: BuildSystem,
        tree: Path,
        package_root: str,
        build_environment: Path,
        series: str,
        environment_variables: dict[str, str],
        sandbox: Sandbox,
        config_settings: Mapping[str, str] | None = None,
        packages: Sequence[str] = (),
    ) -> object:
        """Ask a build backend, in the sandbox and without network.

        Args:
            hook: "get_requires_for_build_wheel", "metadata" (the METADATA text) or "build_wheel" (the wheel's name).
            system: backend and where it is.
            tree: the checked-out sources, writable for the backend; wheels go to `wheels` beside it.
            package_root: folder of the build files in the tree.
            build_environment: holds the backend.
            series: of the interpreter.
            environment_variables: of the ASV matrix.
            sandbox: where it runs.
            config_settings: of the backend.
            packages: system packages of the recipe.

        Raises:
            BuildFailed: the backend failed, or ran out of time or memory.
        """
        image = self._image(build_environment, series, packages)
        command = self._hook(
            hook, system, tree, package_root, build_environment, series,
            environment_variables, config_settings, image, sandbox,
        )  # fmt: skip
        return wheels.answer(hook, system, sandbox.run(replace(command, hidden=wheels.ASKED_FOR)))

    def _hook(
        self,
        hook: str,
        system: BuildSystem,
        tree: Path,
        package_root: str,
        build_environment: Path,
        series: str,
        environment_variables: dict[str, str],
        config_settings: Mapping[str, str] | None,
        image: str,
        sandbox: Sandbox,
    ) -> Command:
        """The command that calls a hook."""
        output = tree.parent / "wheels"
        output.mkdir(exist_ok=True)
        seen = self._seen(sandbox, tree=tree, wheels=output, hooks=HOOKS, environment=build_environment)
        python = f"{seen[build_environment]}/bin"
        settings = json.dumps(dict(config_settings or {}))
        return Command(
            [
                f"{python}/python", seen[HOOKS],
                system.backend, ":".join(system.backend_path), hook, seen[output], settings,
            ],
            readable=(*self._needed(series, build_environment), HOOKS),
            scratch=(tree, output),
            inside=seen,
            image=image,
            environment={
                **environment_variables,
                "PATH": f"{python}:/usr/local/bin:/usr/bin:/bin",
                "SOURCE_DATE_EPOCH": "1577836800",
            },
            cwd=Path(seen[tree], package_root),
            timeout_s=self._settings.build_timeout_s,
            memory_mb=self._settings.build_memory_mb,
        )  # fmt: skip

    def checkout(self, repo: str, url: str, commit: str, destination: Path, *, tagged: bool = True) -> Path:
        """The sources of a commit as a repository of one commit.

        Args:
            repo: whose.
            url: where it is, should its mirror be gone.
            commit: which.
            destination: a folder that is not there yet.
            tagged: with the nearest tag, so that a build finds its version; what ships has none.

        Raises:
            BuildFailed: the commit holds what git refuses to write.
            OSError: the disk is full.
        """
        mirror = self._git.open(repo, url)
        try:
            tag = self._git.describe_tag(mirror, commit) if tagged else None
            self._git.checkout(mirror, commit, destination, tag)
        except CommandFailed as error:
            # Of a full disk git often says no more than that it could not write.
            if shutil.disk_usage(destination.parent).free < DISK_FULL_MB * 2**20:
                raise OSError(errno.ENOSPC, f"No space left on device: {error}") from error
            raise BuildFailed(ImageReason.BAD_TREE, str(error)) from error
        return destination

    def _located(self, recipe: Recipe) -> Pair:
        """Where everything of a recipe is, or will be."""
        series = recipe.python_version
        interpreter, identity = self.interpreter(series), self.identity(series)
        suite_parent = self._suite_folder(recipe) / "suite"
        tools = self._tools_folder(series) / "lib" / f"python{series}" / "site-packages"

        def side(commit: str) -> Side:
            folder = self._cache / "sides" / recipe.side_key(commit, identity)
            environment = self._cache / "environments" / recipe.environment_key(commit, identity)
            seen = Seen(
                f"{environment}/bin/python", str(folder / "site"), str(folder / "tree"), str(suite_parent), str(tools)
            )  # a backend with fixed places says others
            return Side(commit, environment, folder / "tree", folder / "site", interpreter, seen)

        return Pair(
            recipe=recipe,
            base=side(recipe.base_sha),
            head=side(recipe.merge_sha),
            suite_parent=suite_parent,
            suite=PurePosixPath(recipe.benchmark_dir).name,
            tools=tools,
        )

    def _make_side(self, recipe: Recipe, url: str, commit: str, sandbox: Callable[[], Sandbox]) -> None:
        series = recipe.python_version
        located = self._located(recipe)
        side = located.base if commit == recipe.base_sha else located.head
        packages = recipe.system_packages
        self._require(packages)
        self.environment(side.environment.name, recipe.pins_of(commit), series, sandbox, packages)

        def make(folder: Path) -> None:
            # Built in a copy of its own: what a build leaves behind, or changes, is no part of the tree that ships.
            copy = self.checkout(recipe.repo, url, commit, folder / "build")
            system = self.build_system(recipe.repo, url, commit, recipe.package_root)
            build_environment = self.build_environment(recipe.build_pins, series, sandbox, packages)
            where, compilers = sandbox(), self._compilers
            is_cached = self._caches_compilers(recipe, url, commit, where)
            image = self._image(build_environment, series, packages, ccache=is_cached)
            hook = self._hook(
                "build_wheel", system, copy, recipe.package_root, build_environment, series,
                recipe.environment_variables, recipe.config_settings, image, where,
            )  # fmt: skip
            kept, lent, is_base = self._compiled(recipe), folder / "compilers", commit == recipe.base_sha
            if is_cached:
                compilers.lend(kept, lent)
                seen = self._seen(where, compilers=lent)[lent]
                hook = compilers.given(hook, lent, seen, hook.inside[copy], is_kept=is_base)
            self._build(hook, system, folder / "site", side.environment, series, where)
            if is_cached:
                if is_base:
                    compilers.keep(kept, lent)
                remove(lent)
            remove(copy)
            remove(folder / "wheels")  # whatever was left there: a setuid program of the user who runs this
            self.checkout(recipe.repo, url, commit, folder / "tree", tagged=False)

        self._room.made(side.tree.parent, make)

    def _build(
        self, hook: Command, system: BuildSystem, site: Path, environment: Path, series: str, sandbox: Sandbox
    ) -> None:
        """Build a wheel and unpack it, to stand in front of the environment, without dependencies or the index.

        Both in one sandbox: a build that reached over to what is unpacked could as well have put it into its wheel,
        and what came out is looked at from outside.
        """
        site.mkdir()
        uv, made = self._resolver.uv, hook.scratch[1]
        seen = {**self._seen(sandbox, site=site, uv=uv, environment=environment), **hook.inside}
        arguments = [seen[uv], seen[made], seen[site], f"{seen[environment]}/bin/python"]
        command = replace(
            hook,
            argv=["/bin/sh", "-c", wheels.BUILD_AND_INSTALL, "sh", *arguments, *hook.argv],
            readable=(*hook.readable, *self._needed(series, environment), uv),
            writable=(*hook.writable, site),
            inside=seen,
        )
        try:
            result = sandbox.run(command)
        except BadArchive as error:
            raise BuildFailed(ImageReason.BUILD_FAILED, f"what was built cannot be taken: {error}") from error
        wheels.raise_unless_installed(system, result)

    @cached_property
    def _compilers(self) -> CompilerCache:
        return CompilerCache(self._cache, self._room, self._disk.compiler_cache_mb, self._cancelled)

    def _compiled(self, recipe: Recipe) -> Path:
        """Where a repository keeps what its compilers made."""
        return self._compilers.folder(recipe.repo, self.identity(recipe.python_version), recipe.system_packages)

    def _caches_compilers(self, recipe: Recipe, url: str, commit: str, sandbox: Sandbox) -> bool:
        """Whether a commit is built with a compiler cache: where that is isolated, so that all see the same places."""
        if not (self._compilers.is_on and sandbox.isolated):
            return False
        entries = self._git.list_tree(self._git.open(recipe.repo, url), commit)
        if not compiles(entry.path for entry in entries):
            return False
        return self._has_ccache(recipe.python_version, recipe.system_packages)

    def build_system(self, repo: str, url: str, commit: str, package_root: str) -> BuildSystem:
        """The build system that a commit declares; read from git, where a symlink leads nowhere."""
        path = str(PurePosixPath(package_root, "pyproject.toml"))
        blobs = self._git.read_blobs(self._git.open(repo, url), [(commit, path)])
        return build_system(parse_pyproject(blobs.get((commit, path))))

    def _suite_folder(self, recipe: Recipe) -> Path:
        return self._cache / "suites" / key_of("suite", recipe.repo, recipe.merge_sha, recipe.benchmark_dir)

    def _make_suite(self, recipe: Recipe, tree: Path) -> None:
        """Copy the merge commit's benchmarks alone: beside their package they would import it from the tree."""

        def make(folder: Path) -> None:
            name = PurePosixPath(recipe.benchmark_dir).name
            if not name:
                raise BuildFailed(ImageReason.NO_BENCHMARKS, "the suite is no folder of its own, but the repository")
            source = Path(
                os.path.realpath(tree / recipe.benchmark_dir)
            )  # unlike resolve(), it outlives a loop of links
            if not source.is_relative_to(os.path.realpath(tree)):
                raise BuildFailed(ImageReason.NO_BENCHMARKS, f"{recipe.benchmark_dir} leads out of the tree")
            if not source.is_dir():
                raise BuildFailed(ImageReason.NO_BENCHMARKS, f"no {recipe.benchmark_dir} at the merge commit")
            shutil.copytree(source, folder / "suite" / name, symlinks=True)

        self._room.made(self._suite_folder(recipe), make)

    def _tools_folder(self, series: str) -> Path:
        return self._cache / "environments" / key_of("tools", self.identity(series), TOOLS)

    def _make_tools(self, series: str, sandbox: Callable[[], Sandbox]) -> None:
        """Install asv_runner for an interpreter series, of our own choice and not of the project's."""
        self.environment(self._tools_folder(series).name, TOOLS, series, sandbox)

    def test_tools(self, series: str, sandbox: Callable[[], Sandbox]) -> Path:
        """The folder from which our pytest is imported, for an interpreter series, apart from every environment.

        Raises:
            BuildFailed: it cannot be installed.
            IndexUnreachable: the index did not answer.
        """
        key = key_of("tools", self.identity(series), TEST_TOOLS)
        return self.environment(key, TEST_TOOLS, series, sandbox) / "lib" / f"python{series}" / "site-packages"

    # What a backend does in its own way.

    @abstractmethod
    def interpreter(self, series: str) -> Interpreter:
        """The interpreter of a series that builds here.

        Raises:
            BuildFailed: there is none.
        """

    @abstractmethod
    def offers(self, series: str) -> bool:
        """Whether there is an interpreter of a series, without making or fetching one."""

    @abstractmethod
    def identity(self, series: str) -> str:
        """What names an interpreter in the key of what is built with it."""

    @abstractmethod
    def digests(self, pair: Pair) -> Digests:
        """What identifies a pair whose facts are fine; it is pushed where it can be.

        Raises:
            PushFailed: it does not stand where it should.
        """

    @abstractmethod
    def unlike(self, pair: Pair, digests: Digests) -> str:
        """In what a standing pair is another than what was recorded; empty where it is the same."""

    @abstractmethod
    def holding(self, pairs: Sequence[tuple[Pair, Collection[str]]]) -> list[list[str]]:
        """For each pair, the paths in what ships whose content has one of the SHA-256 beside it."""

    @abstractmethod
    def _require(self, packages: Sequence[str]) -> None:
        """See to it that system packages are there.

        Raises:
            BuildFailed: they are not, and cannot be had.
        """

    @abstractmethod
    def _install(
        self, pins: Sequence[str], series: str, folder: Path, sandbox: Callable[[], Sandbox], packages: Sequence[str]
    ) -> None:
        """Make a virtual environment with pins and nothing else, on a system with these packages.

        Raises:
            InstallFailed: a pin could not be installed.
        """

    @abstractmethod
    def _seen(self, sandbox: Sandbox, **places: Path) -> dict[Path, str]:
        """Where a command sees host paths, each named by its part in a build."""

    @abstractmethod
    def _needed(self, series: str, environment: Path) -> tuple[Path, ...]:
        """Host paths that a command must be given to run an environment."""

    @abstractmethod
    def _image(self, environment: Path, series: str, packages: Sequence[str], *, ccache: bool = False) -> str:
        """The image in which a build environment's commands run, with ccache or not; empty where there are none."""

    @abstractmethod
    def _has_ccache(self, series: str, packages: Sequence[str]) -> bool:
        """Whether a build can run ccache, installed for that where the backend installs packages."""

    @abstractmethod
    def _finished(self, pair: Pair, pr_id: str) -> Pair:
        """A pair whose folders are made, with what else the backend makes of them."""
