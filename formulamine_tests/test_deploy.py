"""`deploy/`: its files load, agree with each other and hold no secret; and, with an engine, a run succeeds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._utils.env import environ

from formulamine.month import POSTGRES_STORAGE, TOP
from formulamine_tests.docker.engine import BASE_IMAGE

DEPLOY = TOP / "deploy"
PORTS = {"UI_PORT": "3017", "POSTGRES_PORT": "5417"}
VOLUME = "formulamine_home"
CANCELLED_WITHIN_S = 10.0  # 5 s for the run itself; starting and ending a container's processes take their share
URL = "FORMULAMINE_DAGSTER_POSTGRES_URL"


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def instance() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    return loaded


def test_dagster_takes_the_configuration_and_keeps_no_password_in_it(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "dagster.yaml", tmp_path)
    with environ({URL: "postgresql+psycopg2://u:sesame@127.0.0.1/dagster", "FORMULAMINE_LEDGER_URL": "sesame"}):
        reference = InstanceRef.from_dir(str(tmp_path))
        launcher: Any = reference.run_launcher
        assert type(launcher).__name__ == "DockerRunLauncher"
        assert launcher.container_kwargs["network_mode"] == "host"
        assert type(reference.compute_log_manager).__name__ == "LocalComputeLogManager"
    assert "sesame" not in str(reference.to_dict())


def test_storage_is_what_the_command_line_writes() -> None:
    assert instance()["storage"] == yaml.safe_load(POSTGRES_STORAGE)["storage"]


def test_a_run_gets_what_the_daemon_has() -> None:
    services, runs = compose()["services"], instance()["run_launcher"]["config"]
    assert set(runs["env_vars"]) <= set(services["daemon"]["environment"])
    assert set(runs["env_vars"]) <= set(services["code"]["environment"])
    assert set(runs["container_kwargs"]["volumes"]) <= set(services["daemon"]["volumes"])
    for name in ("cap_add", "security_opt", "entrypoint", "network_mode", "init"):
        given = services["shell"][name]
        assert runs["container_kwargs"][name] == given, name
    [volume] = runs["container_kwargs"]["volumes"]
    assert compose()["volumes"][volume.partition(":")[0]]["name"] == volume.partition(":")[0]


def test_secrets_come_from_the_environment_alone() -> None:
    example = (DEPLOY / ".env.example").read_text()
    assert "POSTGRES_PASSWORD=\n" in example
    known = set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(re.findall(r"(?<!\$)\$\{(\w+)", text)) <= known
    assert set(re.findall(r"://\w+:([^@]*)@", text)) == {"${POSTGRES_PASSWORD:?set it in deploy/.env}"}
    for path in DEPLOY.iterdir():
        assert not re.search(r"://\w+:[^$@{]+@(?!HOST)", path.read_text()), path


def test_everything_listens_on_this_machine_alone() -> None:
    services = compose()["services"]
    assert "--host 127.0.0.1" in services["webserver"]["command"]
    assert "--host 127.0.0.1" in services["code"]["command"]
    assert "listen_addresses=127.0.0.1" in (DEPLOY / "postgres.sh").read_text()
    assert {one["network_mode"] for one in services.values()} == {"host"}


def test_the_images_are_made_from_files_that_are_there_and_let_in() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert "FROM ${BASE_IMAGE}" in text
    let_in = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (TOP / source).exists(), source
            assert source in let_in, source


def why_no_deployment() -> str:
    """Why the services cannot be brought up beside the engine; empty where they can."""
    if shutil.which("docker-compose") is None:
        return "docker-compose is missing: apt-get install docker-compose"
    with contextlib.closing(docker.from_env(timeout=5)) as engine:
        taken = [one.name for one in engine.volumes.list() if one.name == VOLUME]
    return f"the volume {VOLUME} of a deployment is here, which a test does not touch" if taken else ""


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Any]:
    """The services of the compose file, built and up; gives the function that speaks to compose."""
    if reason := why_no_deployment():
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    values = {
        "COMPOSE_PROJECT_NAME": "formulamine_test", "POSTGRES_PASSWORD": secrets.token_hex(16),
        "BASE_IMAGE": BASE_IMAGE, "FORMULAMINE_IMAGE": "formulamine-test", **PORTS,
    }  # fmt: skip
    given = tmp_path / "env"
    given.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    argv = ["docker-compose", "--file", str(DEPLOY / "compose.yaml"), "--env-file", str(given)]
    environment = {
        **os.environ,
        "DOCKER_BUILDKIT": "1",
        "COMPOSE_DOCKER_CLI_BUILD": "1",
        "PATH": f"/usr/bin:{os.environ['PATH']}",
    }
    speak = partial(subprocess.run, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    try:
        speak([*argv, "up", "--detach", "--build"], timeout=1200)
        yield lambda *words: speak([*argv, *words], timeout=120).stdout
    finally:
        speak([*argv, "down", "--volumes", "--timeout", "5"], timeout=120)


def ask(query: str, **variables: object) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    address = f"http://127.0.0.1:{PORTS['UI_PORT']}/graphql"
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer)["data"])


def eventually(question: Any, seconds: float) -> Any:
    """The first answer that is something; a server that does not listen yet is none."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if answer := question():
                return answer
        except OSError:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, "no answer in time"
        time.sleep(1)


SAMPLE = "/var/lib/formulamine/sample.git"
WRITE = f"from pathlib import Path; from formulamine.demo.sample import write_sample; write_sample(Path('{SAMPLE}'))"
RELEASED = """
from formulamine.services.container import Services
from formulamine.settings import Settings
frame = Services(Settings()).tables.read("published_release", "2024-02").filter(status="done")
print(*sorted(name.rpartition("-")[2] for name in frame["pr_id"]))
"""
OVER = {"SUCCESS", "FAILURE", "CANCELED"}


def loaded() -> bool:
    """Whether the UI knows the definitions: it answers before it has them."""
    asked = "{workspaceOrError{... on Workspace{locationEntries{loadStatus locationOrLoadError{__typename}}}}}"
    entries = ask(asked)["workspaceOrError"]["locationEntries"]
    kinds = {(one["loadStatus"], (one["locationOrLoadError"] or {}).get("__typename")) for one in entries}
    return kinds == {("LOADED", "RepositoryLocation")}


def launch() -> str:
    """Launch the sample's month as the UI does; gives the run's id."""
    asked = {
        "selector": {
            "repositoryLocationName": "formulamine", "repositoryName": "__repository__", "pipelineName": "month",
        },
        "runConfigData": "{}", "mode": "default",
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "2024-02"}]},
    }  # fmt: skip
    mutation = """mutation($p: ExecutionParams!){launchRun(executionParams:$p){
        __typename ... on LaunchRunSuccess{run{runId}} ... on PythonError{message}}}"""
    answer = ask(mutation, p=asked)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def told_of(run: str) -> dict[str, Any]:
    asked = "query($r: ID!){runOrError(runId:$r){... on Run{status tags{key} stepStats{stepKey status}}}}"
    return dict(ask(asked, r=run)["runOrError"])


def over(run: str) -> dict[str, Any] | None:
    told = told_of(run)
    return told if told["status"] in OVER else None


def measures(run: str) -> bool:
    """Whether a run is in the middle of a measurement."""
    told = told_of(run)
    assert told["status"] not in OVER, told["status"]
    under_way = {"stepKey": "speedup_measurements", "status": "IN_PROGRESS"} in told["stepStats"]
    return under_way and any("/harness" in process for process in processes(run))


def processes(run: str) -> list[str]:
    """Command lines of a run's container; none where it is gone."""
    engine = docker.from_env()
    try:
        found = engine.containers.list(all=True, filters={"label": f"dagster/run_id={run}"})
        return [" ".join(process) for one in found for process in one.top()["Processes"]]
    except (docker.errors.NotFound, docker.errors.APIError):  # ended between the two questions
        return []
    finally:
        engine.close()


@pytest.mark.docker
def test_a_month_in_a_container_is_cancelled_from_the_ui_and_then_finishes(deployed: Any) -> None:
    register = f'python -c "{WRITE}"; formulamine repositories add formulamine/sample={SAMPLE}'
    deployed("run", "--rm", "shell", "sh", "-ec", register)
    eventually(loaded, 120)

    first = launch()
    eventually(lambda: measures(first), 240)
    asked_at = time.monotonic()
    terminate = "mutation($r: String!){terminateRun(runId:$r){__typename}}"
    assert ask(terminate, r=first)["terminateRun"]["__typename"] == "TerminateRunSuccess"
    assert eventually(lambda: over(first), 30)["status"] == "CANCELED"
    assert time.monotonic() - asked_at < CANCELLED_WITHIN_S
    eventually(lambda: not processes(first), 30)

    second = launch()
    ended = eventually(lambda: over(second), 400)
    assert ended["status"] == "SUCCESS"
    assert "docker/container_id" in {tag["key"] for tag in ended["tags"]}
    released = deployed("run", "--rm", "shell", "python", "-c", RELEASED).split()
    stories = "; ".join(f"formulamine lineage 'formulamine/sample#{number}'" for number in (32, 35, 38))
    told = deployed("run", "--rm", "shell", "sh", "-ec", stories)
    assert released == ["32", "35", "38"], f"released: {released}\n\n{told}"
    deployed("run", "--rm", "shell", "formulamine", "check", "2024-02")
