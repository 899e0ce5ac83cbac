"""Whether a Docker engine, its base image and a registry are here."""

import os
import shutil
from functools import cache

import docker

BASE_IMAGE = os.environ.get("TEST_BASE_IMAGE", "formulamine-base:bookworm")


@cache
def why_no_docker() -> str:
    """Why containers cannot run here; empty where they can."""
    if shutil.which("docker") is None:
        return "no Docker client: apt-get install docker.io"
    try:
        engine = docker.from_env(timeout=5)
        engine.images.get(BASE_IMAGE)
        engine.close()
    except docker.errors.ImageNotFound:
        return f"no base image {BASE_IMAGE}: .ci/run shows how to make it"
    except docker.errors.DockerException as error:
        return f"no Docker engine answers: {str(error)[:100]}"
    return ""


def why_no_registry() -> str:
    """Why no registry can be started here."""
    return "" if shutil.which("docker-registry") else "no registry: apt-get install docker-registry"
