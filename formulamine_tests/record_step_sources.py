"""What every step's sources are today, recorded beside its version in `step_sources.json`.

`python -m formulamine_tests.record_step_sources` writes the record anew. Run it after a step's version was raised, or
where its sources changed in a way that cannot change an answer: whoever reviews the record sees which of both it was.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

from formulamine.items import Step
from formulamine.pipeline import project
from formulamine.plan import STEPS
from formulamine.schemas import schema_hash
from formulamine.services.container import Services
from formulamine.settings import Settings
from formulamine.tables import PHASES, SIDE_SCHEMAS, TABLES

RECORD = Path(__file__).with_name("step_sources.json")
MONTH = "2024-02"
# The release's step is made inside its asset, from the gates of the moment; it has no step that stands alone.
WITHOUT_STEP = ("published_release",)


def steps(services: Services) -> dict[str, Step[Any]]:
    """Every step of the graph on a home without a month."""
    for name in ("repositories", "pull_requests"):
        services.tables.write(name, MONTH, project(TABLES[name], [])[0])
    return {asset: make(services, MONTH) for asset, make in STEPS.items()}


def modules(step: Step[Any]) -> set[str]:
    """A step's sources, and what they import of the same phase."""
    (phase,) = [f"formulamine.{name}" for name, assets in PHASES.items() if step.asset in assets]
    found, todo = set(), set(step.sources)
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= {one for one in _imported(name) if one.startswith(f"{phase}.")} - found
    return found


def source_of(module: str) -> Path:
    """File of a module."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"no module {module}"
    assert spec.origin is not None
    return Path(spec.origin)


def digest(source: str) -> str:
    """Hash of what a module does: its syntax tree without comments, docstrings and layout, on any Python alike."""
    return hashlib.sha256(json.dumps(_shape(ast.parse(source))).encode()).hexdigest()[:16]


def record_of(step: Step[Any]) -> dict[str, Any]:
    """What is recorded of a step: its version, its modules, and the columns that it fills."""
    table = TABLES[step.asset]
    side = schema_hash(SIDE_SCHEMAS[table.side_name]) if table.side_name else ""
    return {
        "version": step.version,
        "columns": table.schema_hash() + side,
        "sources": {name: digest(source_of(name).read_text()) for name in sorted(modules(step))},
    }


def _imported(module: str) -> set[str]:
    """Modules of ours that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source_of(module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("formulamine.") and _is_module(name)}


def _is_module(name: str) -> bool:
    package, _, _ = name.rpartition(".")
    folder = importlib.util.find_spec(package)
    if folder is None or folder.submodule_search_locations is None:
        return False
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.submodule_search_locations is None


def _shape(node: object) -> object:
    """A syntax tree as JSON. What is empty is left out: later Pythons have more such fields."""
    if isinstance(node, list):
        return [_shape(one) for one in node if not _is_docstring(one)]
    if isinstance(node, ast.AST):
        fields = {name: value for name, value in ast.iter_fields(node) if value is not None and value != []}
        return [type(node).__name__, {name: _shape(value) for name, value in fields.items()}]
    return repr(node)


def _is_docstring(node: object) -> bool:
    """Whether a statement is a string and nothing else: of a module, class, function or attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def main() -> None:
    """Write the record anew."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings()
        settings.home = Path(folder)
        record = {asset: record_of(step) for asset, step in steps(Services(settings)).items()}
    RECORD.write_text(json.dumps(record, indent=2) + "\n")
    print(f"recorded the sources of {len(record)} steps in {RECORD}")


if __name__ == "__main__":
    main()
