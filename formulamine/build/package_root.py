"""Where in a repository the package stands that its benchmark suite measures.

Here belongs choosing a folder. What its build files say is read in `declarations.py` and `standing.py`.
"""

from __future__ import annotations

import posixpath
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence

from formulamine.build.declarations import words
from formulamine.build.static_setup import is_package
from formulamine.discover.asv_config import FIXTURE_FOLDERS, AsvConfig

BUILD_FILES = ("pyproject.toml", "setup.cfg", "setup.py")
# Options whose value is a folder even where it looks like a mere word.
_FOLDER_OPTIONS = frozenset({"-e", "--editable", "-C", "--directory", "--project", "cd"})


def package_roots(build_files: Mapping[str, bytes]) -> dict[str, bool]:
    """Folders that may be built, "." for the root, each with whether its files say so.

    A pyproject.toml that only configures linters makes a weak candidate, a setup.cfg that does so makes none.

    Args:
        build_files: contents of all `BUILD_FILES` of a commit, by path.
    """
    found: dict[str, bool] = {}
    for path, content in sorted(build_files.items()):
        folder, _, name = path.rpartition("/")
        says_so = {"pyproject.toml": _declares, "setup.cfg": is_package}.get(name, lambda _: True)(content)
        if says_so or name != "setup.cfg":
            found[folder or "."] = found.get(folder or ".", False) or says_so
    return found


def package_root(
    build_files: Mapping[str, bytes],
    paths: Collection[str],
    hints: Sequence[str],
    imported: Callable[[], Collection[str]],
) -> str | None:
    """Folder of the package: ASV's hint, else the one that the suite imports, else the shallowest.

    Args:
        build_files: contents of all `BUILD_FILES` of a commit, by path.
        paths: of all files of the commit.
        hints: folders that ASV's configuration names, best first.
        imported: gives the modules that the suite imports; asked only where there is a choice.
    """
    roots = package_roots(build_files)
    for hint in hints:
        if hint in roots:
            return hint
    packages = {posixpath.dirname(path) for path in paths if posixpath.basename(path) == "__init__.py"}
    # A setup.py inside a package configures a part of it; one below tests or examples tests or illustrates something.
    likely = [one for one in roots if one not in packages and not FIXTURE_FOLDERS.intersection(one.lower().split("/"))]
    candidates = likely or list(roots)
    if len(candidates) < 2:
        return next(iter(candidates), None)
    provided = _modules(candidates, paths, packages)
    wanted = set(imported())

    def rank(folder: str) -> tuple[bool, bool, int, str]:
        return not provided[folder] & wanted, not roots[folder], _depth(folder), folder

    return min(candidates, key=rank)


def asv_hints(config: AsvConfig, config_path: str) -> list[str]:
    """Folders that ASV's configuration names as the package's, best first; whether they are any is not asked.

    Args:
        config: what it says.
        config_path: path of the configuration inside the repository.
    """
    subdir = posixpath.normpath(config.repo_subdir.strip("/") or ".")
    places = {"{build_dir}": ".", "{conf_dir}": posixpath.relpath(posixpath.dirname(config_path) or ".", subdir)}
    named: list[str] = []
    for command in (*(config.build_command or ()), *(config.install_command or ())):
        before = ""
        for word in words(command):
            folder = word.removeprefix("in-dir=").partition("[")[0]
            is_path = "/" in folder or before in _FOLDER_OPTIONS
            for name, place in places.items():
                folder = folder.replace(name, place)
            if is_path and not folder.startswith("/") and not {"{", ":"} & set(folder):
                named.append(posixpath.normpath(posixpath.join(subdir, folder)))
            before = word
    named = [one for one in named if one not in (".", subdir) and not one.startswith("..")]
    return list(dict.fromkeys([*named, *([subdir] if subdir != "." else [])]))


def _declares(content: bytes) -> bool:
    """Whether a pyproject.toml is one of a package; one that cannot be read may be."""
    try:
        table = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        return True
    tools = table.get("tool")
    return bool({"project", "build-system"} & set(table)) or (
        isinstance(tools, dict) and bool({"poetry", "flit"} & set(tools))
    )


def _modules(candidates: Sequence[str], paths: Collection[str], packages: Collection[str]) -> dict[str, set[str]]:
    """What may be imported of each candidate: its modules, packages, and folders on the way to a package."""
    found: dict[str, set[str]] = {folder: set() for folder in candidates}
    deepest_first = sorted(candidates, key=_depth, reverse=True)
    for path in paths:
        if not path.endswith((".py", ".pyx", ".pyi")):
            continue
        folder = next((one for one in deepest_first if one == "." or path.startswith(f"{one}/")), None)
        if folder is None:
            continue
        parts = (path if folder == "." else path.removeprefix(f"{folder}/")).split("/")
        for depth in range(1, len(parts)):
            found[folder].add(parts[depth - 1])
            if posixpath.normpath(posixpath.join(folder, *parts[:depth])) in packages:
                break
        else:
            if len(parts) <= 2:
                found[folder].add(parts[-1].partition(".")[0])
    return found


def _depth(folder: str) -> int:
    return 0 if folder == "." else folder.count("/") + 1
