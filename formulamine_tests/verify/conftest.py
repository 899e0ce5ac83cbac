"""Toy projects, each with a suite and two built sides, run as plain processes without a sandbox."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from formulamine.verify.side import HARNESS, HarnessConfig, Launch


@dataclass(frozen=True)
class Toy:
    """A package `toy` in two versions, and a suite `benchmarks` in modules."""

    root: Path
    tools: Path
    python: str = sys.executable

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        return file

    def config(self, side: str) -> HarnessConfig:
        return HarnessConfig(
            suite_parent=str(self.root / "suite"),
            suite="benchmarks",
            site=str(self.root / side),
            tools=str(self.tools),
            import_names=("toy",),
        )

    def launch(self, side: str, environment: dict[str, str] | None = None, **changes: Any) -> Launch:
        config = replace(self.config(side), **changes)
        scratch = self.root / f"scratch-{side}"
        scratch.mkdir(exist_ok=True)

        def start() -> subprocess.Popen[bytes]:
            with (self.root / f"{side}.stderr").open("ab") as errors:
                return subprocess.Popen(
                    [self.python, "-B", str(HARNESS), *config.arguments()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=self.root,
                    env={**os.environ, "TMPDIR": str(scratch), **(environment or {})},
                )

        return start


@pytest.fixture(scope="session")
def tools() -> Path:
    found = importlib.util.find_spec("asv_runner")
    if found is None or found.origin is None:
        pytest.skip("asv_runner is a development dependency")
    return Path(found.origin).parents[1]


def make_toy(root: Path, tools: Path, base: str, head: str, **modules: str) -> Toy:
    """Write a toy from the text of the package before and after, and of modules of the suite."""
    made = Toy(root, tools)
    made.write("base/toy/__init__.py", base)
    made.write("head/toy/__init__.py", head)
    made.write("suite/benchmarks/__init__.py", "")
    for name, text in modules.items():
        made.write(f"suite/benchmarks/{name}.py", text)
    return made


@pytest.fixture
def toy(tmp_path: Path, tools: Path) -> Callable[..., Toy]:
    return partial(make_toy, tmp_path, tools)
