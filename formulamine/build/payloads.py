"""Env payloads: everything that decides the environment of one pull request.

Here belongs the order of questions: which package, which interpreter, what it declares, which pins as of which day.
Reading declarations, weighing interpreters, asking uv and asking the build backend are done by their own modules.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.metadata import parse_email
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from formulamine.build.answers import shared_key
from formulamine.build.backend import Backend
from formulamine.build.declarations import (
    LEGACY_REQUIRES,
    BuildSystem,
    DeclarationError,
    Metadata,
    applying,
    asv_environment,
    asv_requirements,
    build_system,
    parse_pyproject,
    requirements,
    ruled_out,
    series,
    specifier,
)
from formulamine.build.interpreters import Evidence, acceptable
from formulamine.build.package_root import BUILD_FILES, asv_hints, package_root, package_roots
from formulamine.build.pinning import build_pins_of, cutoffs_of, pins_of
from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine.build.standing import FILES, Standing, standing
from formulamine.build.suite_needs import Import, modules_of, needed, suite_imports
from formulamine.build.wanted import Declared, Place, imports_of, line_of, name_of, wanted_by
from formulamine.discover import asv_config
from formulamine.discover.asv_config import AsvConfig, AsvConfigError
from formulamine.items import Done, Failed, Outcome
from formulamine.records import EnvPayload, Record
from formulamine.services.git import Git
from formulamine.services.resolver import IndexUnreachable, Resolver, Unresolvable
from formulamine.services.sandbox import NoSandbox, Sandbox, Sandboxes
from formulamine.settings import ResolveSettings


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
    _required: dict[str, list[Requirement]] = field(default_factory=dict)
    """What backends were heard to require, by `answers.shared_key`."""

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
        with ThreadPoolExecutor(2, thread_name_prefix="declared") as pool:
            asked = [
                pool.submit(self._declared, item, mirror, commit, root, python, config, stands, sandbox)
                for commit, stands in zip(commits, known, strict=True)
            ]
            declared = [one.result() for one in asked]
        python, source, ladder = self._interpreter([one.metadata for one in declared], asv_series, item.merged_at)

        imports = self._suite_imports(mirror, item, trees[0])
        wanted = [wanted_by(one, imports, python, config) for one in declared]
        dropped = {
            f"{line_of(line)}: its marker {line.marker} is false on Python {python}"
            for one in declared
            for line in ruled_out(one.metadata, python)
        }
        cutoffs = cutoffs_of(item.merged_at)
        own = declared[0].metadata.name
        sources = {line: place.text for per_side in reversed(wanted) for line, place in per_side.items()}
        instead = [f"{one.instead} of {name}" for one, name in zip(declared, _SIDES, strict=True) if one.instead]
        if instead:
            sources[own] = f"{' and '.join(instead)}, since the build backend failed"
        for one in (one for side in declared for one in side.unsaid):
            sources[f"{line_of(one)} (to build)"] = "setup.py imports it, and asv matrix or package metadata names it"
        while True:
            try:
                pins, pins_base, rung, cutoff = pins_of(self.resolver, wanted, python, cutoffs, sandbox)
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
        build_pins = build_pins_of(self.resolver, build_requires, python, days[days.index(cutoff) :], sandbox)
        return Done(
            EnvPayload(
                python_version=python,
                acceptable_pythons=ladder,
                interpreter_source=source,
                package_root=root,
                distribution=own,
                pins=[pin for pin in pins if name_of(pin) != own],
                pins_base=[pin for pin in pins_base if name_of(pin) != own],
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
    ) -> Declared:
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
        days = [day for _, day in cutoffs_of(item.merged_at)]
        pins = build_pins_of(self.resolver, system.requires, python, days, sandbox)
        variables = asv_environment(config.matrix)
        key = self._shared_key(mirror, commit, root, system, pyproject, pins, python, variables)
        if stands.is_final and key in self._required:
            return Declared(stands.metadata, (*system.requires, *self._required[key]), pyproject, "", unsaid)
        environment = self.backend.build_environment(pins, python, sandbox)
        metadata, more, instead = stands.metadata, list[Requirement](), ""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            tree = self.backend.checkout(item.repo, item.url, commit, Path(folder, "tree"))
            try:
                ask = (system, tree, root, environment, python, variables, sandbox())
                answer = self.backend.call_hook("get_requires_for_build_wheel", *ask)
                more = requirements([str(line) for line in answer]) if isinstance(answer, list) else []
                if key is not None:
                    self._required[key] = more
                if not stands.is_final:
                    if more:
                        pins = build_pins_of(self.resolver, (*system.requires, *more), python, days, sandbox)
                        environment = self.backend.build_environment(pins, python, sandbox)
                    ask = (system, tree, root, environment, python, variables, sandbox())
                    metadata = _core_metadata(str(self.backend.call_hook("metadata", *ask)))
            except BuildFailed as error:
                if stands.is_final or not stands.is_whole or error.reason not in _NO_ANSWER:
                    raise
                instead = stands.source
        return Declared(metadata, (*system.requires, *more), pyproject, instead, unsaid)

    def _shared_key(
        self,
        mirror: Path,
        commit: str,
        root: str,
        system: BuildSystem,
        pyproject: Mapping[str, Any],
        pins: Sequence[str],
        python: str,
        variables: Mapping[str, str],
    ) -> str | None:
        """What stands for a commit when its backend is asked what it requires; None for none but itself."""
        files = self._read(mirror, commit, (str(PurePosixPath(root, name)) for name in FILES))
        folder = "" if root == "." else root
        names = [PurePosixPath(one.path).name for one in self.git.list_tree(mirror, commit, folder, recursive=False)]
        by_name = {PurePosixPath(path).name: content for path, content in files.items()}
        tag = self.git.describe_tag(mirror, commit)
        return shared_key(system, pyproject, by_name, names, tag, pins, python, variables)

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
        by_name = {
            name_of(line_of(one)): one for one in reversed(offers) if name_of(line_of(one)) != stands.metadata.name
        }
        needs = {name: one for name, one in imports.items() if not one.is_optional}
        found = needed(needs, [name_of(line) for line in LEGACY_REQUIRES], list(by_name))
        return [by_name[name] for name in sorted(set(found.values()))]

    def _droppable(
        self,
        error: Unresolvable,
        wanted: Sequence[Mapping[str, Place]],
        mirror: Path,
        item: PayloadInput,
        trees: Sequence[Sequence[str]],
    ) -> set[str]:
        """Requirement lines of names that the index does not have and that no source file of either side imports."""
        unknown = {str(canonicalize_name(name)) for name in error.unknown}
        lines = {line for side in wanted for line in side if name_of(line) in unknown}
        if not lines:
            return set()
        imported: set[str] = set()
        suite = f"{item.benchmark_dir.strip('/')}/"
        for commit, paths in zip((item.merge_sha, item.base_sha), trees, strict=True):
            code = [path for path in paths if path.endswith((".py", ".pyx", ".pxd"))]
            sources = [path for path in code if path.startswith(suite) or not _ASIDE & set(PurePosixPath(path).parts)]
            for content in self._read(mirror, commit, sources).values():
                imported |= imports_of(content)
        return {line for line in lines if not {one.lower() for one in modules_of(name_of(line))} & imported}


def _core_metadata(text: str) -> Metadata:
    """Core metadata as a build backend wrote it."""
    raw, _ = parse_email(text)
    return Metadata(
        name=str(canonicalize_name(raw.get("name", ""))),
        requires_python=specifier(raw.get("requires_python", "")),
        classifiers=series(raw.get("classifiers", [])),
        requirements=tuple(requirements(raw.get("requires_dist", []))),
    )
