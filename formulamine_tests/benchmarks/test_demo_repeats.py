"""Runs that were kept count as long as the sources are the same."""

import json
from dataclasses import asdict
from pathlib import Path

from demo_repeats import Turn, kept, sources_hash


def test_a_line_that_was_cut_off_is_no_run(tmp_path: Path) -> None:
    turns = [Turn(60.0, 1.0, 2.0, []), Turn(61.5, 2.0, 2.5, ["#32 ended at images as failed (timeout)"])]
    path = tmp_path / "turns.jsonl"
    lines = [json.dumps(asdict(one)) for one in turns]
    path.write_text("\n".join([*lines, lines[0][:-3]]))
    assert kept(path) == turns


def test_before_the_first_run_there_is_none(tmp_path: Path) -> None:
    assert kept(tmp_path / "turns.jsonl") == []


def test_sources_have_one_hash() -> None:
    assert sources_hash() == sources_hash()


def test_a_run_that_went_wrong_says_how() -> None:
    assert Turn(60.0, 1.0, 2.0, []).told().endswith("as expected")
    assert Turn(60.0, 1.0, 2.0, ["released []", "#32"]).told().endswith("released []; #32")
