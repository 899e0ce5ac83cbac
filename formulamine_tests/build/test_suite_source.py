"""Benchmarks as a suite's source tells them, beside what asv_runner discovers when it runs it."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from formulamine.build import suite_source

DISCOVER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from asv_runner.discovery import disc_benchmarks
found = {one.name for one in disc_benchmarks(sys.argv[1] + "/benchmarks", True) if one.type == "time"}
print(json.dumps(sorted(found)))
"""


def suite(folder: Path, **files: str) -> Path:
    """A suite; "__" in a name stands for a slash, and an __init__.py is made in every folder."""
    for name, text in files.items():
        path = folder / "benchmarks" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(textwrap.dedent(text))
    (folder / "benchmarks" / "__init__.py").touch()
    return folder / "benchmarks"


def discovered(folder: Path) -> list[str]:
    asked = subprocess.run([sys.executable, "-c", DISCOVER, str(folder)], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(asked.stdout.splitlines()[-1])
    return names


EQUAL = {
    "functions and methods": """
        def time_one(): pass
        def timeraw_two(): return ""
        def track_three(): return 3
        def mem_four(): return 4
        def peakmem_five(): pass
        def helper_time_six(): pass
        def _time_seven(): pass
        def TimeEight(): pass
        def Timeless(): pass
        class Suite:
            params = [1, 2]
            def setup(self, n): pass
            def time_nine(self, n): pass
            def TimerawTen(self, n): return ""
            async def other(self): pass
            class Inner:
                def time_eleven(self): pass
        class _Hidden:
            def time_twelve(self): pass
        """,
    "inheritance": """
        class Base:
            def time_one(self): pass
            time_alias = time_one
        class Middle(Base, object):
            def time_two(self): pass
        class Leaf(Middle):
            def time_one(self): pass
            def time_three(self): pass
        """,
    "blocks": """
        import sys
        if sys.version_info > (3, 0):
            def time_one(): pass
        else:
            other = 1
        try:
            import nothing_like_it
        except ImportError:
            class Suite:
                if True:
                    def time_two(self): pass
        for number in range(3):
            def time_three(): pass
        """,
}


@pytest.mark.parametrize("case", EQUAL)
def test_source_and_discovery_agree(tmp_path: Path, case: str) -> None:
    source = suite_source.read(suite(tmp_path, bench=EQUAL[case]))
    found = discovered(tmp_path)
    assert len(found) >= 3
    assert source.benchmarks() == found
    assert all(source.explains(name) for name in found)


def test_modules_packages_and_imports_agree(tmp_path: Path) -> None:
    folder = suite(
        tmp_path,
        common="class Base:\n    def time_base(self): pass\ndef time_shared(): pass\n",
        one="from .common import Base, time_shared\nclass One(Base):\n    def time_own(self): pass\n",
        two="import benchmarks.common as common\nclass Two(common.Base): pass\n",
        three="from . import common\nclass Three(common.Base): pass\n",
        four="from benchmarks.common import Base as Other\nfrom benchmarks.one import One\n",
        sub__five="from ..common import Base\nclass Five(Base): pass\n",
        __init__="def time_root(): pass\n",
    )
    (folder / "loose").mkdir()
    (folder / "loose" / "six.py").write_text("def time_never_found(): pass\n")
    (folder / "not-a-name.py").write_text("def time_found(): pass\n")
    (folder / "dotted.name.py").write_text("def time_never_found(): pass\n")
    (folder / "data.json").write_text("{}")
    (folder / "__init__.py").write_text("def time_root(): pass\n")
    source = suite_source.read(folder)
    found = discovered(tmp_path)
    assert {"sub.five.Five.time_base", "four.Base.time_base", "one.time_shared", "time_root"} <= set(found)
    assert source.benchmarks() == found
    assert all(source.explains(name) for name in found)


GENERATED = {
    "setattr": "class Suite: pass\nfor n in 'ab': setattr(Suite, f'time_{n}', lambda self: None)\n",
    "globals": "for n in 'ab':\n    def work(): pass\n    work.__name__ = n\n    globals()[f'time_{n}'] = work\n",
    "type": "Made = type('Elsewhere', (), {'time_it': lambda self: None})\n",
    "factory": "from .common import make\nMade = make()\n",
    "imported factory": "from .common import Made\n",
    "star": "from .common import *\n",
    "decorator": "from .common import rename\n@rename\ndef time_it(): pass\n",
    "class decorator": "from .common import dress\n@dress\nclass Suite: pass\n",
    "outer base": "from unittest import TestCase\nclass Suite(TestCase):\n    def time_it(self): pass\n",
    "computed base": "from .common import make\nclass Suite(make()):\n    pass\n",
    "metaclass": "from .common import Meta\nclass Suite(metaclass=Meta): pass\n",
    "benchmark_name": "def time_it(): pass\ntime_it.benchmark_name = 'nowhere.at.all.time_it'\n",
    "walrus": "if (Found := __import__('unittest').TestCase): pass\n",
}
COMMON = """
def make():
    class Local:
        def time_made(self): pass
    Local.__name__ = "Otherwise"
    return Local
Made = make()
def rename(function):
    def time_inside(): pass
    return time_inside
def dress(cls):
    class Dressed(cls):
        def time_dressed(self): pass
    return Dressed
class Meta(type):
    def __new__(cls, name, bases, space): return super().__new__(cls, name, bases, {**space, "time_meta": make})
"""


@pytest.mark.parametrize("case", GENERATED)
def test_what_source_cannot_foresee_is_explained(tmp_path: Path, case: str) -> None:
    source = suite_source.read(suite(tmp_path, bench=GENERATED[case], common=COMMON))
    assert [name for name in discovered(tmp_path) if not source.explains(name)] == []


@pytest.mark.parametrize(
    "name",
    ["gone.time_it", "bench.time_other", "bench.Suite.time_other", "bench.Other.time_it", "time_it", "Suite.time_it",
     "bench.Suite.Inner.time_it", "bench", "toy.inner.time_it", "", "bench..time_it"],
)  # fmt: skip
def test_what_no_file_has_is_foreign(tmp_path: Path, name: str) -> None:
    """Names that a package could slip into the list while it is imported."""
    text = "import os\nfrom toy import work\nN = 3\ndef time_it(): pass\nclass Suite:\n    def time_it(self): pass\n"
    source = suite_source.read(suite(tmp_path, bench=text))
    assert source.explains("bench.time_it")
    assert source.explains("bench.Suite.time_it")
    assert not source.explains(name)


def test_what_cannot_be_read_explains_what_is_said_to_be_in_it_and_counts_nothing(tmp_path: Path) -> None:
    deep = "x = " + "1+" * 200_000 + "1\n"
    folder = suite(
        tmp_path, newer="type X[T] = list[T]\ndef time_it(): pass\n", deep=deep, fine="def time_it(): pass\n"
    )
    (folder / "nul.py").write_bytes(b"\0")
    (folder / "large.py").write_text("#" * 3 * 2**20)
    (folder / "compiled.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    (folder / "link.py").symlink_to("/etc/passwd")
    source = suite_source.read(folder)
    assert source.benchmarks() == ["fine.time_it"]
    for module in ("newer", "deep", "nul", "large", "compiled", "link"):
        assert source.explains(f"{module}.Any.time_it")
    assert not source.explains("fine.Any.time_it")


def test_a_circle_and_a_tower_of_classes_end(tmp_path: Path) -> None:
    """What nobody writes, and what would otherwise take forever."""
    wide = "class A0: pass\nclass B0: pass\n"
    wide += "".join(f"class A{n + 1}(A{n}, B{n}): pass\nclass B{n + 1}(B{n}, A{n}): pass\n" for n in range(40))
    tall = "class C0: pass\n" + "".join(f"class C{n + 1}(C{n}): pass\n" for n in range(3000))
    folder = suite(
        tmp_path,
        circle="class A(B): pass\nclass B(A):\n    def time_it(self): pass\n",
        wide=wide,
        tall=tall,
        one="from .other import X\nclass Y(X): pass\n",
        other="from .one import X\n",
    )
    source = suite_source.read(folder)
    assert source.explains("tall.C3000.time_it")  # as deep as nobody looks
    assert "circle.B.time_it" in source.benchmarks()
    assert not source.explains("wide.A40.time_it")


def test_a_pipe_in_a_suite_is_not_waited_for(tmp_path: Path) -> None:
    folder = suite(tmp_path, bench="def time_it(): pass\n")
    os.mkfifo(folder / "pipe.py")
    assert suite_source.read(folder).benchmarks() == ["bench.time_it"]
