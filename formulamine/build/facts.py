"""What was built, as seen from outside.

Here belong the questions that a finished build must answer: pins as asked, both sides importing their own tree, a
suite with benchmarks, no byte of head in what ships. Nothing that was built answers for itself: files are read on the
host, and what a probe inside says is compared with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.utils import canonicalize_name, canonicalize_version

from formulamine.build import probe
from formulamine.build.local import Pair, Side
from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine.build.recipe import Recipe
from formulamine.services.git import Git
from formulamine.services.sandbox import Command, Sandbox
from formulamine.tables import Record

PROBE = Path(probe.__file__)
# Never a package under test: what wheels drop at their top level beside it.
BESIDE = frozenset(
    {"tests", "test", "testing", "docs", "doc", "examples", "benchmarks", "benchmark", "asv_bench", "bin"}
)
# Differs from one making of the same content to the next: caches, paths of this machine, times.
OUTSIDE_DIGEST = frozenset({"__pycache__", ".git", ".lock", "direct_url.json", "uv_cache.json", "RECORD", "pyvenv.cfg"})
# A file of head that says less than this stands in any tree: an empty __init__.py is no leak. FACTS' bound for a line.
TELLING_CHARACTERS = 12
PROBE_TIMEOUT_S = 600  # importing one real suite took 26 s
_MODULE = re.compile(r"^([A-Za-z_]\w*)(\.py|(\.[\w-]+)?\.so)?$")


class Answer(Record):
    """What the probe says from inside, where the package could say anything."""

    imported: dict[str, tuple[str, str]]
    """Place and version of each module that imports."""
    errors: dict[str, str]
    benchmarks: list[str]
    suite_errors: list[str]


class SideFacts(Record):
    """What one side turned out to be."""

    import_names: list[str]
    import_path: str
    version: str
    pins: list[str]
    benchmarks: list[str]
    suite_errors: list[str]


def side_facts(pair: Pair, side: Side, sandbox: Sandbox, memory_mb: int) -> SideFacts:
    """Facts of one side.

    Raises:
        BuildFailed: it is not what it should be.
    """
    pins = installed(side)
    if pins != sorted(pair.recipe.pins_of(side.commit)):
        differ = sorted(set(pins) ^ set(pair.recipe.pins_of(side.commit)))
        raise BuildFailed(ImageReason.PINS_DIFFER, f"installed and pinned differ in {', '.join(differ[:10])}")
    names = import_names(pair)
    if not names:
        raise BuildFailed(
            ImageReason.IMPORT_ERROR, "the wheels of both sides hold nothing in common that can be imported"
        )
    config = {
        "suite_parent": str(pair.suite_parent),
        "suite": pair.suite,
        "site": str(side.site),
        "tools": str(pair.tools),
        "import_names": names,
    }
    result = sandbox.run(
        Command(
            [str(side.python), "-B", str(PROBE), json.dumps(config)],
            readable=(*side.readable, pair.suite_parent, pair.tools, PROBE),
            environment=pair.recipe.environment_variables,
            timeout_s=PROBE_TIMEOUT_S,
            memory_mb=memory_mb,
        )
    )
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
        if not Path(os.path.normpath(place)).is_relative_to(side.site):
            raise BuildFailed(ImageReason.SHADOWED, f"{name} is imported from {place}, not from the built tree")
    timed = [name.partition(":")[2] for name in found.benchmarks if name.startswith("time")]
    if not timed:
        why = "; ".join(found.suite_errors[-3:]) or "the suite holds none"
        raise BuildFailed(ImageReason.NO_BENCHMARKS, f"no time benchmark is discovered: {why}"[:500])
    place, version = found.imported[names[0]]
    return SideFacts(
        import_names=[name for name in names if name in found.imported],
        import_path=str(Path(os.path.normpath(place)).relative_to(side.site)),
        version=version,
        pins=pins,
        benchmarks=timed,
        suite_errors=found.suite_errors[:20],
    )


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


def base_digest(pair: Pair) -> tuple[str, int]:
    """Digest and bytes of what ships: the base side's environment, package and sources."""
    return _digest(_ships(pair))


def measure_digest(pair: Pair) -> tuple[str, int]:
    """Digest and bytes of what measures: what ships, and the head side and the suite beside it."""
    head = [("head/environment", pair.head.environment / "lib"), ("head/site", pair.head.site)]
    return _digest([*_ships(pair), *head, ("head/tree", pair.head.tree), ("suite", pair.suite_parent)])


def head_only(git: Git, repo: str, url: str, recipe: Recipe) -> list[str]:
    """SHA-256 of every file content that head has and base does not."""
    mirror = git.open(repo, url)
    base = {entry.sha for entry in git.list_tree(mirror, recipe.base_sha)}
    new = [
        (recipe.merge_sha, entry.path)
        for entry in git.list_tree(mirror, recipe.merge_sha)
        if entry.type == "blob" and entry.sha not in base
    ]
    return [
        hashlib.sha256(content).hexdigest()
        for content in git.read_blobs(mirror, new).values()
        if content is not None and len(b"".join(content.split())) >= TELLING_CHARACTERS
    ]


def head_in_base(pair: Pair, head_only: Sequence[str]) -> list[str]:
    """Paths of what ships whose content is one that only head has, given as SHA-256 of head's changed files."""
    wanted = set(head_only)
    found = []
    for folder in (pair.base.site, pair.base.tree):
        for path in _files(folder):
            if not path.is_symlink() and hashlib.sha256(path.read_bytes()).hexdigest() in wanted:
                found.append(str(path.relative_to(folder)))
    return sorted(found)


def _ships(pair: Pair) -> list[tuple[str, Path]]:
    """Folders of what ships. Of the environment its `lib`: scripts in `bin` name this machine's paths."""
    return [("environment", pair.base.environment / "lib"), ("site", pair.base.site), ("tree", pair.base.tree)]


def _files(folder: Path) -> Iterator[Path]:
    """Files and links below a folder, without what is no content; links are never followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - OUTSIDE_DIGEST)
        for name in sorted([*names, *(one for one in folders if Path(parent, one).is_symlink())]):
            path = Path(parent, name)
            if name not in OUTSIDE_DIGEST and path.suffix != ".pyc" and (path.is_file() or path.is_symlink()):
                yield path


def _digest(folders: Sequence[tuple[str, Path]]) -> tuple[str, int]:
    """`tree:sha256...` over sorted (path, mode, bytes), and how many bytes that is."""
    whole, size = hashlib.sha256(), 0
    for label, folder in folders:
        for path in sorted(_files(folder), key=lambda one: os.fsencode(one)):
            link = path.is_symlink()
            content = os.fsencode(os.readlink(path)) if link else path.read_bytes()
            mode = "link" if link else ("755" if path.stat().st_mode & 0o100 else "644")
            whole.update(f"{label}/{os.fsencode(path.relative_to(folder))!r} {mode} {len(content)}\n".encode())
            whole.update(hashlib.sha256(content).digest())
            size += len(content)
    return f"tree:sha256:{whole.hexdigest()}", size
