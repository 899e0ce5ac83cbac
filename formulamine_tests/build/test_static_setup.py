import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.build.declarations import Fields
from formulamine.build.static_setup import is_package, setup_cfg, setup_fields, setup_py

CFG = """
[metadata]
name = My.Package
classifiers =
    Programming Language :: Python :: 3.9
    Programming Language :: Python :: 3.10
[options]
Python-Requires = >=3.8
install_requires =
    numpy >= 1.20  # for its new thing
    # scipy
    tomli; python_version < "3.11"
[options.extras_require]
fast = numba; bottleneck
IO =
    fsspec
complete =
    %(fast)s
    %(IO)s
"""


def read(text: str) -> Fields:
    return setup_py(text.encode())


def test_a_setup_cfg_is_read_as_setuptools_does() -> None:
    assert setup_cfg(CFG.encode()) == Fields(
        name="My.Package",
        requires_python=">=3.8",
        classifiers=("Programming Language :: Python :: 3.9", "Programming Language :: Python :: 3.10"),
        requirements=("numpy >= 1.20", 'tomli; python_version < "3.11"'),
        extras={"fast": ("numba", "bottleneck"), "IO": ("fsspec",), "complete": ("numba; bottleneck", "fsspec")},
    )


def test_what_a_setup_cfg_fetches_is_unknown() -> None:
    text = "[metadata]\nname = p\nclassifiers = file: x.txt\n[options]\ninstall_requires = file: a.txt\n"
    text += "[options.extras_require]\na = file: b.txt\nb = c\n"
    found = setup_cfg(text.encode())
    assert found == Fields("p", "", None, None, None)


def test_without_a_setup_cfg_nothing_is_given() -> None:
    assert setup_cfg(None) == setup_cfg(b"") == setup_cfg(b"[flake8]\nmax-line-length = 1\n") == Fields()


@pytest.mark.parametrize("text", [b"\xff", b"name = p", b"[a]\nx = 1\nx = 2\n", b"[a\n"])
def test_a_setup_cfg_that_cannot_be_read_is_unknown(text: bytes) -> None:
    assert setup_cfg(text) == Fields(None, None, None, None, None)
    assert not is_package(text)


@pytest.mark.parametrize("value", ["%(nowhere)s", "%(name)s", "%(a)s"])
def test_a_reference_that_leads_nowhere_or_in_a_ring_is_unknown(value: str) -> None:
    text = f"[metadata]\nname = {value}\na = %(b)s\nb = %(a)s\n"
    assert setup_cfg(text.encode()).name is None


def test_a_percent_sign_stands_for_itself() -> None:
    assert setup_cfg(b"[metadata]\nname = a%%b%\n").name == "a%b%"
    assert setup_cfg(b"[metadata]\nname = %%(version)s-%(version)s\nversion = 1\n").name == "%(version)s-1"


def test_a_setup_cfg_that_doubles_itself_is_given_up() -> None:
    doubling = "".join(f"a{one} = {f'%(a{one - 1})s' * 50 if one else 'x' * 50}\n" for one in range(9))
    begun = time.monotonic()
    assert setup_cfg(f"[metadata]\n{doubling}name = %(a8)s\n".encode()).name is None
    assert time.monotonic() - begun < 5


SETUP = """
import sys
from setuptools import setup, find_packages

NAME = "my-" + "package"
core = ["numpy>=1.20", *("scipy",)]
extras = {"fast": ["numba"], 'io': "fsspec\\nh5py # for files"}

def version():
    return "1.0"

setup(
    name=NAME,
    version=version(),
    python_requires=">=3.8",
    packages=find_packages(),
    classifiers=["Programming Language :: Python :: 3.9"],
    install_requires=core + ["tomli; python_version < '3.11'"],
    extras_require=extras,
)
"""


def test_literals_of_a_setup_py_are_read() -> None:
    assert read(SETUP) == Fields(
        name="my-package",
        requires_python=">=3.8",
        classifiers=("Programming Language :: Python :: 3.9",),
        requirements=("numpy>=1.20", "scipy", "tomli; python_version < '3.11'"),
        extras={"fast": ("numba",), "io": ("fsspec", "h5py")},
    )


@pytest.mark.parametrize(
    "text",
    [
        "setup(**{'name': 'p', 'install_requires': ['a']})",
        "setup(**dict(name='p', install_requires=['a']))",
        "given = dict(name='p', install_requires=['a'])\nsetup(**given)",
        "given = {'name': 'p', 'install_requires': ['a']}\nsetup(**given)",
        "import setuptools\nsetuptools.setup(name='p', install_requires='a')",
        "if __name__ == '__main__':\n    setup(name='p', install_requires=('a',))",
        "def run():\n    setup(name='p', install_requires=['a'])\nrun()",
        "names = {'own': 'p'}\nlines = {'all': ['a']}\nsetup(name=names['own'], install_requires=lines['all'])",
        "name: str = 'p'\nlines: list = ['a']\nsetup(name=name, install_requires=lines)",
        "name = 'p'\nprint(name.upper())\nlines = ['a']\nprint(len(lines))\nsetup(name=name, install_requires=lines)",
        "exec(open('version.py').read(), space)\nname = 'p'\nsetup(name=name, install_requires=['a'])",
    ],
)
def test_ways_to_write_the_same(text: str) -> None:
    assert read(text) == Fields(name="p", requirements=("a",))


@pytest.mark.parametrize(
    "text",
    [
        "lines = ['a']\nlines.append('b')\n",
        "lines = ['a']\nlines += ['b']\n",
        "lines = ['a']\nlines[0] = 'b'\n",
        "lines = ['a']\ndel lines[0]\n",
        "lines = ['a']\nif windows:\n    lines = ['b']\n",
        "if windows:\n    lines = ['b']\n",
        "lines = ['a']\nchange(lines)\n",
        "lines = ['a']\nchange(more=[lines])\n",
        "lines = ['a']\nother = lines\nother.append('b')\n",
        "lines = ['a']\nall = {'x': lines}\nall['x'].append('b')\n",
        "from helper import lines\n",
        "from helper import *\nlines = ['a']\n",
        "lines = ['a']\nexec(open('more.py').read())\n",
        "lines = ['a']\nglobals()['lines'] = ['b']\n",
        "lines = ['a']\ndef f():\n    global lines\n    lines = ['b']\n",
        "lines = ['a']\nfor lines in x: pass\n",
        "lines = ['a']\nwith x as lines: pass\n",
        "lines = ['a']\ntry: pass\nexcept E as lines: pass\n",
        "lines = ['a']\nmatch x:\n    case [*lines]: pass\n",
        "lines = lines2\n",
        "lines = ['a'] * 2\n",
        "lines = open('requirements.txt').read()\n",
        "lines = [one for one in 'ab']\n",
        "lines = ['a' if windows else 'b']\n",
        "lines = ['a', 7]\n",
        "lines = f'{a}'\n",
        "lines = lines\n",
        "lines = {'x': ['a']}['y']\n",
        "lines = b'a'\n",
        "a = b\nb = a\nlines = a\n",
    ],
)
def test_what_only_code_knows_is_unknown_and_the_rest_is_not(text: str) -> None:
    found = read(f"{text}setup(name='p', install_requires=lines)\n")
    assert found.requirements is None
    assert (found.name, found.extras) == ("p", {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "print 'python 2'\nsetup(name='p')",
        "setup(name='p')\nsetup(name='q')",
        "def setup(**given): pass\nsetup(name='p')",
        "setup = print\nsetup(name='p')",
        "import distutils.core",
        "\0",
        "x = " + "(" * 500,
        "x = " + "-" * 100_000 + "1",
        "x = y" + ".z" * 100_000,
        "#" * 1_000_001,
    ],
)
def test_without_one_readable_call_all_is_unknown(text: str) -> None:
    assert read(text) == Fields(None, None, None, None, None)


def test_arguments_out_of_sight_leave_only_the_named_ones_known() -> None:
    assert read("setup(name='p', **more)") == Fields("p", None, None, None, None)
    assert read("setup(*more, name='p')") == Fields("p", None, None, None, None)
    assert read("more = dict(x)\nsetup(name='p', **more)") == Fields("p", None, None, None, None)


def test_a_setup_py_that_doubles_itself_is_given_up() -> None:
    doubling = "a0 = ['x', 'y']\n" + "".join(f"a{one} = a{one - 1} + a{one - 1}\n" for one in range(1, 60))
    begun = time.monotonic()
    assert read(f"{doubling}setup(name='p', install_requires=a59)").requirements is None
    assert time.monotonic() - begun < 5


def test_what_setup_is_given_wins_over_setup_cfg() -> None:
    cfg = b"[metadata]\nname = of-cfg\n[options]\ninstall_requires = a\npython_requires = >=3.8\n"
    both = setup_fields(cfg, b"setup(name='of-code', install_requires=[], python_requires=found())")
    assert both == Fields("of-code", None, (), ("a",), {})
    assert setup_fields(cfg, b"setup()") == setup_fields(cfg, None) == setup_cfg(cfg)
    assert setup_fields(None, b"setup(name='p')") == Fields("p")


WORDS = [
    "setup",
    "(",
    ")",
    "name",
    "=",
    "'p'",
    "[",
    "]",
    "lines",
    "{",
    "}",
    ":",
    ",",
    "**",
    "\n",
    "+",
    "dict",
    "if",
    " ",
]


@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=25).map("".join))
def test_any_text_is_read_without_an_error(text: str) -> None:
    content = text.encode("utf-8", "surrogatepass")
    assert isinstance(setup_py(content), Fields)
    assert isinstance(setup_cfg(content), Fields)
    assert isinstance(setup_cfg(b"[metadata]\nname = x\n[options]\n" + content), Fields)
    assert isinstance(is_package(content), bool)


LINES = st.lists(st.from_regex(r"[a-z]{1,5}(>=[0-9])?", fullmatch=True), max_size=3)


@given(LINES, st.dictionaries(st.from_regex(r"[a-z]{1,4}", fullmatch=True), LINES, max_size=3), st.booleans())
def test_whatever_literals_are_written_come_back(
    lines: list[str], extras: dict[str, list[str]], is_named: bool
) -> None:
    text = f"lines = {lines!r}\nextras = {extras!r}\n" if is_named else ""
    given_ = "lines, extras_require=extras" if is_named else f"{lines!r}, extras_require={extras!r}"
    found = read(f"{text}setup(name='p', install_requires={given_})")
    assert found.requirements == tuple(lines)
    assert found.extras == {name: tuple(several) for name, several in extras.items()}
