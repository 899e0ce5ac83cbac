"""Changes of a recipe: what fits, what is allowed, and what is said where not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from formulamine.build import recipe_change
from formulamine.build.recipe import Recipe
from formulamine.build.recipe_change import ChangeRefused, PinChange, RecipeChange, Setting, apply
from formulamine.services.resolver import Unresolvable

RECIPE = Recipe(
    repo="o/r",
    base_sha="b" * 40,
    merge_sha="a" * 40,
    python_version="3.9",
    distribution="The.Package",
    package_root=".",
    pins=["numpy==1.26.0", "pandas==2.0.0"],
    pins_base=[],
    build_pins=["cython==3.0.0", "setuptools==70.0.0"],
    environment_variables={"USE_X": "1"},
    benchmark_dir="benchmarks",
)


def change(**parts: Any) -> RecipeChange:
    nothing: dict[str, Any] = {
        "diagnosis": "why", "pins": [], "variables": [], "config_settings": [], "system_packages": [], "give_up": False
    }  # fmt: skip
    return RecipeChange.model_validate(nothing | parts)


def pin(requirement: str, of: str = "build", action: str = "set") -> dict[str, str]:
    return {"of": of, "action": action, "requirement": requirement}


def setting(name: str, value: str = "1", action: str = "set") -> dict[str, str]:
    return {"action": action, "name": name, "value": value}


def refusal(made: RecipeChange, recipe: Recipe = RECIPE, **more: Any) -> str:
    with pytest.raises(ChangeRefused) as told:
        apply(recipe, made, **more)
    return str(told.value)


class TestPins:
    @pytest.mark.parametrize(
        ("asked", "after"),
        [
            ([pin("Cython==0.29.36")], ["cython==0.29.36", "setuptools==70.0.0"]),
            ([pin("setuptools_scm == 8.0")], ["cython==3.0.0", "setuptools-scm==8.0", "setuptools==70.0.0"]),
            ([pin("cython", action="remove")], ["setuptools==70.0.0"]),
            ([pin("cython==3.0.0", action="remove"), pin("setuptools==59.0")], ["setuptools==59.0"]),
        ],
    )
    def test_they_are_set_and_removed_as_an_environment_shows_them(self, asked: Any, after: list[str]) -> None:
        made = apply(RECIPE, change(pins=asked))
        assert made.build_pins == after
        assert made.pins == RECIPE.pins
        assert RECIPE.build_pins == ["cython==3.0.0", "setuptools==70.0.0"]

    def test_run_time_pins_of_both_sides_change(self) -> None:
        two = RECIPE.model_copy(update={"pins_base": ["numpy==1.25.0"]})
        made = apply(two, change(pins=[pin("numpy==1.24.0", of="run")]))
        assert (made.pins, made.pins_base) == (["numpy==1.24.0", "pandas==2.0.0"], ["numpy==1.24.0"])
        assert apply(RECIPE, change(pins=[pin("numpy==1.24.0", of="run")])).pins_base == []

    def test_other_requirements_are_resolved_with_the_pins_that_stay(self) -> None:
        seen: list[tuple[str, Sequence[str]]] = []

        def resolve(of: str, lines: Sequence[str]) -> list[str]:
            seen.append((of, lines))
            return ["cython==0.29.37", "setuptools==70.0.0"]

        asked = change(pins=[pin("cython<3"), pin("scipy[x]==1.0", of="run")])
        assert apply(RECIPE, asked, resolve).build_pins == ["cython==0.29.37", "setuptools==70.0.0"]
        assert seen == [
            ("build", ["cython<3", "setuptools==70.0.0"]),
            ("run", ["numpy==1.26.0", "pandas==2.0.0", "scipy[x]==1.0"]),
        ]

    def test_what_cannot_be_resolved_is_told(self) -> None:
        def resolve(of: str, lines: Sequence[str]) -> list[str]:
            raise Unresolvable("numpy==1.26.0 needs\n python>=3.9", frozenset())

        assert "needs python>=3.9" in refusal(change(pins=[pin("numpy<9", of="run")]), resolve=resolve)
        assert "name==version" in refusal(change(pins=[pin("numpy<9", of="run")]))

    @pytest.mark.parametrize(
        "requirement",
        [
            "x @ https://evil.example/x.whl", "x @ file:///etc/passwd", "git+https://evil.example/x", "-r other.txt",
            "--index-url=https://evil.example x", "./x", "x==1; python_version<'3'", "x==1\n--pre", "", "x; rm -rf /",
            "the-package==1.0", "The_Package<2", "asv==0.6", "asv_runner==0.2",
        ],
    )  # fmt: skip
    def test_what_is_not_to_be_pinned(self, requirement: str) -> None:
        assert refusal(change(pins=[pin(requirement)]), resolve=lambda of, lines: list(lines))

    def test_what_is_not_there_cannot_be_removed(self) -> None:
        assert "not among the run pins" in refusal(change(pins=[pin("cython", of="run", action="remove")]))


class TestVariables:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("CFLAGS", "-O2 -Wno-error=incompatible-pointer-types -I/usr/include/x"),
            ("LDFLAGS", "-L/usr/lib/x -lgeos_c"),
            ("SETUPTOOLS_SCM_PRETEND_VERSION", "1.2.3"),
            ("NPY_BLAS_ORDER", "openblas"),
            ("CMAKE_ARGS", "-DUSE_SYSTEM=ON"),
            ("HDF5_DIR", "/usr/lib/x86_64-linux-gnu/hdf5/serial"),
            ("SKLEARN_NO_OPENMP", "1"),
        ],
    )
    def test_what_builds_want_is_set(self, name: str, value: str) -> None:
        made = apply(RECIPE, change(variables=[setting(name, value)]))
        assert made.environment_variables == {"USE_X": "1", name: value}

    def test_they_are_removed(self) -> None:
        assert apply(RECIPE, change(variables=[setting("USE_X", "", "remove")])).environment_variables == {}
        assert "not set" in refusal(change(variables=[setting("USE_Y", "", "remove")]))

    @pytest.mark.parametrize(
        "name",
        [
            "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONHASHSEED", "PATH", "HOME", "path",
            "BASH_ENV", "ENV", "IFS", "SHELL", "TMPDIR", "UV_INDEX_URL", "PIP_INDEX_URL", "HTTPS_PROXY", "http_proxy",
            "GIT_SSH_COMMAND", "OMP_NUM_THREADS", "NUMEXPR_NUM_THREADS", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "CC",
            "CXX", "RUSTC_WRAPPER", "CMAKE_C_COMPILER_LAUNCHER", "CARGO_TARGET_X_RUNNER", "OPENAI_API_KEY", "MY_TOKEN",
            "ASV_X", "FORMULAMINE_HOME", "DISTUTILS_DEBUG", "MAKEFLAGS", "A B", "A=B", "1A", "", "A" * 65, "É",
        ],
    )  # fmt: skip
    def test_what_would_decide_what_runs_is_not(self, name: str) -> None:
        assert refusal(change(variables=[setting(name)]))

    @pytest.mark.parametrize(
        "value",
        [
            "$(rm -rf /)", "`id`", "a; b", "a | b", "a && b", "a > b", "a\nB=c", "a\0", "é", "x" * 501,
            "-wrapper sh,-c", "-O2 -fplugin=./x.so", "-B.", "@options", "-Wl,-rpath,/x", "-specs=x",
            "-DCMAKE_C_COMPILER=/x", "-DCMAKE_CXX_COMPILER_LAUNCHER=x", "-C linker=x",
        ],
    )  # fmt: skip
    def test_values_are_no_commands(self, value: str) -> None:
        assert refusal(change(variables=[setting("CFLAGS", value)]))
        assert "value" in refusal(change(config_settings=[setting("setup-args", value)]))


class TestSystemPackages:
    @pytest.mark.parametrize("name", ["libgeos-dev", "g++", "libstdc++6", "python3.11-dev", "zlib1g-dev"])
    def test_debians_names(self, name: str) -> None:
        asked = change(system_packages=[name])
        if "system_packages" in Recipe.model_fields:
            assert apply(RECIPE, asked).model_dump()["system_packages"] == [name]
        else:
            assert "system_packages cannot be changed" in refusal(asked)

    @pytest.mark.parametrize(
        "name", ["libgeos-dev-", "-y", "a b", "Lib", "a;b", "x=1", "x/stable", "./x.deb", "", "a" * 65, "libx:i386"]
    )
    def test_other_words_are_none(self, name: str) -> None:
        assert "Debian" in refusal(change(system_packages=[name]))


class TestConfigSettings:
    def test_they_are_set_where_a_recipe_has_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = change(config_settings=[setting("setup-args", "-Dblas=openblas")])
        if "config_settings" not in Recipe.model_fields:
            assert "config_settings cannot be changed here" in refusal(asked)

            class WithSettings(Recipe):
                config_settings: dict[str, str] = {}  # noqa: RUF012  # pydantic copies it

            monkeypatch.setattr(recipe_change, "Recipe", WithSettings)
        made = apply(recipe_change.Recipe.model_validate(RECIPE.model_dump()), asked)
        assert made.model_dump()["config_settings"] == {"setup-args": "-Dblas=openblas"}

    @pytest.mark.parametrize("name", ["a b", "", "a=b", "x" * 65])
    def test_their_names(self, name: str) -> None:
        assert "no name of a setting" in refusal(change(config_settings=[setting(name)]))


class TestWholeChanges:
    def test_all_that_is_wrong_is_told_at_once(self) -> None:
        told = refusal(change(pins=[pin("x @ file:///x")], variables=[setting("PATH")], system_packages=["A"]))
        assert len(told.splitlines()) >= 3

    def test_one_that_changes_nothing_is_refused(self) -> None:
        assert "changes nothing" in refusal(change())
        assert "changes nothing" in refusal(change(pins=[pin("cython==3.0.0")]))

    def test_giving_up_changes_nothing(self) -> None:
        assert apply(RECIPE, change(give_up=True)) == RECIPE
        assert "give_up" in refusal(change(give_up=True, pins=[pin("cython==0.29")]))

    @pytest.mark.parametrize(
        "more",
        [
            {"commands": ["make"]},
            {"base_sha": "c" * 40},
            {"benchmark_dir": "x"},
            {"checks": []},
            {"python_version": "3.12"},
        ],
    )
    def test_there_is_no_word_for_anything_else(self, more: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            change(**more)

    def test_what_is_no_part_of_a_change_stays(self) -> None:
        made = apply(RECIPE, change(pins=[pin("cython==0.29.36")], variables=[setting("A")]))
        same = made.model_dump(exclude={"build_pins", "environment_variables"})
        assert same == RECIPE.model_dump(exclude={"build_pins", "environment_variables"})

    def test_every_field_is_asked_for(self) -> None:
        for model in (RecipeChange, PinChange, Setting):
            schema = model.model_json_schema()
            assert schema["required"] == list(model.model_fields)
            assert schema["additionalProperties"] is False
