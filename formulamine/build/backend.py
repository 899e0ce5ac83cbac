"""Carrying out a recipe: environments, built trees and suites as folders of a cache.

Here belongs what every backend does, in which order. What one does in its own way is named in `ways.py`, and done in
`local.py` and `docker.py`. What a recipe says is decided in `payloads.py`; whether what was built is what it claims to
be is asked in `facts.py`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from formulamine.build import bytecode, wheels
from formulamine.build.cache import key_of, ready, remove
from formulamine.build.compiler_cache import CompilerCache, compiles
from formulamine.build.declarations import BuildSystem, build_system, parse_pyproject
from formulamine.build.failures import last_line
from formulamine.build.pair import Pair, Seen, Side
from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine.build.recipe import Recipe
from formulamine.build.room import Room
from formulamine.build.ways import Ways
from formulamine.build.wheels import HOOKS
from formulamine.items import Cancelled
from formulamine.services.archives import BadArchive
from formulamine.services.git import Git
from formulamine.services.git_process import CommandFailed
from formulamine.services.resolver import InstallFailed, Resolver
from formulamine.services.sandbox import DISK_FULL_MB, POLL_S, Command, Sandbox
from formulamine.settings import BuildSettings, DiskSettings

# What the harness needs beside the environment under test, never from it: a project may bring another version.
TOOLS = ("asv-runner==0.3.2",)
# What runs tests, with all that it needs: the last releases that every interpreter from 3.8 on can run.
TEST_TOOLS = (
    "pytest==8.3.5", "exceptiongroup==1.2.2", "iniconfig==2.0.0", "packaging==24.2", "pluggy==1.5.0", "tomli==2.0.2",
)  # fmt: skip

COMPILE = Path(bytecode.__file__)

WORK = "/opt/formulamine/work"
"""Where a build sees its folders, on a backend that has fixed places."""


class Backend(Ways):
    """Builds recipes into folders of a cache."""

    def __init__(
        self,
        cache: Path,
        git: Git,
        resolver: Resolver,
        settings: BuildSettings,
        disk: DiskSettings,
        cancelled: threading.Event,
        builds_at_once: int = 2,
    ) -> None:
        self._cache = cache
        self._cancelled = cancelled
        self._git = git
        self._resolver = resolver
        self._settings = settings
        self._disk = disk
        self._room = Room(cache, disk, cancelled)
        self._slots = threading.BoundedSemaphore(builds_at_once)

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
        self._compilers.merge(self._compiled(recipe), self._compiled(recipe, recipe.base_sha))
        if self._may_be_built_at_once(recipe, url, sandbox()):
            with ThreadPoolExecutor(1, thread_name_prefix="head") as pool:
                head = pool.submit(self._make_side, recipe, url, recipe.merge_sha, sandbox)
                self._make_side(recipe, url, recipe.base_sha, sandbox)
                head.result()
                # Found made: this thread works with it from here on, before the other lets go of it.
                self._make_side(recipe, url, recipe.merge_sha, sandbox)
        else:
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
            self._git.checkout(mirror, commit, destination, self._tag(repo, url, commit) if tagged else None)
        except CommandFailed as error:
            # Of a full disk git often says no more than that it could not write.
            if shutil.disk_usage(destination.parent).free < DISK_FULL_MB * 2**20:
                raise OSError(errno.ENOSPC, f"No space left on device: {error}") from error
            raise BuildFailed(ImageReason.BAD_TREE, str(error)) from error
        return destination

    def _tag(self, repo: str, url: str, commit: str) -> str | None:
        """The tag from which build tools read a commit's version."""
        return self._git.describe_tag(self._git.open(repo, url), commit)

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

    def _may_be_built_at_once(self, recipe: Recipe, url: str, sandbox: Sandbox) -> bool:
        """Not where head would compile at the same time what it finds compiled after base."""
        is_first = self._compilers.is_on and not ready(self._compiled(recipe))
        return not (is_first and self._caches_compilers(recipe, url, recipe.base_sha, sandbox))

    def _make_side(self, recipe: Recipe, url: str, commit: str, sandbox: Callable[[], Sandbox]) -> None:
        series = recipe.python_version
        located = self._located(recipe)
        side = located.base if commit == recipe.base_sha else located.head
        packages = recipe.system_packages
        self._require(packages)
        self.environment(side.environment.name, recipe.pins_of(commit), series, sandbox, packages)
        is_base, kept, waits = commit == recipe.base_sha, self._compiled(recipe), self._compiled(recipe, commit)

        def make(folder: Path) -> None:
            tree = self.checkout(recipe.repo, url, commit, folder / "tree", tagged=False)
            # Built in a copy of its own: what a build leaves behind, or changes, is no part of the tree that ships.
            copy = shutil.copytree(tree, folder / "build", symlinks=True)
            if tag := self._tag(recipe.repo, url, commit):
                self._git.add_tag(copy, tag)
            system = self.build_system(recipe.repo, url, commit, recipe.package_root)
            build_environment = self.build_environment(recipe.build_pins, series, sandbox, packages)
            where, compilers = sandbox(), self._compilers
            is_cached = self._caches_compilers(recipe, url, commit, where)
            image = self._image(build_environment, series, packages, ccache=is_cached)
            hook = self._hook(
                "build_wheel", system, copy, recipe.package_root, build_environment, series,
                recipe.environment_variables, recipe.config_settings, image, where,
            )  # fmt: skip
            lent = folder / "compilers"
            if is_cached:
                compilers.lend(kept, lent)
                hook = compilers.given(hook, lent, self._seen(where, compilers=lent)[lent], hook.inside[copy])
            self._build(hook, system, folder / "site", side.environment, series, where)
            if is_cached:
                compilers.keep(kept, lent) if is_base else compilers.keep(waits, lent, known=kept)
                remove(lent)
            remove(copy)
            remove(folder / "wheels")  # whatever was left there: a setuid program of the user who runs this

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
            with self._slot():
                result = sandbox.run(command)
        except BadArchive as error:
            raise BuildFailed(ImageReason.BUILD_FAILED, f"what was built cannot be taken: {error}") from error
        wheels.raise_unless_installed(system, result)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """One of the builds that may run at once.

        Raises:
            Cancelled: the run was told to end.
        """
        while not self._slots.acquire(timeout=POLL_S):
            if self._cancelled.is_set():
                raise Cancelled("waiting for a build to end")
        try:
            yield
        finally:
            self._slots.release()

    @cached_property
    def _compilers(self) -> CompilerCache:
        return CompilerCache(self._cache, self._room, self._disk.compiler_cache_mb, self._cancelled)

    def _compiled(self, recipe: Recipe, commit: str = "") -> Path:
        """Where a repository keeps what its compilers made; or where that of a head side waits."""
        identity = self.identity(recipe.python_version)
        return self._compilers.folder(recipe.repo, identity, recipe.system_packages, commit)

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
