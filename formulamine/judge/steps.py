"""The step of the judge, put together from services: classifications.

Here belong its version and what decides its answer. How it judges stands in `rules.py`, and what Dagster makes of it
in `assets.py`.
"""

from formulamine.items import Outcome, Step
from formulamine.judge.rules import RULES_FILE, JudgeInput, JudgeReason, judge
from formulamine.services.container import Services

CLASSIFICATIONS_VERSION = "1"


def classifications_step(services: Services) -> Step[JudgeInput]:
    """Judge candidates by rules."""

    def run(item: JudgeInput) -> Outcome:
        return judge(item, services.blobs.get(item.patch_sha256))

    return Step(
        asset="classifications",
        version=CLASSIFICATIONS_VERSION,
        reads=JudgeInput,
        run=run,
        reasons=JudgeReason,
        sources=("formulamine.judge.rules", "formulamine.discover.diff"),
        data_files=(RULES_FILE,),
        workers=services.settings.workers.judge_workers,
    )
