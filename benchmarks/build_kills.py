"""What SIGKILLs at 20 random points of a build leave behind after the next run: nothing may be.

Usage: python benchmarks/build_kills.py LABELS.jsonl|MONTH --repo OWNER/NAME=PATH [--backend local|docker] [--kills 20]
       [--limit 1] [--seed N]

Resolves LIMIT pull requests, and then, in a fresh copy of that home for each kill, begins to build them in a process of
its own, which is killed at a moment drawn uniformly over the time that this takes undisturbed, and runs the same to its
end. Then no process, container, volume, mount or file of the engine may be there that was not there before; no image
that the home does not know by its name; and in the home no folder and no file that the undisturbed one does not have.
Exits 1 if there is anything. What was built is removed from the engine each time. Nobody else may use the engine
meanwhile.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import click
import docker
from marginal import rows_of
from yields import image_input, payload_inputs, run

from formulamine.build.image_room import ImageRecord
from formulamine.build.images import ImageInput
from formulamine.build.room import GROUPS
from formulamine.build.steps import env_payloads_step, images_step
from formulamine.services.container import Backend, Services
from formulamine.settings import Settings

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are no installed package
from formulamine_tests.end_to_end.runs import locks_held, processes_of

ITEMS = "resolved.jsonl"
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
        files = {str(one) for one in temporary.iterdir()}
        if client is None:
            mounts = {one for one in mounts if not one.startswith("/var/lib/docker")}
            return cls(mounts=frozenset(mounts), temporary=frozenset(files))
        files |= {str(one) for one in DOCKER_TEMPORARY.iterdir()} if DOCKER_TEMPORARY.is_dir() else set()
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
@click.argument("which", metavar="LABELS.jsonl|MONTH")
@click.option("--repo", required=True, metavar="OWNER/NAME=PATH")
@click.option("--backend", type=click.Choice(["local", "docker"]), default="docker")
@click.option("--kills", default=20)
@click.option("--limit", default=1, help="pull requests that are built")
@click.option("--seed", default=20240229)
def main(which: str, repo: str, backend: Backend, kills: int, limit: int, seed: int) -> None:
    """Kill, run again, look."""
    chance = random.Random(seed)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="formulamine-build-kills-") as scratch:
        folder, temporary = Path(scratch), Path(scratch) / "tmp"
        temporary.mkdir()
        template, undisturbed = folder / "template", folder / "undisturbed"
        resolve(template, which, repo, backend, limit)
        client = docker.from_env() if backend == "docker" else None
        before = World.now(client, temporary)
        shutil.copytree(template, undisturbed, symlinks=True)
        began = time.monotonic()
        rows, _ = built(undisturbed, backend, temporary, None)
        seconds = time.monotonic() - began
        if "done" not in rows:
            sys.exit(f"nothing is built: {rows}")
        expected = inside(undisturbed)
        click.echo(f"undisturbed: built in {seconds:.1f} s, {rows}")
        forget_images(client, before)
        for number in range(1, kills + 1):
            home = folder / f"home-{number:02}"
            shutil.copytree(template, home, symlinks=True)
            delay = chance.uniform(0, seconds)
            built(home, backend, temporary, delay)
            left = [
                *processes_of(home),
                *World.now(client, temporary).more_than(before, client, set()),
                *sorted(inside(home) - expected),
            ]
            again, found = built(home, backend, temporary, None)
            found += [f"a process: {line}" for line in processes_of(home)]
            found += World.now(client, temporary).more_than(before, client, known_images(home))
            found += [f"in the home: {one}" for one in sorted(inside(home) ^ expected)]
            found += [f"a lock is held: {path}" for path in locks_held(home)]
            found += [f"differs: {again}"] if again != rows else []
            click.echo(
                f"{number:3} killed after {delay:5.1f} s: {len(left)} things left, {len(found)} after the next run"
            )
            for line in found:
                click.echo(f"      WRONG: {line}")
            wrong += found
            forget_images(client, before)
            shutil.rmtree(home)
    click.echo(f"{kills} kills, {len(wrong)} things left behind after the next run")
    sys.exit(1 if wrong else 0)


def resolve(home: Path, which: str, repo: str, backend: Backend, limit: int) -> None:
    """Make a home in which some pull requests are resolved, with what their build reads in a file."""
    os.environ["FORMULAMINE_HOME"] = str(home)
    services = Services(Settings(), backend)
    try:
        name, _, place = repo.partition("=")
        inputs = payload_inputs(services, rows_of(services, which, repo), {name: place})[:limit]
        entries = run(services, env_payloads_step(services), inputs)
        items = [image_input(item, entry) for item, entry in zip(inputs, entries, strict=True) if entry.record]
    finally:
        services.close()
    (home / ITEMS).write_text("".join(item.model_dump_json() + "\n" for item in items))


def build(home: Path, backend: Backend) -> None:
    """What is killed: build what a home has resolved, and say how that ended."""
    services = Services(Settings(), backend)
    try:
        items = [ImageInput.model_validate_json(line) for line in (home / ITEMS).read_text().splitlines()]
        print(json.dumps(Counter(str(entry.status) for entry in run(services, images_step(services), items))))
    finally:
        services.close()


def built(home: Path, backend: Backend, temporary: Path, delay: float | None) -> tuple[dict[str, int], list[str]]:
    """Build in a process of its own, killed after so many seconds: how many ended how, and what is wrong with it."""
    process = subprocess.Popen(
        [sys.executable, __file__, "build", str(home), backend], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "FORMULAMINE_HOME": str(home), "TMPDIR": str(temporary)},
    )  # fmt: skip
    try:
        told, errors = process.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return {}, []
    if process.returncode:
        return {}, [f"it failed: {errors[-1000:]}"]
    return json.loads(told.splitlines()[-1]), []


if __name__ == "__main__":
    # `build` is how this file starts what it kills, with a backend that its own parser has checked.
    build(Path(sys.argv[2]), cast("Backend", sys.argv[3])) if sys.argv[1:2] == ["build"] else main()
