"""What the tamper scan finds in environments and installed packages, and what it leaves alone."""

import base64
import hashlib
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uv

from formulamine.build import bytecode, tampering
from formulamine.services.resolver import Interpreter
from formulamine_tests.build.workbench import SERIES

REAL = Path(os.path.realpath(sys.executable))
HERE = Interpreter(SERIES, platform.python_version(), REAL, Path(sys.base_prefix))
SETUPTOOLS_PTH = (
    "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; "
    "enabled and __import__('_distutils_hack').add_shim(); "
)


def record_line(path: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(content)}\n"


def install(packages: Path, name: str, files: dict[str, str], version: str = "1.0") -> None:
    """Unpack a distribution as uv does."""
    info = packages / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ""
    for path, text in files.items():
        place = Path(os.path.normpath(packages / path))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        lines += record_line(path, text.encode())
    (info / "RECORD").write_text(f"{lines}{info.name}/RECORD,,\n")


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment with two distributions, as uv makes them."""
    folder = tmp_path / "environment"
    python = ["--python", str(HERE.path)]
    subprocess.run([uv.find_uv_bin(), "venv", "--quiet", "--no-project", *python, str(folder)], check=True)
    (folder / "pins.txt").write_text("alpha==1.0\n")
    packages = packages_of(folder)
    install(packages, "alpha", {"alpha/__init__.py": "one = 1\n", "alpha.pth": "import alpha\n", "typing.py": ""})
    install(packages, "setuptools", {"distutils-precedence.pth": SETUPTOOLS_PTH, "../../../bin/tool": "#!python\n"})
    assert scan(folder) == []
    return folder


def packages_of(environment: Path) -> Path:
    return environment / "lib" / f"python{SERIES}" / "site-packages"


def scan(environment: Path) -> list[str]:
    return tampering.in_environment(environment, HERE)


def found(environment: Path, words: str) -> None:
    (line,) = scan(environment)
    assert re.search(words, line), line


@pytest.mark.parametrize(
    "name", ["sitecustomize.py", "usercustomize.py", "sitecustomize.pyc", "sitecustomize/__init__.py"]
)
def test_code_that_starts_by_itself(environment: Path, name: str) -> None:
    place = packages_of(environment) / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("import os\n")
    found(environment, "runs whenever Python starts, and no distribution")


def test_a_pth_file_that_runs_code(environment: Path) -> None:
    (packages_of(environment) / "zzz.pth").write_text("# a comment\nimport os; os.environ\n")
    found(environment, r"zzz\.pth runs code whenever Python starts")


def test_a_pth_file_that_only_names_a_folder_is_listed_by_nothing_either(environment: Path) -> None:
    (packages_of(environment) / "zzz.pth").write_text("/tmp/elsewhere\n")
    found(environment, r"zzz\.pth is listed by no distribution")


@pytest.mark.parametrize("path", ["alpha/__init__.py", "alpha.pth", "distutils-precedence.pth", "../../../bin/tool"])
def test_a_file_that_is_no_longer_what_was_installed(environment: Path, path: str) -> None:
    place = packages_of(environment) / path
    place.write_text(place.read_text() + "\n")
    found(environment, f"{re.escape(place.name)} is not what its distribution installed")


@pytest.mark.parametrize(
    "path",
    [
        "alpha/more.py",
        "alpha/__pycache__/__init__.cpython-311.pyc",
        "timeit.py",
        "../os.py",
        "../../../share/x",
        "../../../gcc",
    ],
)
def test_a_file_that_no_distribution_brought(environment: Path, path: str) -> None:
    place = Path(os.path.normpath(packages_of(environment) / path))
    place.parent.mkdir(exist_ok=True)
    place.write_text("x")
    found(environment, "is listed by no distribution")


def test_bytecode_of_what_a_distribution_brought_is_ours(environment: Path) -> None:
    packages = packages_of(environment)
    bytecode.main(str(environment / "lib"))
    (compiled,) = packages.glob("alpha/__pycache__/*.pyc")
    assert scan(environment) == []
    for name in (f"more.{sys.implementation.cache_tag}.pyc", "__init__.cpython-27.pyc", "__init__.pyc"):
        other = compiled.with_name(name)
        other.write_bytes(compiled.read_bytes())
        found(environment, f"{re.escape(name)} is listed by no distribution")
        other.unlink()
    # Believed whatever its source says (PEP 552, unchecked): it would run in its place.
    compiled.write_bytes(compiled.read_bytes()[:4] + (1).to_bytes(4, "little") + compiled.read_bytes()[8:])
    found(environment, "is listed by no distribution")


def test_bytecode_that_a_distribution_brought_goes(environment: Path) -> None:
    package = packages_of(environment) / "alpha"
    for folder in (package, package / "tests"):
        (folder / "__pycache__").mkdir(parents=True)
        (folder / "__pycache__" / "gone.cpython-311.pyc").write_bytes(b"x")
    bytecode.main(str(environment / "lib"))
    assert [path.name for path in package.rglob("*.pyc")] == [f"__init__.{sys.implementation.cache_tag}.pyc"]


@pytest.mark.parametrize("name", ["git", "gcc", "sh"])
def test_a_program_that_no_distribution_brought(environment: Path, name: str) -> None:
    (environment / "bin" / name).write_text("#!/bin/sh\n")
    found(environment, f"bin/{name} is a program that no distribution brought")


def test_a_python_that_is_another_program(environment: Path) -> None:
    python = environment / "bin" / "python"
    for target in ("/bin/sh", "/usr/local/evil/python3", str(environment / "lib" / "python3")):
        python.unlink()
        python.symlink_to(target)
        found(environment, "bin/python is a link to")
    python.unlink()
    python.write_text("#!/bin/sh\n")
    found(environment, "bin/python is a program")


def test_links_pipes_and_sockets_are_named_and_not_opened(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    packages = packages_of(environment)
    (packages / "alpha" / "data").symlink_to(tmp_path / "secret")
    found(environment, "alpha/data is a link to")
    (packages / "alpha" / "data").unlink()
    (packages / "alpha" / "folder").symlink_to("/etc")
    found(environment, "alpha/folder is a link to /etc")
    (packages / "alpha" / "folder").unlink()
    os.mkfifo(packages / "alpha" / "pipe")
    found(environment, "alpha/pipe is neither file, folder nor link")
    (packages / "alpha" / "pipe").unlink()
    place = os.getcwd()
    os.chdir(packages)
    try:
        socket.socket(socket.AF_UNIX).bind("socket")
    finally:
        os.chdir(place)
    found(environment, "socket is neither file, folder nor link")


def test_a_recorded_file_that_became_a_pipe_is_not_waited_for(environment: Path) -> None:
    packages = packages_of(environment)
    for path in ("alpha/__init__.py", "alpha.pth", "alpha-1.0.dist-info/RECORD"):
        content = (packages / path).read_bytes()
        (packages / path).unlink()
        os.mkfifo(packages / path)
        assert any(f"{path} is neither file" in line for line in scan(environment))
        assert tampering.starters(environment, HERE)
        (packages / path).unlink()
        (packages / path).write_bytes(content)


def test_a_record_that_lists_without_a_hash_covers_nothing(environment: Path) -> None:
    packages = packages_of(environment)
    (packages / "evil.py").write_text("")
    for listed in ("evil.py,,", "evil.py,md5=1B2M2Y8AsgTpgAmY7PhCfg,0", "evil.py"):
        install(packages, "beta", {})
        (packages / "beta-1.0.dist-info" / "RECORD").write_text(f"{listed}\nbeta-1.0.dist-info/RECORD,,\n")
        assert any("evil.py" in line for line in scan(environment)), listed
        for path in (packages / "beta-1.0.dist-info" / "RECORD", packages / "beta-1.0.dist-info"):
            path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("was", "becomes", "words"),
    [
        ("include-system-site-packages = false", "include-system-site-packages = true", "packages of the system"),
        ("home = ", "home = /tmp/evil", "names another Python"),
    ],
)
def test_another_configuration(environment: Path, was: str, becomes: str, words: str) -> None:
    file = environment / "pyvenv.cfg"
    file.write_text(file.read_text().replace(was, becomes))
    found(environment, words)


def test_what_uv_writes_for_older_pythons_is_known_by_its_bytes(environment: Path) -> None:
    packages = packages_of(environment)
    program = Path(uv.find_uv_bin()).read_bytes()
    start = program.index(b'"""Patches that are applied at runtime to the virtual environment."""')
    end = program.index(b"sys.meta_path.insert(0, _Finder())\n", start) + len(b"sys.meta_path.insert(0, _Finder())\n")
    (packages / "_virtualenv.pth").write_text("import _virtualenv")
    (packages / "_virtualenv.py").write_bytes(program[start:end])
    assert scan(environment) == []
    assert tampering.starters(environment, HERE) == ["_virtualenv.pth", "alpha.pth", "distutils-precedence.pth"]
    (packages / "_virtualenv.py").write_bytes(program[start:end] + b"import evil\n")
    found(environment, r"_virtualenv\.py is listed by no distribution")


def test_what_is_not_there_is_no_sign(environment: Path) -> None:
    """An extract of an environment in an image: metadata, what is at the top, and the names of programs."""
    packages = packages_of(environment)
    (packages / "alpha" / "__init__.py").unlink()
    (environment / "bin" / "tool").write_text("")
    for name in ("python", "python3"):
        (environment / "bin" / name).unlink()
        (environment / "bin" / name).write_text("")
    (environment / "pyvenv.cfg").unlink()
    assert scan(environment) == []


def test_names_that_are_no_text_are_told_in_one_line(environment: Path) -> None:
    for name in (b"\xff\xfe.py", b"two\nlines.py"):
        with open(os.path.join(os.fsencode(packages_of(environment)), name), "wb"):
            pass
    lines = scan(environment)
    assert len(lines) == 2
    assert all("\n" not in line and line.encode() for line in lines)
    assert any(r"\xff\xfe.py" in line for line in lines)


def test_only_the_first_of_many_are_named(environment: Path) -> None:
    for number in range(50):
        (packages_of(environment) / f"more{number}.py").write_text("")
    assert len(scan(environment)) == tampering.MOST_FINDINGS


class TestSite:
    @pytest.fixture
    def site(self, tmp_path: Path) -> Path:
        """A package installed from sources that have a hook and a plugin of their own."""
        hook, plugin = "def pytest_configure(): pass\n", "def pytest_unconfigure(): pass\n"
        self.tree = tmp_path / "tree"
        for path, text in {"src/toy/__init__.py": "", "src/toy/conftest.py": hook, "src/toy/plugin.py": plugin}.items():
            (self.tree / path).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / path).write_text(text)
        (self.tree / "sitecustomize.py").write_text("print('from the sources')\n")
        site = tmp_path / "site"
        points = "[pytest11]\ntoy = toy.plugin\n[console_scripts]\ntoy = toy:main\n"
        install(site, "toy", {"toy/__init__.py": "", "toy/conftest.py": hook, "toy/plugin.py": plugin, "bin/toy": ""})
        (site / "toy-1.0.dist-info" / "entry_points.txt").write_text(points)
        (site / ".lock").write_text("")
        assert self.scan(site) == []
        return site

    def scan(self, site: Path, distribution: str = "toy") -> list[str]:
        return tampering.in_site(site, self.tree, distribution)

    @pytest.mark.parametrize(
        ("path", "text", "words"),
        [
            ("sitecustomize.py", "import os\n", "runs whenever Python starts"),
            ("usercustomize.cpython-311-x86_64-linux-gnu.so", "", "runs whenever Python starts"),
            ("toy.pth", "import os\n", "runs code whenever Python starts"),
            ("distutils-precedence.pth", SETUPTOOLS_PTH + "\nimport evil\n", "runs code whenever Python starts"),
            ("timeit.py", "", "in front of Python's own timeit"),
            ("gc.cpython-311-x86_64-linux-gnu.so", "", "in front of Python's own gc"),
            ("time/__init__.py", "", "in front of Python's own time"),
            ("asv_runner/__init__.py", "", "in front of the tool that measures"),
            ("asv.py", "", "in front of the tool that measures"),
            ("conftest.py", "", "hook of pytest that is no file of the sources"),
            ("toy/sub/conftest.py", "def pytest_collection(): pass\n", "hook of pytest"),
            ("toy/plugin.py", "evil\n", "plugin of pytest that is no file of the sources"),
            ("bin/git", "", "stands in for a program"),
            ("toy/__pycache__/__init__.cpython-311.pyc", "", "compiled beforehand"),
            ("other-1.0.dist-info/METADATA", "", "more than one distribution"),
        ],
    )
    def test_what_does_not_belong_there(self, site: Path, path: str, text: str, words: str) -> None:
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
        (line,) = self.scan(site)
        assert words in line

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("test/__init__.py", ""),  # a package of Python's own by this name is nobody's business
            ("statistics/data.json", "{}"),  # no module: it stands behind Python's own
            ("distutils-precedence.pth", SETUPTOOLS_PTH),
            ("plain.pth", "toy/vendored\n"),
            ("sitecustomize.py", "print('from the sources')\n"),
            ("tests/helper.py", ""),
        ],
    )
    def test_what_may_stand_there(self, site: Path, path: str, text: str) -> None:
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
        assert self.scan(site) == []

    def test_a_tool_that_is_itself_under_test(self, site: Path) -> None:
        (site / "asv").mkdir()
        (site / "asv" / "__init__.py").write_text("")
        assert self.scan(site, "asv") == []

    @pytest.mark.parametrize(
        "points", ["[pytest11]\ntoy = numpy.testing\n", "[pytest11]\nx = toy.gone:hook\n", "[pytest11\n"]
    )
    def test_a_plugin_from_elsewhere(self, site: Path, points: str) -> None:
        (site / "toy-1.0.dist-info" / "entry_points.txt").write_text(points)
        assert len(self.scan(site)) == 1

    @pytest.mark.parametrize(
        "place", [lambda path: path.symlink_to("/etc/passwd"), lambda path: path.symlink_to("../../up"), os.mkfifo]
    )
    def test_a_link_out_and_a_pipe(self, site: Path, place: Callable[[Path], None]) -> None:
        for name in ("toy/data", "toy/conftest.py"):
            (site / name).unlink(missing_ok=True)
            place(site / name)
            (line,) = self.scan(site)
            assert "link out of the package" in line or "neither file" in line
            (site / name).unlink()

    def test_a_link_inside_is_no_sign(self, site: Path) -> None:
        (site / "toy" / "again.py").symlink_to("__init__.py")
        assert self.scan(site) == []
