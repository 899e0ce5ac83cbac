"""Pictures: whole, bounded, escaped, the same for the same rows, and of four kinds of benchmarks apart."""

from __future__ import annotations

import base64
import itertools
import math
import random
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from formulamine import svg
from formulamine.lineage import AssetCount
from formulamine.pictures import MOST_LINES, as_markdown, forest_plot, funnel_picture, speedup_picture

DRAWN = {"svg", "title", "style", "rect", "text", "path", "line", "circle"}
HOSTILE = [
    "<script>alert(1)</script>", "a&b\"'/><image href='http://x/y.png'/>", "x" * 300,
    "\u202etxet", "\x00\x1b[31m", "\ud800",
]  # fmt: skip


def result(name: str, stage: str, decision: str, speedup: float | None, width: float = 0.05) -> dict[str, Any]:
    low, high = (None, None) if speedup is None else (speedup * math.exp(-width), speedup * math.exp(width))
    return {
        "benchmark": name, "stage": stage, "decision": decision, "speedup": speedup, "ci_low": low, "ci_high": high,
    }  # fmt: skip


def measured(number: int, speedup: float, verdict: str = "faster") -> dict[str, Any]:
    row = result(f"bench.time_{number}", "confirm", "faster", speedup)
    return {**row, "pr_id": f"some__thing-{number}", "verdict": verdict}


def words(picture: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(picture).iter() if element.tag.endswith("text")]


def check_whole(picture: str) -> None:
    """It parses, holds only what we draw, asks for nothing, and nothing lies outside."""
    root = ElementTree.fromstring(picture)
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= DRAWN
    assert not [name for element in root.iter() for name in element.attrib if "href" in name or name.startswith("on")]
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.get(name, "0")) <= svg.WIDTH
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.get(name, "0")) <= float(root.get("height", "0"))


FUNNEL = [
    AssetCount("repositories", 2, {"done": 1, "failed": 1}, {"unreachable": 1}),
    AssetCount("pull_requests", 15, {"done": 15}),
    AssetCount("candidate_prs", 15, {"done": 8, "rejected": 6, "deferred": 1}, {f"reason_{n}": 1 for n in range(7)}),
    AssetCount("images", 0),
]


def test_a_funnel_tells_counts_and_reasons() -> None:
    picture = funnel_picture(FUNNEL, "2024-02")
    check_whole(picture)
    told = words(picture)
    assert "Funnel of 2024-02" in told
    assert "1 of 2 repositories take part" in told
    assert "8 of 15" in told
    assert "none" in told
    assert "1 reason_0, 1 reason_1, 1 reason_2, 1 reason_3, 1 reason_4 and 2 more" in told


def test_a_funnel_of_nothing_says_so() -> None:
    check_whole(funnel_picture([]))
    assert "nothing was made of this month" in words(funnel_picture([]))


def test_speedups_stand_smallest_first_with_their_interval() -> None:
    picture = speedup_picture([measured(1, 9.0), measured(2, 1.1), measured(3, 2.0, "not_faster")])
    check_whole(picture)
    told = words(picture)
    assert told.index("some/thing#2") < told.index("some/thing#1")
    assert "some/thing#3" not in told
    assert "9.000x [8.561, 9.461]" in told


def test_of_many_speedups_evenly_many_are_drawn() -> None:
    rows = [measured(number, 1.1 + number / 100) for number in range(1000)]
    picture = speedup_picture(rows)
    check_whole(picture)
    assert picture.count("<circle") == MOST_LINES
    assert any(f"{1000 - MOST_LINES} of 1000 are not drawn" in text for text in words(picture))


def test_no_speedup_is_no_error() -> None:
    assert "nothing was confirmed to be faster" in words(speedup_picture([]))


def test_kinds_of_benchmarks_stand_apart() -> None:
    picture = forest_plot("some__thing-1", [
        result("mod.time_a", "confirm", "faster", 2.0), result("mod.time_a", "screen", "kept_faster", 2.4),
        result("mod.time_b", "confirm", "slower", 0.5), result("mod.time_c", "confirm", "dropped", 1.01),
        result("mod.time_d", "screen", "passed_over", 1.02), result("mod.time_e", "control", "dropped", 1.0),
        result("mod.time_f", "screen", "", None),
    ])  # fmt: skip
    check_whole(picture)
    told = words(picture)
    order = [
        "confirmed faster", "time_a", "confirmed slower: regressions", "time_b", "kept by the screen, not confirmed",
        "time_c", "screened only", "time_d", "controls: base against base", "time_e",
    ]  # fmt: skip
    assert [text for text in told if text in order] == order
    assert "all names begin with mod." in told
    assert "1 did not run: mod.time_f" in told


def test_of_hundreds_the_extremes_are_drawn_and_the_rest_counted() -> None:
    rows = [result(f"m{n}.time_it", "screen", "passed_over", 1 + (n - 200) / 1000) for n in range(400)]
    picture = forest_plot("some__thing-1", rows)
    check_whole(picture)
    told = words(picture)
    assert "m0.time_it" in told
    assert "m200.time_it" not in told
    assert any(re.fullmatch(r"and 388 more, between 0\.8\d\dx and 1\.\d\d\dx", text) for text in told)


def test_hostile_names_are_only_text() -> None:
    rows = [result(name, "confirm", "faster", 1.5 + place) for place, name in enumerate(HOSTILE)]
    picture = forest_plot("a<b>__c-1", rows)
    check_whole(picture)
    assert "<script>alert(1)</script>" in words(picture)
    assert all(text.isprintable() for text in words(picture))


@pytest.mark.parametrize("row", [
    {"speedup": 60.0, "ci_low": 60.0, "ci_high": None}, {"speedup": 1.1, "ci_low": 1e-9, "ci_high": 1e9},
    {"speedup": math.nan, "ci_low": None, "ci_high": None}, {"speedup": 0.0, "ci_low": None, "ci_high": None},
    {"speedup": math.inf, "ci_low": 1.0, "ci_high": math.inf}, {"speedup": 1e9, "ci_low": 1e8, "ci_high": 1e10},
    {"speedup": 1e-9, "ci_low": None, "ci_high": None},
])  # fmt: skip
def test_intervals_without_an_end_stay_inside(row: dict[str, Any]) -> None:
    check_whole(forest_plot("a__b-1", [{**result("mod.time_a", "confirm", "faster", 1.0), **row}]))


def test_the_order_of_rows_does_not_matter() -> None:
    rows = [result(f"m.time_{n % 7}({n})", "screen", "passed_over", 1.0 + (n % 5) / 10) for n in range(60)]
    pulls = [measured(n, 1.5 + (n % 3)) for n in range(40)]
    pictures = set()
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        random.Random(seed).shuffle(pulls)
        pictures.add(forest_plot("a__b-1", rows) + speedup_picture(pulls))
    assert len(pictures) == 1


@pytest.mark.parametrize("spread", [1.05, 1.2, 1.5, 2, 3, 10, 100, 1e4, 1e9])
def test_labels_of_an_axis_stand_apart_and_there_are_some(spread: float) -> None:
    axis = svg.Axis.over([svg.Estimate(1 / spread), svg.Estimate(spread)], 0, 300)
    ticks = axis.ticks()
    places = [axis.at(tick) for tick in ticks]
    assert len(ticks) >= 2
    assert all(b - a >= svg.SMALLEST_GAP for a, b in itertools.pairwise(places))


def test_light_and_dark_name_the_same_colours() -> None:
    assert svg.LIGHT.keys() == svg.DARK.keys()
    assert "prefers-color-scheme:dark" in funnel_picture(FUNNEL)


@pytest.mark.parametrize("palette", [svg.LIGHT, svg.DARK])
def test_words_can_be_read(palette: dict[str, str]) -> None:
    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for name in ("ink", "dim", "good", "bad", "kept", "control"):
        brighter, darker = sorted((light(palette[name]), light(palette["page"])), reverse=True)
        assert (brighter + 0.05) / (darker + 0.05) >= 4.5, name  # WCAG AA


def test_markdown_carries_the_picture_and_nothing_else() -> None:
    picture = funnel_picture(FUNNEL)
    found = re.fullmatch(
        r"!\[([^\]]*)\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", as_markdown(picture, "a](http://x) [b")
    )
    assert found is not None
    assert base64.b64decode(found[2]).decode() == picture
