"""The step of the judge, put together from services: classifications.

Here belong its version and what decides its answer. How it judges stands in `rules.py` and `model.py`, and what Dagster
makes of it in `assets.py`.
"""

from formulamine.discover.sieve_rules import WEIGHTS_FILE
from formulamine.items import Outcome, Step
from formulamine.judge.model import PROMPT_FILE, ModelJudge
from formulamine.judge.rules import RULES_FILE, JudgeInput, JudgeReason, judge
from formulamine.services.container import Services

CLASSIFICATIONS_VERSION = "2"


def classifications_step(services: Services) -> Step[JudgeInput]:
    """Judge candidates by a model where one is configured, by rules otherwise."""

    def by_rules(item: JudgeInput) -> Outcome:
        return judge(item, services.blobs.get(item.patch_sha256))

    by_model = bool(services.llm.models("judge"))
    return Step(
        asset="classifications",
        version=CLASSIFICATIONS_VERSION,
        reads=JudgeInput,
        run=ModelJudge(services.llm, services.blobs) if by_model else by_rules,
        reasons=JudgeReason,
        sources=("formulamine.judge.rules", "formulamine.judge.model", "formulamine.discover.diff"),
        data_files=(RULES_FILE, WEIGHTS_FILE, PROMPT_FILE),
        outside=services.llm.decides("judge") | again(services) if by_model else {},
        workers=services.settings.workers.judge_workers,
    )


def again(services: Services) -> dict[str, str]:
    """What decides which candidates are judged twice, and by whom."""
    if not services.llm.models("judge_again"):
        return {}
    asked = {f"again {name}": value for name, value in services.llm.decides("judge_again").items()}
    settings = services.settings.llm
    return asked | {"again shares": f"{settings.judge_again_yes_share}, {settings.judge_again_no_share}"}
