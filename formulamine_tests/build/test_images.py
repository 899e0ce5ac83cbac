"""Builds of both sides by the local backend, and what is asked of them, through the step of `images`."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import cast

import pytest

from formulamine.build import digests, facts
from formulamine.build.pair import Pair
from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine.build.recipe import Recipe
from formulamine.items import Done, Failed
from formulamine.records import Image
from formulamine.services.sandbox import Isolation, Sandboxes
from formulamine.settings import BuildSettings, DiskSettings
from formulamine_tests.build.workbench import SERIES, Files, Index, Workbench, project
from formulamine_tests.services.histories import day

FAST = {"src/toy/__init__.py": "def work(): return 1999000  # the closed form\n"}


def built(bench: Workbench, base: Files, head: Files | None = None, **changes: object) -> Image:
    outcome = bench.image_step()(bench.simple_input(bench.repository(base, head or FAST), **changes))
    assert isinstance(outcome, Done), outcome
    return cast(Image, outcome.record)


def failed(bench: Workbench, base: Files, head: Files | None = None, **changes: object) -> Failed:
    outcome = bench.image_step()(bench.simple_input(bench.repository(base, head or FAST), **changes))
    assert isinstance(outcome, Failed), outcome
    return outcome


def pair_of(bench: Workbench, image: Image) -> Pair:
    pair = bench.backend.standing(Recipe.model_validate_json(bench.blobs.get(image.recipe_hash)))
    assert pair is not None
    return pair


def processes(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if text.encode() in command:
                found.append(int(entry.name))
    return found


def test_both_sides_are_built_and_seen_to_be_their_own(bench: Workbench) -> None:
    image = built(bench, project("__version__ = '1.0'\ndef work(): return sum(range(2000))\n"))
    assert (image.backend, image.route, image.attempts) == ("local", "default", 1)
    assert image.import_names == ["toy"]
    assert (image.base_import_path, image.head_import_path) == ("toy/__init__.py", "toy/__init__.py")
    assert (image.base_version, image.head_version) == ("1.0", "")
    assert (image.benchmarks_discovered, image.suite_import_errors, image.pins_installed) == (1, [], 0)
    assert image.base_digest.startswith("tree:sha256:")
    assert image.base_digest != image.measure_digest
    assert image.bytes > 0
    pair = pair_of(bench, image)
    assert "sum" in (pair.base.site / "toy" / "__init__.py").read_text()
    assert "closed form" in (pair.head.site / "toy" / "__init__.py").read_text()
    assert "closed form" in (pair.head.tree / "src" / "toy" / "__init__.py").read_text()


def test_pins_are_installed_and_compared(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", day(1))
    index.add("alpha", "2.0", day(1))
    base = project("import alpha\ndef work(): return alpha.__version__\n")
    image = built(bench, base, pins=["alpha==2.0"], pins_base=["alpha==1.0"])
    assert image.pins_installed == 1
    pair = pair_of(bench, image)
    assert facts.installed(pair.base) == ["alpha==1.0"]
    assert facts.installed(pair.head) == ["alpha==2.0"]
    # What foreign code adds to an environment is seen, although it stands in no list.
    packages = pair.head.environment / "lib" / f"python{SERIES}" / "site-packages"
    (packages / "smuggled-1.0.dist-info").mkdir()
    with pytest.raises(BuildFailed, match=r"smuggled==1\.0"):
        facts.side_facts(pair, pair.head, bench.sandbox(), 1024)


def test_what_is_installed_is_compiled_and_still_gives_way_to_its_source(bench: Workbench, index: Index) -> None:
    index.add("alpha", "1.0", day(1))
    pair = pair_of(bench, built(bench, project("import alpha\ndef work(): return alpha\n"), pins=["alpha==1.0"]))
    packages = pair.base.environment / "lib" / f"python{SERIES}" / "site-packages"
    import_it = [pair.base.seen.python, "-B", "-v", "-c", "import alpha; print(alpha.__version__)"]

    def imported() -> tuple[str, bool]:
        done = subprocess.run(import_it, check=True, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
        (compiled,) = packages.glob("__pycache__/alpha.*.pyc")
        return done.stdout.strip(), f"{compiled} matches" in done.stderr

    assert imported() == ("1.0", True)
    (packages / "alpha.py").write_text("__version__ = 'changed'\n")
    assert imported() == ("changed", False)


def test_a_version_that_is_written_differently_is_the_same_pin(bench: Workbench) -> None:
    image = built(bench, project())
    side = pair_of(bench, image).head
    packages = side.environment / "lib" / f"python{SERIES}" / "site-packages"
    for name in ("Some_Name-2023.07.22", "other.name-1.0.0"):
        (packages / f"{name}.dist-info").mkdir()
    assert facts.installed(side) == ["other-name==1.0.0", "some-name==2023.7.22"]


def test_a_backend_that_fails_says_why_and_leaves_its_log(bench: Workbench) -> None:
    hook = "def build_wheel(*_, **__):\n    print('much ado')\n    raise RuntimeError('no wheel today')\n"
    outcome = failed(bench, project(hook=hook))
    assert outcome.reason == ImageReason.BUILD_FAILED
    assert "no wheel today" in outcome.error
    assert b"much ado" in bench.blobs.get(outcome.error.rpartition("blob ")[2])


@pytest.mark.parametrize("count", [0, 2])
def test_one_wheel_is_expected(bench: Workbench, count: int) -> None:
    hook = f"""
        one_wheel = build_wheel
        def build_wheel(output, *_, **__):
            name = one_wheel(output)
            open(os.path.join(output, "again.whl"), "w").close()
            if {count} == 0:
                for one in os.listdir(output):
                    os.remove(os.path.join(output, one))
            return name
        """
    assert failed(bench, project(hook=hook)).reason == ImageReason.BUILD_FAILED


def test_a_missing_build_backend_is_told_from_a_missing_helper(bench: Workbench) -> None:
    pyproject = '[build-system]\nrequires = []\nbuild-backend = "hatchling.build"\n'
    assert failed(bench, project() | {"pyproject.toml": pyproject}).reason == ImageReason.MISSING_BUILD_BACKEND
    helper = "raise ModuleNotFoundError(\"No module named 'backend_scm'\")\n"
    assert failed(bench, project(hook=helper)).reason == ImageReason.BUILD_FAILED


def test_a_build_that_does_not_end_is_a_timeout_and_leaves_nothing_running(bench: Workbench) -> None:
    bench = Workbench(bench.home, bench.interpreters, build=BuildSettings(build_timeout_s=1))
    bench.own_tools()
    hook = "def build_wheel(*_, **__):\n    import time\n    time.sleep(60)\n"
    outcome = failed(bench, project(hook=hook))
    assert outcome.reason == ImageReason.TIMEOUT
    assert not processes(str(bench.home))


def test_a_package_that_does_not_import_is_named_with_its_error(bench: Workbench) -> None:
    outcome = failed(bench, project(), {"src/toy/__init__.py": "import nothing_like_it\n"})
    assert outcome.reason == ImageReason.IMPORT_ERROR
    assert "nothing_like_it" in outcome.error


def test_a_package_that_ends_the_interpreter_is_an_outcome(bench: Workbench) -> None:
    assert failed(bench, project("raise SystemExit(0)\n")).reason == ImageReason.IMPORT_ERROR
    assert failed(bench, project("import os\nos._exit(0)\n")).reason == ImageReason.IMPORT_ERROR


@pytest.mark.parametrize("answer", ["{", '{"imported": {"toy": 1}}'])
def test_a_package_that_speaks_in_the_probes_place_is_an_outcome(bench: Workbench, answer: str) -> None:
    work = f"import os\nos.write(1, b'''\\nFORMULAMINE_FACTS {answer}\\n''')\nos._exit(0)\n"
    assert failed(bench, project(work)).reason == ImageReason.IMPORT_ERROR


def test_a_package_below_another_that_does_not_import_holds_nothing_up(bench: Workbench) -> None:
    """A wheel may bring a plugin of what nobody installed; the package under test is another."""
    image = built(bench, project() | {"src/toy_plugin/__init__.py": "import pytest_of_old\n"})
    assert image.import_names == ["toy"]


def test_what_only_head_brings_is_not_asked_of_base(bench: Workbench) -> None:
    image = built(bench, project(), FAST | {"src/toy_more/__init__.py": "more = 1\n"})
    assert image.import_names == ["toy"]


def test_a_suite_named_like_the_package_shadows_it_and_is_found_out(bench: Workbench) -> None:
    base = project() | {"toy/__init__.py": "", "toy/bench.py": "import toy\ndef time_it(): pass\n"}
    outcome = failed(bench, base, benchmark_dir="toy")
    assert outcome.reason == ImageReason.SHADOWED


def test_a_benchmarks_package_in_the_wheel_does_not_stand_in_for_the_suite(bench: Workbench) -> None:
    suite = "import toy\ndef time_one(): toy.work()\ndef time_two(): toy.work()\n"
    own = {"src/benchmarks/__init__.py": "", "src/benchmarks/bench.py": "def time_of_the_wheel(): pass\n"}
    image = built(bench, project(suite=suite) | own)
    assert image.benchmarks_discovered == 2
    assert image.import_names == ["toy"]


def test_the_suite_is_that_of_the_merge_commit(bench: Workbench) -> None:
    head = FAST | {"benchmarks/bench.py": "import toy\ndef time_a(): pass\ndef time_b(): pass\ndef time_c(): pass\n"}
    assert built(bench, project(), head).benchmarks_discovered == 3


def test_a_suite_that_does_not_import_is_named_with_its_error(bench: Workbench) -> None:
    outcome = failed(bench, project(suite="import something_missing\ndef time_it(): pass\n"))
    assert outcome.reason == ImageReason.NO_BENCHMARKS
    assert "something_missing" in outcome.error


def test_a_suite_with_one_module_that_does_not_import_goes_on_and_says_so(bench: Workbench) -> None:
    image = built(bench, project() | {"benchmarks/broken.py": "import something_missing\n"})
    assert image.benchmarks_discovered == 1
    assert any("something_missing" in line for line in image.suite_import_errors)


def test_a_suite_without_time_benchmarks_decides_nothing(bench: Workbench) -> None:
    suite = "def track_it(): return 1\ndef mem_it(): return 1\n"
    assert failed(bench, project(suite=suite)).reason == ImageReason.NO_BENCHMARKS


def test_a_suite_that_is_not_there_is_an_outcome(bench: Workbench) -> None:
    assert failed(bench, project(), benchmark_dir="elsewhere").reason == ImageReason.NO_BENCHMARKS


@pytest.mark.parametrize("target", ["/etc", "loop"])
def test_a_suite_that_is_a_link_out_of_the_tree_is_not_followed(bench: Workbench, target: str) -> None:
    outcome = failed(bench, project() | {"loop": (b"120000", target.encode())}, benchmark_dir="loop")
    assert outcome.reason == ImageReason.NO_BENCHMARKS


def test_a_suite_that_is_a_link_inside_the_tree_is_followed(bench: Workbench) -> None:
    assert built(bench, project() | {"perf": (b"120000", b"benchmarks")}, benchmark_dir="perf").benchmarks_discovered


def test_links_inside_a_suite_are_kept_as_links(bench: Workbench) -> None:
    image = built(bench, project() | {"benchmarks/data": (b"120000", b"/etc")})
    link = pair_of(bench, image).suite_parent / "benchmarks" / "data"
    assert os.readlink(link) == "/etc"
    digests.measure_digest(pair_of(bench, image))


def test_a_whole_repository_as_suite_is_an_outcome(bench: Workbench) -> None:
    assert failed(bench, project(), benchmark_dir=".").reason == ImageReason.NO_BENCHMARKS


def test_content_of_head_in_base_is_found(bench: Workbench) -> None:
    secret = "def solved(): return 'the whole solution'\n"
    hook = f"""
        one_wheel = build_wheel
        def build_wheel(output, *_, **__):
            with open("src/toy/fetched.py", "w") as file:
                file.write({secret!r})
            return one_wheel(output)
        """
    outcome = failed(bench, project(hook=hook), {"src/toy/solution.py": secret})
    assert outcome.reason == ImageReason.HEAD_IN_BASE
    assert "toy/fetched.py" in outcome.error


def test_an_empty_file_of_head_is_no_leak(bench: Workbench) -> None:
    built(bench, project(), FAST | {"src/toy/sub/__init__.py": "\n", "src/toy/other.py": "# nothing\n"})


def test_what_a_build_leaves_in_its_tree_is_no_part_of_what_ships(bench: Workbench) -> None:
    hook = """
        import time
        open("left.log", "w").write(str(time.time_ns()))
        os.makedirs("locked", exist_ok=True)
        open("locked/file", "w").close()
        os.chmod("locked", 0o500)
        """
    image = built(bench, project(hook=hook))
    tree = pair_of(bench, image).base.tree
    assert not (tree / "left.log").exists()
    assert not (tree / "locked").exists()
    assert not (tree.parent / "build").exists()


def test_the_same_commits_have_the_same_digests_wherever_they_are_built(bench: Workbench, tmp_path: Path) -> None:
    hook = "import time\nopen('left.log', 'w').write(str(time.time_ns()))\n"
    first = built(bench, project(hook=hook))
    other = Workbench(tmp_path / "other", bench.interpreters)
    other.own_tools()
    again = built(other, project(hook=hook))
    assert (first.base_digest, first.measure_digest) == (again.base_digest, again.measure_digest)
    assert first.recipe_hash == again.recipe_hash


def test_a_digest_changes_with_any_byte_mode_or_link_and_with_nothing_else(bench: Workbench) -> None:
    image = built(bench, project())
    pair = pair_of(bench, image)

    def both() -> tuple[str, str]:
        return digests.base_digest(pair)[0], digests.measure_digest(pair)[0]

    before = both()
    assert before == (image.base_digest, image.measure_digest)
    module = pair.base.site / "toy" / "__init__.py"
    os.utime(module, (1, 1))
    (module.parent / "__pycache__").mkdir()
    (module.parent / "__pycache__" / "x.pyc").write_bytes(b"1")
    (module.parent / "y.pyc").write_bytes(b"1")
    assert both() == before
    text = module.read_bytes()
    for path, change, undo in (
        (module, lambda: module.write_bytes(text + b" "), lambda: module.write_bytes(text)),
        (module, lambda: module.chmod(0o755), lambda: module.chmod(0o644)),
        (module, lambda: module.with_name("link").symlink_to("a"), lambda: module.with_name("link").unlink()),
        (module, lambda: module.with_name("new.py").write_text(""), lambda: module.with_name("new.py").unlink()),
    ):
        change()
        assert both()[0] != before[0], path
        assert both()[1] != before[1], path
        undo()
        assert both() == before
    suite = pair.suite_parent / "benchmarks" / "bench.py"
    suite.write_text(suite.read_text() + "\n")
    assert both()[0] == before[0]
    assert both()[1] != before[1]


def test_standing_says_what_is_there_and_makes_nothing(bench: Workbench) -> None:
    item = bench.simple_input(bench.repository(project(), FAST))
    recipe = item.recipe()
    assert bench.backend.standing(recipe) is None
    assert not (bench.home / "cache" / "suites").exists()
    pair = bench.backend.pair(recipe, item.url, bench.sandbox, item.pr_id)
    assert bench.backend.standing(recipe) == pair
    assert bench.backend.standing(recipe.model_copy(update={"python_version": "3.5"})) is None
    shutil.rmtree(pair.head.tree.parent)
    assert bench.backend.standing(recipe) is None
    assert bench.backend.pair(recipe, item.url, bench.sandbox, item.pr_id) == pair
    assert (pair.head.site / "toy" / "__init__.py").exists()


def test_a_folder_without_its_marker_is_made_anew(bench: Workbench) -> None:
    item = bench.simple_input(bench.repository(project(), FAST))
    recipe = item.recipe()
    pair = bench.backend.pair(recipe, item.url, bench.sandbox, item.pr_id)
    folder = pair.head.tree.parent
    (folder.parent / f".{folder.name}.ready").unlink()
    (pair.head.site / "toy" / "half.py").write_text("half")
    assert bench.backend.standing(recipe) is None
    bench.backend.pair(recipe, item.url, bench.sandbox, item.pr_id)
    assert not (pair.head.site / "toy" / "half.py").exists()


def test_a_build_that_fails_after_saying_it_is_done_does_not_count(bench: Workbench) -> None:
    hook = """
        def build_wheel(*_, **__):
            for name in ("..", "../..", "."):
                for marker in (".ready.json", ".ready"):
                    open(os.path.join(name, marker), "w").write("{}")
            raise RuntimeError("failed")
        """
    files = project(hook=hook)
    commits = bench.repository(files, FAST)
    for _ in range(2):
        outcome = bench.image_step()(bench.simple_input(commits))
        assert isinstance(outcome, Failed)
        assert outcome.reason == ImageReason.BUILD_FAILED


def test_a_tree_that_git_refuses_to_write_is_an_outcome(bench: Workbench) -> None:
    assert failed(bench, project() | {b"git~1": "x"}).reason == ImageReason.BAD_TREE


def test_a_full_disk_is_no_fault_of_a_tree(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a full disk git may say no more than that it could not write."""
    item = bench.simple_input(bench.repository(project() | {b"git~1": "x"}))
    here = Workbench(bench.home, bench.interpreters, uv_cache=bench.uv_cache, disk=DiskSettings(min_free_mb=0))
    here.own_tools()
    nothing_left = shutil.disk_usage(bench.home)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: nothing_left)
    with pytest.raises(OSError, match="No space left") as told:
        here.image_step()(item)
    assert told.value.errno == errno.ENOSPC


def test_a_pin_that_is_not_on_the_index_is_an_outcome(bench: Workbench, index: Index) -> None:
    assert failed(bench, project(), pins=["alpha==1.0"]).reason == ImageReason.INSTALL_FAILED


@pytest.mark.usefixtures("unreachable_index")
def test_an_index_that_does_not_answer_is_the_worlds_fault(bench: Workbench) -> None:
    outcome = failed(bench, project(), pins=["alpha==1.0"])
    assert outcome.reason == ImageReason.INDEX_UNREACHABLE
    assert outcome.infrastructure


def test_foreign_code_without_a_sandbox_does_not_run(bench: Workbench) -> None:
    none = Isolation(bubblewrap=False, why_not="bubblewrap is not installed", cgroups=False)
    bench.sandboxes = Sandboxes(trust=True, is_ours=lambda _: False, cancelled=bench.cancelled, probe=lambda: none)
    outcome = failed(bench, project(hook=f"open({str(bench.home / 'ran')!r}, 'w').close()\n"))
    assert outcome.reason == ImageReason.NO_SANDBOX
    assert outcome.infrastructure
    assert not (bench.home / "ran").exists()


HOSTILE = """
import ctypes, glob, json, shutil, socket, subprocess, sys, time

HOME, PORT, NAME = {home!r}, {port}, {name!r}
FOUND = dict()

def attempt(what, act):
    try:
        FOUND[what] = repr(act())
    except BaseException as error:
        FOUND[what] = "refused: " + type(error).__name__

def connect():
    return socket.create_connection(("127.0.0.1", PORT), timeout=2).getpeername()

def write(path):
    with open(path, "w") as file:
        file.write("was here")
    return "written"

def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", NAME])
        os._exit(0)
    return "forked"

attempt("home", lambda: os.listdir(HOME))
attempt("secret", lambda: open(os.path.join(HOME, "secret")).read())
attempt("passwd", lambda: open("/etc/shadow").read())
attempt("network", connect)
attempt("write home", lambda: write(os.path.join(HOME, "evil")))
attempt("write usr", lambda: write("/usr/evil"))
attempt("write interpreter", lambda: write(os.path.join(sys.base_prefix, "evil")))
attempt("write environment", lambda: write(os.path.join(sys.prefix, "evil")))
attempt("write marker", lambda: write("../.ready.json"))
attempt("replace wheels", lambda: os.rename("../wheels", "../other"))
attempt("make site", lambda: os.symlink("/etc", "../site"))
attempt("processes", lambda: [p for p in os.listdir("/proc") if p.isdigit() and int(p) > 100])
attempt("secrets in variables", lambda: [v for v in os.environ.values() if "hunter2" in v])
attempt("daemon", daemon)
with open("src/toy/found.py", "w") as file:
    file.write("FOUND = " + repr(FOUND))
"""


@pytest.mark.bubblewrap
def test_a_hostile_build_reaches_nothing(jail: Workbench, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_THE_TEST", "hunter2")
    (jail.home / "secret").write_text("hunter2")
    name = f"formulamine-hostile-{os.getpid()}"
    hook = HOSTILE.format(home=str(jail.home), port=index.server.server_port, name=name)
    image = built(jail, project(hook=hook))
    namespace: dict[str, dict[str, str]] = {}
    exec((pair_of(jail, image).base.site / "toy" / "found.py").read_text(), namespace)
    found = namespace["FOUND"]
    assert found.pop("processes") == "[]"
    assert found.pop("secrets in variables") == "[]"
    assert found.pop("daemon") == "'forked'"
    # The folders above those that it was given exist, on a disk in memory that ends with it, and hold nothing else.
    assert "secret" not in found.pop("home")
    for what in ("write home", "write marker", "make site"):
        found.pop(what)
    assert not [path for path in jail.home.rglob("*") if path.name in ("evil", ".ready.json", "other")]
    assert (pair_of(jail, image).base.site).resolve() == pair_of(jail, image).base.site
    allowed = {key: text for key, text in found.items() if not text.startswith("refused")}
    assert not allowed, allowed
    assert not processes(name)
    assert not index.asked


@pytest.mark.bubblewrap
def test_a_build_in_the_sandbox_has_its_sources_and_says_which_limits_held(jail: Workbench) -> None:
    image = built(jail, project())
    assert {"network", "filesystem", "wall_time"} <= set(image.limits)


@pytest.mark.bubblewrap
def test_a_run_that_is_killed_in_the_middle_carries_on_and_leaves_no_process(jail: Workbench) -> None:
    hook = "import time\ndef _slow(): time.sleep(1.5)\n_slow()\n"
    commits = jail.repository(project(hook=hook), FAST)
    item = jail.simple_input(commits)
    program = f"""
        import sys
        from pathlib import Path
        from formulamine.build.images import ImageInput
        from formulamine.services.resolver import Interpreter
        from formulamine_tests.build.workbench import Workbench
        here = eval(sys.argv[1], {{"Interpreter": Interpreter, "PosixPath": Path}})
        bench = Workbench(Path({str(jail.home)!r}), here, isolated=True)
        bench.own_tools()
        print(bench.image_step()(ImageInput.model_validate_json(sys.stdin.read())))
        """
    argv = [sys.executable, "-c", textwrap.dedent(program), repr(jail.interpreters)]
    for wait in (0.0, 0.9):
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as killed:
            assert killed.stdin is not None
            killed.stdin.write(item.model_dump_json().encode())
            killed.stdin.close()
            until = time.monotonic() + 30
            while not list(jail.home.glob("cache/sides/*/build")) and time.monotonic() < until:
                time.sleep(0.02)
            time.sleep(wait)
            killed.send_signal(signal.SIGKILL)
        until = time.monotonic() + 3
        while processes(str(jail.home)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not processes(str(jail.home))
        assert jail.backend.standing(item.recipe()) is None
    assert isinstance(jail.image_step()(item), Done)


SETUPTOOLS = ["setuptools==75.8.0"]
EXTENSION = """
from setuptools import Extension, setup
setup(name="toy", version="1.0", packages=["toy"], package_dir={"": "src"},
      ext_modules=[Extension("toy._speed", ["src/toy/_speed.c"])])
"""
C_SOURCE = """
#include <Python.h>
static PyObject *work(PyObject *self, PyObject *none) { return PyLong_FromLong(%s); }
static PyMethodDef methods[] = {{"work", work, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_speed", "", -1, methods};
PyMODINIT_FUNC PyInit__speed(void) { return PyModule_Create(&module); }
"""


def extension(value: str) -> Files:
    plain = {
        path: text for path, text in project("from toy._speed import work\n").items() if "pyproject" not in str(path)
    }
    return plain | {"setup.py": EXTENSION, "src/toy/_speed.c": C_SOURCE % value}


@pytest.mark.network
@pytest.mark.bubblewrap
def test_compiled_code_is_built_on_both_sides(jail: Workbench) -> None:
    image = built(jail, extension("1"), {"src/toy/_speed.c": C_SOURCE % "2"}, build_pins=SETUPTOOLS)
    pair = pair_of(jail, image)
    (base,), (head,) = ([*side.site.glob("toy/_speed*.so")] for side in (pair.base, pair.head))
    assert base.read_bytes() != head.read_bytes()
    assert image.import_names == ["toy"]


@pytest.mark.network
@pytest.mark.bubblewrap
def test_code_that_does_not_compile_is_told_from_a_backend_that_fails(jail: Workbench) -> None:
    outcome = failed(jail, extension("1"), {"src/toy/_speed.c": C_SOURCE % "nonsense"}, build_pins=SETUPTOOLS)
    assert outcome.reason == ImageReason.COMPILE_ERROR
    assert b"nonsense" in jail.blobs.get(outcome.error.rpartition("blob ")[2])


@pytest.mark.network
@pytest.mark.bubblewrap
@pytest.mark.parametrize(
    ("backend", "requires", "pins", "more"),
    [
        (
            "setuptools.build_meta", '"setuptools", "setuptools-scm"',
            [*SETUPTOOLS, "setuptools-scm==8.1.0", "packaging==24.2"],
            '[tool.setuptools_scm]\nversion_file = "src/toy/_version.py"\n',
        ),
        (
            "hatchling.build", '"hatchling", "hatch-vcs"',
            ["hatchling==1.27.0", "hatch-vcs==0.4.0", "setuptools-scm==8.1.0", "packaging==24.2", "pathspec==0.12.1",
             "pluggy==1.5.0", "trove-classifiers==2025.1.15.22", *SETUPTOOLS],
            '[tool.hatch.version]\nsource = "vcs"\n'
            '[tool.hatch.build.hooks.vcs]\nversion-file = "src/toy/_version.py"\n',
        ),
    ],
)  # fmt: skip
def test_a_version_from_tags_is_found(jail: Workbench, backend: str, requires: str, pins: list[str], more: str) -> None:
    pyproject = (
        f'[build-system]\nrequires = [{requires}]\nbuild-backend = "{backend}"\n'
        f'[project]\nname = "toy"\ndynamic = ["version"]\n{more}'
    )
    work = "from toy._version import version as __version__\ndef work(): pass\n"
    base = {path: text for path, text in project(work).items() if not str(path).startswith(("_build", "METADATA"))}
    commits = jail.repository(base | {"pyproject.toml": pyproject}, {"news.txt": "more"}, tag="v1.2.3")
    outcome = jail.image_step()(jail.simple_input(commits, build_pins=pins))
    assert isinstance(outcome, Done), outcome
    image = cast(Image, outcome.record)
    assert (image.base_version, image.head_version) == ("1.2.3", "1.2.3")


def test_what_the_machine_lacks_is_named_and_tried_again_by_the_next_run(bench: Workbench) -> None:
    outcome = failed(bench, project(hook='raise SystemExit("Could not find geos-config executable.")\n'))
    assert outcome.reason == ImageReason.SYSTEM_PACKAGE
    assert "libgeos-dev" in outcome.error
    assert not outcome.settled
    assert not outcome.infrastructure
