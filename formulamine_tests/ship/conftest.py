from pathlib import Path

import pytest

from formulamine.services.resolver import Interpreter
from formulamine_tests.build.conftest import interpreters, uv_cache
from formulamine_tests.build.workbench import Workbench

__all__ = ["interpreters", "uv_cache"]


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory,
    interpreters: dict[str, Interpreter],
    uv_cache: Path,
) -> Workbench:
    """One for all tests of a module: they read what stands and add to it."""
    return Workbench(tmp_path_factory.mktemp("bench"), interpreters, uv_cache=uv_cache)
