"""The docker backend: the same folders made in containers, and rendered to layers.

Layers, from below: the base image (a setting, shared by all), a recipe's system packages, the environment (shared by
every pull request with the same pins), the base side (what ships), and on top of that, for measuring only, the head
side and the suite. What builds stands beside the environment, in images that never ship. The folders on the host are
data: they are where facts are asked, and what an image that was removed is made from again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version as version_of
from pathlib import Path

from formulamine.build.backend import COMPILE, WORK, Backend
from formulamine.build.cache import key_of
from formulamine.build.failures import last_line
from formulamine.build.image_room import Images, disks_of
from formulamine.build.pair import Digests, Pair, Seen
from formulamine.build.reasons import BuildFailed, ImageReason, PushFailed
from formulamine.build.recipe import Recipe
from formulamine.build.room import Room
from formulamine.build.wheels import HOOKS
from formulamine.services.docker_engine import CommandRefused, Engine, EngineError
from formulamine.services.docker_sandbox import GIVEN, DockerSandbox
from formulamine.services.git import Git
from formulamine.services.resolver import (
    PROBE,
    TIMEOUT_S,
    IndexUnreachable,
    InstallFailed,
    Interpreter,
    Resolver,
    is_offline,
)
from formulamine.services.sandbox import Command, Sandbox
from formulamine.settings import BuildSettings, DiskSettings, DockerSettings

# Where things are in every image.
ENVIRONMENT = "/opt/formulamine/environment"
SITE = "/opt/formulamine/site"
TREE = "/workspace"
HEAD = "/opt/formulamine/head"
HEAD_ENVIRONMENT = f"{HEAD}/environment"
"""Only where both sides cannot have the same pins."""
SUITE = "/opt/formulamine/suite"
TOOLS = "/opt/formulamine/tools"
BUILDER = "/usr/local/lib/formulamine"
"""What builds, in images that only build: a layer of its own, so that no step has to bring it along."""
PLACES = {
    "environment": ENVIRONMENT,
    "tree": f"{WORK}/tree",
    "wheels": f"{WORK}/wheels",
    "site": f"{WORK}/site",
    "uv": f"{BUILDER}/uv",
    "hooks": f"{BUILDER}/{HOOKS.name}",
}
MEASURES = "-measures"
"""What the tag of an image that measures has more than that of the one that ships."""
LAYOUT_VERSION = "1"
"""Changes with what stands where in an image."""
# Makes an environment: uv, interpreter, its place, what compiles it, and pins. Whatever the build of a pin left running
# is killed before the rest is compiled: all of the container but this shell.
MAKE_ENVIRONMENT = """
uv=$1 python=$2 environment=$3 compile=$4
"$uv" venv --quiet --no-project --python "$python" "$environment" || exit
shift 4
[ $# -gt 0 ] || exit 0
"$uv" pip install --quiet --no-deps --no-progress --link-mode copy --python "$environment/bin/python" -- "$@" || exit
kill -KILL -1
cd /
exec "$python" -s -S -B -c "$compile" "$environment/lib"
"""
# Installs Debian packages, as root: they are Debian's own programs, and no code of a mined repository runs beside them.
INSTALL_PACKAGES = """
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends -- "$@"
apt-get clean
rm -rf /var/lib/apt/lists/*
"""
INSTALL_S = 900
CCACHE = "-ccache"
"""What the tag of an image that builds with a compiler cache has more."""

_log = logging.getLogger(__name__)


class DockerBackend(Backend):
    """Builds in containers, and makes an image of what ships and one of what measures."""

    name = "docker"
    installs_packages = True

    def __init__(
        self,
        cache: Path,
        git: Git,
        resolver: Resolver,
        settings: BuildSettings,
        disk: DiskSettings,
        docker: DockerSettings,
        engine: Engine,
        cancelled: threading.Event,
        builds_at_once: int = 2,
    ) -> None:
        super().__init__(cache, git, resolver, settings, disk, cancelled, builds_at_once)
        self._docker = docker
        self._engine = engine
        self._sandbox = DockerSandbox(engine, docker.docker_network, cancelled)
        self._interpreters: dict[str, Interpreter] = {}
        self._without_ccache: set[str] = set()
        self._images = Images(cache.parent, cache / "images", engine, docker.registry)
        self._room = Room(cache.parent, disk, cancelled, shelves=[self._images], disks=lambda: disks_of(engine))

    def interpreter(self, series: str) -> Interpreter:
        """The interpreter of a series in its base image."""
        image = self._base(series)
        found = self._interpreters.get(image)
        if found is None:
            found = self._interpreters[image] = self._probed(image, series)
        if found.series != series:
            name = self._docker.image_of(series)
            raise BuildFailed(ImageReason.NO_BASE_IMAGE, f"{name} holds Python {found.version}, not {series}")
        return found

    def offers(self, series: str) -> bool:
        """Whether the engine has a base image that holds it."""
        if self._engine.find(self._docker.image_of(series)) is None:
            return False
        try:
            return self.interpreter(series).series == series
        except BuildFailed:
            return False  # the image holds another, or none

    def identity(self, series: str) -> str:
        """The base image's id: whatever is in it may decide what is built on it."""
        return f"{self._base(series)}/{LAYOUT_VERSION}"

    def standing(self, recipe: Recipe) -> Pair | None:
        """Both sides with their images, where all of that stands; made again from the same folders they count too."""
        pair = super().standing(recipe)
        if pair is None:
            return None
        names = (_name(pair), f"{_name(pair)}{MEASURES}")
        ships, measures = (self._images.found(name, self._room.uses) for name in names)
        return _with_images(pair, ships, measures) if ships and measures else None

    def unlike(self, pair: Pair, digests: Digests) -> str:
        """Whether a standing pair is another than what was recorded; its images are known by their labels."""
        wanted = _recipe_hash(pair)
        for what, image in (("ships", pair.ships), ("measures", pair.measures)):
            labels = self._engine.inspect(image)["Config"]["Labels"] or {}
            if labels.get("formulamine.recipe") != wanted:
                return f"the image that {what} is labelled with another recipe"
        return ""

    def holding(self, pairs: Sequence[tuple[Pair, Collection[str]]]) -> list[list[str]]:
        """Paths in any layer, the base image's included."""
        found = self._engine.contents([pair.ships for pair, _ in pairs]) if pairs else {}
        return [
            sorted(path for path, digest in found[pair.ships].items() if digest in contents) for pair, contents in pairs
        ]

    def digests(self, pair: Pair) -> Digests:
        """What the registry gives back, where one is set; else the ids of the images on this engine."""
        size = int(self._engine.inspect(pair.ships)["Size"])
        if not self._docker.registry:
            return Digests(pair.ships, pair.measures, size)
        name = f"{self._docker.registry}/{_repository(pair)}:{_tag(pair)}"
        try:
            return Digests(self._engine.push(pair.ships, name), pair.measures, size)
        except EngineError as error:
            raise PushFailed(f"{name}: {error}") from error

    def _require(self, packages: Sequence[str]) -> None:
        return  # they are a layer of their own, below the environment

    def _install(
        self, pins: Sequence[str], series: str, folder: Path, sandbox: Callable[[], Sandbox], packages: Sequence[str]
    ) -> None:
        seen = self._seen(self._sandbox, environment=folder, uv=self._resolver.uv)
        arguments = [seen[self._resolver.uv], str(self.interpreter(series).path), ENVIRONMENT, COMPILE.read_text()]
        result = self._sandbox.run(
            Command(
                ["/bin/sh", "-c", MAKE_ENVIRONMENT, "sh", *arguments, *pins],
                writable=(folder,),
                inside=seen,
                image=self._builder(series, packages),
                environment={"UV_CACHE_DIR": "/tmp/uv"},
                network=bool(pins),
                timeout_s=TIMEOUT_S * 3,
                memory_mb=self._settings.build_memory_mb,
            )
        )
        if not result.ok:
            if is_offline(result.output):
                raise IndexUnreachable(last_line(result.output))
            raise InstallFailed(result.output[-4000:])

    def _seen(self, sandbox: Sandbox, **places: Path) -> dict[Path, str]:
        return {path: PLACES.get(part, f"{GIVEN}/{path.name}") for part, path in places.items()}

    def _needed(self, series: str, environment: Path) -> tuple[Path, ...]:
        return ()  # it is in the image

    def _image(self, environment: Path, series: str, packages: Sequence[str], *, ccache: bool = False) -> str:
        """The image in which a build environment's commands run: it never ships."""
        return self._with_environment(environment, self._builder(series, packages, ccache=ccache), CCACHE * ccache)

    def _has_ccache(self, series: str, packages: Sequence[str]) -> bool:
        """Whether Debian's ccache is a layer on the system; where it cannot be had, builds go without."""
        system = self._system(series, packages)
        if system not in self._without_ccache:
            try:
                self._with_ccache(system)
                return True
            except BuildFailed as error:
                self._without_ccache.add(system)
                _log.warning("builds that compile go without a compiler cache: %s", error)
        return False

    def _with_ccache(self, system: str) -> str:
        return self._installed(system, ["ccache"], f"formulamine/ccache:{key_of(system)}")

    def _with_environment(self, environment: Path, below: str, which: str = "") -> str:
        """An environment's image, made from its folder where the engine lacks it."""
        name = f"formulamine/environment:{environment.name}{which}"
        return self._layered(below, {ENVIRONMENT: environment}, name, _labels(), {})

    def _builder(self, series: str, packages: Sequence[str], *, ccache: bool = False) -> str:
        """The system with what builds on it."""
        system, content = self._system(series, packages), {PLACES["uv"]: self._resolver.uv, PLACES["hooks"]: HOOKS}
        system = self._with_ccache(system) if ccache else system
        name = f"formulamine/builder:{key_of(system, self._builds_with)}"
        return self._layered(system, content, name, _labels(), {})

    @cached_property
    def _builds_with(self) -> list[str]:
        """What a builder's image holds, by its bytes."""
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in (self._resolver.uv, HOOKS)]

    def _system(self, series: str, packages: Sequence[str]) -> str:
        """The base image, with a recipe's system packages in a layer on top of it."""
        base = self._base(series)
        return self._installed(base, packages, f"formulamine/system:{key_of(base, list(packages))}")

    def _installed(self, below: str, packages: Sequence[str], name: str) -> str:
        """An image with Debian packages in a layer on top of another.

        Raises:
            BuildFailed: they cannot be had.
        """

        def make() -> str:
            network = self._docker.docker_network
            try:
                return self._engine.installed(below, INSTALL_PACKAGES, packages, name, _labels(), network, INSTALL_S)
            except CommandRefused as error:
                told = f"Debian's {', '.join(packages)}: {last_line(str(error))}"
                raise BuildFailed(ImageReason.SYSTEM_PACKAGE, told, str(error)) from error

        return self._kept(name, below, make) if packages else below

    def _finished(self, pair: Pair, pr_id: str) -> Pair:
        """Both images: the one that ships, and the one that measures on top of it."""
        labels = _labels(pr=pr_id, recipe=_recipe_hash(pair))
        name = _name(pair)
        recipe = pair.recipe
        system = self._system(recipe.python_version, recipe.system_packages)
        below = self._with_environment(pair.base.environment, system)
        ships = {SITE: pair.base.site, TREE: pair.base.tree}
        variables = {"PYTHONPATH": SITE, "PATH": f"{ENVIRONMENT}/bin:/usr/local/bin:/usr/bin:/bin"}
        shipped = self._layered(below, ships, name, labels, variables)
        measures = {
            f"{HEAD}/site": pair.head.site,
            f"{HEAD}/tree": pair.head.tree,
            SUITE: pair.suite_parent,
            TOOLS: pair.tools,
        }
        if pair.head.environment != pair.base.environment:
            measures[HEAD_ENVIRONMENT] = pair.head.environment
        measured = self._layered(shipped, measures, f"{name}{MEASURES}", labels, {"PYTHONPATH": ""})
        return _with_images(pair, shipped, measured)

    def _layered(
        self, below: str, content: dict[str, Path], name: str, labels: dict[str, str], variables: dict[str, str]
    ) -> str:
        """An image by its name, made of host folders where the engine lacks it."""

        def make() -> str:
            put = [(inside.lstrip("/"), path) for inside, path in content.items()]
            return self._engine.layer(below, put, name, labels, variables)

        return self._kept(name, below, make)

    def _kept(self, name: str, below: str, make: Callable[[], str]) -> str:
        """An image by its name, made where the engine lacks it. One maker at a time, across threads and processes."""

        def checked() -> str:
            self._room.check()
            return make()

        image, is_new = self._images.made(name, below, checked, self._room.uses)
        if is_new:
            self._room.keep_below_ceiling()
        return image

    def _base(self, series: str) -> str:
        """Id of the base image of a series."""
        return self._engine.require(self._docker.image_of(series))

    def _probed(self, image: str, series: str) -> Interpreter:
        found = f"$(command -v python{series} || command -v python3)"
        result = self._sandbox.run(
            Command(["/bin/sh", "-c", f"exec {found} -I -c {shlex.quote(PROBE)}"], image=image, timeout_s=60)
        )
        if not result.ok:
            raise BuildFailed(ImageReason.NO_BASE_IMAGE, f"{self._docker.image_of(series)}: {result.output.strip()}")
        version, _, prefix, real = json.loads(result.output)
        return Interpreter(f"{version[0]}.{version[1]}", ".".join(map(str, version)), Path(real), Path(prefix))


def _with_images(pair: Pair, ships: str, measures: str) -> Pair:
    """A pair that runs in its images, where everything has its place."""
    apart = pair.head.environment != pair.base.environment
    base = Seen(f"{ENVIRONMENT}/bin/python", SITE, TREE, SUITE, TOOLS)
    python = f"{HEAD_ENVIRONMENT if apart else ENVIRONMENT}/bin/python"
    head = Seen(python, f"{HEAD}/site", f"{HEAD}/tree", SUITE, TOOLS)
    return replace(
        pair,
        base=replace(pair.base, seen=base),
        head=replace(pair.head, seen=head),
        ships=ships,
        measures=measures,
    )


def _labels(**more: str) -> dict[str, str]:
    return {"formulamine.version": version_of("formulamine"), **{f"formulamine.{k}": v for k, v in more.items()}}


def _recipe_hash(pair: Pair) -> str:
    return hashlib.sha256(pair.recipe.to_blob()).hexdigest()


def _name(pair: Pair) -> str:
    """Name of the image that ships."""
    return f"formulamine/{_repository(pair)}:{_tag(pair)}"


def _repository(pair: Pair) -> str:
    """A name that a registry takes: lower case, and nothing that its grammar refuses."""
    return "".join(one if one.isalnum() else "-" for one in pair.recipe.repo.lower().replace("/", "--")).strip("-")


def _tag(pair: Pair) -> str:
    """The recipe and the environment below: an image of the same recipe on another base is another one."""
    return f"{_recipe_hash(pair)[:16]}-{key_of(pair.base.environment.name, pair.head.environment.name)[:16]}"
