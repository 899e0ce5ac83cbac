"""A change of a recipe, as a model may propose it, and what of it is allowed.

Here belong the types of a change, the rules, and applying one. A change is data: pins, variables, settings of the
build backend and names of Debian packages. There is no way to say a command, another commit or suite, or anything that
the checks after a build look with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, canonicalize_version
from packaging.version import InvalidVersion, Version
from pydantic import Field

from formulamine.build.recipe import Recipe
from formulamine.records import Record
from formulamine.services.resolver import Unresolvable

Kind = Literal["build", "run"]
Resolve = Callable[[Kind, Sequence[str]], list[str]]
"""Pins "name==version" for all the lines of a kind; raises Unresolvable."""
# What measures and checks brings its own; the package under test comes from its tree and from nowhere else.
OURS = frozenset({"asv", "asv-runner", "formulamine"})
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+]")  # Debian policy 5.6.7; apt takes "name-" for "remove name"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONFIG = re.compile(r"[A-Za-z0-9_.-]+")
# Variables decide the build, and the checks and measurements too, which see the same: so none that says what is
# loaded, imported, run, trusted or where things are, and none that changes how fast the same code runs.
_DENIED = re.compile(
    r"""
    (LD|DYLD|PYTHON|PYTEST|PYENV|VIRTUAL_ENV|CONDA|UV|PIP|ASV|FORMULAMINE|DAGSTER|GIT|SSH|GPG|DOCKER|BASH|MALLOC
    |GLIBC|GCONV|OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|NUMBA|CURL|SSL|XDG|LC|AWS|OPENAI|ANTHROPIC|GITHUB|HF|COVERAGE)_.*
    |PYTHON.*|PATH|HOME|USER|SHELL|ENV|IFS|PWD|OLDPWD|TMPDIR|TEMP|TMP|LANG|LANGUAGE|TZ|EDITOR|PAGER|TERM|PS[14]
    |PROMPT_COMMAND|CDPATH|.*_PROXY|.*_NUM_THREADS|.*(TOKEN|SECRET|PASSWORD|API_KEY).*|SOURCE_DATE_EPOCH
    |CC|CXX|CPP|FC|F77|F90|AR|AS|LD|NM|RANLIB|STRIP|MAKE|CMAKE|NINJA|.*_(LAUNCHER|WRAPPER|PRELOAD|RUNNER|LINKER)
    |RUSTC|CARGO|.*_COMMAND|GCC_EXEC_PREFIX|COMPILER_PATH|DISTUTILS_.*|SETUPTOOLS_USE_DISTUTILS|MAKEFLAGS|GNUMAKEFLAGS
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SHELL = re.compile(r"[`$;|&<>\\\n\r\0]|[^\x20-\x7e]")
# Options by which a compiler, a linker or a build system runs or loads a program, or reads more options from a file.
_LOADS = re.compile(
    r"(^|\s)(-wrapper|-fplugin|-B|-specs|-fuse-ld|-Xclang|-load|@)|-rpath|-dynamic-linker|--preload|linker="
    r"|_COMPILER\b|_LAUNCHER|TOOLCHAIN|_LINKER|--(native|cross)-file|--compiler"
)
LONGEST_VALUE = 500


class ChangeRefused(Exception):
    """A change is not allowed, or does not fit the recipe; the message tells the model why."""


class _Part(Record):
    """Has no defaults: the servers' strict mode wants every field in every answer."""


class PinChange(_Part):
    """A pin that is set or removed."""

    of: Kind
    """"build" for what builds the package, "run" for what it runs with."""
    action: Literal["set", "remove"]
    """"set" adds it, or takes the place of the pin of that name."""
    requirement: str = Field(max_length=200)
    """"name==version", another requirement without URL and marker, or with "remove" the name alone."""


class Setting(_Part):
    """A variable or a setting of the build backend that is set or removed."""

    action: Literal["set", "remove"]
    name: str
    value: str
    """Empty with "remove"."""


class RecipeChange(_Part):
    """A change of the recipe of a build."""

    diagnosis: str = Field(max_length=2000)
    """Why the build failed, and why this change helps: one or two sentences."""
    pins: list[PinChange] = Field(max_length=40)
    """Pins of what builds the package, or of what it runs with."""
    variables: list[Setting] = Field(max_length=20)
    """Environment variables of the build."""
    config_settings: list[Setting] = Field(max_length=20)
    """Settings of the build backend (PEP 517 config settings)."""
    system_packages: list[str] = Field(max_length=20)
    """Names of Debian 12 packages to be installed besides."""
    give_up: bool
    """Nothing that may be changed can help; every list is empty then."""


def apply(recipe: Recipe, change: RecipeChange, resolve: Resolve | None = None) -> Recipe:
    """A recipe with a change in it; without one that could not be, the recipe is not touched.

    Args:
        recipe: stays as it is.
        change: what a model proposes.
        resolve: makes pins of lines that are not "name==version"; without it such lines are refused.

    Raises:
        ChangeRefused: every reason why it cannot be, a line each.
    """
    problems: list[str] = []
    changed: dict[str, Any] = {}
    kinds: dict[Kind, tuple[str, ...]] = {"build": ("build_pins",), "run": ("pins", "pins_base")}
    for of, names in kinds.items():
        asked = [pin for pin in change.pins if pin.of == of]
        for name in names:
            if asked and (before := getattr(recipe, name)):
                changed[name] = _pinned(recipe, of, before, asked, resolve, problems)
            elif asked and name != "pins_base":
                changed[name] = _pinned(recipe, of, [], asked, resolve, problems)
    if change.variables:
        changed["environment_variables"] = _set(
            "variable", recipe.environment_variables, change.variables, _variable_problem, problems
        )
    if change.config_settings:
        before = getattr(recipe, "config_settings", {})
        changed["config_settings"] = _set("setting", before, change.config_settings, _config_problem, problems)
    if change.system_packages:
        wrong = [name for name in change.system_packages if len(name) > 64 or not _PACKAGE.fullmatch(name)]
        problems += [f"{name[:80]!r} is no name of a Debian package" for name in wrong]
        known = getattr(recipe, "system_packages", [])
        changed["system_packages"] = sorted({*known, *change.system_packages})
    for name in changed.keys() - Recipe.model_fields.keys():
        problems.append(f"{name} cannot be changed here: leave it empty")
    if problems:
        raise ChangeRefused("\n".join(dict.fromkeys(problems)))
    made = Recipe.model_validate({**recipe.model_dump(), **changed})
    if made == recipe and not change.give_up:
        raise ChangeRefused("this changes nothing: the recipe has it already; change something or set give_up")
    if made != recipe and change.give_up:
        raise ChangeRefused("give_up is set, so every list has to be empty")
    return made


def _pinned(
    recipe: Recipe,
    of: Kind,
    before: Sequence[str],
    asked: Sequence[PinChange],
    resolve: Resolve | None,
    problems: list[str],
) -> list[str]:
    """The pins of one kind after a change; what is wrong with it is added to the problems."""
    lines = {canonicalize_name(line.partition("==")[0]): line for line in before}
    exact, found = True, len(problems)
    for pin in asked:
        try:
            requirement = Requirement(pin.requirement)
        except InvalidRequirement as error:
            problems.append(f"{pin.requirement!r} is no requirement: {str(error).splitlines()[0]}")
            continue
        name = canonicalize_name(requirement.name)
        if name in OURS or name == canonicalize_name(recipe.distribution):
            problems.append(f"{name} is not to be pinned: it is the package under test, or measures it")
        elif requirement.url or requirement.marker:
            problems.append(f"{pin.requirement!r}: no URL and no marker, only a name and versions")
        elif pin.action == "remove":
            if lines.pop(name, None) is None:
                problems.append(f"{name} is not among the {of} pins, so it cannot be removed")
        elif (line := _exact(requirement)) is not None:
            lines[name] = line
        else:
            lines[name], exact = str(requirement), False
    if len(problems) > found or exact:
        return sorted(lines.values())
    if resolve is None:
        problems.append("nothing is resolved here: say name==version for each pin")
        return []
    try:
        return sorted(resolve(of, sorted(lines.values())))
    except Unresolvable as error:
        problems.append(f"these {of} pins cannot be resolved together: {' '.join(str(error).split())[:1500]}")
        return []


def _exact(requirement: Requirement) -> str | None:
    """The line of a pin as an environment shows it, or None where something is left to be resolved."""
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator != "==" or requirement.extras:
        return None
    try:
        version = str(Version(specifiers[0].version))
    except InvalidVersion:  # "==1.*"
        return None
    return f"{canonicalize_name(requirement.name)}=={canonicalize_version(version, strip_trailing_zero=False)}"


def _set(
    what: str,
    before: dict[str, str],
    asked: Sequence[Setting],
    problem_of: Callable[[Setting], str],
    problems: list[str],
) -> dict[str, str]:
    """Variables or settings after a change; what is wrong with it is added to the problems."""
    after = dict(before)
    for setting in asked:
        if problem := problem_of(setting):
            problems.append(f"{what} {setting.name[:80]!r}: {problem}")
        elif setting.action == "set":
            after[setting.name] = setting.value
        elif after.pop(setting.name, None) is None:
            problems.append(f"{what} {setting.name!r} is not set, so it cannot be removed")
    return dict(sorted(after.items()))


def _variable_problem(setting: Setting) -> str:
    if len(setting.name) > 64 or not _VARIABLE.fullmatch(setting.name):
        return "this is no name of a variable"
    if _DENIED.fullmatch(setting.name):
        return "this variable is not to be set: it would decide what is run, imported or measured"
    return _value_problem(setting.value)


def _config_problem(setting: Setting) -> str:
    if len(setting.name) > 64 or not _CONFIG.fullmatch(setting.name):
        return "this is no name of a setting"
    return _value_problem(setting.value)


def _value_problem(value: str) -> str:
    if len(value) > LONGEST_VALUE:
        return f"its value is longer than {LONGEST_VALUE} characters"
    if _SHELL.search(value):
        return "its value may hold printable ASCII only, and nothing that a shell would take for itself"
    if _LOADS.search(value):
        return "its value would make a tool run or load another program"
    return ""
