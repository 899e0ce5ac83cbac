"""What SIGKILLs at 20 random points of a build leave behind after the next run: nothing may be.

Usage: python benchmarks/build_kills.py --repo OWNER/NAME=PATH --month MONTH [--backend local|docker] [--kills 20]
       [--limit N] [--seed N]

Resolves the pull requests of a month, and then, in a fresh copy of that home for each kill, begins to build
them, is killed at a moment drawn uniformly over the time that building takes undisturbed, and runs the same command to
its end. Then no process, control group, container, volume, mount or file of the engine may be there that was not there
before; no image that the home does not know or has not named; and in the home no folder and no file that the
undisturbed one does not have. Exits 1 if there is anything. What was built is removed from the engine each time.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from formulamine.build.image_room import ImageRecord
from formulamine.build.room import GROUPS
from formulamine.services.store import Tables

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are no installed package
from formulamine_tests.end_to_end.runs import COMMAND, environment, formulamine, hit, locks_held

BEFORE = "repositories,pull_requests,candidate_prs,classifications,env_payloads"
AT = "images: "  # what a run says when it begins to build
KEPT = (".lock", ".uses")  # stand beside what they are for, and hold nothing
DOCKER_TEMPORARY = Path("/var/lib/docker/tmp")  # where the engine keeps what it is being sent, if it is here


@dataclass(frozen=True)
class World:
    """What is there outside a home."""

    containers: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    """Ids."""
    mounts: frozenset[str] = frozenset()
    temporary: frozenset[str] = frozenset()

    @classmethod
    def now(cls, client: Any, temporary: Path) -> World:
        """Look."""
        mounts = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
        files = {str(one) for folder in (temporary, DOCKER_TEMPORARY) if folder.is_dir() for one in folder.iterdir()}
        if client is None:
            return cls(mounts=frozenset(mounts), temporary=frozenset(files))
        return cls(
            containers=frozenset(one.id for one in client.containers.list(all=True, ignore_removed=True)),
            volumes=frozenset(one.id for one in client.volumes.list()),
            images=frozenset(one["Id"] for one in client.api.images(all=True)),
            mounts=frozenset(mounts),
            temporary=frozenset(files),
        )

    def more_than(self, before: World, client: Any, known: set[str]) -> Iterator[str]:
        """What is there more than before, but for images by names that are known."""
        for field in fields(self):
            if field.name != "images":
                more = getattr(self, field.name) - getattr(before, field.name)
                yield from (f"{field.name}: {one}" for one in sorted(more))
        for image in sorted(self.images - before.images):
            names = client.api.inspect_image(image)["RepoTags"]
            if not names or not set(names) <= known:
                yield f"images: {image} {names}"


def inside(home: Path) -> set[str]:
    """What stands in a home where builds leave something."""
    found = set()
    for group in (*GROUPS, "docker/images", "docker", "."):
        folder = home / "cache" / group
        found |= {str(one.relative_to(home)) for one in folder.iterdir()} if folder.is_dir() else set()
    found |= {str(one.relative_to(home)) for one in (home / "scratch").rglob("*")}
    found |= {str(one.relative_to(home)) for one in home.rglob(".writing-*")}
    found |= {str(one.relative_to(home)) for one in home.rglob(".making-*")}
    return {one for one in found if not one.endswith(KEPT)}


def known_images(home: Path) -> set[str]:
    """Names of the images that a home has recorded."""
    records = (home / "cache").glob("**/images/*.json")
    return {ImageRecord.model_validate_json(one.read_bytes()).name for one in records}


def forget_images(client: Any, before: World) -> None:
    """Remove what was built, so that the next one is built again."""
    if client is None:
        return
    for _ in range(10):  # what others stand on cannot go first
        left = {one["Id"] for one in client.api.images()} - before.images
        for image in left:
            # One that another stands on, or that went with it.
            subprocess.run(["docker", "rmi", "--force", image], check=False, capture_output=True)
        if not left:
            return
    sys.exit(f"images cannot be removed: {left}")


@click.command(help=__doc__)
@click.option("--repo", required=True, metavar="OWNER/NAME=PATH")
@click.option("--month", required=True)
@click.option("--backend", type=click.Choice(["local", "docker"]), default="docker")
@click.option("--kills", default=20)
@click.option("--limit", default=0, help="pull requests; 0: all of the month")
@click.option("--seed", default=20240229)
def main(repo: str, month: str, backend: str, kills: int, limit: int, seed: int) -> None:
    """Kill, run again, look."""
    import docker

    client = docker.from_env() if backend == "docker" else None
    chance = random.Random(seed)
    variables = {name: value for name, value in os.environ.items() if name.startswith("FORMULAMINE_")}
    command = ["month", month, "--repo", repo, "--backend", backend, *(["--limit", str(limit)] if limit else [])]
    build = [*command, "--select", "images"]
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="formulamine-build-kills-") as scratch:
        folder, temporary = Path(scratch), Path(scratch) / "tmp"
        temporary.mkdir()
        variables["TMPDIR"] = str(temporary)
        template, undisturbed = folder / "template", folder / "undisturbed"
        resolved = formulamine(template, *command, "--select", BEFORE, variables=variables)
        if resolved.code:
            sys.exit(f"the month cannot be resolved:\n{resolved.err}")
        before = World.now(client, temporary)
        shutil.copytree(template, undisturbed, symlinks=True)
        seconds = time_of(undisturbed, build, variables)
        expected, rows = inside(undisturbed), outcomes(undisturbed, month)
        if "done" not in rows:
            sys.exit(f"nothing of the month is built: {rows}")
        click.echo(f"undisturbed: built in {seconds:.1f} s, {rows}")
        forget_images(client, before)
        for number in range(1, kills + 1):
            home = folder / f"home-{number:02}"
            shutil.copytree(template, home, symlinks=True)
            delay = chance.uniform(0, seconds)
            one = hit(home, build, delay, signal.SIGKILL, at=AT, variables=variables)
            found = [f"a process is left: {line}" for line in one.left]
            found += [f"a control group holds a process: {path}" for path in one.groups]
            at_kill = World.now(client, temporary)
            left = [*at_kill.more_than(before, client, set()), *sorted(inside(home) - expected)]
            again = formulamine(home, *build, variables=variables)
            found += [f"the next run failed: {again.err[-1000:]}"] if again.code else []
            found += World.now(client, temporary).more_than(before, client, known_images(home))
            found += [f"in the home: {one}" for one in sorted(inside(home) ^ expected)]
            found += [f"a lock is held: {path}" for path in locks_held(home)]
            if outcomes(home, month) != rows:
                found.append(f"differs: {outcomes(home, month)}")
            killed = "killed" if one.by else "had ended"
            click.echo(
                f"{number:3} {killed} after {delay:5.1f} s: {len(left)} things left; {len(found)} after the next"
            )
            for line in found:
                click.echo(f"      WRONG: {line}")
            wrong += found
            forget_images(client, before)
            shutil.rmtree(home)
    click.echo(f"{kills} kills, {len(wrong)} things left behind after the next run")
    sys.exit(1 if wrong else 0)


def time_of(home: Path, build: list[str], variables: dict[str, str]) -> float:
    """Seconds from where a run says that it builds until it ends."""
    begun = 0.0
    process = subprocess.Popen(
        [*COMMAND, *build], cwd=home.parent, env=environment(home, variables), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    told = []
    for line in process.stderr or ():
        told.append(line)
        if AT in line and not begun:
            begun = time.monotonic()
    if process.wait():
        sys.exit(f"the month cannot be built:\n{''.join(told)}")
    return time.monotonic() - begun


def outcomes(home: Path, month: str) -> dict[str, int]:
    """How many rows of the images have which status."""
    table = Tables(home / "tables").read("images", month)
    assert table is not None, "images were never made"
    return dict(table.group_by("status").len().sort("status").rows())


if __name__ == "__main__":
    main()
