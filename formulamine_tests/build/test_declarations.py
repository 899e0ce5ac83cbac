import contextlib
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from formulamine.build.declarations import (
    LEGACY_BACKEND,
    DeclarationError,
    Metadata,
    applying,
    asv_environment,
    asv_extras,
    asv_groups,
    asv_requirements,
    build_system,
    offered,
    parse_pyproject,
    requirements,
    ruled_out,
    series,
    specifier,
    static_metadata,
)
from formulamine.discover.asv_config import parse


def read(content: bytes) -> None:
    pyproject = parse_pyproject(content)
    build_system(pyproject)
    static_metadata(pyproject)


def metadata(text: str) -> Metadata:
    found = static_metadata(parse_pyproject(text.encode()))
    assert found is not None
    return found


def applied(text: str, extras: tuple[str, ...] = (), python: str = "3.11") -> list[str]:
    return sorted(str(one) for one in applying(metadata(text), extras, python))


def matrix(text: str) -> list[str]:
    return sorted(str(one) for one in asv_requirements(parse(text.encode()).matrix))


STATIC = """
[project]
name = "My.Package"
requires-python = ">=3.9"
classifiers = ["Programming Language :: Python :: 3", "Programming Language :: Python :: 3.10"]
dependencies = ["numpy>=1.20", "tomli; python_version < '3.11'"]
[project.optional-dependencies]
fast = ["numba>=0.50; platform_system != 'Nowhere'"]
IO_all = ["fsspec"]
all = ["my-package[fast]", "my_package[IO_all]"]
"""


def test_static_metadata_is_read_as_it_stands() -> None:
    found = metadata(STATIC)
    assert found.name == "my-package"
    assert found.classifiers == ("3.10",)
    assert found.requires_python.contains("3.9")
    assert applied(STATIC) == ["numpy>=1.20"]


@pytest.mark.parametrize("field", ["dependencies", "optional-dependencies", "requires-python"])
def test_what_is_dynamic_is_left_to_the_backend(field: str) -> None:
    assert static_metadata(parse_pyproject(f'[project]\nname = "a"\ndynamic = ["{field}"]'.encode())) is None


def test_a_dynamic_version_alone_leaves_the_rest_static() -> None:
    assert metadata('[project]\nname = "a"\ndynamic = ["version"]\ndependencies = ["b"]').requirements


@pytest.mark.parametrize("text", ["", "[tool.black]", '[project]\nversion = "1"', '[tool.poetry]\nname = "a"'])
def test_without_a_project_table_the_backend_decides(text: str) -> None:
    assert static_metadata(parse_pyproject(text.encode())) is None


@pytest.mark.parametrize(
    "text",
    [
        b"[project\n",
        b"a = " + b"[" * 50_000,
        b"\xff\xfe",
        b'[project]\nname = "a"\ndependencies = ["numpy >>= 1"]',
        b'[project]\nname = "a"\ndependencies = ["not a requirement"]',
        b'[project]\nname = "a"\nrequires-python = "three"',
        # Of the wrong kind: what a person writes, and a run of a month must not end for.
        b'[project]\nname = "a"\ndependencies = "numpy"',
        b'[project]\nname = "a"\ndependencies = [1]',
        b'[project]\nname = "a"\ndependencies = {numpy = "1"}',
        b'[project]\nname = "a"\noptional-dependencies = ["x"]',
        b'[project]\nname = "a"\noptional-dependencies = {x = "y"}',
        b"[project]\nname = 3",
        b'[project]\nname = "a"\nrequires-python = 3.8',
        b'[project]\nname = "a"\nclassifiers = "Programming Language :: Python :: 3.8"',
        b'[project]\nname = "a"\ndynamic = "dependencies"',
        b'project = "a"\nname = 1\n[build-system]\nrequires = "setuptools"',
        b'build-system = "setuptools"',
        b'[build-system]\nrequires = [["setuptools"]]',
        b"[build-system]\nrequires = []\nbuild-backend = 4",
        b'[build-system]\nrequires = []\nbackend-path = "."',
    ],
)
def test_a_malformed_declaration_says_so(text: bytes) -> None:
    with pytest.raises(DeclarationError):
        read(text)


def test_extras_are_followed_into_the_package_itself() -> None:
    assert applied(STATIC, ("fast",)) == ["numba>=0.50", "numpy>=1.20"]
    assert applied(STATIC, ("all",)) == ["fsspec", "numba>=0.50", "numpy>=1.20"]


def test_extras_that_refer_to_each_other_in_a_ring_end() -> None:
    text = '[project]\nname = "p"\n[project.optional-dependencies]\na = ["p[b_b]", "x"]\nb-b = ["p[A]", "y"]'
    assert applied(text, ("a",)) == ["x", "y"]


def test_an_extra_is_found_however_its_name_is_written() -> None:
    for name in ("io_all", "IO.All", "io-all"):
        assert applied(STATIC, (name,)) == ["fsspec", "numpy>=1.20"]


def test_an_extra_that_is_not_there_adds_nothing() -> None:
    assert applied(STATIC, ("nothing",)) == ["numpy>=1.20"]


def test_markers_are_those_of_the_target_python() -> None:
    other = "3.8" if sys.version_info[:2] != (3, 8) else "3.9"
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    text = f"""[project]
name = "p"
dependencies = ["old; python_version == '{other}'", "new; python_version == '{here}'",
  "full; python_full_version < '{other}.99' and python_full_version >= '{other}'"]"""
    assert applied(text, python=other) == ["full", "old"]
    assert applied(text, python=here) == ["new"]


def test_the_marker_of_an_extra_joins_the_requirements_own() -> None:
    text = """[project]
name = "p"
[project.optional-dependencies]
x = ["a; python_version < '3.10' or python_version >= '3.12'"]"""
    assert applied(text, ("x",), "3.9") == ["a"]
    assert applied(text, ("x",), "3.11") == []
    assert applied(text, (), "3.9") == []


def test_an_extra_of_url_requirements_is_read() -> None:
    text = '[project]\nname = "p"\n[project.optional-dependencies]\nx = ["a @ https://example.org/a.zip"]'
    assert [one.split(" ")[0] for one in applied(text, ("x",))] == ["a"]


def test_a_missing_build_system_means_setuptools_as_it_was() -> None:
    system = build_system({})
    assert system.backend == LEGACY_BACKEND
    assert [str(one) for one in system.requires] == ["setuptools>=40.8.0", "wheel"]


def test_a_build_system_is_read() -> None:
    text = b'[build-system]\nrequires = ["hatchling>=1"]\nbuild-backend = "hatchling.build"\nbackend-path = ["a", "b"]'
    system = build_system(parse_pyproject(text))
    assert (system.backend, system.backend_path) == ("hatchling.build", ("a", "b"))
    assert [str(one) for one in system.requires] == ["hatchling>=1"]


def test_requirements_without_a_backend_are_built_by_setuptools() -> None:
    assert build_system({"build-system": {"requires": ["setuptools"]}}).backend == LEGACY_BACKEND


@pytest.mark.parametrize(
    ("command", "extras"),
    [
        ("in-dir={env_dir} python -mpip install {wheel_file}[fast]", ("fast",)),
        ("python -m pip install .[fast,io]", ("fast", "io")),
        ("python -m pip install '{build_dir}[fast, io]'", ("fast", "io")),
        ("python -m pip install -e .[all]", ("all",)),
        ("python -m pip install {wheel_file}", ()),
        ("python -m pip install numpy[extra]", ()),
        ("python -m pip install -e {build_dir}/python[fast]", ("fast",)),
        ("python -m pip install ./python[fast]", ("fast",)),
        ("python -m pip install --no-index My.Package[fast] other[slow]", ("fast",)),
        ("uv sync --extra fast --extra=io", ("fast", "io")),
        ("poetry install --extras 'fast io' -E more", ("fast", "io", "more")),
        ("python -m pip install 'unbalanced", ()),
    ],
)
def test_extras_are_read_off_the_commands(command: str, extras: tuple[str, ...]) -> None:
    assert asv_extras([command], "my-package") == extras


@pytest.mark.parametrize(
    ("command", "groups"),
    [
        ("python -m pip install --group bench", ("bench",)),
        ("python -m pip install --group=python/pyproject.toml:bench", ("bench",)),
        ("poetry install --with bench,test", ("bench", "test")),
        ("uv sync --only-group bench --no-dev", ("bench",)),
        ("python -m pip install {wheel_file}", ()),
    ],
)
def test_dependency_groups_are_read_off_the_commands(command: str, groups: tuple[str, ...]) -> None:
    assert asv_groups([command]) == groups


def test_what_an_extra_adds_is_offered_under_the_extra_that_has_it() -> None:
    assert [(extra, str(one)) for extra, one in offered(metadata(STATIC), "3.11")] == [
        ("fast", "numba>=0.50"),
        ("io-all", "fsspec"),
    ]


def test_what_a_marker_rules_out_is_told_but_not_what_an_extra_would_ask_for() -> None:
    assert [one.name for one in ruled_out(metadata(STATIC), "3.11")] == ["tomli"]
    assert ruled_out(metadata(STATIC), "3.10") == []


@pytest.mark.parametrize(
    ("line", "mended"),
    [
        ("numpy >= '1.20'", "numpy>=1.20"),
        ('numpy>="1.20",<2', "numpy<2,>=1.20"),
        ("numpy>=1.20.*", "numpy>=1.20"),
        ("numpy <2.*, >=1.*; python_version < '3.9'", 'numpy<2,>=1; python_version < "3.9"'),
        ("numpy==1.20.*", "numpy==1.20.*"),
    ],
)
def test_what_the_tools_of_its_day_took_is_mended(line: str, mended: str) -> None:
    assert [str(one) for one in requirements([line])] == [mended]
    assert str(specifier(">=3.6.*,<4")) == "<4,>=3.6"


@pytest.mark.parametrize("name", ["a'b", "a\\", "", "\n"])
def test_an_extra_with_an_impossible_name_says_so(name: str) -> None:
    with contextlib.suppress(DeclarationError):
        static_metadata({"project": {"name": "p", "optional-dependencies": {name: ["x"]}}})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"matrix": {"numpy": ["1.20"], "scipy": []}}', ["numpy==1.20", "scipy"]),  # old and flat
        ('{"matrix": {"req": {"numpy": ["1.20"]}}}', ["numpy==1.20"]),
        ('{"matrix": {"pip+pandas": [""]}}', ["pandas"]),
        ('{"matrix": {"req": {"numpy": [null]}}}', []),  # an environment without it
        ('{"matrix": {"req": {"numpy": [null, "1.20"]}}}', ["numpy==1.20"]),
        ('{"matrix": {"req": {"numpy": [""]}}}', ["numpy"]),
        ('{"matrix": {"req": {"numpy": ["1.20", ""]}}}', ["numpy"]),
        ('{"matrix": {"req": {"numpy": "1.26"}}}', ["numpy==1.26"]),
        ('{"matrix": {"req": {"numpy": ["1.26", "1.9", "1.20"]}}}', ["numpy==1.26"]),  # the newest, not the last
        ('{"matrix": {"req": {"numpy": [">=1.20,<2"]}}}', ["numpy<2,>=1.20"]),
        ('{"matrix": {"req": {"numpy": ["1.20.*"]}}}', ["numpy==1.20.*"]),
        ('{"matrix": {"req": {"pandas[performance]": [""]}}}', ["pandas[performance]"]),
        ('{"matrix": {"env": {"A": "b"}}}', []),
    ],
)
def test_requirements_of_the_asv_matrix(text: str, found: list[str]) -> None:
    assert matrix(text) == found


def test_a_matrix_that_is_no_requirement_says_so() -> None:
    with pytest.raises(DeclarationError, match="requirement"):
        matrix('{"matrix": {"req": {"git+https://example.org/x": [""]}}}')


def test_environment_variables_of_the_matrix_take_the_first_value() -> None:
    config = parse(b'{"matrix": {"env": {"A": ["1", "2"], "B": [null, "x"]}, "env_nobuild": {"C": "3"}}}')
    assert asv_environment(config.matrix) == {"A": "1", "C": "3"}


def test_what_cannot_be_an_environment_variable_is_left_out() -> None:
    names = ["A=B", "", "A B", "1A", "OMP_NUM_THREADS"]
    config = parse(json.dumps({"matrix": {"env": {**dict.fromkeys(names, "1"), "N": "a\0b"}}}).encode())
    assert asv_environment(config.matrix) == {"OMP_NUM_THREADS": "1"}


def test_series_of_classifiers() -> None:
    names = ["Programming Language :: Python :: 3.8", "Programming Language :: Python :: 3 :: Only", "x"]
    assert series(names) == ("3.8",)


def test_a_malformed_specifier_says_so() -> None:
    with pytest.raises(DeclarationError, match="requires-python"):
        specifier("~3.8")


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9]([-_.][A-Za-z0-9]){0,2}", fullmatch=True)


@given(st.lists(NAMES, max_size=6), st.dictionaries(NAMES, st.lists(NAMES, max_size=4), max_size=4), st.data())
def test_of_any_package_the_asked_extras_and_nothing_else_apply(
    plain: list[str], extras: dict[str, list[str]], data: st.DataObject
) -> None:
    own = "package-under-test"
    asked = data.draw(st.lists(st.sampled_from(sorted(extras)), unique=True)) if extras else []
    found = static_metadata({"project": {"name": own, "dependencies": plain, "optional-dependencies": extras}})
    assert found is not None
    names = {canonicalize_name(one.name) for one in applying(found, asked, "3.11")}
    wanted = {canonicalize_name(one) for one in asked}
    expected = {canonicalize_name(one) for one in plain}
    for extra, lines in extras.items():
        if canonicalize_name(extra) in wanted:
            expected |= {canonicalize_name(one) for one in lines}
    assert names == expected


@given(st.text(max_size=30))
def test_any_text_is_a_requirement_or_a_declaration_error(text: str) -> None:
    try:
        (found,) = requirements([text])
    except DeclarationError:
        return
    assert isinstance(found, Requirement)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_pyproject_or_a_declaration_error(content: bytes) -> None:
    with contextlib.suppress(DeclarationError):
        read(content)
