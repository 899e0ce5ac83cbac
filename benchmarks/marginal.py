"""What one more pull request of a known repository costs on the docker backend, beside an image each from scratch.

Usage: python benchmarks/marginal.py LABELS.jsonl|MONTH --repo OWNER/NAME=PATH [--count 5] [--compiled]

Takes the first COUNT labelled pull requests of a repository in date order, or the candidates of a month, and resolves
and builds them one after the other on the docker backend, from an empty FORMULAMINE_HOME, as a month does; then each
again the way SWE-bench-style harnesses do: an image of its own from the same base image, with a virtual environment,
the same pins (given) and the package's head, and no cache. Prints seconds and bytes of each, and of every one after the
first its share of the first's seconds and of its own from-scratch image's bytes. Exits 1 where the median share of a
pure Python repository is above 15% of the seconds or 5% of the bytes; of one that compiles (--compiled) 40% of the
seconds is the aim, printed and not held. The first one begins with nothing but the repository's mirror: no environment,
wheel, layer of its pins or compiled object; what builds, an image without any of these, may stand in the engine from
other homes. The images that were made are removed at the end.

FORMULAMINE_BASE_IMAGE, FORMULAMINE_DOCKER_NETWORK and FORMULAMINE_MAX_PYTHON choose the base image, as for a month.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import ImageNotFound
from yields import image_input, payload_inputs, run

from formulamine.build import docker
from formulamine.build.images import ImageInput
from formulamine.build.payloads import PayloadInput
from formulamine.build.steps import backend_of, env_payloads_step, images_step
from formulamine.items import Step
from formulamine.records import Status
from formulamine.services.container import Services
from formulamine.services.sandbox import network_variables
from formulamine.settings import Settings

SECONDS_SHARE, BYTES_SHARE = 0.15, 0.05  # bounds of the issue, for pure Python
COMPILED_SHARE = 0.40  # its aim for seconds where a compiler cache helps
DOCKERFILE = """
FROM {base}
COPY uv /usr/local/bin/uv
COPY tree /testbed
WORKDIR /testbed
ENV {variables}
RUN uv venv --quiet --no-project --python {python} /opt/venv
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin
RUN uv pip install --quiet --no-cache --no-deps {pins}
RUN uv pip install --quiet --no-cache --no-deps --no-build-isolation ./{root}
"""


@dataclass(frozen=True)
class Cost:
    """Seconds of resolving and of building, and bytes beyond what was there before."""

    name: str
    resolving: float
    building: float
    bytes: int

    @property
    def seconds(self) -> float:
        """From a pull request to its images."""
        return self.resolving + self.building


def main() -> None:
    """Build both ways and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", metavar="LABELS.jsonl|MONTH")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME=PATH")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="print, and hold no bound")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    repo, _, place = arguments.repo.partition("=")
    with tempfile.TemporaryDirectory() as home:
        os.environ["FORMULAMINE_HOME"] = home
        services = Services(Settings(), "docker")
        before = names_in(services)
        try:
            inputs = payload_inputs(services, rows_of(services, arguments.which, arguments.repo), {repo: place})
            compare(services, inputs, arguments.count, bounded=not arguments.compiled)
        finally:
            services.cancelled.clear()
            for name in sorted(names_in(services) - before):
                services.engine.client.images.remove(name)
            services.close()


def rows_of(services: Services, which: str, repo: str) -> list[dict[str, Any]]:
    """Labelled rows of a repository, or the candidates of a month."""
    if Path(which).exists():
        rows = [json.loads(line) for line in Path(which).read_text().splitlines() if line.strip()]
        return [row for row in rows if row["repo"] == repo.partition("=")[0] and row["merge_sha"]]
    command = [sys.executable, "-m", "formulamine", "month", which, "--repo", repo]
    command += ["--select", "repositories,pull_requests,candidate_prs"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    merged, passed = (services.tables.read(name, which) for name in ("pull_requests", "candidate_prs"))
    assert merged is not None
    assert passed is not None
    names = set(passed.filter(passed["status"] == Status.DONE)["pr_id"])
    return [{**row, "pr_number": row["number"]} for row in merged.to_dicts() if row["pr_id"] in names]


def names_in(services: Services) -> set[str]:
    """Names of all images that the engine has."""
    return {name for image in services.engine.client.api.images() for name in image["RepoTags"] or ()}


def images_in(services: Services) -> list[Any]:
    """All images that the engine has; listed again where somebody else removes one meanwhile."""
    while True:
        with contextlib.suppress(ImageNotFound):
            return list(services.engine.client.images.list())


def compare(services: Services, inputs: list[PayloadInput], count: int, bounded: bool) -> None:
    """Print both ways beside each other."""
    # Other homes' environments of the same pins would be found by their names.
    docker.LAYOUT_VERSION = f"{docker.LAYOUT_VERSION}-benchmark-{os.getpid()}"
    payloads, images = env_payloads_step(services), images_step(services)
    ours: list[Cost] = []
    items: dict[str, ImageInput] = {}
    for one in inputs:
        if len(ours) == count:
            break
        if (made := built(services, payloads, images, one)) is not None:
            ours.append(made[0])
            items[one.pr_id] = made[1]
    if len(ours) < 2:
        sys.exit("fewer than two pull requests were built")
    theirs = {name: from_scratch(services, item) for name, item in items.items()}
    print(f"{'pull request':32} {'resolved':>9} {'built':>8} {'MB':>8} {'scratch':>8} {'MB':>8}")
    for cost in ours:
        other = theirs[cost.name]
        told = (cost.name, cost.resolving, cost.building, cost.bytes / 1e6, other.building, other.bytes / 1e6)
        print("{:32} {:8.1f}s {:7.1f}s {:8.2f} {:7.1f}s {:8.1f}".format(*told))
    first, later = ours[0], ours[1:]
    seconds = statistics.median(cost.seconds / first.seconds for cost in later)
    building = statistics.median(cost.building / first.building for cost in later)
    share = statistics.median(cost.bytes / theirs[cost.name].bytes for cost in later)
    scratch = statistics.median(cost.building / theirs[cost.name].building for cost in later)
    told_of = f"bound {SECONDS_SHARE:.0%}" if bounded else f"aim {COMPILED_SHARE:.0%}"
    print(f"each after the first: {seconds:.0%} of the first one's seconds ({told_of}; built alone")
    print(f"{building:.0%}), {share:.1%} of the bytes of an image from scratch (bound {BYTES_SHARE:.0%}), and built in")
    print(f"{scratch:.0%} of its seconds, both sides and their verification included")
    sys.exit(1 if bounded and (seconds > SECONDS_SHARE or share > BYTES_SHARE) else 0)


def built(
    services: Services, payloads: Step[PayloadInput], images: Step[ImageInput], asked: PayloadInput
) -> tuple[Cost, ImageInput] | None:
    """One pull request by our two steps: what ships, and what measures on top of it."""
    began = time.monotonic()
    [entry] = run(services, payloads, [asked])
    resolved = time.monotonic()
    if entry.record is None:
        print(f"{asked.pr_id}: {entry.reason}: {entry.detail}", file=sys.stderr)
        return None
    item = image_input(asked, entry)
    if not backend_of(services, "docker").offers(item.python_version):
        print(f"{item.pr_id}: no base image of Python {item.python_version}", file=sys.stderr)
        return None
    before = layer_sizes(images_in(services))
    started = time.monotonic()
    [entry] = run(services, images, [item])
    ended = time.monotonic()
    if entry.record is None:
        print(f"{item.pr_id}: {entry.reason}: {entry.detail}", file=sys.stderr)
        return None
    after = layer_sizes(images_in(services))
    size = sum(after.values()) - sum(before.values())
    return Cost(item.pr_id, resolved - began, ended - started, size), item


def layer_sizes(images: list[Any]) -> dict[str, int]:
    """Bytes of each layer that some image has, by the whole of what it stands on."""
    sizes: dict[str, int] = {}
    for image in images:
        layers = image.attrs["RootFS"]["Layers"]
        told = [one["Size"] for one in image.history() if one["Size"]][::-1]
        # History tells steps, which are layers where they have a size; the lowest ones may be one step of several.
        for number, size in enumerate(told, start=len(layers) - len(told)):
            sizes[":".join(layers[: number + 1])] = size
    return sizes


def from_scratch(services: Services, item: ImageInput) -> Cost:
    """The same head commit as an image of its own: seconds, and all its bytes."""
    settings = services.settings.docker
    backend = backend_of(services, "docker")
    interpreter = backend.interpreter(item.python_version)
    tag = f"formulamine-bench-{item.pr_id.lower().replace('__', '-')}:1"
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        backend.checkout(item.repo, item.url, item.merge_sha, context / "tree")
        (context / "uv").write_bytes(services.resolver.uv.read_bytes())
        (context / "uv").chmod(0o755)
        pins = " ".join(sorted({*item.pins, *item.build_pins}, key=lambda pin: (pin in item.build_pins, pin)))
        once = {pin.partition("==")[0]: pin for pin in pins.split()}
        known = {"LANG": "C.UTF-8", **network_variables(), **item.recipe().environment_variables}
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in known.items())
        (context / "Dockerfile").write_text(
            DOCKERFILE.format(
                base=settings.image_of(item.python_version), python=interpreter.path, pins=" ".join(once.values()),
                root=item.package_root, variables=variables,
            )
        )  # fmt: skip
        started = time.monotonic()
        command = [
            "docker",
            "build",
            "--quiet",
            "--no-cache",
            "--network",
            settings.docker_network,
            "--tag",
            tag,
            folder,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
    size = int(services.engine.inspect(tag)["Size"])
    subprocess.run(["docker", "rmi", "--force", tag], check=True, stdout=subprocess.DEVNULL)
    return Cost(item.pr_id, 0.0, seconds, size)


if __name__ == "__main__":
    main()
