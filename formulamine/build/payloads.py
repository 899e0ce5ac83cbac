"""Env payloads: everything that decides the environment of one pull request.

Here belongs the order of questions: which package, which interpreter, what it declares, which pins as of which day.
Reading declarations, weighing interpreters, asking uv and asking the build backend are done by their own modules.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.metadata import parse_email
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from formulamine.build.backend import Backend
from formulamine.build.declarations import (
    LEGACY_REQUIRES,
    DeclarationError,
    Metadata,
    applying,
    asv_environment,
    asv_extras,
    asv_groups,
    asv_requirements,
    build_system,
    holding,
    offered,
    parse_pyproject,
    requirements,
    ruled_out,
    series,
    specifier,
)
from formulamine.build.dependency_groups import group, group_names
from formulamine.build.interpreters import Evidence, acceptable
from formulamine.build.package_root import BUILD_FILES, asv_hints, package_root, package_roots
from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine.build.standing import FILES, Standing, standing
from formulamine.build.suite_needs import Import, modules_of, needed, suite_imports
from formulamine.discover import asv_config
from formulamine.discover.asv_config import AsvConfig, AsvConfigError
from formulamine.items import Done, Failed, Outcome
from formulamine.services.git import Git
from formulamine.services.resolver import IndexUnreachable, Resolver, Unresolvable
from formulamine.services.sandbox import NoSandbox, Sandbox, Sandboxes
from formulamine.settings import ResolveSettings
from formulamine.tables import EnvPayload, Record

_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+(\w+)|(?:import|cimport)[ \t]+([\w., \t]+))", re.MULTILINE)


class PayloadReason(StrEnum):
    """Why a pull request has no environment."""

    NO_PACKAGE = "no_package"
    BAD_DECLARATION = "bad_declaration"
    NO_INTERPRETER = "no_interpreter"
    UNRESOLVABLE = "unresolvable"
    BAD_TREE = "bad_tree"
    BUILD_BACKEND_FAILED = "build_backend_failed"
    TIMEOUT = "timeout"
    INDEX_UNREACHABLE = "index_unreachable"
    NO_SANDBOX = "no_sandbox"


_SIDES = ("head", "base")
# Neither `import` of a package nor its benchmarks run these; its build's requirements are resolved apart.
_ASIDE = frozenset({"doc", "docs", "example", "examples", "test", "tests", "conftest.py", "setup.py", "noxfile.py"})
_BUILD_REASONS = {ImageReason.TIMEOUT: PayloadReason.TIMEOUT, ImageReason.BAD_TREE: PayloadReason.BAD_TREE}
# A build backend was asked and could not say, so that files may answer in its place.
_NO_ANSWER = frozenset(
    {ImageReason.BUILD_FAILED, ImageReason.COMPILE_ERROR, ImageReason.MISSING_BUILD_BACKEND, ImageReason.SYSTEM_PACKAGE}
)


class PayloadInput(Record):
    """Fields that a resolution reads."""

    pr_id: str
    repo: str
    url: str
    asv_config: str
    benchmark_dir: str
    base_sha: str
    merge_sha: str
    merged_at: datetime


@dataclass(frozen=True)
class _Declared:
    """What one side declares."""

    metadata: Metadata
    build_requires: tuple[Requirement, ...]
    pyproject: Mapping[str, Any]
    instead: str
    """The files that were read because the build backend failed; empty where it did not."""
    unsaid: Sequence[Requirement]
    """What its setup.py imports without a word; among the build requirements."""


@dataclass(frozen=True)
class _Place:
    """Where a requirement comes from."""

    text: str
    is_optional: bool = False
    """Whether what needs it goes on without it."""


class _Stop(Exception):
    """Ends the questions with an outcome."""

    def __init__(self, outcome: Failed) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome


@dataclass
class PayloadStep:
    """Resolves pull requests. What it asks of uv and of build backends is shared between them."""

    git: Git
    resolver: Resolver
    backend: Backend
    sandboxes: Sandboxes
    settings: ResolveSettings
    scratch: Path

    def __call__(self, item: PayloadInput) -> Outcome:
        """Resolve one pull request, or say why that cannot be."""
        try:
            return self._resolve(item)
        except _Stop as stop:
            return stop.outcome
        except (DeclarationError, AsvConfigError) as error:
            return Failed(PayloadReason.BAD_DECLARATION, str(error))
        except Unresolvable as error:
            return Failed(PayloadReason.UNRESOLVABLE, str(error))
        except IndexUnreachable as error:
            return Failed(PayloadReason.INDEX_UNREACHABLE, f"the package index: {error}", infrastructure=True)
        except NoSandbox as error:
            return Failed(PayloadReason.NO_SANDBOX, str(error), infrastructure=True)
        except BuildFailed as error:
            return Failed(_BUILD_REASONS.get(error.reason, PayloadReason.BUILD_BACKEND_FAILED), str(error))

    def _resolve(self, item: PayloadInput) -> Outcome:
        mirror = self.git.open(item.repo, item.url)
        commits = (item.merge_sha, item.base_sha)
        config = self._asv_config(mirror, item)
        trees = [self._paths(mirror, commit) for commit in commits]
        root = self._package_root(mirror, item, config, trees)

        def sandbox() -> Sandbox:
            return self.sandboxes.for_commits(commits)

        # The ladder needs requires-python, which a backend tells only to some interpreter: first what stands still.
        known = [self._standing(mirror, commit, root) for commit in commits]
        asv_series = [version for version in config.pythons if re.fullmatch(r"3\.\d+", version)]
        rough = [one.metadata for one in known]
        python, source, ladder = self._interpreter(rough, asv_series, item.merged_at)
        declared = [
            self._declared(item, mirror, commit, root, python, config, stands, sandbox)
            for commit, stands in zip(commits, known, strict=True)
        ]
        python, source, ladder = self._interpreter([one.metadata for one in declared], asv_series, item.merged_at)

        imports = self._suite_imports(mirror, item, trees[0])
        wanted = [self._wanted(one, imports, python, config) for one in declared]
        dropped = {
            f"{_line(line)}: its marker {line.marker} is false on Python {python}"
            for one in declared
            for line in ruled_out(one.metadata, python)
        }
        cutoffs = self._cutoffs(item.merged_at)
        own = declared[0].metadata.name
        sources = {line: place.text for per_side in reversed(wanted) for line, place in per_side.items()}
        instead = [f"{one.instead} of {name}" for one, name in zip(declared, _SIDES, strict=True) if one.instead]
        if instead:
            sources[own] = f"{' and '.join(instead)}, since the build backend failed"
        for one in (one for side in declared for one in side.unsaid):
            sources[f"{_line(one)} (to build)"] = "setup.py imports it, and asv matrix or package metadata names it"
        while True:
            try:
                pins, pins_base, rung, cutoff = self._pins(wanted, python, cutoffs, sandbox)
                break
            except Unresolvable as error:
                gone = dict.fromkeys(
                    self._droppable(error, wanted, mirror, item, trees),
                    "not on the index, and neither import nor benchmarks need it",
                ) or dict.fromkeys(
                    (line for side in wanted for line, place in side.items() if place.is_optional),
                    "does not resolve, and the benchmarks that import it go on without it",
                )
                if not gone:
                    raise
                wanted = [{line: at for line, at in side.items() if line not in gone} for side in wanted]
                dropped |= {f"{line}: {why}" for line, why in gone.items()}
        build_requires = [one for side in declared for one in side.build_requires]
        days = [day for _, day in cutoffs]
        build_pins = self._build_pins(build_requires, python, days[days.index(cutoff) :], sandbox)
        return Done(
            EnvPayload(
                python_version=python,
                acceptable_pythons=ladder,
                interpreter_source=source,
                package_root=root,
                distribution=own,
                pins=[pin for pin in pins if _name(pin) != own],
                pins_base=[pin for pin in pins_base if _name(pin) != own],
                build_pins=build_pins,
                build_environment_variables=[
                    f"{name}={value}" for name, value in sorted(asv_environment(config.matrix).items())
                ],
                cutoff="" if cutoff is None else cutoff.isoformat(),
                cutoff_rung=rung,
                dropped=sorted(dropped),
                sources=[f"{line} <- {place}" for line, place in sorted(sources.items())],
                uv_version=self.resolver.version,
            )
        )

    def _asv_config(self, mirror: Path, item: PayloadInput) -> AsvConfig:
        blobs = self.git.read_blobs(mirror, [(item.merge_sha, item.asv_config)])
        content = blobs.get((item.merge_sha, item.asv_config))
        return AsvConfig() if content is None else asv_config.parse(content)

    def _paths(self, mirror: Path, commit: str) -> list[str]:
        return [entry.path for entry in self.git.list_tree(mirror, commit) if entry.type == "blob"]

    def _read(self, mirror: Path, commit: str, paths: Iterable[str]) -> dict[str, bytes]:
        """Contents of files of a commit, of those that are there."""
        blobs = self.git.read_blobs(mirror, [(commit, path) for path in paths])
        return {path: content for (_, path), content in blobs.items() if content is not None}

    def _package_root(self, mirror: Path, item: PayloadInput, config: AsvConfig, trees: Sequence[Sequence[str]]) -> str:
        """The package's folder at both commits."""
        head, base = (
            self._read(mirror, commit, (path for path in paths if PurePosixPath(path).name in BUILD_FILES))
            for commit, paths in zip((item.merge_sha, item.base_sha), trees, strict=True)
        )
        hints = asv_hints(config, item.asv_config)
        root = package_root(head, trees[0], hints, lambda: self._suite_imports(mirror, item, trees[0]))
        missing = "no pyproject.toml, setup.py or setup.cfg of a package"
        if root is None:
            raise _Stop(Failed(PayloadReason.NO_PACKAGE, f"{missing} at the merge commit"))
        if root not in package_roots(base):
            raise _Stop(Failed(PayloadReason.NO_PACKAGE, f"{missing} in {root} at the base commit"))
        return root

    def _suite_imports(self, mirror: Path, item: PayloadInput, paths: Sequence[str]) -> dict[str, Import]:
        suite = item.benchmark_dir.strip("/")
        inside = [path for path in paths if path.startswith(f"{suite}/") and path.endswith(".py")]
        return suite_imports(self._read(mirror, item.merge_sha, inside), suite)

    def _standing(self, mirror: Path, commit: str, root: str) -> Standing:
        places = {name: str(PurePosixPath(root, name)) for name in FILES}
        files = self._read(mirror, commit, places.values())
        return standing({name: files[path] for name, path in places.items() if path in files})

    def _interpreter(
        self, metadata: Sequence[Metadata], asv_series: Sequence[str], merged_at: datetime
    ) -> tuple[str, str, list[str]]:
        """The first acceptable series that is on this machine, its evidence, and the whole ladder."""
        ladder = acceptable(
            Evidence(
                requires_python=[one.requires_python for one in metadata],
                classifiers=[name for one in metadata for name in one.classifiers],
                asv_pythons=asv_series,
                merged_on=merged_at.date(),
            ),
            self.settings.min_python,
            self.settings.max_python,
        )
        present = self.resolver.interpreters
        for name in ladder.series:
            if name in present:
                return name, ladder.source[name], ladder.series
        here, wanted = ", ".join(sorted(present)) or "none", ", ".join(ladder.series) or "none"
        raise _Stop(Failed(PayloadReason.NO_INTERPRETER, f"acceptable: {wanted}; on this machine: {here}"))

    def _declared(
        self,
        item: PayloadInput,
        mirror: Path,
        commit: str,
        root: str,
        python: str,
        config: AsvConfig,
        stands: Standing,
        sandbox: Callable[[], Sandbox],
    ) -> _Declared:
        """What a side declares, by its files where they are final, else by its build backend.

        A backend that fails will hardly build either, but that is for the build to find out, and to mend. Where its
        files say all there is to know, they are believed until then.
        """
        path = str(PurePosixPath(root, "pyproject.toml"))
        pyproject = parse_pyproject(self.git.read_blobs(mirror, [(commit, path)]).get((commit, path)))
        system = build_system(pyproject)
        is_said = "requires" in pyproject.get("build-system", {})
        unsaid = [] if is_said else self._unsaid(mirror, commit, root, python, config, stands)
        system = replace(system, requires=(*system.requires, *unsaid))
        days = [day for _, day in self._cutoffs(item.merged_at)]
        pins = self._build_pins(system.requires, python, days, sandbox)
        environment = self.backend.build_environment(pins, python, sandbox)
        metadata, more, instead = stands.metadata, list[Requirement](), ""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            tree = self.backend.checkout(item.repo, item.url, commit, Path(folder, "tree"))
            variables = asv_environment(config.matrix)
            try:
                ask = (system, tree, root, environment, python, variables, sandbox())
                answer = self.backend.call_hook("get_requires_for_build_wheel", *ask)
                more = requirements([str(line) for line in answer]) if isinstance(answer, list) else []
                if not stands.is_final:
                    if more:
                        pins = self._build_pins((*system.requires, *more), python, days, sandbox)
                        environment = self.backend.build_environment(pins, python, sandbox)
                    ask = (system, tree, root, environment, python, variables, sandbox())
                    metadata = _core_metadata(str(self.backend.call_hook("metadata", *ask)))
            except BuildFailed as error:
                if stands.is_final or not stands.is_whole or error.reason not in _NO_ANSWER:
                    raise
                instead = stands.source
        return _Declared(metadata, (*system.requires, *more), pyproject, instead, unsaid)

    def _unsaid(
        self,
        mirror: Path,
        commit: str,
        root: str,
        python: str,
        config: AsvConfig,
        stands: Standing,
    ) -> list[Requirement]:
        """What the setup.py of a tree without `[build-system]` imports, as ASV's matrix or its own metadata name it.

        Before there was build isolation, whoever built numpy's dependants had numpy; ASV still builds so.
        """
        path = str(PurePosixPath(root, "setup.py"))
        content = self._read(mirror, commit, [path])
        imports = suite_imports(content, root)
        offers = [*asv_requirements(config.matrix), *applying(stands.metadata, (), python)]
        by_name = {_name(_line(one)): one for one in reversed(offers) if _name(_line(one)) != stands.metadata.name}
        needs = {name: one for name, one in imports.items() if not one.is_optional}
        found = needed(needs, [_name(line) for line in LEGACY_REQUIRES], list(by_name))
        return [by_name[name] for name in sorted(set(found.values()))]

    def _build_pins(
        self,
        lines: Sequence[Requirement],
        python: str,
        cutoffs: Sequence[datetime | None],
        sandbox: Callable[[], Sandbox],
    ) -> list[str]:
        """Pins of build requirements at the first cutoff that has some.

        Raises:
            Unresolvable: none has.
        """
        wanted = [f"{_line(one)} ; {one.marker}" if one.marker else _line(one) for one in lines]
        for cutoff in cutoffs[:-1]:
            with contextlib.suppress(Unresolvable):
                return self.resolver.compile(wanted, python, cutoff, sandbox)
        return self.resolver.compile(wanted, python, cutoffs[-1], sandbox)

    def _wanted(
        self, side: _Declared, imports: Mapping[str, Import], python: str, config: AsvConfig
    ) -> dict[str, _Place]:
        """Requirement lines of a side with the place each comes from."""
        own = side.metadata.name
        commands = (*(config.build_command or ()), *(config.install_command or ()))
        wanted = {_line(one): _Place("asv matrix") for one in asv_requirements(config.matrix)}
        for name in asv_groups(commands):
            place = _Place(f"dependency group {canonicalize_name(name)}, which ASV's commands name")
            wanted |= {_line(one): place for one in holding(group(side.pyproject, name), python)}
        for one in applying(side.metadata, asv_extras(commands, own), python):
            wanted[_line(one)] = _Place(
                (side.instead or "package metadata") + (" (its URL is not followed)" if one.url else "")
            )
        wanted = {line: place for line, place in wanted.items() if _name(line) != own}
        offers = self._offers(side, python)
        for module, name in needed(imports, {own, *map(_name, wanted)}, offers).items():
            line, listed = offers[name]
            found = imports[module]
            wanted[line] = _Place(f"{listed}, for {found.path} imports {module}", found.is_optional)
        return wanted

    def _offers(self, side: _Declared, python: str) -> dict[str, tuple[str, str]]:
        """What a side names for some only, by distribution: line and place. Extras come before groups."""
        found: dict[str, tuple[str, str]] = {}
        for extra, one in offered(side.metadata, python):
            found.setdefault(str(canonicalize_name(one.name)), (_line(one), f"extra {extra}"))
        for name in group_names(side.pyproject):
            with contextlib.suppress(DeclarationError):  # nobody has asked for this group
                for one in holding(group(side.pyproject, name), python):
                    found.setdefault(str(canonicalize_name(one.name)), (_line(one), f"dependency group {name}"))
        return {name: offer for name, offer in found.items() if name != side.metadata.name}

    def _cutoffs(self, merged_at: datetime) -> list[tuple[str, datetime | None]]:
        month_start = merged_at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return [("month_start", month_start), ("merge_date", merged_at.astimezone(UTC)), ("relaxed", None)]

    def _pins(
        self,
        wanted: Sequence[Mapping[str, _Place]],
        python: str,
        cutoffs: Sequence[tuple[str, datetime | None]],
        sandbox: Callable[[], Sandbox],
    ) -> tuple[list[str], list[str], str, datetime | None]:
        """Pins of both sides together at the first cutoff that has some, else of each side on its own.

        Raises:
            Unresolvable: at no cutoff, neither together nor apart.
        """
        head, base = ([*side] for side in wanted)
        failure: Unresolvable | None = None
        for apart in (False, True) if set(head) != set(base) else (False,):
            for rung, cutoff in cutoffs:
                try:
                    if apart:
                        both = [self.resolver.compile(side, python, cutoff, sandbox) for side in (head, base)]
                        return both[0], both[1], rung, cutoff
                    return self.resolver.compile([*head, *base], python, cutoff, sandbox), [], rung, cutoff
                except Unresolvable as error:
                    failure = error
        assert failure is not None
        raise failure

    def _droppable(
        self,
        error: Unresolvable,
        wanted: Sequence[Mapping[str, _Place]],
        mirror: Path,
        item: PayloadInput,
        trees: Sequence[Sequence[str]],
    ) -> set[str]:
        """Requirement lines of names that the index does not have and that no source file of either side imports."""
        unknown = {str(canonicalize_name(name)) for name in error.unknown}
        lines = {line for side in wanted for line in side if _name(line) in unknown}
        if not lines:
            return set()
        imported: set[str] = set()
        suite = f"{item.benchmark_dir.strip('/')}/"
        for commit, paths in zip((item.merge_sha, item.base_sha), trees, strict=True):
            code = [path for path in paths if path.endswith((".py", ".pyx", ".pxd"))]
            sources = [path for path in code if path.startswith(suite) or not _ASIDE & set(PurePosixPath(path).parts)]
            for content in self._read(mirror, commit, sources).values():
                imported |= _imported(content)
        return {line for line in lines if not {one.lower() for one in modules_of(_name(line))} & imported}


def _imported(content: bytes) -> set[str]:
    """Top-level modules that Python or Cython imports, in small letters; also where no parser would read it."""
    imported: set[str] = set()
    for package, several in _IMPORT.findall(content):
        names = [package] if package else several.split(b",")
        first = (re.match(rb"\w+", name.strip()) for name in names)
        imported |= {found[0].decode().lower() for found in first if found}
    return imported


def _core_metadata(text: str) -> Metadata:
    """Core metadata as a build backend wrote it."""
    raw, _ = parse_email(text)
    return Metadata(
        name=str(canonicalize_name(raw.get("name", ""))),
        requires_python=specifier(raw.get("requires_python", "")),
        classifiers=series(raw.get("classifiers", [])),
        requirements=tuple(requirements(raw.get("requires_dist", []))),
    )


def _line(requirement: Requirement) -> str:
    """A requirement as uv reads it. A URL is not followed: only the index says what existed on a day."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{canonicalize_name(requirement.name)}{extras}{requirement.specifier}"


def _name(line: str) -> str:
    return str(canonicalize_name(Requirement(line).name))
