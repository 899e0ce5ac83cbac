"""The graph that command line and UI load."""

from __future__ import annotations

from formulamine.definitions import defs
from formulamine.tables import PHASES, TABLES
from formulamine_tests.end_to_end.graph import FILE, drawn


def test_graph_is_the_one_that_was_reviewed() -> None:
    assert drawn() == FILE.read_text(), "if this is meant: python -m formulamine_tests.end_to_end.graph"


def test_every_asset_has_a_blocking_check_of_its_schema() -> None:
    graph = defs.resolve_asset_graph()
    blocking = {key for key in graph.asset_check_keys if graph.get_check_spec(key).blocking}
    assert {key.asset_key.to_user_string() for key in blocking if key.name == "well_formed"} == set(TABLES)


def test_every_table_is_an_asset_of_its_phase() -> None:
    groups = {node.key.to_user_string(): node.group_name for node in defs.resolve_asset_graph().asset_nodes}
    expected = {name: phase for phase, names in PHASES.items() for name in names}
    assert {name: group for name, group in groups.items() if name in TABLES} == expected
