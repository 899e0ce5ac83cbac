"""What `advance` costs: 20,000 items that do nothing, ledger on, beside bare sqlite3 that inserts the same rows.

Both write one transaction a row, in WAL mode, with the pragmas of the ledger. Pieces of the items take turns, so that
both sides see the same machine. Then all items are advanced again: each is reused. Exits 1 where a bound is missed.

Usage: python benchmarks/advance.py [--items 20000]
"""

from __future__ import annotations

import argparse
import logging
import sqlite3
import sys
import tempfile
import threading
import time
from enum import StrEnum
from pathlib import Path

from formulamine.items import Done, RunOptions, Step, advance
from formulamine.records import Record
from formulamine.services.ledger import Ledger

MOST_OF_SQLITE, LEAST_OF_FIRST = 10.0, 10.0  # times as long as sqlite3; times faster than the first pass
TURNS = 10
PRAGMAS = ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL")  # `ledger.py` sets these


class NoReason(StrEnum):
    """These items never stop."""


class Item(Record):
    """An item."""

    number: int


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    count = parser.parse_args().items
    items = [(f"owner__name-{number}", Item(number=number)) for number in range(count)]
    parts = [items[start : start + -(-count // TURNS)] for start in range(0, count, -(-count // TURNS))]
    with tempfile.TemporaryDirectory(prefix="formulamine-bench-") as folder:
        ledger = Ledger(f"sqlite:///{folder}/ledger.db")
        bare = sqlite3.connect(Path(folder, "bare.db"), isolation_level=None)
        first, inserted = 0.0, 0.0
        for turn, part in enumerate(parts):
            first += advanced(ledger, part)
            with sqlite3.connect(Path(folder, "ledger.db")) as written:
                table = written.execute("select sql from sqlite_master where name = 'outcomes'").fetchone()[0]
                rows = written.execute("select * from outcomes order by rowid desc limit ?", (len(part),)).fetchall()
            if turn == 0:
                for pragma in PRAGMAS:
                    bare.execute(f"pragma {pragma}")
                bare.execute(table)
            inserted += insert(bare, rows)
        second = advanced(ledger, items)
        ledger.close()
        bare.close()
    print(f"first pass   {first:6.2f} s  {first / inserted:.1f} times sqlite3's (at most {MOST_OF_SQLITE:g})")
    print(f"sqlite3      {inserted:6.2f} s")
    print(
        f"second pass  {second:6.2f} s  {first / second:.1f} times faster than the first (at least {LEAST_OF_FIRST:g})"
    )
    return int(first > MOST_OF_SQLITE * inserted or first < LEAST_OF_FIRST * second)


def advanced(ledger: Ledger, items: list[tuple[str, Item]]) -> float:
    """Seconds of one `advance`."""
    step = Step("candidate_prs", "1", Item, lambda item: Done(item), NoReason, sources=())
    started = time.perf_counter()
    options, log = RunOptions("benchmark"), logging.getLogger("benchmark")
    advance(step, items, ledger, options, cancelled=threading.Event(), log=log)
    return time.perf_counter() - started


def insert(bare: sqlite3.Connection, rows: list[tuple[object, ...]]) -> float:
    """Seconds of inserting rows, each in a transaction of its own."""
    statement = f"insert into outcomes values ({', '.join('?' * len(rows[0]))})"
    started = time.perf_counter()
    for row in rows:
        bare.execute(statement, row)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
