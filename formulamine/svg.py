"""Drawing: estimates on a logarithmic axis, bars and words, as SVG text.

Here belong the elements that pictures are made of, with their colours and sizes. Each picture brings a background of
its own, light or dark as its reader prefers, so that it can be read on any page; whatever text is put in is escaped.
What a picture shows belongs into `pictures.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Self

WIDTH = 820  # pixels; a metadata cell of the Dagster UI shrinks what is wider than it is
MARGIN = 16
ROW = 20
SMALLEST_GAP = 42  # pixels between two labels of an axis
FARTHEST = 3.0  # times its estimate to which an interval may stretch the axis; beyond, it ends in an arrow
# Okabe and Ito's colours, which people with any colour vision tell apart; shapes and words say the same again.
LIGHT = {
    "page": "#ffffff", "edge": "#d0d7de", "ink": "#1f2328", "dim": "#59636e", "grid": "#e6e9ed",
    "good": "#0072b2", "bad": "#c04f00", "kept": "#59636e", "screen": "#9aa4af", "control": "#9a4f86",
    "rejected": "#c3cad2", "failed": "#e69f00", "deferred": "#8fb8de",
}  # fmt: skip
DARK = {
    "page": "#0d1117", "edge": "#30363d", "ink": "#e6edf3", "dim": "#9da7b3", "grid": "#21262d",
    "good": "#56b4e9", "bad": "#ff8b3d", "kept": "#adb7c2", "screen": "#6b7580", "control": "#dba0c8",
    "rejected": "#4a525c", "failed": "#e0a030", "deferred": "#3d6a94",
}  # fmt: skip
SHAPES = {
    "square": "m-4.5,-4.5h9v9h-9z",
    "wedge": "m-5.5,-4.5h11l-5.5,10z",
    "diamond": "m0,-5.5l5.5,5.5l-5.5,5.5l-5.5,-5.5z",
}
STROKED = ("good", "bad", "kept", "screen", "control")
SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"


def shortened(text: str, length: int, tail: float = 0.6) -> str:
    """A text that fits, its middle left out; `tail` is the share of its end in what stays."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    end = int((length - 1) * tail)
    return f"{text[: length - 1 - end]}…{text[-end:]}"


@dataclass(frozen=True)
class Estimate:
    """A ratio with its bounds; a bound that is not known is open."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self | None:
        """That of a row; None where it has none that can be drawn on a log axis."""
        value, low, high = (_positive(row[name]) for name in ("speedup", "ci_low", "ci_high"))
        return None if value is None else cls(value, low, high)

    def __str__(self) -> str:
        low, high = (ratio(bound) if bound is not None else "…" for bound in (self.low, self.high))
        return f"{ratio(self.value)}x [{low}, {high}]"


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from `low` to `high` between two places on the page."""

    low: float
    high: float
    left: float
    right: float

    @classmethod
    def over(cls, values: Sequence[Estimate], left: float, right: float) -> Self:
        """An axis that holds 1, every estimate, and intervals as far as they tell something."""
        lows = [max(one.low or one.value, one.value / FARTHEST) for one in values]
        highs = [min(one.high or one.value, one.value * FARTHEST) for one in values]
        low, high = math.log(min([0.95, *lows])), math.log(max([1.1, *highs]))
        room = 0.04 * (high - low)
        return cls(math.exp(low - room), math.exp(high + room), left, right)

    def at(self, value: float) -> float:
        """Place of a value, at the ends where it is beyond them."""
        share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return self.left + min(max(share, 0.0), 1.0) * (self.right - self.left)

    def ticks(self) -> list[float]:
        """The finest round values whose labels stand apart."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        ladders = [[round(n * step, 3) for n in range(1, int(2 / step))] for step in (0.02, 0.05, 0.1, 0.2)]
        ladders += [
            [digit * 10.0**power for power in decades for digit in digits]
            for digits in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,))
        ]
        for ladder in ladders:
            inside = [value for value in ladder if self.low <= value <= self.high]
            reaches = ladder[-1] >= self.high and ladder[0] <= self.low
            gaps = [self.at(b) - self.at(a) for a, b in itertools.pairwise(inside)]
            if reaches and min(gaps, default=math.inf) >= SMALLEST_GAP:
                return inside
        return [10.0**power for power in decades if power % 3 == 0 and self.low <= 10.0**power <= self.high]


@dataclass
class Picture:
    """Elements one below the other; `y` is the base line of the present one."""

    title: str
    y: float = MARGIN + 10
    _under: list[str] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.text(MARGIN, self.title, "title ink")
        self.down(ROW + 8)

    def down(self, by: float) -> None:
        """Go on further below."""
        self.y += by

    def text(self, x: float, text: str, classes: str, anchor: str = "start") -> None:
        """Words on the base line."""
        self._parts.append(
            f'<text x="{x:.1f}" y="{self.y:.1f}" class="{classes}" text-anchor="{anchor}">{_safe(text)}</text>'
        )

    def rect(self, x: float, dy: float, width: float, height: float, colour: str) -> None:
        """A bar; `dy` is its top from the base line."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{self.y + dy:.1f}" width="{width:.1f}" height="{height:.1f}" class="{colour}"/>'
        )

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        """What colours mean."""
        x = float(MARGIN)
        for colour, words in entries:
            self.rect(x, -9, 10, 10, colour)
            self.text(x + 15, words, "dim small")
            x += 15 + 7 * len(words) + 10
        self.down(ROW - 8)

    def grid(self, axis: Axis, height: float, marks: Mapping[str, float]) -> None:
        """Lines of an axis under the rows that follow, with its labels below them."""
        top, bottom = self.y - 14, self.y - 14 + height
        for value in axis.ticks():
            self._line(axis.at(value), top, axis.at(value), bottom, "grid")
            self._under.append(
                f'<text x="{axis.at(value):.1f}" y="{bottom + 15:.1f}" class="dim small" text-anchor="middle">'
                f"{value:g}x</text>"
            )
        for kind, value in marks.items():
            self._line(axis.at(value), top, axis.at(value), bottom, f"mark{kind}")

    def interval(self, axis: Axis, value: Estimate, colour: str, shape: str) -> None:
        """An estimate with its interval; bounds beyond the axis, or unknown, end in an arrow."""
        middle = self.y - 4
        ends = []
        for bound, limit, out in ((value.low, axis.low, -1), (value.high, axis.high, 1)):
            place = axis.at(limit if bound is None else bound)
            ends.append(place)
            if bound is None or bound * out > limit * out:
                tip = f"M{place:.1f},{middle:.1f}l{-6 * out},-4v8z"
                self._parts.append(f'<path d="{tip}" class="{colour}"/>')
        width = 1.0 if shape == "line" else 2.0
        self._parts.append(
            f'<path d="M{ends[0]:.1f},{middle:.1f}H{ends[1]:.1f}" class="{colour} stroke" stroke-width="{width:g}"/>'
        )
        self.mark(axis.at(value.value), colour, shape)

    def mark(self, x: float, colour: str, shape: str) -> None:
        """A point, told by its shape as by its colour."""
        y = self.y - 4
        match shape:
            case "ring":
                self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="{colour} ring"/>')
            case "dot":
                self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="{colour}"/>')
            case "line":
                self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.5" class="{colour}"/>')
            case _:
                self._parts.append(f'<path d="M{x:.1f},{y:.1f}{SHAPES[shape]}" class="{colour}"/>')

    def _line(self, x1: float, y1: float, x2: float, y2: float, colour: str) -> None:
        self._under.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{colour}"/>')

    def svg(self) -> str:
        """The whole picture."""
        height = round(self.y + 4)
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img"><title>{_safe(self.title)}</title><style>{_STYLE}</style>'
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6" class="card"/>'
        )
        return "\n".join([head, *self._under, *self._parts, "</svg>"])


def _colours(palette: Mapping[str, str]) -> str:
    filled = "".join(f".{name}{{fill:{colour}}}" for name, colour in palette.items() if name not in ("page", "edge"))
    strokes = "".join(f".{name}.stroke,.{name}.ring{{stroke:{palette[name]}}}" for name in STROKED)
    lines = f".grid{{stroke:{palette['grid']}}}.mark1{{stroke:{palette['dim']}}}"
    lines += f".markgate,.markbound{{stroke:{palette['good']}}}"
    card = f".card{{fill:{palette['page']};stroke:{palette['edge']}}}.ring{{fill:{palette['page']}}}"
    return filled + strokes + lines + card


_STYLE = (
    f"text{{font:12px {SANS}}}.title{{font-size:14px;font-weight:600}}.head{{font-weight:600}}.small{{font-size:11px}}"
    f".mono{{font:11px {MONO}}}.ring{{stroke-width:1.5}}"
    ".markgate{stroke-dasharray:5 3}.markbound{stroke-dasharray:1.5 2.5}"
    f"{_colours(LIGHT)}@media(prefers-color-scheme:dark){{{_colours(DARK)}}}"
)


def _safe(text: str) -> str:
    """Text for XML: no markup, and no character that is invisible, turns the writing or is forbidden there."""
    return escape("".join(letter if letter.isprintable() else "\ufffd" for letter in text), quote=True)


def _positive(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else None


def ratio(value: float) -> str:
    """A ratio with as many digits as tell something."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.2g}"
