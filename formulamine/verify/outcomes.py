"""What the runs of tests on both sides say, as a pure function of them.

Here belong the outcomes as they are stored, and the rules from them to the tests that a change broke; whoever has the
stored runs can recompute both. Not here: running tests (`correctness`).

Each side runs the tests of its own commit. What base's tests say of base is "before" and what head's say of head is
"after", as the project itself would have seen them: a test that head adds fails on base by design; one that head
changes along with the behaviour that it asks for was changed by those who answer for it; one that base has and head
still has must hold on both. Head's tests on both sides would call the first of these no loss and miss a test that head
deletes; base's tests on both would call every deliberate change a broken one. A test that head deletes, renames or
skips is not broken, and its name is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from formulamine.records import OutcomeCounts, Record

# What a test that passed before must not become: died and timeout are those under way when the process ended or was
# ended, not_run those behind them, of which nobody can say that they still pass.
FAILING = frozenset({"failed", "error", "died", "timeout", "not_run"})
NAMES_KEPT = 50  # in a row; a file of parameters can hold thousands, and the stored runs name them all


class FileRun(Record):
    """One run of one test file on one side."""

    side: Literal["base", "head"]
    turn: int
    """1, or 2 where it was run again to see whether a failure stays."""
    file: str
    ended: Literal["ok", "absent", "uncollected", "skipped", "died", "timeout", "out_of_time"]
    """`uncollected`: it does not import; `skipped`: it says itself that it is not to run; `died`: its process ended
    before its tests had; `timeout`: it took many times what it took on base; `out_of_time`: nothing was left of
    FORMULAMINE_TEST_TIMEOUT_S."""
    detail: str
    outcomes: dict[str, str]
    """Of each collected test: passed, failed, error, skipped, died, timeout, not_run."""
    seconds: float


class RawTests(Record):
    """All that was seen of a change's tests."""

    files: list[str]
    left_out: int
    runs: list[FileRun]

    def run(self, side: str, turn: int, file: str) -> FileRun | None:
        """One of the runs, where it was made."""
        wanted = (side, turn, file)
        return next((one for one in self.runs if (one.side, one.turn, one.file) == wanted), None)


@dataclass(frozen=True)
class Judged:
    """What the runs say. Names are "file::test"."""

    before: OutcomeCounts
    after: OutcomeCounts
    broken: tuple[str, ...]
    gone: tuple[str, ...]
    flaky: tuple[str, ...]
    files: list[str]
    left_out: int


def judge(raw: RawTests) -> Judged:
    """Which tests a change broke, and which ended otherwise than before for another reason."""
    broken: list[str] = []
    gone: list[str] = []
    flaky: list[str] = []
    for file in raw.files:
        base, head = raw.run("base", 1, file), raw.run("head", 1, file)
        if base is None or head is None:
            continue
        gone += [f"{file}::{name}" for name in missing(base, head)]
        again = raw.run("base", 2, file), raw.run("head", 2, file)
        for name in suspects(base, head):
            named = f"{file}::{name}"
            (broken if _stays(name, *again) else flaky).append(named)
    first = [one for one in raw.runs if one.turn == 1]
    late = {one.file for one in first if one.ended == "out_of_time"}
    return Judged(
        before=_counts(one for one in first if one.side == "base"),
        after=_counts(one for one in first if one.side == "head"),
        broken=tuple(broken),
        gone=tuple(gone),
        flaky=tuple(flaky),
        files=raw.files,
        left_out=raw.left_out + len(late),
    )


def suspects(base: FileRun, head: FileRun) -> list[str]:
    """Tests that passed on base and fail on head; all of them where head's file cannot even be collected."""
    if head.ended in ("absent", "skipped", "out_of_time"):
        return []
    lost = not head.outcomes and head.ended != "ok"
    return [name for name in _passed(base) if lost or head.outcomes.get(name) in FAILING]


def missing(base: FileRun, head: FileRun) -> list[str]:
    """Tests that passed on base, and that head does not have, or skips."""
    if head.ended == "out_of_time" or (not head.outcomes and head.ended not in ("ok", "absent", "skipped")):
        return []
    return [name for name in _passed(base) if head.outcomes.get(name, "skipped") == "skipped"]


def shown(names: tuple[str, ...]) -> list[str]:
    """Names as a row has them: the first ones, and how many more."""
    more = len(names) - NAMES_KEPT
    return [*names[:NAMES_KEPT], *([f"and {more} more"] if more > 0 else [])]


def _passed(run: FileRun) -> Iterator[str]:
    return (name for name, outcome in run.outcomes.items() if outcome == "passed")


def _stays(name: str, base: FileRun | None, head: FileRun | None) -> bool:
    """Whether a test fails on head again, and passes on base again. What could not be run again stands as it was."""
    if base is None or head is None or "out_of_time" in (base.ended, head.ended):
        return True
    return name in suspects(base, head)


def _counts(runs: Iterable[FileRun]) -> OutcomeCounts:
    ended = [outcome for run in runs for outcome in (run.outcomes.values() or _of_the_file(run))]
    return OutcomeCounts(
        passed=ended.count("passed"),
        failed=sum(map(ended.count, ("failed", "died", "timeout"))),
        errors=ended.count("error"),
        skipped=ended.count("skipped"),
        not_run=ended.count("not_run"),
    )


def _of_the_file(run: FileRun) -> list[str]:
    """How a file counts of which no test is known."""
    if run.ended in ("uncollected", "died", "timeout"):
        return ["error"]
    return ["skipped"] if run.ended == "skipped" else []
