"""What benchmarks give back on both sides, compared; real children where a call is made."""

import json
import math
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.verify.harness.returned import LARGEST, comparable, said
from formulamine.verify.lockstep import Lockstep
from formulamine.verify.returned import Returned, alike, call_once, from_json, to_json
from formulamine.verify.side import Limits
from formulamine_tests.verify.conftest import Toy

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


def differs(base: object, head: object) -> bool:
    return Returned("bench.time_it", json.dumps(said(base)), json.dumps(said(head))).differs


@given(VALUES)
def test_a_value_is_like_itself(value: Any) -> None:
    assert not differs(value, value)
    found = Returned("bench.time_it", json.dumps(said(value), allow_nan=False))
    assert from_json(to_json([found])) == [found]


@pytest.mark.parametrize(
    ("base", "head"),
    [(1, 2), (1.0, 1.01), ("a", "b"), (b"a", "a"), ([1, 2], [1, 2, 3]), ([1, 2], [2, 1]), ({"a": 1}, {"a": 2}),
     ({1}, {2}), (True, False), ("x" * 999, "x" * 998 + "y"), (math.nan, 1.0), (2**2000, 2**2000 + 1), (1j, 2j)],
)  # fmt: skip
def test_what_is_not_the_same_differs(base: object, head: object) -> None:
    assert differs(base, head)


@pytest.mark.parametrize(
    ("base", "head"),
    [(1.0, 1.0 + 1e-9), (2, 2.0), ([1], (1,)), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({"a", "b"}, {"b", "a"}),
     (None, 3), (object(), object()), ([object()], [7]), (Counter("ab"), {"a": 1, "b": 1})],
)  # fmt: skip
def test_what_is_the_same_or_says_nothing_does_not(base: object, head: object) -> None:
    assert not differs(base, head)


def test_what_is_too_much_to_say_is_not_said() -> None:
    assert said([["x" * 190] * 1000] * 1000) is None
    assert len(json.dumps(said(list(range(10**6))))) < LARGEST


def test_arrays_are_compared_by_shape_and_a_sample() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(12.0).reshape(3, 4)
    assert comparable(array)[:2] == ["array", [3, 4]]
    assert not differs(array, array + 1e-12)
    assert differs(array, array.T)
    assert differs(array, array + 1)
    assert not differs(numpy.float64(1), 1.0)


def test_numbers_beside_words_are_not_alike() -> None:
    assert not alike(1.0, "one")


SUITE = """
import random, toy
def time_same(): return [toy.work(), random.random()]
def time_other(): return {"found": toy.other()}
def time_nothing(): toy.work()
def time_fails(): return toy.fails()
"""
BASE = "def work(): return 3\ndef other(): return 4.0\ndef fails(): return 1\n"


def test_confirmed_benchmarks_are_called_once_on_both_sides(toy: Callable[..., Toy]) -> None:
    head = BASE.replace("4.0", "5.0").replace("return 1", "raise ValueError('no')")
    made = toy(BASE, head, bench=SUITE)
    names = ["bench.time_same", "bench.time_other", "bench.time_nothing", "bench.time_fails", "bench.time_unknown"]
    with Lockstep(made.launch("base"), made.launch("head"), Limits(), threading.Event(), 7) as lockstep:
        found = {one.benchmark: one for one in call_once(lockstep, names)}
    assert list(found) == names[:4]
    assert [name for name, one in found.items() if one.differs] == ["bench.time_other"]
    assert found["bench.time_nothing"].base == "null"
    assert "ValueError: no" in found["bench.time_fails"].detail
