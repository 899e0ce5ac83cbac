import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.build.declarations import DeclarationError, applying
from formulamine.build.standing import FILES, Standing, standing


def read(**files: str) -> Standing:
    return standing({name.replace("_", "."): text.encode() for name, text in files.items()})


def required(found: Standing, *extras: str, python: str = "3.11") -> list[str]:
    return sorted(str(one) for one in applying(found.metadata, extras, python))


CFG = "[metadata]\nname = of_cfg\n[options]\ninstall_requires = a\npython_requires = >=3.8\n"


def test_what_pep_621_guarantees_is_final() -> None:
    found = read(pyproject_toml='[project]\nname = "p"\ndependencies = ["a"]', setup_py="setup(name='other')")
    assert found.is_final
    assert found.is_whole
    assert (found.metadata.name, required(found), found.source) == ("p", ["a"], "pyproject.toml")


def test_setup_cfg_and_setup_py_are_evidence() -> None:
    found = read(pyproject_toml="[tool.black]", setup_cfg=CFG, setup_py="setup(install_requires=['b'])")
    assert not found.is_final
    assert found.is_whole
    assert (found.metadata.name, required(found)) == ("of-cfg", ["b"])
    assert (str(found.metadata.requires_python), found.source) == (">=3.8", "setup.cfg and setup.py")


def test_what_is_dynamic_is_unknown_and_the_rest_is_evidence() -> None:
    found = read(setup_py="setup(name='p', python_requires='>=3.9', install_requires=found())")
    assert found.unknown == {"requirements"}
    assert not found.is_whole
    assert str(found.metadata.requires_python) == ">=3.9"


def test_classifiers_alone_do_not_keep_files_from_standing_in() -> None:
    assert read(setup_py="setup(name='p', classifiers=found())").is_whole
    assert not read(setup_py="setup(install_requires=['a'])").is_whole


def test_of_a_project_table_the_dynamic_fields_are_looked_up_elsewhere() -> None:
    project = '[project]\nname = "p"\nrequires-python = ">=3.9"\ndynamic = ["dependencies", "optional-dependencies"]'
    found = read(pyproject_toml=project, setup_cfg=CFG)
    assert (found.metadata.name, str(found.metadata.requires_python)) == ("p", ">=3.9")
    assert (required(found), found.unknown) == (["a"], {"extras"})
    alone = read(pyproject_toml=project)
    assert (str(alone.metadata.requires_python), alone.unknown) == (">=3.9", {"requirements", "extras"})


POETRY = '[tool.poetry]\nname = "p"\n[tool.poetry.dependencies]\npython = "^3.9"\na = "^1.2"\n'
FLIT = '[tool.flit.metadata]\nmodule = "p"\nrequires = ["b"]\n'


def test_a_tools_own_table_counts_where_that_tool_builds() -> None:
    backend = '[build-system]\nrequires = []\nbuild-backend = "{}"\n'
    poetry = read(pyproject_toml=POETRY + backend.format("poetry.core.masonry.api"), setup_cfg=CFG)
    assert (required(poetry), str(poetry.metadata.requires_python)) == (["a<2.0,>=1.2"], "<4.0,>=3.9")
    flit = read(pyproject_toml=FLIT + backend.format("flit_core.buildapi"), setup_cfg=CFG)
    assert required(flit) == ["b"]
    assert required(read(pyproject_toml=POETRY)) == ["a<2.0,>=1.2"]
    assert required(read(pyproject_toml=POETRY + FLIT, setup_cfg=CFG)) == ["a"]
    assert not poetry.is_final


def test_without_any_declaration_all_is_unknown() -> None:
    found = read(pyproject_toml="[tool.black]")
    assert found.unknown == {"name", "requires_python", "classifiers", "requirements", "extras"}
    assert not found.is_whole
    assert not standing({}).is_whole


def test_what_cannot_be_parsed_is_unknown() -> None:
    found = read(
        setup_py="setup(name='p', python_requires='three', install_requires=['a b c'], extras_require={'x': ['?']})"
    )
    assert found.unknown == {"requires_python", "requirements", "extras"}


def test_setuptools_writes_conditions_into_names_of_extras() -> None:
    extras = {":python_version < '3.9'": ["a; os_name == 'x' or os_name != 'x'"], "fast:python_version >= '3.9'": ["b"]}
    found = read(setup_py=f"setup(name='p', extras_require={extras!r})")
    assert required(found, python="3.8") == ["a"]
    assert required(found, "fast", python="3.8") == ["a"]
    assert required(found, "fast", python="3.9") == ["b"]
    assert read(setup_py="setup(name='p', extras_require={'x:no marker': ['a']})").unknown == {"extras"}


def test_a_malformed_pyproject_says_so() -> None:
    with pytest.raises(DeclarationError):
        read(pyproject_toml="[", setup_cfg=CFG)


@given(st.dictionaries(st.sampled_from(FILES), st.binary(max_size=60)))
def test_any_files_stand_for_something_or_are_a_declaration_error(files: dict[str, bytes]) -> None:
    with contextlib.suppress(DeclarationError):
        standing(files)
