"""The asset `pr_lineage`: a partition for each pull request that was asked for, its story as metadata."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from formulamine.demo.sample import MONTH
from formulamine.lineage_assets import BadPullRequest, add_pull_request, pr_lineage
from formulamine.services.resolver import Resolver
from formulamine_tests.test_story import NO_INTERPRETERS, make_month, pr


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("lineage") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORMULAMINE_HOME", str(home))
        patch.chdir(home.parent)
        make_month(home)
    return home


@pytest.fixture
def made(month: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the month's home, which the settings name."""
    shutil.copytree(month, home)
    monkeypatch.setattr(Resolver, "interpreters", NO_INTERPRETERS)
    return home


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield instance


def materialized(text: str, instance: dg.DagsterInstance) -> dg.AssetMaterialization:
    key = add_pull_request(instance, text)
    result = dg.materialize([pr_lineage], instance=instance, partition_key=key)
    (event,) = result.asset_materializations_for_node("pr_lineage")
    return event


def value(event: dg.AssetMaterialization, name: str) -> Any:
    return event.metadata[name].value


def test_the_story_is_metadata(made: Path, instance: dg.DagsterInstance) -> None:
    event = materialized("formulamine/sample#32", instance)
    assert event.partition == pr(32)
    assert value(event, "why").startswith("\\#32 is in release")
    assert (value(event, "month"), value(event, "ended_at"), value(event, "outcome")) == (
        MONTH, "published_release", "done",
    )  # fmt: skip
    assert value(event, "benchmarks").startswith("![Benchmarks of formulamine/sample#32](data:image/svg+xml;base64,")
    assert "# A slow path" in value(event, "statement")
    assert "| leak: name | Use a \\| \\<dict\\>. |" in value(event, "left out of the statement")
    assert "gates again from raw samples" in value(event, "story")
    assert len(value(event, "outcomes")) < 1000
    assert instance.get_latest_materialization_event(pr_lineage.key) is not None


def test_one_that_stopped_early_has_no_picture(made: Path, instance: dg.DagsterInstance) -> None:
    event = materialized(pr(31), instance)
    assert value(event, "outcome") == "rejected (not_performance_title)"
    assert "benchmarks" not in event.metadata


def test_the_data_version_changes_with_an_outcome_only(made: Path, instance: dg.DagsterInstance) -> None:
    versions = [event.tags["dagster/data_version"] for event in (materialized(pr(31), instance) for _ in range(2))]
    other = materialized(pr(33), instance).tags["dagster/data_version"]
    assert versions[0] == versions[1] != other  # type: ignore[index]


def test_an_unknown_one_fails_in_one_line(made: Path, instance: dg.DagsterInstance) -> None:
    key = add_pull_request(instance, "formulamine/sample#30")
    result = dg.materialize([pr_lineage], instance=instance, partition_key=key, raise_on_error=False)
    failure = result.failure_data_for_node("pr_lineage")
    assert failure is not None
    assert failure.user_failure_data is not None
    told = failure.user_failure_data.description
    assert told is not None
    assert "\n" not in told
    assert told.endswith("enters at pull_requests: run `formulamine month 2024-01`")


def test_a_damaged_table_fails_in_one_line(made: Path, instance: dg.DagsterInstance) -> None:
    (made / "tables" / "images" / f"{MONTH}.parquet").write_bytes(b"PAR1")
    key = add_pull_request(instance, pr(32))
    result = dg.materialize([pr_lineage], instance=instance, partition_key=key, raise_on_error=False)
    failure = result.failure_data_for_node("pr_lineage")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert "is damaged" in str(failure.user_failure_data.description)


def test_both_ways_to_write_one_are_one_partition(instance: dg.DagsterInstance) -> None:
    before = set(instance.get_dynamic_partitions("pull_request"))
    assert add_pull_request(instance, "some/thing#7") == add_pull_request(instance, "some__thing-7") == "some__thing-7"
    assert set(instance.get_dynamic_partitions("pull_request")) == before | {"some__thing-7"}


@pytest.mark.parametrize("text", ["", "thing#7", "some/thing", "some/th...ing#7", "some/thing#7\nx"])
def test_what_names_no_pull_request_is_refused(text: str, instance: dg.DagsterInstance) -> None:
    before = instance.get_dynamic_partitions("pull_request")
    with pytest.raises(BadPullRequest):
        add_pull_request(instance, text)
    assert instance.get_dynamic_partitions("pull_request") == before
