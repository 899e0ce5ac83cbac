import json
from pathlib import Path
from typing import cast

import pytest

from formulamine.build import wheels
from formulamine.build.payloads import PayloadReason
from formulamine.items import Done, Failed
from formulamine.records import EnvPayload
from formulamine.settings import BuildSettings, ResolveSettings
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


def test_commits_that_share_a_backends_answer_ask_for_it_once(
    bench: Workbench, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("more", "3.0", LONG_AGO)
    hook = "def get_requires_for_build_wheel(settings=None): return ['more']\n"
    asked: list[str] = []
    real = bench.backend.call_hook
    monkeypatch.setattr(bench.backend, "call_hook", lambda name, *more: asked.append(name) or real(name, *more))
    step, found = bench.payload_step(), []
    commits = bench.repository(project(hook=hook))
    for key in (None, None, "shared", "shared"):
        monkeypatch.setattr("formulamine.build.payloads.shared_key", lambda *_, key=key: key)
        outcome = step(bench.payload_input(commits))
        assert isinstance(outcome, Done)
        found.append(outcome.record)
        asked.append("|")
    assert all(one == found[0] for one in found)
    assert "".join(asked).replace("get_requires_for_build_wheel", ".") in ("..|..|..||", "..|..|.||")


@pytest.mark.bubblewrap
def test_what_a_machine_happens_to_have_does_not_decide_build_pins(
    jail: Workbench, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("tool", "1.0", day(1))
    hook = "import shutil\ndef get_requires_for_build_wheel(s=None): return [] if shutil.which('git') else ['tool']\n"
    monkeypatch.setattr(wheels, "ASKED_FOR", (Path("/usr/bin/git"), Path("/usr/bin/there-is-none")))
    assert resolved(jail, project(hook=hook)).build_pins == ["tool==1.0"]


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


IMPORTS = (
    "import toy, sklearn\ntry:\n    import maybe\nexcept ImportError:\n    maybe = None\ndef time_work(): toy.work()\n"
)


def test_of_extras_and_groups_only_what_the_suite_imports_is_taken(bench: Workbench, index: Index) -> None:
    for name in ("scikit-learn", "maybe"):
        index.add(name, "1.0", LONG_AGO)
    extras = ["scikit-learn>=1; extra == 'all'", "never; extra == 'all'"]
    groups = '\n[dependency-groups]\nbench = ["maybe<2", "neither", {include-group = "not there"}]\nwork = ["maybe"]\n'
    files = project(dependencies=extras, dynamic=True, suite=IMPORTS)
    files["pyproject.toml"] = str(files["pyproject.toml"]) + groups
    found = resolved(bench, files)
    assert found.pins == ["maybe==1.0", "scikit-learn==1.0"]
    assert found.sources == [
        "maybe <- dependency group work, for benchmarks/bench.py imports maybe",
        "scikit-learn>=1 <- extra all, for benchmarks/bench.py imports sklearn",
    ]


def test_what_the_suite_goes_on_without_does_not_stop_a_resolution(bench: Workbench, index: Index) -> None:
    index.add("scikit-learn", "1.0", LONG_AGO, ["beta<2"])
    index.add("maybe", "1.0", LONG_AGO, ["beta>=2"])
    index.add("beta", "1.0", LONG_AGO)
    files = project(dependencies=["scikit-learn", "maybe; extra == 'x'"], dynamic=True, suite=IMPORTS)
    found = resolved(bench, files)
    assert found.pins == ["beta==1.0", "scikit-learn==1.0"]
    assert found.dropped == ["maybe: does not resolve, and the benchmarks that import it go on without it"]


def test_a_dependency_group_that_asvs_commands_name_is_taken_whole(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", LONG_AGO)
    files = project(asv={"install_command": ["python -m pip install --group bench {wheel_file}"]})
    files["pyproject.toml"] = (
        str(files["pyproject.toml"]) + '\n[dependency-groups]\nbench = ["alpha", "b; os_name==\'x\'"]\n'
    )
    found = resolved(bench, files)
    assert found.pins == ["alpha==1.0"]
    assert found.sources == ["alpha <- dependency group bench, which ASV's commands name"]


def test_a_requirement_whose_marker_is_false_is_recorded(bench: Workbench, index: Index) -> None:
    found = resolved(bench, project(dependencies=["gone>=1; python_version < '3'", "more; extra == 'x'"], dynamic=True))
    assert found.dropped == [f'gone>=1: its marker python_version < "3" is false on Python {SERIES}']


FAILING = "def get_requires_for_build_wheel(settings=None): raise SystemExit('no compiler today')\n"


def without_project(files: Files, setup: str) -> Files:
    text = str(files["pyproject.toml"]).partition("[project]")[0]
    return {**files, "pyproject.toml": text, "setup.py": setup}


def test_files_stand_in_for_a_backend_that_fails(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", LONG_AGO)
    setup = (
        f"from setuptools import setup\nsetup(name='toy', python_requires='=={SERIES}.*', install_requires=['alpha'])"
    )
    found = resolved(bench, without_project(project(hook=FAILING), setup))
    assert (found.distribution, found.pins, found.acceptable_pythons) == ("toy", ["alpha==1.0"], [SERIES])
    assert found.sources == [
        "alpha <- setup.py",
        "toy <- setup.py of head and setup.py of base, since the build backend failed",
    ]
    outcome = failed(bench, without_project(project(hook=FAILING), "setup(name='toy', install_requires=found())"))
    assert outcome.reason == PayloadReason.BUILD_BACKEND_FAILED


def test_what_a_setup_py_imports_without_a_word_is_there_to_build(bench: Workbench, index: Index) -> None:
    """Nothing is guessed: only what the matrix or the package's own files name is taken."""
    for name in ("setuptools", "wheel", "numpy", "cython", "scikit-learn"):
        index.add(name, "50.0", LONG_AGO)
    setup = (
        "import numpy.distutils, sklearn, guessed, os\ntry:\n    import Cython\nexcept ImportError:\n    pass\n"
        "setup(name='toy', install_requires=['scikit-learn'])"
    )
    files = project(asv={"matrix": {"numpy": ["50.0"], "cython": []}})
    files |= {"setup.py": setup, "pyproject.toml": ""}
    found = resolved(bench, files)
    assert found.build_pins == ["numpy==50.0", "scikit-learn==50.0", "setuptools==50.0", "wheel==50.0"]
    assert "numpy==50.0 (to build) <- setup.py imports it, and asv matrix or package metadata names it" in found.sources


def test_a_backend_that_answers_has_the_last_word(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", LONG_AGO)
    setup = "setup(name='other', install_requires=['beta'])"
    found = resolved(bench, without_project(project(dependencies=["alpha"]), setup))
    assert (found.distribution, found.pins) == ("toy", ["alpha==1.0"])


def test_what_stands_in_files_chooses_the_interpreter_that_asks_the_backend(bench: Workbench) -> None:
    outcome = failed(bench, without_project(project(hook=FAILING), "setup(name='toy', python_requires='>=3.99')"))
    assert outcome.reason == PayloadReason.NO_INTERPRETER


def test_however_it_is_written_down_the_same_row_comes_out(bench: Workbench, index: Index) -> None:
    names = ["delta", "alpha", "charlie", "bravo"]
    for name in names:
        index.add(name, "1.0", LONG_AGO)
    rows = []
    for order in (names, names[::-1]):
        lines = [*order, *(f"gone-{name}; python_version < '3'" for name in order), *(f"lost-{one}" for one in order)]
        asv = {"matrix": {"req": {f"never-{name}": [""] for name in order}}}
        rows.append(resolved(bench, project(dependencies=lines, asv=asv)).model_dump_json())
    assert rows[0] == rows[1]
    assert json.loads(rows[0])["pins"] == ["alpha==1.0", "bravo==1.0", "charlie==1.0", "delta==1.0"]


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


def test_what_only_tests_and_setup_files_import_is_not_needed(bench: Workbench, index: Index) -> None:
    more = {"setup.py": "import nowhere\n", "tests/test_a.py": "import nowhere\n", "docs/conf.py": "import nowhere\n"}
    found = resolved(bench, project(dependencies=["nowhere"]) | more)
    assert [line.partition(":")[0] for line in found.dropped] == ["nowhere"]


def test_what_only_the_base_side_imports_is_needed(bench: Workbench, index: Index) -> None:
    base = project("import nowhere\n", dependencies=["nowhere"])
    outcome = failed(bench, base, changed(base, project()))
    assert outcome.reason == PayloadReason.UNRESOLVABLE


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


def test_the_youngest_python_is_a_setting(bench: Workbench) -> None:
    commits = bench.repository(project(requires_python=">=3.8"))
    step = bench.payload_step()
    step.settings = ResolveSettings(min_python="3.8", max_python="3.8")
    outcome = step(bench.payload_input(commits))
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("acceptable: 3.8; on this machine: ")


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


def test_of_several_packages_the_one_that_the_suite_imports_is_taken(bench: Workbench) -> None:
    other = {"other/pyproject.toml": '[project]\nname = "other"\nversion = "1"\n', "other/other/__init__.py": ""}
    found = resolved(bench, project(root="some/where/") | other)
    assert (found.package_root, found.distribution) == ("some/where", "toy")


def test_a_setup_cfg_alone_is_a_package(bench: Workbench, index: Index) -> None:
    for name in ("setuptools", "wheel"):
        index.add(name, "50.0", LONG_AGO)  # empty, so that they do not answer
    files: Files = {path: text for path, text in project().items() if path != "pyproject.toml"}
    files["setup.cfg"] = f"[metadata]\nname = toy\n[options]\npython_requires = =={SERIES}.*\n"
    found = resolved(bench, files)
    assert (found.package_root, found.distribution, found.acceptable_pythons) == (".", "toy", [SERIES])
    assert found.sources == ["toy <- setup.cfg of head and setup.cfg of base, since the build backend failed"]


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
