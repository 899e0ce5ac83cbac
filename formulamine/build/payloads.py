"""Env payloads: everything that decides the environment of one pull request.

Here belongs the order of questions: which package, which interpreter, what it declares, which pins as of which day.
Reading declarations, weighing interpreters, asking uv and asking the build backend are done by their own modules.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path, PurePosixPath

from packaging.metadata import parse_email
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from formulamine.build.declarations import (
    DeclarationError,
    Metadata,
    applying,
    asv_environment,
    asv_extras,
    asv_requirements,
    build_system,
    package_root,
    parse_pyproject,
    requirements,
    series,
    specifier,
    static_metadata,
)
from formulamine.build.interpreters import Evidence, acceptable
from formulamine.build.local import LocalBackend
from formulamine.build.reasons import BuildFailed, ImageReason
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


_BUILD_REASONS = {ImageReason.TIMEOUT: PayloadReason.TIMEOUT, ImageReason.BAD_TREE: PayloadReason.BAD_TREE}


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
    """What one side declares, with the place of each requirement."""

    metadata: Metadata
    build_requires: tuple[Requirement, ...]


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
    backend: LocalBackend
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
        paths = [entry.path for entry in self.git.list_tree(mirror, item.merge_sha) if entry.type == "blob"]
        config = self._asv_config(mirror, item)
        root = package_root(paths, config.repo_subdir)
        if root is None:
            raise _Stop(Failed(PayloadReason.NO_PACKAGE, "no pyproject.toml and no setup.py at the merge commit"))
        before = [entry.path for entry in self.git.list_tree(mirror, item.base_sha) if entry.type == "blob"]
        if package_root(before, root) != root:
            raise _Stop(
                Failed(PayloadReason.NO_PACKAGE, f"no pyproject.toml and no setup.py in {root} at the base commit")
            )

        def sandbox() -> Sandbox:
            return self.sandboxes.for_commits(commits)

        # The ladder needs requires-python, which a backend tells only to some interpreter: first what stands still.
        known = [self._static(mirror, commit, root) for commit in commits]
        asv_series = [version for version in config.pythons if re.fullmatch(r"3\.\d+", version)]
        rough = [one for one in known if one is not None]
        python, source, ladder = self._interpreter(rough, asv_series, item.merged_at)
        declared = [
            self._declared(item, mirror, commit, root, python, config, static, sandbox)
            for commit, static in zip(commits, known, strict=True)
        ]
        python, source, ladder = self._interpreter([one.metadata for one in declared], asv_series, item.merged_at)

        extras = asv_extras(config.install_command or ())
        wanted = [self._wanted(one, extras, python, config) for one in declared]
        dropped: list[str] = []
        cutoffs = self._cutoffs(item.merged_at)
        sources = {line: place for per_side in reversed(wanted) for line, place in per_side.items()}
        while True:
            try:
                pins, pins_base, rung, cutoff = self._pins(wanted, python, cutoffs, sandbox)
                break
            except Unresolvable as error:
                gone = self._droppable(error, wanted, mirror, item, paths)
                if not gone:
                    raise
                wanted = [{line: at for line, at in side.items() if line not in gone} for side in wanted]
                dropped += [f"{line}: not on the index, and neither import nor benchmarks need it" for line in gone]
        build_requires = [one for side in declared for one in side.build_requires]
        days = [day for _, day in cutoffs]
        build_pins = self._build_pins(build_requires, python, days[days.index(cutoff) :], sandbox)
        own = declared[0].metadata.name
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
                dropped=dropped,
                sources=[f"{line} <- {place}" for line, place in sorted(sources.items())],
                uv_version=self.resolver.version,
            )
        )

    def _asv_config(self, mirror: Path, item: PayloadInput) -> AsvConfig:
        blobs = self.git.read_blobs(mirror, [(item.merge_sha, item.asv_config)])
        content = blobs.get((item.merge_sha, item.asv_config))
        return AsvConfig() if content is None else asv_config.parse(content)

    def _static(self, mirror: Path, commit: str, root: str) -> Metadata | None:
        path = str(PurePosixPath(root, "pyproject.toml"))
        return static_metadata(parse_pyproject(self.git.read_blobs(mirror, [(commit, path)]).get((commit, path))))

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
        static: Metadata | None,
        sandbox: Callable[[], Sandbox],
    ) -> _Declared:
        """What a side declares, by its files where they are final and by its build backend where they are not."""
        path = str(PurePosixPath(root, "pyproject.toml"))
        pyproject = parse_pyproject(self.git.read_blobs(mirror, [(commit, path)]).get((commit, path)))
        system = build_system(pyproject)
        days = [day for _, day in self._cutoffs(item.merged_at)]
        pins = self._build_pins(system.requires, python, days, sandbox)
        environment = self.backend.build_environment(pins, python, sandbox)
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            tree = self.backend.checkout(item.repo, item.url, commit, Path(folder, "tree"))
            ask = (system, tree, root, environment, python, asv_environment(config.matrix), sandbox())
            answer = self.backend.call_hook("get_requires_for_build_wheel", *ask)
            more = requirements([str(line) for line in answer]) if isinstance(answer, list) else []
            if static is None:
                if more:
                    pins = self._build_pins((*system.requires, *more), python, days, sandbox)
                    environment = self.backend.build_environment(pins, python, sandbox)
                ask = (system, tree, root, environment, python, asv_environment(config.matrix), sandbox())
                static = _core_metadata(str(self.backend.call_hook("metadata", *ask)))
        return _Declared(static, (*system.requires, *more))

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

    def _wanted(self, side: _Declared, extras: Sequence[str], python: str, config: AsvConfig) -> dict[str, str]:
        """Requirement lines of a side with the place each comes from."""
        wanted = {_line(one): "asv matrix" for one in asv_requirements(config.matrix)}
        wanted = {line: place for line, place in wanted.items() if _name(line) != side.metadata.name}
        for one in applying(side.metadata, extras, python):
            wanted[_line(one)] = "package metadata" + (" (its URL is not followed)" if one.url else "")
        return wanted

    def _cutoffs(self, merged_at: datetime) -> list[tuple[str, datetime | None]]:
        month_start = merged_at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return [("month_start", month_start), ("merge_date", merged_at.astimezone(UTC)), ("relaxed", None)]

    def _pins(
        self,
        wanted: Sequence[dict[str, str]],
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
        wanted: Sequence[dict[str, str]],
        mirror: Path,
        item: PayloadInput,
        paths: Sequence[str],
    ) -> set[str]:
        """Requirement lines of names that the index does not have and that no source file imports."""
        unknown = {str(canonicalize_name(name)) for name in error.unknown}
        lines = {line for side in wanted for line in side if _name(line) in unknown}
        if not lines:
            return set()
        sources = [(item.merge_sha, path) for path in paths if path.endswith((".py", ".pyx"))]
        imported: set[str] = set()
        for content in self.git.read_blobs(mirror, sources).values():
            for package, several in _IMPORT.findall(content or b""):
                names = [package] if package else several.split(b",")
                first = (re.match(rb"\w+", name.strip()) for name in names)
                imported |= {found[0].decode().lower() for found in first if found}
        return {line for line in lines if _name(line).replace("-", "_") not in imported}


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
