"""Whether somebody tampered with what was built, read from its folders alone.

Here belong the signs: a file that no distribution brought or that is no longer what it brought, code that starts by
itself, a module or a program in front of the one that is meant, hooks of pytest. What is known as harmless is data, in
`tampering.toml`. Nothing is run, no link is followed, and nothing but plain files is opened.

An environment's RECORDs are the word of whoever wrote them. Wheels are unpacked on the host; a distribution that had to
be built wrote its own, and could have written the others': against that stand the hashes of an environment's digest.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import mmap
import os
import re
import stat
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import uv
from packaging.utils import canonicalize_name

from formulamine.build.bytecode import FLAGS
from formulamine.build.folders import Entry, entries_of, line_of, text_of_file
from formulamine.services.resolver import Interpreter

TAMPERING_FILE = Path(__file__).with_name("tampering.toml")
MOST_FINDINGS = 20  # of one folder: who changed more is as well told by these
_MODULE = re.compile(r"(?P<name>[A-Za-z_]\w*)(\.py|\.pyc|(\.[\w-]+)*\.so)")
_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_RUNS_CODE = re.compile(r"^import[ \t].*$", re.MULTILINE)  # as site.addpackage decides it


@dataclass(frozen=True)
class Known:
    """What is harmless, and what is never let pass."""

    own: frozenset[str]
    startup: frozenset[str]
    pth: dict[str, re.Pattern[str]]
    uv: dict[str, list[str]]
    tools: frozenset[str]
    programs: frozenset[str]
    group: str
    hooks: str


@cache
def known() -> Known:
    """The data file."""
    loaded: dict[str, Any] = tomllib.loads(TAMPERING_FILE.read_text())
    startup, tools = loaded["startup"], loaded["tools"]
    return Known(
        own=frozenset(loaded["environment"]["own"]),
        startup=frozenset(startup["modules"]),
        pth={name: re.compile(line) for name, line in startup["pth"].items()},
        uv=startup["uv"],
        tools=frozenset(tools["modules"]),
        programs=frozenset(tools["programs"]),
        group=loaded["pytest"]["group"],
        hooks=loaded["pytest"]["hooks"],
    )


def in_environment(environment: Path, interpreter: Interpreter) -> list[str]:
    """What does not belong into an environment, one line each.

    Every file must be listed in the RECORD of an installed distribution, with the hash that it has, be one that every
    environment has, or be what such a file was compiled to: `bytecode.py` does that once nobody else can write there,
    and removes what it finds. Files that are not there are no sign: an extract of an environment is judged like the
    whole.

    Args:
        environment: its folder.
        interpreter: whose environment it is.
    """
    return _first(_in_environment(environment, interpreter))


def in_site(site: Path, tree: Path, distribution: str) -> list[str]:
    """What does not belong into the folder of the installed package under test, one line each.

    Args:
        site: the folder, which comes first on the path.
        tree: the sources of the same commit, already seen to be that commit's.
        distribution: name of the package under test.
    """
    return _first(_in_site(site, tree, distribution))


def starters(environment: Path, interpreter: Interpreter) -> list[str]:
    """Names of the files in an environment that run code whenever its Python starts."""
    packages = _packages(environment, interpreter)
    found = []
    for one in sorted(packages.iterdir()) if packages.is_dir() else ():
        module = _MODULE.fullmatch(one.name)
        name = module["name"] if module else one.name
        if name in known().startup or (one.suffix == ".pth" and _RUNS_CODE.search(text_of_file(one) or "")):
            found.append(one.name)
    return found


def _first(findings: Iterator[str]) -> list[str]:
    return [line_of(finding) for finding in islice(findings, MOST_FINDINGS)]


def _packages(environment: Path, interpreter: Interpreter) -> Path:
    return environment / "lib" / f"python{interpreter.series}" / "site-packages"


def _in_environment(environment: Path, interpreter: Interpreter) -> Iterator[str]:
    yield from _configuration(environment, interpreter)
    packages = _packages(environment, interpreter)
    recorded = _recorded(environment, packages)
    at = packages.relative_to(environment)
    for one in entries_of(environment):
        path = one.relative
        if one.is_link:
            if not _own_link(one, interpreter):
                yield f"{path} is a link to {os.readlink(one.path)}"
        elif not one.is_file:
            yield f"{path} is neither file, folder nor link"
        elif one.path.suffix == ".pyc" and one.path.parent.name == "__pycache__":
            if not _is_compiled(one.path, recorded, environment, interpreter):
                yield f"{path} is listed by no distribution"
        elif path in recorded:
            listed = recorded[path]
            # An extract lists programs without their bytes: an empty one does nothing.
            if listed and not (path.startswith("bin/") and one.size == 0) and not _has_hash(one.path, listed):
                yield f"{path} is not what its distribution installed"
        elif path in known().own or (path.startswith("bin/") and _PYTHON.fullmatch(one.path.name) and one.size == 0):
            continue
        elif not (one.path.parent == packages and one.path.name in known().uv and _is_of_uv(one.path)):
            yield _told(path, one, at)


def _told(path: str, one: Entry, packages: Path) -> str:
    """What a file is that no RECORD lists."""
    inside = Path(path).relative_to(packages) if Path(path).is_relative_to(packages) else None
    if inside is not None and inside.parts[0].partition(".")[0] in known().startup:
        return f"{path} runs whenever Python starts, and no distribution brought it"
    if inside is not None and inside.suffix == ".pth" and _RUNS_CODE.search(text_of_file(one.path) or ""):
        return f"{path} runs code whenever Python starts, and no distribution brought it"
    if path.startswith("bin/"):
        return f"{path} is a program that no distribution brought"
    return f"{path} is listed by no distribution"


def _configuration(environment: Path, interpreter: Interpreter) -> Iterator[str]:
    """Whether pyvenv.cfg names the interpreter and nothing of the system, where there is one."""
    lines = (line.partition("=") for line in (text_of_file(environment / "pyvenv.cfg") or "").splitlines())
    values = {name.strip().lower(): value.strip() for name, _, value in lines}
    if values.get("include-system-site-packages", "false").lower() != "false":
        yield "pyvenv.cfg lets the packages of the system in"
    if "home" in values and not _is_interpreter(Path(values["home"], "python3"), interpreter):
        yield f"pyvenv.cfg names another Python: {values['home']}"


def _own_link(one: Entry, interpreter: Interpreter) -> bool:
    """Whether a link is one that every environment has: lib64, and bin/python to the interpreter."""
    target = os.readlink(one.path)
    if one.relative == "lib64":
        return target == "lib"
    folder, _, name = one.relative.rpartition("/")
    if folder != "bin" or not _PYTHON.fullmatch(name):
        return False
    if "/" not in target:  # one of its other names, which is looked at itself
        return _PYTHON.fullmatch(target) is not None and target != name
    return _is_interpreter(Path(target), interpreter)


def _is_interpreter(path: Path, interpreter: Interpreter) -> bool:
    """Whether a path is one of an interpreter's own names, as written or through the host's own links."""
    if not path.is_absolute() or not _PYTHON.fullmatch(path.name):
        return False
    homes = {interpreter.path.parent, interpreter.prefix / "bin"}
    return Path(os.path.normpath(path.parent)) in homes or path.parent.resolve() in {home.resolve() for home in homes}


def _recorded(environment: Path, packages: Path) -> dict[str, str]:
    """Files that installed distributions list, from the environment's folder on, and their hashes ("" where none)."""
    found: dict[str, str] = {}
    if not packages.is_dir() or packages.is_symlink():
        return found
    for metadata in sorted(packages.glob("*.dist-info")):
        if metadata.is_symlink():
            continue
        own = {str((metadata / "RECORD").relative_to(environment))}
        for path, listed in _record(text_of_file(metadata / "RECORD") or ""):
            whole = os.path.normpath(packages.relative_to(environment) / path)
            # Only a RECORD itself has no hash; another one without stays open to whoever comes by.
            if listed or whole in own:
                found.setdefault(whole, listed)
    return found


def _record(text: str) -> Iterator[tuple[str, str]]:
    """Paths and hashes of a RECORD; of a damaged one as far as it can be read."""
    try:
        for row in csv.reader(io.StringIO(text, newline="")):
            if len(row) >= 2:
                yield row[0], row[1]
    except csv.Error:
        return


def _has_hash(path: Path, listed: str) -> bool:
    algorithm, _, digest = listed.partition("=")
    # The specification of RECORD wants sha256 or better, and forbids md5 and sha1 by name.
    if algorithm not in ("sha256", "sha384", "sha512"):
        return False
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).digest()
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode() == digest.rstrip("=")


def _is_compiled(path: Path, recorded: Mapping[str, str], environment: Path, interpreter: Interpreter) -> bool:
    """Whether bytecode stands where its source is a distribution's, and gives way to it where they differ."""
    name, _, tag = path.stem.rpartition(".")
    source = path.parent.parent / f"{name}.py"
    has_source = str(source.relative_to(environment)) in recorded or source.name in known().uv
    with path.open("rb") as file:
        header = file.read(8)
    return has_source and tag == f"cpython-{interpreter.series.replace('.', '')}" and header[4:] == FLAGS


def _is_of_uv(path: Path) -> bool:
    """Whether a file's bytes are ones that uv carries to write them into environments."""
    text = (text_of_file(path) or "").encode()
    return hashlib.sha256(text).hexdigest() in known().uv[path.name] or (len(text) > MOST_FINDINGS and _carried(text))


@cache
def _carried(text: bytes) -> bool:
    with open(uv.find_uv_bin(), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as program:
        return program.find(text) >= 0


def _in_site(site: Path, tree: Path, distribution: str) -> Iterator[str]:
    for one in entries_of(site):
        if one.is_link:
            if not Path(os.path.normpath(one.path.parent / os.readlink(one.path))).is_relative_to(site):
                yield f"{one.relative} is a link out of the package: {os.readlink(one.path)}"
        elif not one.is_file:
            yield f"{one.relative} is neither file, folder nor link"
        elif one.path.suffix == ".pyc":  # it would run in place of the source beside it, and is in no digest
            yield f"{one.relative} is code that was compiled beforehand"
        elif one.path.name == known().hooks and not _is_of(tree, one.path):
            yield f"{one.relative} is a hook of pytest that is no file of the sources"
        elif one.relative.startswith("bin/") and one.path.name in known().programs - {distribution}:
            yield f"{one.relative} stands in for a program of that name"
    metadata = sorted([*site.glob("*.dist-info"), *site.glob("*.egg-info"), *site.glob("*.egg-link")])
    if len(metadata) > 1:
        yield f"the wheel brought more than one distribution: {', '.join(one.name for one in metadata)}"
    for folder in metadata:
        yield from _plugins(folder, site, tree)
    for path in sorted(site.iterdir()):
        yield from _in_front(path, tree, distribution)


def _in_front(path: Path, tree: Path, distribution: str) -> Iterator[str]:
    """Whether something at the top of the path starts by itself or stands in for what is meant."""
    if path.suffix == ".pth":
        lines = _RUNS_CODE.findall(text_of_file(path) or "")
        pattern = known().pth.get(path.name)
        harmless = pattern is not None and all(pattern.fullmatch(line.rstrip("\r")) for line in lines)
        if lines and not harmless and not _is_of(tree, path):
            yield f"{path.name} runs code whenever Python starts, and is no file of the sources"
        return
    match = _MODULE.fullmatch(path.name)
    name = match["name"] if match else path.name
    # A folder without __init__ stands behind every module of its name.
    if not match and not (path.is_dir() and any(_MODULE.fullmatch(one.name) for one in path.glob("__init__.*"))):
        return
    if name in known().startup and not (match and _is_of(tree, path)):
        yield f"{path.name} runs whenever Python starts, and is no file of the sources"
    elif name in sys.stdlib_module_names:
        yield f"{path.name} stands in front of Python's own {name}"
    elif name in known().tools and name != canonicalize_name(distribution).replace("-", "_"):
        yield f"{path.name} stands in front of the tool that measures"


def _plugins(metadata: Path, site: Path, tree: Path) -> Iterator[str]:
    """Modules that pytest would load on its own and that are no files of the sources."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names are kept as they are
    try:
        parser.read_string(text_of_file(metadata / "entry_points.txt") or "")
    except configparser.Error:
        yield f"{metadata.name}/entry_points.txt cannot be read"
        return
    for name, value in parser.items(known().group) if parser.has_section(known().group) else ():
        module = value.partition("[")[0].partition(":")[0].strip()
        place = site.joinpath(*module.split("."))
        sources = [one for one in (place.with_name(f"{place.name}.py"), place / "__init__.py") if _is_plain(one)]
        compiled = [*place.parent.glob(f"{place.name}.*so")] if place.parent.is_dir() else []
        if not sources and not compiled:
            yield f"{name} is a plugin of pytest outside the package: {module}"
        elif sources and not _is_of(tree, sources[0]):
            yield f"{name} is a plugin of pytest that is no file of the sources: {module}"


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _is_of(tree: Path, path: Path) -> bool:
    """Whether a file is one of the sources: the same name and bytes, wherever it stands there."""
    if not _is_plain(path):
        return False
    content = path.read_bytes()
    return any(
        one.is_file and one.path.name == path.name and one.size == len(content) and one.path.read_bytes() == content
        for one in entries_of(tree, frozenset({".git"}))
    )
