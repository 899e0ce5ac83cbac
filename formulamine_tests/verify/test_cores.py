import os

import pytest

from formulamine.verify import cores


@pytest.mark.parametrize(
    ("idle", "chosen"), [({0: 20, 1: 3}, 0), ({0: 3, 1: 20}, 1), ({0: 5, 1: 5}, 1), ({0: 5, 1: 3, 7: 99}, 0)]
)
def test_the_core_that_idles_most_is_chosen_of_those_that_are_ours(
    monkeypatch: pytest.MonkeyPatch, idle: dict[int, int], chosen: int
) -> None:
    readings = iter([dict.fromkeys(idle, 100), {core: 100 + ticks for core, ticks in idle.items()}])
    monkeypatch.setattr(cores, "_idle", lambda: next(readings))
    monkeypatch.setattr(cores, "IDLE_S", 0.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert cores.quietest_core() == chosen


def test_this_machine_tells_of_each_core() -> None:
    assert set(cores._idle()) >= os.sched_getaffinity(0)
    assert cores.quietest_core() in os.sched_getaffinity(0)
