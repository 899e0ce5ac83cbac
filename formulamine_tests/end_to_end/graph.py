"""The graph as text: `python -m formulamine_tests.end_to_end.graph` writes `graph.txt` anew after a meant change."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from formulamine.definitions import CHECKS_JOB, MONTH_JOB, defs
from formulamine.tables import TABLES

FILE = Path(__file__).with_name("graph.txt")


def drawn() -> str:
    """Assets with group and dependencies, their checks, and what starts them."""
    graph = defs.resolve_asset_graph()
    checks = {key: graph.get_check_spec(key) for key in graph.asset_check_keys}
    lines = []
    order = {name: number for number, name in enumerate(TABLES)}
    for node in sorted(graph.asset_nodes, key=lambda node: order.get(node.key.to_user_string(), len(order))):
        name = node.key.to_user_string()
        parents = sorted((key.to_user_string() for key in node.parent_keys), key=lambda one: order[one])
        partitions = node.partitions_def.fmt if isinstance(node.partitions_def, dg.MonthlyPartitionsDefinition) else "-"
        lines.append(f"{name} [{node.group_name}, {partitions}] <- {', '.join(parents) or 'nothing'}")
        for key, spec in sorted(checks.items(), key=lambda one: one[0].name):
            if key.asset_key == node.key:
                lines.append(f"    {key.name} ({'blocks' if spec.blocking else 'warns'})")
    for name in (MONTH_JOB, CHECKS_JOB):
        layer = defs.resolve_job_def(name).asset_layer
        assets, held = layer.executable_asset_keys, layer.asset_graph.asset_check_keys
        lines.append(f"job {name}: {len(assets)} assets, {len(held)} checks")
    lines += [f"schedule {one.name}" for one in sorted(defs.schedules or [], key=lambda one: one.name)]
    lines += [f"sensor {one.name}" for one in sorted(defs.sensors or [], key=lambda one: one.name)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(drawn())
