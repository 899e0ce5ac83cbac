"""What is read of Python from the lines of a hunk, and what each signal of syntax must and must not see."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.discover import syntax_signals
from formulamine.discover.diff import FileDiff, Lines
from formulamine.discover.sieve_rules import load_rules
from formulamine.discover.syntax import Facts, read
from formulamine.discover.syntax_signals import SYNTAX_SIGNALS, Change


def change(text: str) -> Change:
    """Both sides of a hunk whose lines start with `-`, `+` or a blank."""
    (hunk,) = FileDiff("a.py", "a.py", text="\n@@ -10 +20 @@\n" + text).hunks
    before, after = Facts(), Facts()
    read(before, "a.py", hunk.before)
    read(after, "a.py", hunk.after)
    return Change(before, after, load_rules().words)


def seen(text: str) -> set[str]:
    one = change(text)
    return {name for name, signal in SYNTAX_SIGNALS.items() if signal(one)}


CASES = {
    "loop_removed": ("-for x in xs:\n-    out.append(x)\n+out += xs", "-for x in xs:\n+for y in xs:\n     pass"),
    "loop_to_arrays": (
        "-for x in xs:\n-    total += x\n+total = np.add.reduce(xs) + np.sum(xs)",
        "+total = np.sum(xs)",
    ),
    "loop_to_builtin": ("-for x in xs:\n-    total += x\n+total = sum(xs)", "+total = sum(xs)"),
    "arrays_at_once": ("+i = np.searchsorted(a, v)", "-i = np.searchsorted(a, v)\n+i = np.searchsorted(a, v, s)"),
    "out_of_loop": (
        "+n = size(a)\n for x in xs:\n-    out.append(x / size(a))\n+    out.append(x / n)",
        " n = size(a)\n for x in xs:\n-    out.append(x / n)\n+    out.append(n / x)",
    ),
    "fewer_repeated_calls": (" for x in xs:\n-    f(g(x))\n+    f(x)", "-f(g(x))\n+f(x)"),
    "fewer_calls": ("-y = f(g(x))\n+y = f(x)", "-def g(x):\n-    return f(x)\n+pass"),
    "cache": ("+@lru_cache\n def f():\n     pass", "-@lru_cache\n+@lru_cache(None)\n def f():\n     pass"),
    "early_exit": ("+if not xs:\n+    return\n f(xs)", "+if not xs:\n+    xs = []\n f(xs)"),
    "membership": ("-if x in [1, 2]:\n+if x in {1, 2}:\n     pass", "+if x in [1, 2]:\n+    pass"),
    "container": ("-seen = []\n+seen = set()", "-seen = set(a)\n+seen = set(b)"),
    "generator": ("-any([f(x) for x in xs])\n+any(f(x) for x in xs)", "-any([f(x) for x in xs])\n+any(map(f, xs))"),
    "copy_removed": ("-a = b.copy()\n+a = b", "-a = b.copy()\n+a = c.copy()"),
    "no_copy": ("-a.astype(int)\n+a.astype(int, copy=False)", "-a.astype(int)\n+a.astype(int, copy=True)"),
    "allocation": ("+a = np.empty(3)", "-a = np.empty(3)\n+a = np.empty(4)"),
    "dtype": ("-a = ones(3)\n+a = empty(3, dtype=bool)", "+a = empty(3, dtype=bool)"),
    "lazy_import": ("-import pandas\n def f():\n+    import pandas", " def f():\n+    import pandas"),
    "alias": ("+append = out.append", "+append = 3"),
    "cheaper_test": ("-if x == None:\n+if x is None:\n     pass", "+if x is None:\n+    pass"),
    "integer_operation": ("+n >>= 8", "+n += 8"),
    "module_value": ("+TABLE = tuple(range(9))", " def f():\n+    table = 3"),
    "concurrency": ("+import threading", "+import json"),
    "new_function": ("+def f():\n+    pass", "+def _f():\n+    pass"),
    "new_parameter": ("-def f(a):\n+def f(a, b):\n     pass", "+def f(a, b):\n+    pass"),
    "new_error": ("+raise ValueError(x)", '-raise ValueError(x)\n+raise ValueError("x")'),
    "new_warning": ("+warnings.warn(x)", "+inform(x)"),
    "new_handler": ("+try:\n+    f()\n+except OSError:\n+    pass", "-f()\n+g()"),
}


def test_a_parameter_on_a_line_of_its_own_is_new_although_its_function_is_not() -> None:
    assert "new_parameter" in seen(" def f(\n     a,\n+    b=None,\n ):\n     pass")


@pytest.mark.parametrize(
    "text",
    [
        " x = f(a)\n-    the old words of a docstring\n+    other words (of one)\n y = g(a)",
        ' def f():\n     """Say it.\n \n+    It says f(x) if x in xs.\n     """\n     return g(x)',
        "     >>> f(1)\n-    1\n+    >>> g(2)",
        " f(x)\n+# for x in f(y): g(x)\n g(x)",
        "-\n f(x)\n+\n",
    ],
)
def test_what_does_nothing_and_what_stands_around_is_no_fact(text: str) -> None:
    one = change(text)
    assert one.before.counts == one.after.counts == {}


def test_every_signal_is_tried_here() -> None:
    assert set(CASES) == set(SYNTAX_SIGNALS)
    assert {f"syntax {name}" for name in SYNTAX_SIGNALS} <= set(load_rules().priors)


@pytest.mark.parametrize("name", CASES)
def test_a_signal_sees_what_it_must_and_no_more(name: str) -> None:
    must, must_not = CASES[name]
    assert name in seen(must)
    assert name not in seen(must_not)


@pytest.mark.parametrize("name", CASES)
def test_a_signal_shows_a_changed_line(name: str) -> None:
    one = change(CASES[name][0])
    shown = SYNTAX_SIGNALS[name](one)
    assert shown is not None
    mark, fact = shown
    path, number = (one.before if mark == "-" else one.after).places[fact]
    assert path == "a.py"
    assert number >= (10 if mark == "-" else 20)


@pytest.mark.parametrize(
    "text",
    [
        "            f(x)\n        else:\n            g()\n    return 3\n\ndef h():\n    k()",
        "    else:\n        f(x)",  # begins in the midst of a branch
        "    except OSError:\n        f(x)",
        '    the end of a docstring, which is prose\n    """\n    f(x)',
        'def h():\n    f(x)\n    """The beginning of one\n    and more of it',
        "    b, c)\n    f(x)",  # the end of a call
        "f(x)\n@decorated",
        "f(x)\ndef g(a,",
        "f(x)\nif y:",
        "class A:\n    def f(self):\n        return f(x)\n    ]",
    ],
)
def test_code_is_read_although_a_hunk_cuts_it(text: str) -> None:
    facts = Facts()
    lines = text.splitlines()
    read(facts, "a.py", Lines(5, lines, range(len(lines))))
    assert facts.counts.get(("call", "f")) == 1
    _, number = facts.places["call", "f"]
    assert "f(x)" in lines[number - 5]


SOURCE = inspect.getsource(syntax_signals)


@given(st.integers(0, 30), st.integers(1, 30))
def test_any_piece_of_a_program_can_be_read(start: int, length: int) -> None:
    lines = SOURCE.splitlines()[start : start + length]
    facts = Facts()
    read(facts, "a.py", Lines(start, lines, range(len(lines))))
    assert all(start <= number < start + length for _, number in facts.places.values())


@given(st.text(alphabet="abc ()[]{}:'\"#\n\t=\\\0@", max_size=200))
def test_whatever_the_lines_are_nothing_is_raised(text: str) -> None:
    read(Facts(), "a.py", Lines(1, text.split("\n"), [0]))
