"""What one more pull request of a known repository costs on the docker backend, beside an image each from scratch.

Usage: python benchmarks/marginal.py LABELS.jsonl --repo OWNER/NAME=PATH [--count 5] [--compiled]

Builds the first COUNT labelled pull requests of a repository in date order on the docker backend, one after the other,
from an empty FORMULAMINE_HOME, and then each again the way SWE-bench-style harnesses do: an image of its own from the
same base image, with a virtual environment, the same pins and the package, and no cache. Prints seconds and bytes of
each, and of every one after the first its share of the first's seconds and of its own from-scratch image's bytes. Exits
1 where the median share of a pure Python repository is above 15% of the seconds or 5% of the bytes.

FORMULAMINE_BASE_IMAGE, FORMULAMINE_DOCKER_NETWORK and FORMULAMINE_MAX_PYTHON choose the base image, as for a month.
"""

from __future__ import annotations

import argparse
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

from yields import image_input, payload_inputs, run

from formulamine.build.images import ImageInput
from formulamine.build.steps import backend_of, env_payloads_step, images_step
from formulamine.services.container import Services
from formulamine.services.sandbox import network_variables
from formulamine.settings import Settings

SECONDS_SHARE, BYTES_SHARE = 0.15, 0.05  # bounds of the issue, for pure Python
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
    """Seconds, and bytes beyond what was there before."""

    name: str
    seconds: float
    bytes: int


def main() -> None:
    """Build both ways and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME=PATH")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="print, and hold no bound")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    repo, _, place = arguments.repo.partition("=")
    rows = [json.loads(line) for line in arguments.labels.read_text().splitlines() if line.strip()]
    rows = [row for row in rows if row["repo"] == repo and row["merge_sha"]]
    with tempfile.TemporaryDirectory() as home:
        os.environ["FORMULAMINE_HOME"] = home
        services = Services(Settings(), "docker")
        try:
            inputs = payload_inputs(services, rows, {repo: place})
            entries = run(services, env_payloads_step(services), inputs)
            items = [image_input(item, entry) for item, entry in zip(inputs, entries, strict=True) if entry.record]
            items = [item for item in items if backend_of(services, "docker").offers(item.python_version)]
            if len(items) < 2:
                sys.exit("fewer than two pull requests have their interpreter in a base image here")
            compare(services, items[: arguments.count], bounded=not arguments.compiled)
        finally:
            services.close()


def compare(services: Services, items: list[ImageInput], bounded: bool) -> None:
    """Print both ways beside each other."""
    ours = [cost for item in items if (cost := built(services, item)) is not None]
    names = {cost.name for cost in ours}
    theirs = {item.pr_id: from_scratch(services, item) for item in items if item.pr_id in names}
    print(f"{'pull request':32} {'ours':>8} {'MB':>8} {'scratch':>8} {'MB':>8}")
    for cost in ours:
        other = theirs[cost.name]
        told = (cost.seconds, cost.bytes / 1e6, other.seconds, other.bytes / 1e6)
        print("{:32} {:7.1f}s {:8.2f} {:7.1f}s {:8.1f}".format(cost.name, *told))
    later = ours[1:]
    seconds = statistics.median(cost.seconds / ours[0].seconds for cost in later)
    share = statistics.median(cost.bytes / theirs[cost.name].bytes for cost in later)
    scratch = statistics.median(cost.seconds / theirs[cost.name].seconds for cost in later)
    print(f"each after the first: {seconds:.0%} of the first one's seconds (bound {SECONDS_SHARE:.0%}),")
    print(f"{share:.1%} of the bytes of an image from scratch (bound {BYTES_SHARE:.0%}), {scratch:.0%} of its seconds")
    sys.exit(1 if bounded and (seconds > SECONDS_SHARE or share > BYTES_SHARE) else 0)


def built(services: Services, item: ImageInput) -> Cost | None:
    """One pull request by our images step: what ships, and what measures on top of it."""
    engine = services.engine
    before = layer_sizes(engine.client.images.list())
    started = time.monotonic()
    [entry] = run(services, images_step(services), [item])
    seconds = time.monotonic() - started
    if entry.record is None:
        print(f"{item.pr_id}: {entry.reason}: {entry.detail}", file=sys.stderr)
        return None
    after = layer_sizes(engine.client.images.list())
    return Cost(item.pr_id, seconds, sum(after.values()) - sum(before.values()))


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
    docker = services.settings.docker
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
                base=docker.image_of(item.python_version), python=interpreter.path, pins=" ".join(once.values()),
                root=item.package_root, variables=variables,
            )
        )  # fmt: skip
        started = time.monotonic()
        command = ["docker", "build", "--quiet", "--no-cache", "--network", docker.docker_network, "--tag", tag, folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
    size = int(services.engine.inspect(tag)["Size"])
    subprocess.run(["docker", "rmi", "--force", tag], check=True, stdout=subprocess.DEVNULL)
    return Cost(item.pr_id, seconds, size)


if __name__ == "__main__":
    main()
