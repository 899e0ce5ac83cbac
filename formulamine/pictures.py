"""Pictures of a month and of a pull request, as SVG text.

Here belong small pure functions from rows to a picture: the same rows give the same bytes, and whatever stands in a row
is escaped. What rows mean is decided elsewhere, and how lines and words are drawn is `svg.py`'s matter; reading rows
does not belong here. `as_markdown` does, since a page of the Dagster UI shows a picture in this form only.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from formulamine.lineage import AssetCount
from formulamine.records import Status
from formulamine.svg import MARGIN, ROW, WIDTH, Axis, Estimate, Picture, ratio, shortened

NAME_LENGTH = 50  # characters of a benchmark's name that fit beside its interval
MOST_CONFIRMED = 30
MOST_SCREENED = 12
MOST_CONTROLS = 6
MOST_NAMED = 30  # pull requests that get a line with a name; more become thin lines
MOST_LINES = 240  # thin lines of a distribution; of more, evenly many are drawn
MOST_REASONS = 5


def funnel_picture(counts: Sequence[AssetCount], month: str = "") -> str:
    """A month's funnel: a bar per asset with what is done and what is not, and why.

    Args:
        counts: of `lineage.funnel`. Repositories are counted in words, since bars count pull requests.
        month: for the title.
    """
    bars = [one for one in counts if one.asset != "repositories"]
    most = max((one.rows for one in bars), default=0)
    left, right = MARGIN + 165, WIDTH - MARGIN - 110
    picture = Picture(f"Funnel of {month or 'the month'}")
    for one in counts:
        if one.asset == "repositories":
            picture.text(MARGIN, f"{one.status.get(Status.DONE, 0)} of {one.rows} repositories take part", "dim")
            picture.down(ROW + 4)
    for one in bars:
        done = one.status.get(Status.DONE, 0)
        picture.text(MARGIN, one.asset, "ink")
        at = float(left)
        for status in Status:
            width = (right - left) * one.status.get(status, 0) / max(most, 1)
            if width:
                picture.rect(at, -11, max(width, 1.5), 14, "good" if status is Status.DONE else status.value)
                at += max(width, 1.5)
        picture.text(at + 8, f"{done} of {one.rows}" if one.rows else "none", "ink")
        reasons = [f"{count} {reason}" for reason, count in one.reasons.items()]
        if reasons:
            told = ", ".join(reasons[:MOST_REASONS]) + _more(len(reasons) - MOST_REASONS)
            picture.down(15)
            picture.text(left, shortened(told, 88), "dim small")
        picture.down(ROW + 4)
    if not bars:
        picture.text(MARGIN, "nothing was made of this month", "dim")
        picture.down(ROW)
    picture.legend([("good", "done"), *((one.value, one.value) for one in Status if one is not Status.DONE)])
    return picture.svg()


def speedup_picture(rows: Iterable[Mapping[str, Any]]) -> str:
    """The distribution of confirmed speedups: one line each, smallest first, with its interval, on a log axis.

    Args:
        rows: of `speedup_measurements`; those without a confirmed estimate are left out.
    """
    known = [(row, value) for row in rows if row["verdict"] == "faster" and (value := Estimate.of(row)) is not None]
    known.sort(key=lambda pair: (pair[1].value, pair[0]["pr_id"]))
    picture = Picture(f"{len(known) or 'No'} confirmed {'speedup' if len(known) == 1 else 'speedups'}")
    if not known:
        picture.text(MARGIN, "nothing was confirmed to be faster", "dim")
        picture.down(ROW)
        return picture.svg()
    named = len(known) <= MOST_NAMED
    shown = known if named else _evenly(known, MOST_LINES)
    height = ROW if named else max(2.0, min(8.0, 480 / len(shown)))
    axis = Axis.over([value for _, value in shown], MARGIN + (230 if named else 10), WIDTH - MARGIN - 150)
    median = known[len(known) // 2][1].value if len(known) % 2 else _middle(known)
    picture.grid(axis, height * len(shown) + (0 if named else ROW), {"1": 1.0, "gate": median})
    for row, value in shown:
        if named:
            picture.text(MARGIN, shortened(_called(row["pr_id"]), 30), "mono ink")
            picture.text(axis.right + 12, str(value), "mono ink")
        picture.interval(axis, value, "good", "dot" if named else "line")
        picture.down(height)
    picture.down(ROW if named else 2 * ROW)
    left_out = len(known) - len(shown)
    told = f"dashed: the median, {median:.2f}x; largest {known[-1][1].value:.2f}x"
    picture.text(MARGIN, told + (f"; {left_out} of {len(known)} are not drawn" if left_out else ""), "dim small")
    picture.down(ROW - 8)
    return picture.svg()


def forest_plot(
    pr_id: str,
    benchmark_results: Iterable[Mapping[str, Any]],
    min_speedup: float = 1.05,
    min_lower_bound: float = 1.02,
) -> str:
    """A pull request's benchmarks: estimate and interval of each on a log axis.

    Confirmed ones, kept ones that were not confirmed, screened ones and controls stand apart. Of many, the most extreme
    are drawn and the rest counted.

    Args:
        pr_id: whose benchmarks.
        benchmark_results: rows of the table of that name.
        min_speedup: what an estimate must reach.
        min_lower_bound: what its lower bound must reach.
    """
    results = sorted(benchmark_results, key=lambda row: (row["benchmark"], row["stage"]))
    parts = _sections(results)
    silent = sorted({row["benchmark"] for row in results if row["stage"] == "screen" and Estimate.of(row) is None})
    picture = Picture(f"Benchmarks of {_called(pr_id)}")
    if not any(part.rows for part in parts):
        picture.text(MARGIN, f"no benchmark was measured{_more(len(silent), ', {} did not run')}", "dim")
        picture.down(ROW)
        return picture.svg()
    drawn = [value for part in parts for _, value in part.shown]
    axis = Axis.over([*drawn, Estimate(min_speedup)], MARGIN + 350, WIDTH - MARGIN - 150)
    prefix = _shared_module(row["benchmark"] for part in parts for row, _ in part.rows)
    names = _told_apart([row["benchmark"].removeprefix(prefix) for part in parts for row, _ in part.shown])
    lines = sum(len(part.shown) + 1 + bool(part.hidden) for part in parts if part.rows)
    picture.grid(axis, ROW * lines + 6, {"1": 1.0, "bound": min_lower_bound, "gate": min_speedup})
    screened = {row["benchmark"]: Estimate.of(row) for row in results if row["stage"] == "screen"}
    for part in parts:
        if not part.rows:
            continue
        picture.text(MARGIN, part.title, "head ink")
        picture.down(ROW)
        for row, value in part.shown:
            picture.text(MARGIN, names[row["benchmark"].removeprefix(prefix)], "mono ink")
            if part.screened_too and (first := screened.get(row["benchmark"])) is not None:
                picture.mark(axis.at(first.value), "screen", "ring")
            picture.interval(axis, value, part.colour, part.shape)
            picture.text(axis.right + 10, str(value), "mono " + ("dim" if part.colour == "screen" else part.colour))
            picture.down(ROW)
        if part.hidden:
            picture.text(MARGIN, part.rest(), "dim small")
            picture.down(ROW)
    picture.down(ROW + 6)
    asked = f"dashed: {min_speedup:g}x, asked of the estimate; dotted: {min_lower_bound:g}x, asked of the lower bound"
    picture.text(MARGIN, f"{asked}; ring: the screen's estimate", "dim small")
    picture.down(ROW - 6)
    if prefix:
        picture.text(MARGIN, f"all names begin with {shortened(prefix, 2 * NAME_LENGTH)}", "dim small")
        picture.down(ROW - 6)
    if silent:
        told = f"{len(silent)} did not run: {', '.join(shortened(name, NAME_LENGTH) for name in silent[:2])}"
        picture.text(MARGIN, told + _more(len(silent) - 2), "dim small")
        picture.down(ROW - 6)
    return picture.svg()


def as_markdown(svg: str, title: str) -> str:
    """A picture as Markdown, whole in itself.

    The Dagster UI drops raw SVG and `<img>` from Markdown and shows an image with a data URI (looked at in 1.13).
    """
    words = "".join(letter if letter.isalnum() or letter in " .,:-#/" else " " for letter in title)
    return f"![{words}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


@dataclass(frozen=True)
class _Section:
    """Benchmarks that ended alike; `most` of them are drawn."""

    title: str
    colour: str
    shape: str
    rows: list[tuple[Mapping[str, Any], Estimate]]
    most: int
    screened_too: bool = False

    @property
    def shown(self) -> list[tuple[Mapping[str, Any], Estimate]]:
        """The most extreme ones, largest first."""
        far = sorted(self.rows, key=lambda pair: (-abs(math.log(pair[1].value)), pair[0]["benchmark"]))[: self.most]
        return sorted(far, key=lambda pair: (-pair[1].value, pair[0]["benchmark"]))

    @property
    def hidden(self) -> list[Estimate]:
        """Estimates of the others."""
        shown = [id(row) for row, _ in self.shown]
        return [value for row, value in self.rows if id(row) not in shown]

    def rest(self) -> str:
        """The others in words."""
        values = [one.value for one in self.hidden]
        return f"and {len(values)} more, between {ratio(min(values))}x and {ratio(max(values))}x"


def _sections(results: Sequence[Mapping[str, Any]]) -> list[_Section]:
    """Benchmarks by how they ended."""
    measured = [(row, value) for row in results if (value := Estimate.of(row)) is not None]
    again = {row["benchmark"] for row, _ in measured if row["stage"] == "confirm"}
    fresh: dict[str, list[tuple[Mapping[str, Any], Estimate]]] = {"faster": [], "slower": [], "": []}
    for row, value in measured:
        if row["stage"] == "confirm":
            fresh[row["decision"] if row["decision"] in fresh else ""].append((row, value))
    screened = [one for one in measured if one[0]["stage"] == "screen" and one[0]["benchmark"] not in again]
    controls = [one for one in measured if one[0]["stage"] == "control"]
    return [
        _Section("confirmed faster", "good", "square", fresh["faster"], MOST_CONFIRMED, screened_too=True),
        _Section("confirmed slower: regressions", "bad", "wedge", fresh["slower"], MOST_CONFIRMED, screened_too=True),
        _Section("kept by the screen, not confirmed", "kept", "dot", fresh[""], MOST_CONFIRMED, screened_too=True),
        _Section("screened only", "screen", "ring", screened, MOST_SCREENED),
        _Section("controls: base against base", "control", "diamond", controls, MOST_CONTROLS),
    ]


def _called(pr_id: str) -> str:
    """`owner__name-123` as people write it."""
    repo, _, number = pr_id.rpartition("-")
    return f"{repo.replace('__', '/', 1)}#{number}" if repo else pr_id


def _shared_module(names: Iterable[str]) -> str:
    """The dotted beginning that all of several names share, its last dot included."""
    several = [name.partition("(")[0].split(".")[:-1] for name in set(names)]
    shared = list(itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*several, strict=False)))
    return "".join(f"{parts[0]}." for parts in shared) if len(several) > 1 else ""


def _told_apart(names: Sequence[str]) -> dict[str, str]:
    """Names that fit, cut where the fewest become alike."""
    cuts = [{name: shortened(name, NAME_LENGTH, tail) for name in names} for tail in (0.6, 0.75, 0.4)]
    return max(cuts, key=lambda cut: len(set(cut.values())))


def _more(count: int, told: str = " and {} more") -> str:
    return told.format(count) if count > 0 else ""


def _middle(known: Sequence[tuple[Mapping[str, Any], Estimate]]) -> float:
    """Median of evenly many, on the log axis."""
    half = len(known) // 2
    return math.sqrt(known[half - 1][1].value * known[half][1].value)


def _evenly(known: Sequence[tuple[Mapping[str, Any], Estimate]], most: int) -> list[tuple[Mapping[str, Any], Estimate]]:
    """At most so many of a sorted list, its ends among them."""
    if len(known) <= most:
        return list(known)
    return [known[round(place * (len(known) - 1) / (most - 1))] for place in range(most)]
