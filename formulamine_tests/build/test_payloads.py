import json
from pathlib import Path
from typing import cast

import pytest

from formulamine.build.payloads import PayloadReason
from formulamine.items import Done, Failed
from formulamine.settings import BuildSettings
from formulamine.tables import EnvPayload
from formulamine_tests.build.workbench import MERGED, SERIES, Files, Index, Workbench, project
from formulamine_tests.services.histories import day

LONG_AGO = day(1, month=1, year=2020)


def resolved(bench: Workbench, base: Files, head: Files | None = None, **changes: object) -> EnvPayload:
    outcome = bench.payload_step()(bench.payload_input(bench.repository(base, head), **changes))
    assert isinstance(outcome, Done), outcome
    return cast(EnvPayload, outcome.record)


def failed(bench: Workbench, base: Files, head: Files | None = None, **changes: object) -> Failed:
    outcome = bench.payload_step()(bench.payload_input(bench.repository(base, head), **changes))
    assert isinstance(outcome, Failed), outcome
    return outcome


def changed(base: Files, head: Files) -> Files:
    return {path: text for path, text in head.items() if base.get(path) != text}


def test_a_project_without_requirements_has_an_empty_environment_and_asks_no_index(
    bench: Workbench, index: Index
) -> None:
    found = resolved(bench, project())
    assert (found.distribution, found.package_root, found.python_version) == ("toy", ".", SERIES)
    assert (found.pins, found.pins_base, found.build_pins, found.dropped) == ([], [], [], [])
    assert found.acceptable_pythons == [SERIES]
    assert index.asked == []


def test_static_requirements_are_pinned_with_all_that_they_need(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", LONG_AGO, ["beta>=2"])
    index.add("beta", "2.1", LONG_AGO)
    index.add("beta", "1.0", LONG_AGO)
    found = resolved(bench, project(dependencies=["Alpha", "gone; python_version < '3'"]))
    assert found.pins == ["alpha==1.0", "beta==2.1"]
    assert found.sources == ["alpha <- package metadata"]
    assert found.cutoff_rung == "month_start"
    assert found.cutoff == "2024-02-01T00:00:00+00:00"
    assert found.uv_version == bench.resolver.version


def test_the_same_question_has_the_same_answer(bench: Workbench, index: Index, tmp_path: Path) -> None:
    index.add("alpha", "1.0", LONG_AGO)
    files = project(dependencies=["alpha"], asv={"matrix": {"alpha": [], "env": {"B": "1", "A": "2"}}})
    first = resolved(bench, files)
    assert first == resolved(Workbench(tmp_path / "other", bench.interpreters), files)
    assert first.build_environment_variables == ["A=2", "B=1"]


def test_dynamic_requirements_are_asked_of_the_backend(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", LONG_AGO)
    assert resolved(bench, project(dependencies=["alpha"], dynamic=True)).pins == ["alpha==1.0"]


def test_what_a_backend_needs_to_build_is_pinned_apart(bench: Workbench, index: Index) -> None:
    index.add("tool", "1.0", LONG_AGO)
    index.add("more", "3.0", LONG_AGO)
    hook = "def get_requires_for_build_wheel(settings=None): return ['more']\n"
    found = resolved(bench, project(build_requires=["tool"], hook=hook))
    assert found.build_pins == ["more==3.0", "tool==1.0"]
    assert found.pins == []


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_build_requirement_by_url_is_not_followed(bench: Workbench, index: Index, dynamic: bool) -> None:
    index.add("tool", "1.0", LONG_AGO)
    url = f"{index.url}/elsewhere/tool-9.0-py3-none-any.whl"
    hook = f"def get_requires_for_build_wheel(settings=None): return ['tool @ {url}']\n"
    found = resolved(bench, project(build_requires=[f"tool @ {url}"], hook=hook, dynamic=dynamic))
    assert found.build_pins == ["tool==1.0"]
    assert not [path for path in index.asked if "elsewhere" in path]


def test_a_requirement_by_url_is_not_followed(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", LONG_AGO)
    found = resolved(bench, project(dependencies=[f"alpha @ {index.url}/elsewhere/alpha-9.0.zip"]))
    assert found.pins == ["alpha==1.0"]
    assert found.sources == ["alpha <- package metadata (its URL is not followed)"]
    assert not [path for path in index.asked if "elsewhere" in path]


def test_the_package_itself_is_never_among_its_pins(bench: Workbench, index: Index) -> None:
    index.add("toy", "0.5", LONG_AGO)
    index.add("friend", "1.0", LONG_AGO, ["toy"])
    found = resolved(bench, project(dependencies=["friend"], asv={"matrix": {"pip+Toy": ["0.5"]}}))
    assert found.pins == ["friend==1.0"]


def test_the_suites_matrix_and_extras_are_part_of_the_environment(bench: Workbench, index: Index) -> None:
    for name in ("alpha", "beta", "gamma"):
        index.add(name, "1.0", LONG_AGO)
    files = project(
        dependencies=["alpha", "beta; extra == 'fast'"], dynamic=True,
        asv={"matrix": {"gamma": [""]}, "install_command": ["python -mpip install {wheel_file}[fast]"]},
    )  # fmt: skip
    found = resolved(bench, files)
    assert found.pins == ["alpha==1.0", "beta==1.0", "gamma==1.0"]
    assert "gamma <- asv matrix" in found.sources


def test_an_unknown_requirement_that_is_imported_fails(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", LONG_AGO)
    for line in ("    from nowhere.sub import x", "import os, nowhere.sub as n"):
        work = f"if False:\n    pass\ndef work():\n    import os\n{line}\n"
        outcome = failed(bench, project(work, dependencies=["alpha", "nowhere"]))
        assert outcome.reason == PayloadReason.UNRESOLVABLE
        assert "nowhere" in outcome.error
        assert not outcome.infrastructure


def test_an_unknown_requirement_that_the_benchmarks_import_fails(bench: Workbench, index: Index) -> None:
    outcome = failed(bench, project(dependencies=["nowhere"], suite="import nowhere\n"))
    assert outcome.reason == PayloadReason.UNRESOLVABLE


def test_an_unknown_requirement_that_nothing_imports_is_dropped_and_recorded(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", LONG_AGO)
    work = "# import nowhere later\nimport nowhere_else_really\n"
    found = resolved(bench, project(work, dependencies=["alpha", "nowhere>=1"], asv={"matrix": {"no-where-2": []}}))
    assert found.pins == ["alpha==1.0"]
    assert sorted(line.partition(":")[0] for line in found.dropped) == ["no-where-2", "nowhere>=1"]


def test_a_version_that_does_not_exist_fails(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", LONG_AGO)
    assert failed(bench, project(dependencies=["alpha>=2"])).reason == PayloadReason.UNRESOLVABLE


def test_base_and_head_are_satisfied_together_where_that_can_be(bench: Workbench, index: Index) -> None:
    for version in ("1.0", "1.5", "2.0"):
        index.add("alpha", version, LONG_AGO)
    index.add("beta", "1.0", LONG_AGO)
    base = project(dependencies=["alpha<2"])
    found = resolved(bench, base, changed(base, project(dependencies=["alpha>=1.2", "beta"])))
    assert (found.pins, found.pins_base) == (["alpha==1.5", "beta==1.0"], [])


def test_base_and_head_have_pins_of_their_own_where_nothing_satisfies_both(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", LONG_AGO)
    index.add("alpha", "2.0", LONG_AGO)
    base = project(dependencies=["alpha<2"])
    found = resolved(bench, base, changed(base, project(dependencies=["alpha>=2"])))
    assert (found.pins, found.pins_base) == (["alpha==2.0"], ["alpha==1.0"])


def test_what_only_one_side_asks_for_in_vain_leaves_one_environment(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", LONG_AGO, ["beta<1"])
    index.add("beta", "0.5", LONG_AGO)
    base = project(dependencies=["nowhere-a"])
    found = resolved(bench, base, changed(base, project(dependencies=["alpha"])))
    assert (found.pins, found.pins_base) == (["alpha==1.0", "beta==0.5"], [])
    assert found.dropped


def test_releases_after_the_months_start_are_not_taken(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", LONG_AGO)
    index.add("alpha", "1.1", day(10))
    found = resolved(bench, project(dependencies=["alpha"]))
    assert (found.pins, found.cutoff_rung) == (["alpha==1.0"], "month_start")


def test_what_was_released_within_the_month_is_taken_by_the_merge_date(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", LONG_AGO)
    index.add("alpha", "1.1", day(10))
    index.add("alpha", "1.2", day(25))
    found = resolved(bench, project(dependencies=["alpha>=1.1"]))
    assert (found.pins, found.cutoff_rung, found.cutoff) == (["alpha==1.1"], "merge_date", MERGED.isoformat())


def test_what_came_later_is_taken_where_nothing_else_can_be(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.2", day(25))
    found = resolved(bench, project(dependencies=["alpha"]))
    assert (found.pins, found.cutoff_rung, found.cutoff) == (["alpha==1.2"], "relaxed", "")


def test_together_at_a_later_day_is_preferred_to_apart(bench: Workbench, index: Index) -> None:
    """Two environments blur the verdict; a younger release does not."""
    index.add("alpha", "1.0", LONG_AGO, ["beta<2"])
    index.add("alpha", "1.1", day(10), ["beta"])
    index.add("beta", "1.0", LONG_AGO)
    index.add("beta", "2.0", LONG_AGO)
    base = project(dependencies=["alpha"])
    found = resolved(bench, base, changed(base, project(dependencies=["alpha", "beta>=2"])))
    assert (found.pins, found.pins_base, found.cutoff_rung) == (["alpha==1.1", "beta==2.0"], [], "merge_date")


def test_no_interpreter_names_what_is_here(bench: Workbench) -> None:
    outcome = failed(bench, project(requires_python=">=3.99"))
    assert outcome.reason == PayloadReason.NO_INTERPRETER
    assert outcome.error.startswith("acceptable: none; on this machine: ")
    assert SERIES in outcome.error


def test_an_interpreter_that_is_not_here_is_passed_over_for_one_that_is(bench: Workbench) -> None:
    bench.interpreters = {SERIES: bench.interpreters[SERIES]}
    bench.resolver.__dict__["interpreters"] = bench.interpreters
    found = resolved(bench, project(requires_python=">=3.8", asv={"pythons": ["3.8"]}))
    assert found.python_version == SERIES
    assert found.acceptable_pythons[0] == "3.8"


def test_without_build_files_there_is_no_package(bench: Workbench) -> None:
    files = {path: text for path, text in project().items() if path != "pyproject.toml"}
    assert failed(bench, files).reason == PayloadReason.NO_PACKAGE


def test_a_package_in_a_folder_of_its_own_is_found(bench: Workbench) -> None:
    assert resolved(bench, project(root="python/")).package_root == "python"
    assert (
        resolved(bench, project(root="python/", dynamic=True, asv={"repo_subdir": "python"})).package_root == "python"
    )


def test_a_package_that_base_does_not_have_there_yet_cannot_be_compared(bench: Workbench) -> None:
    for base, root in (({"README": "soon"}, "."), (project(), "python")):
        outcome = failed(
            bench, base, project(root="" if root == "." else "python/") | {"asv.conf.json": '{"repo_subdir": "python"}'}
        )
        assert outcome.reason == PayloadReason.NO_PACKAGE
        assert outcome.error.endswith(f"in {root} at the base commit")


def test_malformed_declarations_are_an_outcome(bench: Workbench) -> None:
    assert failed(bench, project() | {"pyproject.toml": "["}).reason == PayloadReason.BAD_DECLARATION
    assert failed(bench, project() | {"asv.conf.json": "["}).reason == PayloadReason.BAD_DECLARATION
    assert failed(bench, project(dependencies=["a b c"], dynamic=True)).reason == PayloadReason.BAD_DECLARATION
    answer = "def get_requires_for_build_wheel(settings=None): return ['a b c']\n"
    assert failed(bench, project(hook=answer)).reason == PayloadReason.BAD_DECLARATION


def test_a_pyproject_that_is_a_link_to_a_file_of_the_host_is_not_read(bench: Workbench, tmp_path: Path) -> None:
    secret = tmp_path / "secret.toml"
    secret.write_text('[project]\nname = "secret-of-the-host"\nversion = "1"\n')
    outcome = failed(bench, project() | {"pyproject.toml": (b"120000", str(secret).encode())})
    assert outcome.reason == PayloadReason.BAD_DECLARATION
    assert "secret-of-the-host" not in outcome.error


def test_a_backend_that_fails_is_an_outcome(bench: Workbench) -> None:
    hook = "def get_requires_for_build_wheel(settings=None): raise SystemExit('no compiler today')\n"
    outcome = failed(bench, project(hook=hook))
    assert outcome.reason == PayloadReason.BUILD_BACKEND_FAILED
    assert "no compiler today" in outcome.error


def test_a_backend_that_answers_in_the_probes_place_is_an_outcome(bench: Workbench) -> None:
    hook = """
import atexit, os
atexit.register(lambda: os.write(1, b"\\nFORMULAMINE_ANSWER {\\n"))
"""
    assert failed(bench, project(hook=hook)).reason == PayloadReason.BUILD_BACKEND_FAILED


def test_a_backend_that_never_ends_is_a_timeout(bench: Workbench) -> None:
    bench.build = BuildSettings(build_timeout_s=1)
    bench = Workbench(bench.home, bench.interpreters, build=bench.build)
    hook = "def get_requires_for_build_wheel(settings=None):\n    import time\n    time.sleep(60)\n"
    assert failed(bench, project(hook=hook)).reason == PayloadReason.TIMEOUT


def test_a_tree_that_git_refuses_to_write_is_an_outcome(bench: Workbench) -> None:
    assert failed(bench, project() | {b"git~1": "x"}).reason == PayloadReason.BAD_TREE


@pytest.mark.usefixtures("unreachable_index")
def test_an_index_that_does_not_answer_is_the_worlds_fault(bench: Workbench) -> None:
    outcome = failed(bench, project(dependencies=["alpha"]))
    assert outcome.reason == PayloadReason.INDEX_UNREACHABLE
    assert outcome.infrastructure


SETUP_PY = """
import os
from setuptools import setup
print("FORMULAMINE_ANSWER [] is what I say")
needs = ["iniconfig>=2"] if os.path.exists("VERSION") else []
setup(name="toy", version="1.0", packages=[], install_requires=needs)
"""


@pytest.mark.network
@pytest.mark.bubblewrap
def test_requirements_of_a_setup_py_are_asked_for_in_the_sandbox(jail: Workbench) -> None:
    suite = {"asv.conf.json": json.dumps({"pythons": [SERIES]}), "benchmarks/__init__.py": ""}
    found = resolved(jail, {"setup.py": SETUP_PY, "VERSION": "1", **suite})
    assert [pin.partition("==")[0] for pin in found.pins] == ["iniconfig"]
    assert "setuptools" in {pin.partition("==")[0] for pin in found.build_pins}
    assert found.interpreter_source == "asv_pythons"
    assert found.cutoff_rung == "month_start"
