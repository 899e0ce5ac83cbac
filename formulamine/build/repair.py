"""The last rung of a build: a model looks at the failure and proposes a change of the recipe.

Here belong what the model is shown and the loop of proposing, building and looking again. What a change may be stands
in `recipe_change.py`, how a model is asked in `services/llm.py`; building is the caller's function. Where no model is
configured, nothing happens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine.build.recipe import Recipe
from formulamine.build.recipe_change import ChangeRefused, RecipeChange, Resolve, apply
from formulamine.services.llm import Answer, Llm, Prompt, Question
from formulamine.services.llm_budget import Spent
from formulamine.services.llm_errors import LlmError, NoAnswer

PROMPT_FILE = Path(__file__).with_name("prompts") / "repair.md"
# What is shown of a repository, where it has it, from the package's root and the tree's.
SHOWN_FILES = (
    *("pyproject.toml", "setup.py", "setup.cfg", "meson.build", "meson_options.txt", "meson.options", "CMakeLists.txt"),
    *("MANIFEST.in", "Cargo.toml", "requirements.txt", "environment.yml", "asv.conf.json"),
)
# Another recipe can help these; the rest is the machine's matter, ours, or a sign of tampering.
REPAIRABLE = frozenset(
    {
        ImageReason.INSTALL_FAILED,
        ImageReason.MISSING_BUILD_BACKEND,
        ImageReason.SYSTEM_PACKAGE,
        ImageReason.COMPILE_ERROR,
        ImageReason.BUILD_FAILED,
        ImageReason.IMPORT_ERROR,
        ImageReason.NO_BENCHMARKS,
    }
)
# Characters; together some 10,000 tokens. The log of scipy's build has 2,000,000, its meson.build 30,000.
LOG_CHARACTERS, LINE_CHARACTERS = 12_000, 400
FILE_CHARACTERS, FILES_CHARACTERS = 8_000, 24_000
LAST_LINES = 30
BEFORE, AFTER = 8, 6  # lines around an error: a compiler shows the source after it, and the includes before
_ERROR = re.compile(
    r"\berror\b[:\[ ]|fatal|Traceback|\w(Error|Exception)\b|No module named|undefined (reference|symbol)|cannot find"
    r"|not found|No such file|command not found|FAILED|build stopped|conflict|incompatible",
    re.IGNORECASE,
)
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What differs from one run of the same build to the next: a question that differs is paid again.
_VOLATILE = (
    (re.compile(r"0x[0-9a-f]{6,}"), "0x..."),
    (re.compile(r"(/tmp|/var/tmp)/[\w.-]+"), r"\1/..."),
    (re.compile(r"\b(tmp|build-env-|pip-\w+-|cc)[a-z0-9_]{6,8}\b(?=[/.])"), r"\1..."),
    (re.compile(r"\d+(\.\d+)? ?(s|ms|seconds)\b"), "... s"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\S*"), "..."),
)
TryBuild = Callable[[Recipe], BuildFailed | None]


@dataclass(frozen=True)
class Turn:
    """One change that was tried, and how the build then failed; `failure` is None where it did not."""

    change: RecipeChange
    model: str
    failure: BuildFailed | None


@dataclass(frozen=True)
class Repaired:
    """What came of it."""

    recipe: Recipe | None
    """The one that built."""
    failure: BuildFailed | None
    """The last one where none did."""
    turns: tuple[Turn, ...]
    spent: Spent
    ended: str
    """Why it ended, in words: "built", or why no further turn was taken."""

    @property
    def models(self) -> tuple[str, ...]:
        """Those that answered, in order."""
        return tuple(dict.fromkeys(turn.model for turn in self.turns))


def repair(
    llm: Llm,
    recipe: Recipe,
    failure: BuildFailed,
    build_files: Mapping[str, str],
    try_build: TryBuild,
    *,
    resolve: Resolve | None = None,
    item: str = "",
) -> Repaired:
    """Change a recipe until it builds, or until turns, money or the models' ideas are used up.

    Args:
        llm: its chain for "repair" is gone through from the first half of the turns to the last.
        recipe: the one that failed.
        failure: how.
        build_files: texts of the repository's build files by path; see SHOWN_FILES.
        try_build: builds a recipe, with every check, and says how it failed.
        resolve: makes pins of requirements that are no pins.
        item: whose cost it is.

    Raises:
        LlmError: any but NoAnswer; its `spent` counts the turns before.
        Cancelled: the run was told to end.
    """
    chain = llm.models("repair")
    if not chain:
        return Repaired(None, failure, (), Spent(), "no model is configured")
    most = llm.settings.repair_turns
    tried = {recipe.to_blob()}
    turns: list[Turn] = []
    spent, level = Spent(), 0
    for number in range(most):
        if failure.reason not in REPAIRABLE:
            return Repaired(None, failure, tuple(turns), spent, f"no recipe helps against {failure.reason}")
        if (spent.cost_usd or 0.0) >= llm.settings.repair_budget_usd:
            return Repaired(None, failure, tuple(turns), spent, "FORMULAMINE_REPAIR_BUDGET_USD is spent")
        level = max(level, number * len(chain) // most)
        while True:
            try:
                answer = propose(
                    llm, recipe, failure, build_files, turns,
                    models=chain[level:], tried=tried, resolve=resolve, item=item,
                )  # fmt: skip
            except NoAnswer as error:
                return Repaired(None, failure, tuple(turns), spent + error.spent, f"no answer: {error}")
            except LlmError as error:
                error.spent = spent + error.spent
                raise
            spent = spent + answer.spent
            level = chain.index(answer.model)
            if not answer.value.give_up:
                break
            if level + 1 == len(chain):
                return Repaired(None, failure, tuple(turns), spent, f"gave up: {answer.value.diagnosis}")
            level += 1  # a stronger one may see what this one does not
        recipe = apply(recipe, answer.value, resolve)
        tried.add(recipe.to_blob())
        failed = try_build(recipe)
        turns.append(Turn(answer.value, answer.model, failed))
        if failed is None:
            return Repaired(recipe, None, tuple(turns), spent, "built")
        failure = failed
    return Repaired(None, failure, tuple(turns), spent, f"{most} turns")


def propose(
    llm: Llm,
    recipe: Recipe,
    failure: BuildFailed,
    build_files: Mapping[str, str],
    history: Sequence[Turn],
    *,
    models: Sequence[str] | None = None,
    tried: Iterable[bytes] = (),
    resolve: Resolve | None = None,
    item: str = "",
) -> Answer[RecipeChange]:
    """Ask for one change, which fits the recipe, is allowed, and was not tried.

    Args:
        llm: who is asked.
        recipe: the one that failed, with all earlier changes in it.
        failure: how it failed.
        build_files: texts of the repository's build files by path.
        history: the turns before.
        models: those that are asked; the whole chain where none are named.
        tried: blobs of recipes that need not be built again.
        resolve: makes pins of requirements that are no pins.
        item: whose cost it is.

    Raises:
        LlmError: there is no answer.
        Cancelled: the run was told to end.
    """
    known = frozenset(tried)

    def check(change: RecipeChange) -> str:
        try:
            made = apply(recipe, change, resolve)
        except ChangeRefused as error:
            return str(error)
        if not change.give_up and made.to_blob() in known:
            return "the recipe that this makes was tried and failed"
        return ""

    text = question_text(recipe, failure, build_files, history)
    question = Question(Prompt.load(PROMPT_FILE), text, RecipeChange, item=item, check=check)
    return llm.ask(question, llm.models("repair") if models is None else models)


def question_text(recipe: Recipe, failure: BuildFailed, build_files: Mapping[str, str], history: Sequence[Turn]) -> str:
    """What a model is shown of a failed build."""
    shown = recipe.model_dump(mode="json", exclude={"version", "base_sha", "merge_sha", "benchmark_dir"})
    parts = [
        _quoted("recipe", json.dumps(shown, indent=1)),
        f"The build failed: {failure.reason}. {_settled(_first(str(failure)))}",
        _quoted("log", relevant_part(failure.log) or "(empty)"),
        *_files(build_files),
    ]
    if history:
        parts.append(_quoted("tried", "\n".join(_told(number, turn) for number, turn in enumerate(history, 1))))
    return "\n\n".join(parts) + "\n"


def relevant_part(log: str, limit: int = LOG_CHARACTERS) -> str:
    """The end of a log, and as much around its errors as there is room for: the first error, then the last ones."""
    plain = _ESCAPE.sub("", log).replace("\r\n", "\n")
    lines = [_cut(_settled(line.rpartition("\r")[2].rstrip()), LINE_CHARACTERS) for line in plain.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    errors = [place for place, line in enumerate(lines) if _ERROR.search(line)]
    wanted = [range(len(lines) - LAST_LINES, len(lines))]
    wanted += [range(place - BEFORE, place + AFTER + 1) for place in [*errors[:1], *reversed(errors)]]
    wanted.append(range(len(lines)))  # a short log is shown whole
    chosen: set[int] = set()
    room = limit
    for places in wanted:
        for place in reversed(places):
            if 0 <= place < len(lines) and place not in chosen:
                room -= len(lines[place]) + 1
                if room < 0:
                    return _joined(lines, chosen)
                chosen.add(place)
    return _joined(lines, chosen)


def _joined(lines: Sequence[str], chosen: set[int]) -> str:
    """Chosen lines in order, with a mark where some are left out."""
    told: list[str] = []
    last = -1
    for place in sorted(chosen):
        if place > last + 1:
            told.append(f"[... {place - last - 1} lines ...]")
        told.append(lines[place])
        last = place
    if last + 1 < len(lines):
        told.append(f"[... {len(lines) - last - 1} lines ...]")
    return "\n".join(told)


def _files(build_files: Mapping[str, str]) -> list[str]:
    """Build files, each cut in its middle, as far as there is room for them."""
    told: list[str] = []
    room = FILES_CHARACTERS
    for path, text in build_files.items():
        shown = _cut(text, min(FILE_CHARACTERS, room))
        room -= len(shown)
        told.append(_quoted("file", shown, f' path="{_cut(path, 200)}"'))
        if room <= 0:
            break
    return told


def _told(number: int, turn: Turn) -> str:
    change = turn.change.model_dump(mode="json", exclude={"diagnosis", "give_up"})
    made = json.dumps({name: value for name, value in change.items() if value})
    came = "it built" if turn.failure is None else f"{turn.failure.reason}: {_settled(_first(str(turn.failure)))}"
    return f"{number}. {_cut(made, 1000)}\n   because: {_cut(turn.change.diagnosis, 500)}\n   then: {came}"


def _quoted(tag: str, text: str, more: str = "") -> str:
    """A text between marks that it cannot close itself."""
    return f"<{tag}{more}>\n{text.replace(f'</{tag}', f'< /{tag}')}\n</{tag}>"


def _settled(text: str) -> str:
    """A text without what differs from one run of the same build to the next."""
    for pattern, instead in _VOLATILE:
        text = pattern.sub(instead, text)
    return text


def _first(text: str) -> str:
    return _cut(" ".join(text.split()), 500)


def _cut(text: str, limit: int) -> str:
    """A text without its middle where it is too long."""
    if len(text) <= limit:
        return text
    half = max(limit - 20, 0) // 2
    return f"{text[:half]} [... cut ...] {text[len(text) - half :]}"
