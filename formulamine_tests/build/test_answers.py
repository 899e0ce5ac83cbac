"""Which answers of a build backend are shared by commits, and what keeps each commit to itself."""

import pytest

from formulamine.build.answers import shared_key
from formulamine.build.declarations import BuildSystem, parse_pyproject

HATCH = b'[build-system]\nbuild-backend = "hatchling.build"\n[tool.hatch.version]\nsource = "vcs"\n'


def key(
    backend: str = "hatchling.build",
    pyproject: bytes = HATCH,
    path: tuple[str, ...] = (),
    names: tuple[str, ...] = ("src", "pyproject.toml"),
    tag: str | None = "v1",
    pins: tuple[str, ...] = ("hatchling==1.0",),
    python: str = "3.11",
    **more: bytes,
) -> str | None:
    files = {"pyproject.toml": pyproject, **{name.replace("_", "."): content for name, content in more.items()}}
    system = BuildSystem(backend, (), path)
    return shared_key(system, parse_pyproject(pyproject), files, names, tag, pins, python, {})


def test_commits_with_the_same_files_share_an_answer() -> None:
    assert key() is not None
    assert key() == key(names=("pyproject.toml", "src"))


@pytest.mark.parametrize(
    "other",
    [
        {"pyproject": HATCH + b"# more\n"}, {"names": ("lib", "pyproject.toml")}, {"tag": "v2"}, {"tag": None},
        {"pins": ("hatchling==2.0",)}, {"python": "3.12"}, {"setup_cfg": b"[options]\n"}, {"backend": "mesonpy"},
    ],
)  # fmt: skip
def test_whatever_may_decide_it_sets_them_apart(other: dict[str, object]) -> None:
    assert key(**other) not in (None, key())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        {"backend": "unheard_of.build"},
        {"path": ("_build",)},
        {"setup_py": b"import os\n", "backend": "setuptools.build_meta"},
        {"setup_cfg": b"[metadata]\nversion = attr: toy.version\n", "backend": "setuptools.build_meta"},
        {"pyproject": b'[tool.hatch.build.hooks.custom]\npath = "hook.py"\n'},
        {"pyproject": b'[tool.hatch.metadata.hooks.custom]\n'},
        {"pyproject": b'[tool.hatch.version]\nsource = "code"\n'},
        {"pyproject": b"[tool.setuptools.dynamic]\nversion = {attr = 'toy.version'}\n"},
        {"pyproject": b'[tool.poetry.build]\nscript = "build.py"\n'},
    ],
)  # fmt: skip
def test_a_backend_that_runs_code_of_the_tree_is_asked_for_each_commit(other: dict[str, object]) -> None:
    assert key(**other) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "setup",
    [
        b"",
        b'"""Build."""\nimport setuptools\n\nsetuptools.setup()\n',
        b'from setuptools import setup\nsetup(use_scm_version={"fallback_version": "9999"})\n',
        b'from setuptools import setup\nif __name__ == "__main__":\n    setup(name="toy", packages=["toy"])\n',
    ],
)
def test_a_setup_py_that_only_calls_setup_with_literals_reads_nothing_of_the_tree(setup: bytes) -> None:
    assert key("setuptools.build_meta", setup_py=setup) not in (None, key("setuptools.build_meta", setup_py=b"#\n"))


@pytest.mark.parametrize(
    "setup",
    [
        b"from setuptools import setup\nimport versioneer\nsetup()\n",
        b"from setuptools import setup, find_packages\nsetup(packages=find_packages())\n",
        b"from setuptools import setup\nsetup(version=open('VERSION').read())\n",
        b"from setuptools import setup\nsetup(**{})\n",
        b"from setup import setup\nsetup()\n",
        b"from setuptools import setup as setup\nother()\n",
        b"from setuptools import setup\nif open('x'):\n    setup()\n",
        b"def setup(:\n",
    ],
)
def test_a_setup_py_with_code_is_asked_for_each_commit(setup: bytes) -> None:
    assert key("setuptools.build_meta", setup_py=setup) is None
