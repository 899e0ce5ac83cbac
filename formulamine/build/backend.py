"""The local backend: environments and built trees as folders, made under the sandbox.

Here belongs carrying out a recipe on this machine. What a recipe says is decided in `payloads.py`; whether what was
built is what it claims to be is asked in `facts.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from formulamine.build import backend_hooks
from formulamine.build.cache import key_of, made, ready, remove
from formulamine.build.declarations import BuildSystem, build_system, parse_pyproject
from formulamine.build.failures import build_failure, last_line
from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine.build.recipe import Recipe
from formulamine.services.git import Git
from formulamine.services.git_process import CommandFailed
from formulamine.services.resolver import InstallFailed, Interpreter, Resolver
from formulamine.services.sandbox import Command, Sandbox
from formulamine.settings import BuildSettings

HOOKS = Path(backend_hooks.__file__)
# What the harness needs beside the environment under test, never from it: a project may bring another version.
TOOLS = ("asv-runner==0.3.2",)


@dataclass(frozen=True)
class Side:
    """One built side: environment, package in front of it, and the sources it came from."""

    commit: str
    environment: Path
    tree: Path
    site: Path
    interpreter: Interpreter

    @property
    def python(self) -> Path:
        """Python of the environment."""
        return self.environment / "bin" / "python"

    @property
    def readable(self) -> tuple[Path, ...]:
        """What a command on this side must see."""
        return (self.interpreter.prefix, self.environment, self.tree.parent)


@dataclass(frozen=True)
class Pair:
    """Both sides of a pull request and the suite of its merge commit that measures them."""

    recipe: Recipe
    base: Side
    head: Side
    suite_parent: Path
    suite: str
    tools: Path


class LocalBackend:
    """Builds recipes into folders of a cache."""

    def __init__(
        self, cache: Path, git: Git, resolver: Resolver, settings: BuildSettings, cancelled: threading.Event
    ) -> None:
        self._cache = cache
        self._cancelled = cancelled
        self._git = git
        self._resolver = resolver
        self._settings = settings

    def pair(self, recipe: Recipe, url: str, sandbox: Callable[[], Sandbox]) -> Pair:
        """Both sides of a recipe, built where they are missing.

        Args:
            recipe: what to build.
            url: where the repository is, should its mirror be gone.
            sandbox: where code of the repository runs.

        Raises:
            BuildFailed: a side does not build.
            IndexUnreachable: the index did not answer.
            NoSandbox: this code may not run here.
        """
        for commit in (recipe.base_sha, recipe.merge_sha):
            self._make_side(recipe, url, commit, sandbox)
        self._make_suite(recipe, url)
        self._make_tools(recipe.python_version, sandbox)
        return self._located(recipe)

    def standing(self, recipe: Recipe) -> Pair | None:
        """Both sides of a recipe where everything of them still stands, else None. Makes nothing."""
        if recipe.python_version not in self._resolver.interpreters:
            return None
        pair = self._located(recipe)
        folders = [side.tree.parent for side in (pair.base, pair.head)]
        folders += [pair.base.environment, pair.head.environment, pair.suite_parent.parent]
        return pair if all(map(ready, folders)) else None

    def environment(self, key: str, pins: Sequence[str], series: str, sandbox: Callable[[], Sandbox]) -> Path:
        """An environment with pins and nothing else, shared by all that need the same.

        Raises:
            BuildFailed: a pin cannot be installed.
        """

        def make(folder: Path) -> None:
            try:
                self._resolver.make_environment(pins, series, folder, sandbox)
            except InstallFailed as error:
                raise BuildFailed(ImageReason.INSTALL_FAILED, last_line(str(error)), str(error)) from error

        return made(self._cache / "environments" / key, make, self._cancelled)

    def build_environment(self, build_pins: Sequence[str], series: str, sandbox: Callable[[], Sandbox]) -> Path:
        """The environment in which wheels are built, apart from the one that ships."""
        interpreter = self._resolver.interpreters[series]
        return self.environment(key_of("build", interpreter.version, sorted(build_pins)), build_pins, series, sandbox)

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

        Raises:
            BuildFailed: the backend failed, or ran out of time or memory.
        """
        output = tree.parent / "wheels"
        output.mkdir(exist_ok=True)
        arguments = [system.backend, ":".join(system.backend_path), hook, str(output)]
        result = sandbox.run(
            Command(
                [str(build_environment / "bin" / "python"), str(HOOKS), *arguments],
                readable=(self._resolver.interpreters[series].prefix, build_environment, HOOKS),
                writable=(tree, output),
                environment={
                    **environment_variables,
                    "PATH": f"{build_environment / 'bin'}:/usr/bin:/bin",
                    "SOURCE_DATE_EPOCH": "1577836800",
                },
                cwd=tree / package_root,
                timeout_s=self._settings.build_timeout_s,
                memory_mb=self._settings.build_memory_mb,
            )
        )
        answers = [line for line in result.output.splitlines() if line.startswith(backend_hooks.ANSWER)]
        if not result.ok or not answers:
            raise build_failure(hook, system.backend, result)
        try:
            answer: object = json.loads(answers[-1].removeprefix(backend_hooks.ANSWER))
        except ValueError as error:
            raise BuildFailed(ImageReason.BUILD_FAILED, f"{hook} answered what is no JSON", result.output) from error
        return answer

    def checkout(self, repo: str, url: str, commit: str, destination: Path) -> Path:
        """The sources of a commit as a repository of one commit, with the nearest tag, so that versions are found.

        Raises:
            BuildFailed: the commit holds what git refuses to write.
        """
        mirror = self._git.open(repo, url)
        try:
            self._git.checkout(mirror, commit, destination, self._git.describe_tag(mirror, commit))
        except CommandFailed as error:
            raise BuildFailed(ImageReason.BAD_TREE, str(error)) from error
        return destination

    def _located(self, recipe: Recipe) -> Pair:
        """Where everything of a recipe is, or will be."""
        series = recipe.python_version
        interpreter = self._resolver.interpreters[series]

        def side(commit: str) -> Side:
            folder = self._cache / "sides" / recipe.side_key(commit, interpreter.version)
            environment = self._cache / "environments" / recipe.environment_key(commit, interpreter.version)
            return Side(commit, environment, folder / "tree", folder / "site", interpreter)

        return Pair(
            recipe=recipe,
            base=side(recipe.base_sha),
            head=side(recipe.merge_sha),
            suite_parent=self._suite_folder(recipe) / "suite",
            suite=PurePosixPath(recipe.benchmark_dir).name,
            tools=self._tools_folder(series) / "lib" / f"python{series}" / "site-packages",
        )

    def _make_side(self, recipe: Recipe, url: str, commit: str, sandbox: Callable[[], Sandbox]) -> None:
        series = recipe.python_version
        located = self._located(recipe)
        side = located.base if commit == recipe.base_sha else located.head
        self.environment(side.environment.name, recipe.pins_of(commit), series, sandbox)

        def make(folder: Path) -> None:
            # Built in a copy of its own: what a build leaves behind, or changes, is no part of the tree that ships.
            copy = self.checkout(recipe.repo, url, commit, folder / "build")
            system = self.build_system(recipe.repo, url, commit, recipe.package_root)
            build_environment = self.build_environment(recipe.build_pins, series, sandbox)
            self.call_hook(
                "build_wheel", system, copy, recipe.package_root, build_environment, series,
                recipe.environment_variables, sandbox(),
            )  # fmt: skip
            remove(copy)
            self._install_wheel(folder, side.environment, side.interpreter, sandbox())
            self.checkout(recipe.repo, url, commit, folder / "tree")

        made(side.tree.parent, make, self._cancelled)

    def _install_wheel(self, folder: Path, environment: Path, interpreter: Interpreter, sandbox: Sandbox) -> None:
        """Unpack the built wheel in front of the environment, without dependencies and without the index."""
        wheels = sorted((folder / "wheels").glob("*.whl"))
        if len(wheels) != 1:
            raise BuildFailed(ImageReason.BUILD_FAILED, f"the backend made {len(wheels)} wheels, expected 1", "")
        argv = [str(self._resolver.uv), "pip", "install", "--quiet", "--offline", "--no-index", "--no-deps"]
        argv += ["--no-cache", "--link-mode", "copy", "--python", str(environment / "bin" / "python")]
        site = folder / "site"
        site.mkdir()
        argv += ["--target", str(site), str(wheels[0])]
        result = sandbox.run(
            Command(
                argv,
                readable=(self._resolver.uv, interpreter.prefix, environment, wheels[0].parent),
                writable=(site,),
                timeout_s=self._settings.build_timeout_s,
                memory_mb=self._settings.build_memory_mb,
            )
        )
        if not result.ok:
            raise BuildFailed(ImageReason.INSTALL_FAILED, last_line(result.output), result.output)

    def build_system(self, repo: str, url: str, commit: str, package_root: str) -> BuildSystem:
        """The build system that a commit declares; read from git, where a symlink leads nowhere."""
        path = str(PurePosixPath(package_root, "pyproject.toml"))
        blobs = self._git.read_blobs(self._git.open(repo, url), [(commit, path)])
        return build_system(parse_pyproject(blobs.get((commit, path))))

    def _suite_folder(self, recipe: Recipe) -> Path:
        return self._cache / "suites" / key_of("suite", recipe.repo, recipe.merge_sha, recipe.benchmark_dir)

    def _make_suite(self, recipe: Recipe, url: str) -> None:
        """Copy the merge commit's benchmarks alone: beside their package they would import it from the tree."""

        def make(folder: Path) -> None:
            tree = self.checkout(recipe.repo, url, recipe.merge_sha, folder / "tree")
            name = PurePosixPath(recipe.benchmark_dir).name
            source = Path(
                os.path.realpath(tree / recipe.benchmark_dir)
            )  # unlike resolve(), it outlives a loop of links
            if not source.is_relative_to(os.path.realpath(tree)):
                raise BuildFailed(ImageReason.NO_BENCHMARKS, f"{recipe.benchmark_dir} leads out of the tree")
            if not source.is_dir():
                raise BuildFailed(ImageReason.NO_BENCHMARKS, f"no {recipe.benchmark_dir} at the merge commit")
            shutil.copytree(source, folder / "suite" / name, symlinks=True)
            shutil.rmtree(tree)

        made(self._suite_folder(recipe), make, self._cancelled)

    def _tools_folder(self, series: str) -> Path:
        interpreter = self._resolver.interpreters[series]
        return self._cache / "environments" / key_of("tools", interpreter.version, TOOLS)

    def _make_tools(self, series: str, sandbox: Callable[[], Sandbox]) -> None:
        """Install asv_runner for an interpreter series, of our own choice and not of the project's."""
        self.environment(self._tools_folder(series).name, TOOLS, series, sandbox)
