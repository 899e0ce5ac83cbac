"""The Dagster side of one pull request's story: the asset `pr_lineage`, with a partition for each one asked for.

Here belong the partitions, asking for one, and the metadata. It computes nothing and waits for nothing: it shows what
the tables say at the moment it is materialized, so it depends on no asset and is no part of a month. The story itself
is in `story.py` and needs no Dagster.
"""

import contextlib
import hashlib
from typing import Any

import dagster as dg

from formulamine import telling
from formulamine.discover.registry import RegistryError
from formulamine.lineage import UnknownPullRequest
from formulamine.redo import redo
from formulamine.services.container import Services
from formulamine.services.ledger import LedgerError
from formulamine.services.store import StoreError
from formulamine.settings import Settings
from formulamine.story import pr_id_of, tell, why_not

PULL_REQUESTS = dg.DynamicPartitionsDefinition(name="pull_request")
PR_LINEAGE = "pr_lineage"


class BadPullRequest(Exception):
    """What was asked for names no pull request; the message is one line with the mend."""


def partition_of(text: str) -> str:
    """Partition key of what a person writes: OWNER/NAME#123 or owner__name-123.

    Raises:
        BadPullRequest: it names no pull request, or Dagster takes no such key.
    """
    key = pr_id_of(text)
    if key is None:
        raise BadPullRequest(f"{text!r} names no pull request: write OWNER/NAME#123 or owner__name-123")
    if "..." in key:  # Dagster's sign for a range of partitions
        raise BadPullRequest(f"{key} cannot be a partition of Dagster's: ask with `formulamine lineage` instead")
    return key


def add_pull_request(instance: dg.DagsterInstance, text: str) -> str:
    """Add a pull request's partition, unless it is there, and return its key.

    Raises:
        BadPullRequest: the text names no pull request.
    """
    key = partition_of(text)
    instance.add_dynamic_partitions(str(PULL_REQUESTS.name), [key])
    return key


@dg.asset(
    name=PR_LINEAGE,
    partitions_def=PULL_REQUESTS,
    group_name="lineage",
    kinds={"python", "markdown"},
    owners=["team:formulamine"],
    tags={"phase": "lineage"},
    description=(
        "The story of one pull request: how it fared at every asset and why, its benchmarks, its problem statement, "
        "and what a run would do with it now. Add a partition named owner__name-123 and materialize it."
    ),
)
def pr_lineage(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    """The story of one pull request, as metadata."""
    try:
        return story_of(partition_of(context.partition_key))
    except (BadPullRequest, UnknownPullRequest, RegistryError, StoreError, LedgerError) as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


def story_of(pr_id: str) -> dg.MaterializeResult[Any]:
    """Metadata of a story; its data version changes with any outcome.

    Raises:
        UnknownPullRequest: no table has it.
        StoreError: a table is unreadable.
        LedgerError: the ledger cannot be opened.
        RegistryError: the registry is malformed.
    """
    settings = Settings()
    story = tell(pr_id, settings)
    with contextlib.closing(Services(settings)) as services:
        redone = redo(pr_id, story.repo, story.month, services)
    # The UI shows Markdown of up to 1,000 characters at once and the rest, pictures too, behind a click.
    metadata: dict[str, Any] = {
        "why": dg.MetadataValue.md(telling.markdown(why_not(story))),
        "outcomes": dg.MetadataValue.md(telling.summary(story)),
        "story": dg.MetadataValue.md(telling.whole(story, redone)),
    }
    if story.benchmarks:
        metadata["benchmarks"] = dg.MetadataValue.md(telling.benchmarks(story))
    if story.statement:
        metadata["statement"] = dg.MetadataValue.md(telling.statement(story))
    if left_out := telling.left_out(story):
        metadata["left out of the statement"] = dg.MetadataValue.md(left_out)
    metadata |= {
        "month": story.month,
        "ended_at": story.last.asset,
        "outcome": story.last.ended,
        "seconds": round(sum(chapter.seconds for chapter in story.chapters), 1),
        "cost_usd": round(sum(chapter.cost_usd for chapter in story.chapters), 4),
    }
    if story.url:
        metadata["page"] = dg.MetadataValue.url(story.url)
    told = "\n".join(f"{chapter.asset} {chapter.fingerprint} {chapter.ended}" for chapter in story.chapters)
    return dg.MaterializeResult(
        metadata=metadata, data_version=dg.DataVersion(hashlib.sha256(told.encode()).hexdigest())
    )


ASSETS = [pr_lineage]
