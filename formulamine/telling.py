"""A story told: for a terminal, and as Markdown for the Dagster UI.

Here belongs how a story looks. What it says is gathered in `story.py`, what a run would do now in `redo.py`, how
benchmarks are drawn in `pictures.py`. Foreign text (titles, messages, names of benchmarks) is escaped here: it may
neither draw on a page nor steer a terminal.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from formulamine.pictures import as_markdown, forest_plot
from formulamine.story import Story, why_not

if TYPE_CHECKING:  # it needs the ledger, and a story needs none of that
    from formulamine.redo import Redo

LINE = 100  # characters of a terminal's line
MOST_LINES = 12  # of evidence in a terminal; `--json` has all
NO_BREAK = "\u00a0"
LONGEST_CELL = 400  # characters of evidence in a table
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|!~$&])")


def for_terminal(story: Story, redone: Sequence[Redo] = ()) -> str:
    """A story for a terminal."""
    lines = [
        f"{story.called}  {_clean(story.title)}",
        f"merged {story.merged_at:%Y-%m-%d %H:%M} ({story.month})" + (f"  {story.url}" if story.url else ""),
        *textwrap.wrap(why_not(story), LINE, break_on_hyphens=False, break_long_words=False),
    ]
    for chapter in story.chapters:
        cost = f", {chapter.cost_usd:.4f}$" if chapter.cost_usd else ""
        spent = f"{duration(chapter.seconds)}{cost}, run {chapter.run_id[:8]}, fingerprint {chapter.fingerprint[:12]}"
        lines.append(f"\n{chapter.asset}: {chapter.ended}  [{spent}]")
        told = [chapter.detail, *chapter.evidence]
        told += [", ".join(f"{name} {value}" for name, value in chapter.versions.items())]
        told += [f"{name} {value}" for name, value in chapter.hashes.items()]
        told = [_clean(one) for one in told if one]
        lines += [f"    {one}" for one in told[:MOST_LINES]]
        if chapter.asset == "speedup_measurements":
            lines += _benchmark_lines(story)
        if chapter.asset == "problem_statements" and story.statement:
            lines += [f"    | {_clean(line)}" for line in story.statement.splitlines() if line]
    if redone:
        lines.append("\nif the month ran now")
        lines += [f"    {one.asset}: {one.action}, {_clean(one.why)}" for one in redone]
    return "\n".join(lines)


def summary(story: Story) -> str:
    """How it fared at every asset, as a Markdown table that is short enough to be shown at once."""
    rows = [[one.asset, markdown(one.ended), duration(one.seconds)] for one in story.chapters]
    return table(["asset", "outcome", "time"], rows)


def outcomes(story: Story) -> str:
    """How it fared at every asset, and on what evidence; runs are links inside the Dagster UI."""
    rows = [
        [
            f"**{chapter.asset}**",
            markdown(chapter.ended),
            markdown("; ".join(part for part in (chapter.detail, *chapter.evidence) if part)[:LONGEST_CELL]),
            duration(chapter.seconds).replace(" ", NO_BREAK),
            f"{chapter.cost_usd:.4f}",
            f"[{chapter.run_id[:8]}](/runs/{chapter.run_id})",
        ]
        for chapter in story.chapters
    ]
    return table(["asset", "outcome", "evidence", "time", "cost, $", "run"], rows)


def provenance(story: Story) -> str:
    """What each outcome rests on, as a Markdown table: fingerprint, versions, hashes."""
    rows = [
        [
            chapter.asset,
            f"`{chapter.fingerprint[:12]}`",
            markdown(", ".join(f"{name} {value}" for name, value in chapter.versions.items())),
            ", ".join(f"{name} `{_clean(value)[:19]}`" for name, value in chapter.hashes.items()),
            f"{chapter.recorded_at:%Y-%m-%d %H:%M}",
        ]
        for chapter in story.chapters
    ]
    return table(["asset", "fingerprint", "versions", "hashes", "recorded"], rows)


def would_redo(redone: Sequence[Redo]) -> str:
    """What a run would do now, as a Markdown table."""
    return table(["asset", "if it ran now", "why"], [[one.asset, one.action, markdown(one.why)] for one in redone])


def benchmarks(story: Story) -> str:
    """The forest plot, as Markdown."""
    asked = story.asked["min_speedup"], story.asked["min_lower_bound"]
    return as_markdown(forest_plot(story.pr_id, story.benchmarks, *asked), f"Benchmarks of {story.called}")


def statement(story: Story) -> str:
    """The problem statement, as the Markdown that it is, but for images: a page must not ask a stranger for one."""
    return (story.statement or "none").replace("![", "!\\[")


def left_out(story: Story) -> str:
    """Sentences that the statement does not show, as a Markdown table; empty where there is none."""
    chapter = story.chapter("problem_statements")
    removed = (chapter.row["removed"] or []) if chapter else []
    return table(["left out", "sentence"], [[one["why"], markdown(one["text"])] for one in removed]) if removed else ""


def whole(story: Story, redone: Sequence[Redo] = ()) -> str:
    """The whole story as one Markdown page."""
    parts = [
        f"## {markdown(story.called)}: {markdown(story.title)}",
        f"merged {story.merged_at:%Y-%m-%d %H:%M} ({story.month})" + (f", [page]({story.url})" if story.url else ""),
        markdown(why_not(story)),
        "### At each asset",
        outcomes(story),
        "### What that rests on",
        provenance(story),
        *(["### Benchmarks", benchmarks(story)] if story.benchmarks else []),
        *(["### Problem statement", statement(story)] if story.statement else []),
        *(["### Left out of it", left_out(story)] if left_out(story) else []),
        *(["### If the month ran now", would_redo(redone)] if redone else []),
    ]
    return "\n\n".join(parts)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(text: str) -> str:
    """Foreign text as Markdown that says just that."""
    return _MARKDOWN.sub(r"\\\1", _clean(text))


def duration(seconds: float) -> str:
    """Seconds for a person."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _benchmark_lines(story: Story) -> list[str]:
    """Benchmarks on fresh data, a line each."""
    shown = [one for one in story.benchmarks if one["stage"] != "screen" and one["speedup"] is not None]
    lines = []
    for one in shown:
        low, high = (f"{one[name]:.3f}" if one[name] is not None else "?" for name in ("ci_low", "ci_high"))
        told = f"{one['speedup']:.3f}x [{low}, {high}] {one['decision']}"
        lines.append(f"    {one['stage']}: {_clean(one['benchmark'])} {told}")
    return lines


def _clean(text: str) -> str:
    """One line without anything that is not printed."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
