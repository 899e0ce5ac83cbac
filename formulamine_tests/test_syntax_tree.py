from __future__ import annotations

import ast
import gc
import threading

import pytest

from formulamine import syntax_tree

TEXT = "x = " + "+".join(f"f({number}, [a for a in b if a])" for number in range(60)) + "\n"


class Collected:
    """Garbage whose finalizer is Python code: another thread may run while it does."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        sum(range(20))


def test_many_threads_read_sources_while_garbage_is_collected() -> None:
    told: list[object] = []

    def read() -> None:
        for _ in range(60):
            for _ in range(20):
                Collected()
            try:
                told.append(ast.dump(syntax_tree.parse(TEXT)))
            except SystemError as error:
                told.append(error)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert len(told) == 360
    assert set(told) == {ast.dump(ast.parse(TEXT))}


@pytest.mark.parametrize("text", ["def", "x = '\0'", "(" * 10_000, "-" * 100_000 + "1"])
def test_what_is_no_program_says_so_in_one_of_few_ways(text: str) -> None:
    with pytest.raises(syntax_tree.UNREADABLE):
        syntax_tree.parse(text)
