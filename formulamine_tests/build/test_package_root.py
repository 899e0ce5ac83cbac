import json

import pytest

from formulamine.build.package_root import asv_hints, package_root, package_roots
from formulamine.discover.asv_config import parse

PROJECT = b'[project]\nname = "p"\n'
LINTERS = b"[tool.black]\nline-length = 100\n"
SETUP = b"from setuptools import setup\nsetup()\n"
CFG = b"[metadata]\nname = p\n[options]\npackages = find:\n"
CFG_LINTERS = b"[flake8]\nmax-line-length = 100\n"


def root(
    files: dict[str, bytes], *others: str, hints: tuple[str, ...] = (), imported: tuple[str, ...] = ()
) -> str | None:
    return package_root(files, [*files, *others], hints, lambda: imported)


@pytest.mark.parametrize(
    ("files", "folder"),
    [
        ({"pyproject.toml": PROJECT}, "."),
        ({"setup.py": SETUP}, "."),
        ({"setup.cfg": CFG}, "."),
        ({"setup.cfg": CFG_LINTERS}, None),
        ({"setup.cfg": b"[metadata]\nname = p\n"}, None),
        ({"setup.cfg": b"\xff"}, None),
        ({"pyproject.toml": LINTERS}, "."),  # setuptools finds out by itself
        ({"pyproject.toml": b"["}, "."),
        ({"python/pyproject.toml": PROJECT}, "python"),
        ({"a/b/setup.py": SETUP, "c/setup.py": SETUP}, "c"),
        ({"pyproject.toml": LINTERS, "python/setup.py": SETUP}, "python"),
        ({"tests/data/setup.py": SETUP, "deep/er/still/setup.py": SETUP}, "deep/er/still"),
        ({"tests/data/setup.py": SETUP}, "tests/data"),
        ({}, None),
    ],
)
def test_the_package_is_where_its_build_files_are(files: dict[str, bytes], folder: str | None) -> None:
    assert root(files) == folder


@pytest.mark.parametrize(
    ("hints", "folder"), [(("python",), "python"), (("elsewhere", "python"), "python"), (("elsewhere",), ".")]
)
def test_a_hint_counts_where_it_leads_to_a_package(hints: tuple[str, ...], folder: str) -> None:
    assert root({"pyproject.toml": PROJECT, "python/pyproject.toml": PROJECT}, hints=hints) == folder


MONOREPO = {"a/pyproject.toml": PROJECT, "b/c/pyproject.toml": PROJECT, "pyproject.toml": PROJECT}


@pytest.mark.parametrize(
    ("module", "folder"),
    [
        ("apple", "a"),
        ("cherry", "b/c"),
        ("space", "a"),  # a namespace package
        ("single", "b/c"),  # a module
        ("inner", "."),  # part of a package, and so no package
        ("nothing", "."),
    ],
)
def test_of_several_packages_the_suite_measures_the_one_it_imports(module: str, folder: str) -> None:
    others = [
        "a/src/apple/__init__.py", "a/src/apple/inner/__init__.py", "a/space/ship/__init__.py",
        "b/c/cherry/__init__.py", "b/c/src/single.py", "bench/suite.py",
    ]  # fmt: skip
    assert root(MONOREPO, *others, imported=("numpy", module)) == folder


def test_of_several_imported_ones_it_is_the_shallowest() -> None:
    others = ["a/apple/__init__.py", "b/c/cherry/__init__.py"]
    assert root(MONOREPO, *others, imported=("cherry", "apple")) == "a"


def test_a_setup_py_inside_a_package_is_no_package_of_its_own() -> None:
    files = {"setup.py": SETUP, "pkg/setup.py": SETUP, "pkg/core/setup.py": SETUP}
    others = ["pkg/__init__.py", "pkg/core/__init__.py", "pkg/core/thing.py"]
    assert root(files, *others, imported=("pkg",)) == "."


def test_the_suite_is_asked_only_where_there_is_a_choice() -> None:
    def never() -> list[str]:
        raise AssertionError

    assert package_root({"setup.py": SETUP}, ["setup.py"], [], never) == "."


def test_folders_that_may_be_built() -> None:
    files = {"setup.cfg": CFG_LINTERS, "pyproject.toml": LINTERS, "a/setup.cfg": CFG, "b/setup.cfg": CFG_LINTERS}
    assert package_roots(files) == {".": False, "a": True}


@pytest.mark.parametrize(
    ("config", "hints"),
    [
        ({}, []),
        ({"repo_subdir": "python/"}, ["python"]),
        ({"repo_subdir": "./python"}, ["python"]),
        ({"install_command": ["python -m pip install -e {build_dir}/python"]}, ["python"]),
        ({"install_command": ["python -m pip install -e {build_dir}/python[fast]"]}, ["python"]),
        ({"build_command": ["cd python && python -m build"]}, ["python"]),
        ({"build_command": ["in-dir={build_dir}/python python -m build"]}, ["python"]),
        ({"build_command": ["pip install -e python"]}, ["python"]),
        ({"build_command": ["pip install {conf_dir}/../python"]}, ["python"]),
        ({"build_command": ["pip wheel ./python -w {build_cache_dir}"]}, ["python"]),
        ({"build_command": ["python -m build {build_dir}"]}, []),
        ({"build_command": ["pip install git+https://example.org/python.git"]}, []),
        ({"build_command": ["cd /python", "cd .."]}, []),
        ({"repo_subdir": "x", "build_command": ["pip wheel {build_dir}/python"]}, ["x/python", "x"]),
    ],
)
def test_asv_says_where_the_package_is(config: object, hints: list[str]) -> None:
    assert asv_hints(parse(json.dumps(config).encode()), "benchmarks/asv.conf.json") == hints
