"""When an interrupt that was held back arrives, and where it goes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from formulamine.interrupts import SIGNALS, held_back


class Told(BaseException):
    """What the handler of before raises."""


@pytest.fixture(autouse=True)
def _raises() -> Iterator[None]:
    def handle(number: int, _: object) -> None:
        raise Told(number)

    before = {one: signal.signal(one, handle) for one in SIGNALS}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_it_arrives_once_at_the_end_of_the_block(number: signal.Signals) -> None:
    seen, done = threading.Event(), []

    def interrupted_twice() -> None:
        with held_back(seen):
            signal.raise_signal(number)
            assert seen.is_set()
            signal.raise_signal(number)
            done.append("to the end")

    with pytest.raises(Told) as told:
        interrupted_twice()
    assert (told.value.args, done) == ((number,), ["to the end"])


def test_it_takes_the_place_of_what_the_block_raised_for_it() -> None:
    def interrupted() -> None:
        with held_back():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("told to end")

    with pytest.raises(Told) as told:
        interrupted()
    assert isinstance(told.value.__context__, ValueError)


def test_what_the_block_raised_goes_on_where_none_came() -> None:
    with pytest.raises(ValueError, match="mine"), held_back():
        raise ValueError("mine")


def test_where_nothing_is_left_to_end_it_is_dropped() -> None:
    with held_back(hand_on=False):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(Told):
        signal.raise_signal(signal.SIGINT)


def test_a_thread_holds_nothing_back_and_is_not_disturbed() -> None:
    done = []

    def work() -> None:
        with held_back():
            done.append("work")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["work"]
