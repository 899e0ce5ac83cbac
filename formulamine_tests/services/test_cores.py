"""Functions on processes of their own: what they answer, what they raise, and that none is left."""

from __future__ import annotations

import math
import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from formulamine.services.cores import CoreLost, Cores

PARENT = """
import os, threading, time
from formulamine.services.cores import Cores
cores = Cores(2)
threading.Thread(target=cores.run, args=(time.sleep, 1), daemon=True).start()
print(cores.run(os.getpid), flush=True)
time.sleep(60)
"""


@pytest.fixture
def cores() -> Iterator[Cores]:
    made = Cores(2)
    yield made
    made.close()


def test_it_answers_what_the_function_answers(cores: Cores) -> None:
    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(lambda number: cores.run(operator.mul, number, b"ab" * 50_000), range(30)))
    assert told == [b"ab" * 50_000 * number for number in range(30)]


def test_there_are_no_more_processes_than_it_may_start(cores: Cores) -> None:
    with ThreadPoolExecutor(6) as pool:
        pids = set(pool.map(lambda _: (time.sleep(0.01), cores.run(os.getpid))[1], range(30)))
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids


def test_what_a_function_raises_is_raised_here_and_the_process_goes_on(cores: Cores) -> None:
    with pytest.raises(ZeroDivisionError):
        cores.run(operator.truediv, 1, 0)
    with pytest.raises(ValueError, match="math domain"):
        cores.run(math.sqrt, -1)
    assert cores.run(math.sqrt, 4) == 2


def test_what_a_function_prints_is_no_answer(cores: Cores) -> None:
    assert cores.run(print, "said") is None
    assert cores.run(math.sqrt, 4) == 2


def test_a_process_that_ends_in_the_midst_of_a_call_is_told(cores: Cores) -> None:
    with pytest.raises(CoreLost):
        cores.run(os._exit, 3)


def test_another_comes_in_place_of_one_that_is_lost(cores: Cores) -> None:
    for _ in range(5):
        with pytest.raises(CoreLost):
            cores.run(os._exit, 3)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda number: cores.run(operator.neg, number), range(30))) == [-one for one in range(30)]


def test_closing_ends_a_call_under_way(cores: Cores) -> None:
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(cores.run, time.sleep, 60)
        while not under_way.running():
            time.sleep(0.01)
        time.sleep(0.2)
        cores.close()
        with pytest.raises(CoreLost):
            under_way.result(10)
    with pytest.raises(CoreLost):
        cores.run(math.sqrt, 4)


def test_none_outlives_a_kill_of_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    for _ in range(200):
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail(f"{child} is still there")
