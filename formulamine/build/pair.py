"""What a backend gives: both sides of a pull request, built, and the suite that measures them.

Here belong the folders on the host, which are data and never run there, and how a command of ours runs on a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from formulamine.build.recipe import Recipe
from formulamine.services.docker_sandbox import GIVEN
from formulamine.services.resolver import Interpreter
from formulamine.services.sandbox import Command

COMMAND_S = 600.0


@dataclass(frozen=True)
class Seen:
    """Where a command that runs on a side finds what it needs, as its sandbox sees it."""

    python: str
    site: str
    tree: str
    suite_parent: str
    tools: str


@dataclass(frozen=True)
class Side:
    """One built side: environment, package in front of it, and the sources it came from."""

    commit: str
    environment: Path
    tree: Path
    site: Path
    interpreter: Interpreter
    seen: Seen


@dataclass(frozen=True)
class Pair:
    """Both sides of a pull request and the suite of its merge commit that measures them.

    Where the backend makes images, `ships` is the id of the one with the base side, and `measures` of the one with
    both; where it does not, they are empty.
    """

    recipe: Recipe
    base: Side
    head: Side
    suite_parent: Path
    suite: str
    tools: Path
    ships: str = ""
    measures: str = ""

    def command(
        self,
        side: Side,
        script: Path,
        arguments: Sequence[str],
        memory_mb: int,
        timeout_s: float = COMMAND_S,
        given: Sequence[Path] = (),
        *,
        as_text: bool = False,
    ) -> Command:
        """A command that runs a script of ours with a side's Python, without network.

        Args:
            side: whose.
            script: a file of ours.
            arguments: of the script.
            memory_mb: that it may take.
            timeout_s: that it may take.
            given: what it sees besides.
            as_text: let a container have the script's text, which saves it a file; not for one that asks for its file.
        """
        if self.measures and as_text:
            ours, argv = tuple(given), ["-c", script.read_text()]
        else:
            ours, argv = (script, *given), [self.place_of(script)]
        folders = (side.interpreter.prefix, side.environment, side.tree.parent, self.suite_parent, self.tools)
        return Command(
            [side.seen.python, "-B", *argv, *arguments],
            readable=ours if self.measures else (*folders, *ours),
            inside={path: self.place_of(path) for path in ours},
            image=self.measures,
            environment=self.recipe.environment_variables,
            timeout_s=timeout_s,
            memory_mb=memory_mb,
        )

    def place_of(self, given: Path) -> str:
        """Where a command sees a file or folder of ours that is no part of what was built."""
        return f"{GIVEN}/{given.name}" if self.measures else str(given)


@dataclass(frozen=True)
class Digests:
    """What identifies a built pair: what ships, what measures, and the bytes of what ships."""

    base: str
    measure: str
    bytes: int
