"""What was built, as seen from outside.

Here belong the questions that a finished build must answer: the commits that it claims, pins as asked, no tampering, no
byte of head in what ships, both sides importing their own tree, a suite whose benchmarks its source explains. Nothing
that was built answers for itself: files are read on the host, and what a probe inside says is compared with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path

from packaging.utils import canonicalize_name, canonicalize_version

from formulamine.build import commits, digests, probe, suite_source, tampering
from formulamine.build.folders import line_of
from formulamine.build.manifest import Manifest, SideManifest
from formulamine.build.pair import Pair, Side
from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine.records import Record
from formulamine.services.git import Git
from formulamine.services.sandbox import Sandbox

PROBE = Path(probe.__file__)
# Never a package under test: what wheels drop at their top level beside it.
BESIDE = frozenset(
    {"tests", "test", "testing", "docs", "doc", "examples", "benchmarks", "benchmark", "asv_bench", "bin"}
)
RULES = ("commits", "pins", "tampering", "head_in_base", "imports", "benchmarks")
"""What `verify` asks of both sides, in this order: first what the host sees alone, then what runs the package."""
MOST_NAMED = 20  # benchmarks or errors that a record names
PROBE_TIMEOUT_S = 600  # importing one real suite took 26 s
_MODULE = re.compile(r"^([A-Za-z_]\w*)(\.py|(\.[\w-]+)?\.so)?$")


class Answer(Record):
    """What the probe says from inside, where the package could say anything."""

    imported: dict[str, tuple[str, str]]
    """Place and version of each module that imports."""
    errors: dict[str, str]
    benchmarks: list[str]
    suite_errors: list[str]
    timer: str
    """Where the standard library's timer comes from."""
    runner: str
    """Where asv_runner comes from."""


class SideFacts(Record):
    """What one side turned out to be."""

    import_names: list[str]
    import_path: str
    version: str
    pins: list[str]
    benchmarks: list[str]
    suite_errors: list[str]


@dataclass(frozen=True)
class EnvironmentFacts:
    """What one environment turned out to be."""

    tampering: list[str]
    starters: list[str]
    digest: str


class Environments:
    """Facts of environments, each looked at once by whoever holds this. For several threads.

    What is made of pins is shared by many pull requests, and no command sees it but to read: what was seen of it stays
    true until the folder is made anew, which its identity on the disk tells.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int], EnvironmentFacts] = {}

    def of(self, side: Side) -> EnvironmentFacts:
        """Facts of a side's environment."""
        folder = side.environment
        status = folder.stat()
        key = (folder, status.st_ino, status.st_ctime_ns)
        if key not in self._known:
            self._known[key] = EnvironmentFacts(
                tampering=tampering.in_environment(folder, side.interpreter),
                starters=tampering.starters(folder, side.interpreter),
                digest=digests.digest([("environment", folder / "lib")])[0],
            )
        return self._known[key]


class PairFacts(Record):
    """What both sides turned out to be."""

    base: SideFacts
    head: SideFacts
    rules: list[str]
    """Rules that passed, in order: all of them, else there are no facts."""
    benchmarks_in_source: int
    """Time benchmarks that the files of the suite name."""
    manifest: Manifest
    """The same for keeping."""


def verify(
    pair: Pair, git: Git, url: str, sandbox: Sandbox, memory_mb: int, environments: Environments | None = None
) -> PairFacts:
    """Facts of both sides, every rule of verification asked in the order of `RULES`.

    Args:
        pair: what was built.
        git: reads the repository's mirror, which no build touches.
        url: where the repository is, should its mirror be gone.
        sandbox: where the package is imported.
        memory_mb: that an import may take.
        environments: what was seen of environments before; None to look at them again.

    Raises:
        BuildFailed: the first rule that does not hold, and what breaks it.
    """
    environments = environments or Environments()
    tags = check_commits(pair, git, url)
    for side in (pair.base, pair.head):
        check_pins(pair, side)
    check_tampering(pair, environments)
    leaked = digests.head_in_base(pair, digests.head_only(git, pair.recipe.repo, url, pair.recipe))
    if leaked:
        raise BuildFailed(ImageReason.HEAD_IN_BASE, f"content of head stands in {', '.join(leaked[:5])}")
    with ThreadPoolExecutor(2, thread_name_prefix="probe") as pool:  # each in a sandbox of its own
        base, head = pool.map(lambda side: side_facts(pair, side, sandbox, memory_mb), (pair.base, pair.head))
    source = suite_source.read(pair.suite_parent / pair.suite)
    for facts in (base, head):
        check_benchmarks(facts, source)
    named = source.benchmarks()
    manifest = Manifest(
        formulamine=version_of("formulamine"),
        recipe=hashlib.sha256(pair.recipe.to_blob()).hexdigest(),
        repo=pair.recipe.repo,
        rules=list(RULES),
        benchmarks_in_source=len(named),
        suite_digest=digests.digest([("suite", pair.suite_parent)])[0],
        base=_side_manifest(pair.base, base, tags[0], named, environments.of(pair.base)),
        head=_side_manifest(pair.head, head, tags[1], named, environments.of(pair.head)),
    )
    return PairFacts(base=base, head=head, rules=list(RULES), benchmarks_in_source=len(named), manifest=manifest)


def check_commits(pair: Pair, git: Git, url: str) -> tuple[str, str]:
    """The tags of base and head, once both are seen to be the commits they claim, and the suite to be head's.

    Raises:
        BuildFailed: something is not what git says, or their repositories hold more than one commit.
    """
    mirror = git.open(pair.recipe.repo, url)
    tags = []
    for side, commit in ((pair.base, pair.recipe.base_sha), (pair.head, pair.recipe.merge_sha)):
        found = commits.checked(git, mirror, commit, side.tree)
        wrong = found.wrong if side.commit == commit else [f"it is said to be {side.commit}", *found.wrong]
        if wrong:
            raise BuildFailed(ImageReason.WRONG_COMMIT, f"not {commit}: {'; '.join(wrong)}"[:1000])
        tags.append(found.tag)
    # The folder of a commit's benchmarks may be a link inside its tree.
    source = Path(os.path.realpath(pair.head.tree / pair.recipe.benchmark_dir))
    if not source.is_relative_to(os.path.realpath(pair.head.tree)):
        raise BuildFailed(ImageReason.WRONG_COMMIT, f"{pair.recipe.benchmark_dir} leads out of the tree")
    differ = commits.same_folders(source, pair.suite_parent / pair.suite)
    if differ:
        names = ", ".join(differ[: commits.MOST_NAMED])
        raise BuildFailed(ImageReason.WRONG_COMMIT, f"the suite is not that of {pair.recipe.merge_sha}: {names}")
    return tags[0], tags[1]


def check_pins(pair: Pair, side: Side) -> list[str]:
    """What is installed in a side's environment, which is what its recipe pins.

    Raises:
        BuildFailed: it is not.
    """
    pins = installed(side)
    asked = pair.recipe.pins_of(side.commit)
    if pins != sorted(asked):
        differ = sorted(set(pins) ^ set(asked)) or ["one that is there twice"]
        raise BuildFailed(ImageReason.PINS_DIFFER, f"installed and pinned differ in {line_of(', '.join(differ[:10]))}")
    return pins


def check_tampering(pair: Pair, environments: Environments) -> None:
    """Look for what somebody put into environments and installed packages; the sources are compared with git.

    Raises:
        BuildFailed: there is something.
    """
    for side in (pair.base, pair.head):  # mostly one and the same
        _raise_if_tampered("the environment", environments.of(side).tampering)
    for name, side in (("base", pair.base), ("head", pair.head)):
        _raise_if_tampered(name, tampering.in_site(side.site, side.tree, pair.recipe.distribution))


def check_benchmarks(facts: SideFacts, source: suite_source.SuiteSource) -> None:
    """See that each discovered benchmark can come from the files of the suite.

    Raises:
        BuildFailed: one cannot.
    """
    foreign = [name for name in facts.benchmarks if not source.explains(name)]
    if foreign:
        names = line_of(", ".join(foreign[:5]))[:500]
        _raise_if_tampered("discovery", [f"{names}: discovered, and no file of the suite has it"])


def _raise_if_tampered(where: str, findings: Sequence[str]) -> None:
    if findings:
        raise BuildFailed(ImageReason.TAMPERED, f"{where}: {'; '.join(findings)}"[:1000])


def _side_manifest(
    side: Side, facts: SideFacts, tag: str, named: Sequence[str], environment: EnvironmentFacts
) -> SideManifest:
    own = {label: digests.digest([(label, folder)])[0] for label, folder in (("site", side.site), ("tree", side.tree))}
    return SideManifest(
        commit=side.commit,
        tag=tag,
        interpreter=side.interpreter.version,
        pins=facts.pins,
        starters=environment.starters,
        import_names=facts.import_names,
        import_path=facts.import_path,
        version=facts.version,
        benchmarks_discovered=len(facts.benchmarks),
        benchmarks_missing=sorted(set(named) - set(facts.benchmarks))[:MOST_NAMED],
        suite_errors=facts.suite_errors,
        digests={"environment": environment.digest, **own},
    )


def side_facts(pair: Pair, side: Side, sandbox: Sandbox, memory_mb: int) -> SideFacts:
    """Facts of one side that take running it: what it imports, and which benchmarks it has.

    Raises:
        BuildFailed: it is not what it should be.
    """
    pins = check_pins(pair, side)
    names = import_names(pair)
    if not names:
        raise BuildFailed(
            ImageReason.IMPORT_ERROR, "the wheels of both sides hold nothing in common that can be imported"
        )
    config = {
        "suite_parent": side.seen.suite_parent,
        "suite": pair.suite,
        "site": side.seen.site,
        "tools": side.seen.tools,
        "import_names": names,
    }
    result = sandbox.run(pair.command(side, PROBE, [json.dumps(config)], memory_mb, PROBE_TIMEOUT_S, as_text=True))
    answers = [line for line in result.output.splitlines() if line.startswith(probe.ANSWER)]
    if result.timed_out:
        raise BuildFailed(ImageReason.TIMEOUT, f"import and discovery took over {PROBE_TIMEOUT_S} s")
    if not answers:
        last = result.output.strip().splitlines()[-1:] or ["no output"]
        raise BuildFailed(ImageReason.IMPORT_ERROR, f"the interpreter ended ({result.exit_code}): {last[0][:300]}")
    try:
        found = Answer.model_validate_json(answers[-1].removeprefix(probe.ANSWER))
    except ValueError as error:
        raise BuildFailed(ImageReason.IMPORT_ERROR, "the package spoke in the probe's place") from error
    # What the package is called must import. A module beside it may want what nobody installed (a plugin of pytest).
    if names[0] not in found.imported:
        raise BuildFailed(ImageReason.IMPORT_ERROR, found.errors.get(names[0], "no answer")[:500])
    for name, (place, _) in found.imported.items():
        if _in_site(side, place) is None:
            raise BuildFailed(ImageReason.SHADOWED, f"{name} is imported from {place[:300]}, not from the built tree")
    for tool, place in (("timeit", found.timer), ("asv_runner", found.runner)):
        if _within(place, side.seen.site) or _within(place, f"{side.seen.suite_parent}/{pair.suite}"):
            raise BuildFailed(ImageReason.SHADOWED, f"{tool} is imported from {place[:300]}, where the package stands")
    timed = [name.partition(":")[2] for name in found.benchmarks if name.startswith("time")]
    if not timed:
        why = "; ".join(found.suite_errors[-3:]) or "the suite holds none"
        raise BuildFailed(ImageReason.NO_BENCHMARKS, f"no time benchmark is discovered: {why}"[:500])
    place, version = found.imported[names[0]]
    return SideFacts(
        import_names=[name for name in names if name in found.imported],
        import_path=_in_site(side, place) or "",
        version=version,
        pins=pins,
        benchmarks=timed,
        suite_errors=found.suite_errors[:MOST_NAMED],
    )


def _within(place: str, folder: str) -> bool:
    return Path(os.path.normpath(place)).is_relative_to(os.path.normpath(folder))


def _in_site(side: Side, place: str) -> str | None:
    """Where a place that the probe names stands in the built package, once the host sees something there itself."""
    if "\0" in place or not _within(place, side.seen.site):
        return None
    relative = os.path.relpath(os.path.normpath(place), os.path.normpath(side.seen.site))
    here = side.site / relative
    stands = here.exists() and Path(os.path.realpath(here)).is_relative_to(os.path.realpath(side.site))
    return relative if stands else None


def installed(side: Side) -> list[str]:
    """Distributions of an environment as "name==version", sorted, read from its folder."""
    packages = side.environment / "lib" / f"python{side.interpreter.series}" / "site-packages"
    found = []
    for folder in packages.glob("*.dist-info"):
        name, _, version = folder.name.removesuffix(".dist-info").partition("-")
        found.append(f"{canonicalize_name(name)}=={canonicalize_version(version, strip_trailing_zero=False)}")
    return sorted(found)


def import_names(pair: Pair) -> list[str]:
    """What both sides call the package under test, the name like the distribution's first.

    Packages; single modules only where there is no package: beside one they are its helpers (mypyc names some by a
    hash of the sources), imported by it and not the same on both sides.
    """
    base, head = (_top_level(side.site) for side in (pair.base, pair.head))
    packages = {name for name, package in base.items() if package and head.get(name)}
    names = packages or {name for name in base if name in head}
    likely = pair.recipe.distribution.replace("-", "_")
    return sorted(names, key=lambda name: (name.lower() != likely, name))


def _top_level(site: Path) -> dict[str, bool]:
    """Names that a side's wheel brings, and whether each is a package."""
    names: dict[str, bool] = {}
    for path in site.iterdir():
        match = _MODULE.match(path.name)
        if match is None or match[1] in BESIDE:
            continue
        if path.is_dir() and any(one.suffix in (".py", ".so") for one in path.rglob("*")):
            names[match[1]] = True
        elif match[2] is not None and not path.name.startswith("_"):
            names.setdefault(match[1], False)
    return names
