"""ASV's configuration: where it is in a tree, and what it says.

Here belongs reading `asv.conf.json` as people write it: with comments, trailing commas, and now and then a string where
a list is meant. What follows from its matrix for an environment is `build`'s matter.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from formulamine.services.git import TreeEntry

CONFIG_NAMES = ("asv.conf.json", "asv.conf.jsonc")  # in ASV's own order
DEFAULT_BENCHMARK_DIR = "benchmarks"  # ASV's
# A configuration below one of these tests or illustrates something (asv's own `asv/template`), it measures nothing.
FIXTURE_FOLDERS = frozenset(
    {"test", "tests", "testing", "fixtures", "testdata", "template", "templates", "examples", "vendor", "third_party"}
    | {"node_modules", "site-packages", "vendored", "extern", "external", "_vendor"}
)
_STRING = r'"(?:\\.|[^"\\])*"'
_COMMENT = re.compile(rf"(?P<kept>{_STRING})|//[^\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING_COMMA = re.compile(rf"(?P<kept>{_STRING})|,(?=\s*[\]}}])", re.DOTALL)


class AsvConfigError(ValueError):
    """A configuration that cannot be read; the message is one line."""


@dataclass(frozen=True)
class Matrix:
    """What an ASV environment varies over, each name with its values; None stands for "without it"."""

    requirements: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    """As written: `numpy`, `pip+numpy`; a value is a version, "" is any."""
    env: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    """Variables of build and measurement."""
    env_nobuild: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    """Variables of the measurement alone."""


@dataclass(frozen=True)
class AsvConfig:
    """What an ASV configuration says, as far as mining needs it."""

    benchmark_dir: str = DEFAULT_BENCHMARK_DIR
    """Relative to the folder of the configuration."""
    pythons: tuple[str, ...] = ()
    matrix: Matrix = Matrix()
    build_command: tuple[str, ...] | None = None
    """None: ASV's default, which is not the same as no command."""
    install_command: tuple[str, ...] | None = None
    repo_subdir: str = ""
    environment_type: str = ""

    def suite(self, config_path: str) -> str | None:
        """Path of the benchmark suite inside the repository, or None where it leads out of it.

        Args:
            config_path: path of the configuration inside the repository.
        """
        path = posixpath.normpath(posixpath.join(posixpath.dirname(config_path), self.benchmark_dir))
        return None if path.startswith(("/", "..")) else path


def candidates(entries: Iterable[TreeEntry]) -> list[str]:
    """Paths of configurations in a whole tree, best first: nearest to the root, `.json` before `.jsonc`."""

    def usable(entry: TreeEntry) -> bool:
        *folders, name = entry.path.split("/")
        regular = entry.type == "blob" and entry.mode != "120000"
        return regular and name in CONFIG_NAMES and not FIXTURE_FOLDERS.intersection(map(str.lower, folders))

    def rank(path: str) -> tuple[int, int, str]:
        return path.count("/"), CONFIG_NAMES.index(posixpath.basename(path)), path

    return sorted((entry.path for entry in entries if usable(entry)), key=rank)


def find_config(entries: Iterable[TreeEntry]) -> str | None:
    """Path of the best configuration in a whole tree, or None."""
    return next(iter(candidates(entries)), None)


def parse(content: bytes) -> AsvConfig:
    """Read a configuration; values of a wrong kind count as not given.

    Raises:
        AsvConfigError: it is no JSON object, comments and trailing commas apart.
    """
    values = load_json(content)
    if not isinstance(values, dict):
        raise AsvConfigError("the configuration is no JSON object")
    return AsvConfig(
        benchmark_dir=_text(values.get("benchmark_dir")) or DEFAULT_BENCHMARK_DIR,
        pythons=_texts(values.get("pythons")) or (),
        matrix=_matrix(values.get("matrix")),
        build_command=_texts(values.get("build_command")),
        install_command=_texts(values.get("install_command")),
        repo_subdir=_text(values.get("repo_subdir")),
        environment_type=_text(values.get("environment_type")),
    )


def load_json(content: bytes) -> Any:
    """JSON with `//` and `/* */` comments and trailing commas; strings are left alone.

    Raises:
        AsvConfigError: it is still no JSON.
    """
    try:
        text = content.decode("utf-8-sig")
        text = _COMMENT.sub(lambda match: match["kept"] or " ", text)
        text = _TRAILING_COMMA.sub(lambda match: match["kept"] or "", text)
        return json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise AsvConfigError(f"the configuration is no JSON: {error}") from error


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...] | None:
    """A list of texts; one text alone counts as a list of it, numbers as written, the rest as not there."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        return None
    return tuple(str(one) for one in value if isinstance(one, str | int | float) and not isinstance(one, bool))


def _matrix(value: Any) -> Matrix:
    """Both forms: `{"req": {...}, "env": {...}}`, and the old one in which every other key is a requirement."""
    if not isinstance(value, dict):
        return Matrix()
    old = {name: one for name, one in value.items() if name not in ("req", "env", "env_nobuild")}
    return Matrix(
        requirements=_axes(old) | _axes(value.get("req")),
        env=_axes(value.get("env")),
        env_nobuild=_axes(value.get("env_nobuild")),
    )


def _axes(value: Any) -> dict[str, tuple[str | None, ...]]:
    if not isinstance(value, dict):
        return {}
    return {name: _axis(one) for name, one in value.items()}


def _axis(value: Any) -> tuple[str | None, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(None if one is None else str(one) for one in values if not isinstance(one, dict | list)) or ("",)
