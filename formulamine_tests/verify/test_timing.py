"""What a sample is, on a clock that says what it is told."""

import gc
from collections.abc import Iterator

import pytest

from formulamine.verify.harness import timing
from formulamine.verify.harness.timing import CaseTimer


class Suite:
    """A benchmark as asv_runner has it, with a set-up before each call."""

    type, unit = "time", "seconds"
    _setups = ("setup",)

    def __init__(self) -> None:
        self.done: list[str] = []

    def _build_params(self) -> tuple[()]:
        return ()

    def func(self) -> None:
        self.done.append("call")

    def do_setup(self) -> bool:
        self.done.append("setup")
        return False

    def do_teardown(self) -> None:
        self.done.append("teardown")


@pytest.fixture
def suite() -> Iterator[Suite]:
    yield Suite()
    gc.unfreeze()


def test_one_call_in_which_the_machine_did_something_else_does_not_count(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0j, 2 + 3j, 5 + 5j, 7 + 8j, 10 + 10j, 910 + 990j])  # before and after each of three calls
    timer = CaseTimer(suite, "")
    timer.waits.descriptor = None
    monkeypatch.setattr(timing, "both_clocks", lambda: next(now))
    sample = timer.sample(3, 0)
    assert (sample["cpu"], sample["wall"]) == (6.0, 9.0)
    assert suite.done == ["call", *["teardown", "setup", "call"] * 2]
    assert gc.isenabled()
