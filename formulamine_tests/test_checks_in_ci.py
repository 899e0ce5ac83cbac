"""`formulamine check` as a hosted CI uses it: one verdict on every way, JSON, the Markdown page, the workflow file.

What each check finds is tested in its phase and in `test_damage.py`; that the checks hold for the demo's month, end to
end.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml
from click import Option

from formulamine import report
from formulamine.checks import answered, as_recorded
from formulamine.cli import main
from formulamine.items import Cancelled
from formulamine.lineage import AssetCount
from formulamine.month import TOP, run_job
from formulamine.orchestration import Found
from formulamine.report import Answer
from formulamine.services.container import Services
from formulamine.services.store import StoreError, Tables
from formulamine.settings import Settings
from formulamine.tables import TABLES
from formulamine_tests.end_to_end.conftest import in_process, undisturbed
from formulamine_tests.end_to_end.runs import usable

MONTH = "2024-02"
WORKFLOW = TOP / "deploy" / "checks.workflow.yml"
KEYS = ["asset", "check", "passed", "blocking", "detail"]


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A month of documentation alone, which the sieve ends: nothing is built."""
    folder = tmp_path_factory.mktemp("carried")
    usable("DOC: one", "DOC: two").write(folder / "r.git")
    ended = in_process(folder / "home", "month", MONTH, "--repo", f"a/r={folder / 'r.git'}")
    assert ended.code == 0, ended.err
    return folder / "home"


@pytest.fixture
def copy(carried: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(carried, tmp_path / "home", symlinks=True))


def spoil(home: Path) -> None:
    frame = Tables(home / "tables").read("pull_requests", MONTH)
    assert frame is not None
    Tables(home / "tables").write("pull_requests", MONTH, frame.with_columns(title=pl.lit("<b>| `x` |</b>\n# @you")))


def break_a_blob_folder(home: Path) -> None:
    shutil.rmtree(home / "mirrors")
    (home / "mirrors").write_text("a file")


def gates(home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, dict[str, bool]]:
    """Success of the job that the UI starts, and what each check answered."""
    from formulamine.definitions import defs

    monkeypatch.setenv("FORMULAMINE_HOME", str(home))
    with dg.DagsterInstance.ephemeral() as instance:
        ended = defs.resolve_job_def("gates").execute_in_process(
            instance=instance, tags={"dagster/partition": MONTH}, raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )  # fmt: skip
    said = ended.get_asset_check_evaluations()
    return ended.success, {f"{one.asset_key.to_user_string()}.{one.check_name}": one.passed for one in said}


@pytest.mark.parametrize("damage", [None, spoil, break_a_blob_folder])
def test_command_and_job_say_the_same(
    copy: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None] | None
) -> None:
    if damage:
        damage(copy)
    success, each = gates(copy, monkeypatch)
    page = copy.parent / "page.md"
    ended = in_process(copy, "check", MONTH, "--json", "--markdown", str(page))
    said = json.loads(ended.out)
    assert (ended.code, said["month"], said["passed"]) == (0 if success else 1, MONTH, success)
    assert success is (damage is None)
    assert {f"{row['asset']}.{row['check']}": row["passed"] for row in said["checks"]} == each
    assert [list(row) for row in said["checks"]] == [KEYS] * len(each)
    assert set(said) == {"month", "passed", "checks"}
    text = page.read_text()
    assert text.startswith(f"## Checks of {MONTH}: {'passed' if success else 'failed'}\n")
    assert all(f"`{name}`" in text for name in each)
    assert f"### Funnel of {MONTH}" in text
    assert "| candidate_prs | 2 | 0 | 2 not\\_performance\\_title |" in text or "| candidate_prs | 2 | 0 |" in text


def test_foreign_text_and_control_characters_do_not_reach_page_or_terminal(copy: Path) -> None:
    spoil(copy)
    page = copy.parent / "page.md"
    ended = in_process(copy, "check", MONTH, "--markdown", str(page))
    assert ended.code == 1
    (line,) = [line for line in ended.out.splitlines() if "pull_requests.as_recorded" in line]
    assert line.startswith("FAILED ")
    assert "a__r-1: title is" in line
    (cells,) = [line for line in page.read_text().splitlines() if "pull_requests.as_recorded" in line]
    assert len(re.findall(r"(?<!\\)\|", cells)) == 4
    assert "\\<b\\>" in cells


@pytest.mark.parametrize("options", [["--json"], ["--markdown", "page.md"]])
def test_unreadable_table_is_a_failed_check_for_programs_and_one_line_for_people(
    copy: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.chdir(copy.parent)
    Tables(copy / "tables").path("images", MONTH).write_bytes(b"PAR1 no")
    ended = in_process(copy, "check", MONTH, *options)
    assert ended.code == 1
    told = ended.out if "--json" in options else Path("page.md").read_text()
    assert "is damaged" in told
    assert "well_formed" in told
    plain = in_process(copy, "check", MONTH)
    assert (plain.code, plain.out, len(plain.errors)) == (1, "", 1)


def test_page_that_cannot_be_written_is_told_before_anything_is_asked(copy: Path) -> None:
    ended = in_process(copy, "check", MONTH, "--markdown", str(copy / "missing" / "page.md"))
    assert (ended.code, ended.out, len(ended.errors)) == (2, "", 1)


def test_month_made_in_part_is_refused_whatever_the_form(copy: Path) -> None:
    Tables(copy / "tables").path("published_release", MONTH).unlink()
    ended = in_process(copy, "check", MONTH, "--json")
    assert (ended.code, ended.out, len(ended.errors)) == (1, "", 1)
    assert "published_release" in ended.errors[0]


@pytest.mark.parametrize("error", [StoreError("blob abc is missing"), KeyError("x"), OSError(5, "Input/output error")])
def test_a_check_that_crashes_has_failed_by_name(home: Path, error: Exception) -> None:
    def body(month: str, services: Services) -> Found:
        raise error

    found = answered(body, MONTH, Services(Settings()))
    assert not found.passed
    assert found.detail == f"could not be made, {type(error).__name__}: {error}"


def test_a_cancel_is_no_answer(home: Path) -> None:
    def body(month: str, services: Services) -> Found:
        raise Cancelled("told to end")

    with pytest.raises(Cancelled):
        answered(body, MONTH, Services(Settings()))


def test_a_table_without_its_ledger_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in copy.glob("ledger.sqlite*"):
        path.unlink()
    monkeypatch.setenv("FORMULAMINE_HOME", str(copy))
    services = Services(Settings())
    found = as_recorded("candidate_prs", MONTH, services)
    services.close()
    assert "a__r-1 stands in candidate_prs and not in the ledger" in found.detail


def test_what_was_not_made_has_failed() -> None:
    found = report.answers([], [("images", "well_formed"), ("repositories", "well_formed")])
    assert [(one.asset, one.passed, one.blocking) for one in found] == [
        ("repositories", False, True), ("images", False, True),
    ]  # fmt: skip
    assert not report.passes(found)


def test_page_puts_what_failed_first_and_shortens_it() -> None:
    found = [
        Answer("repositories", "fine", True, True, "1 rows"),
        Answer("images", "image_yield", False, False, "1 of 6"),
        Answer("images", "facts_agree", False, True, "x" * 1000 + " | [a](b) <img>"),
    ]
    assert not report.passes(found)
    assert report.passes(found[:2])
    page = report.as_markdown(MONTH, found, "nothing | was made")
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["**FAILED**", "**warning**", "ok"]
    assert "3 checks, 1 failed, 1 warned." in page
    assert max(map(len, lines)) < 400
    assert "nothing \\| was made" in page
    counts = [AssetCount("images", 2, {"done": 1}, {"out_of_memory": 1}, 65.0, 0.5)]
    assert "| images | 2 | 1 | 1 out\\_of\\_memory | 65.0\u00a0s | 0.50 |" in report.as_markdown(MONTH, [], counts)
    assert json.loads(report.as_json(MONTH, found))["checks"][2]["detail"].endswith("<img>")
    assert len(report.for_terminal(found).splitlines()) == 3


# The workflow file.


def workflow() -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(WORKFLOW.read_text())
    return loaded


def steps() -> list[dict[str, Any]]:
    (job,) = workflow()["jobs"].values()
    made: list[dict[str, Any]] = job["steps"]
    return made


def scripts() -> dict[str, str]:
    return {step["name"]: step["run"] for step in steps() if "run" in step}


def test_workflow_is_whole() -> None:
    made = workflow()
    assert set(made) == {"name", True, "permissions", "jobs"}  # YAML reads `on` as a truth value
    assert all(("run" in step) != ("uses" in step) for step in steps())
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps() if "uses" in step)
    assert made["permissions"] == {"contents": "read", "actions": "read"}


def test_no_script_holds_an_expression_and_secrets_come_from_the_environment() -> None:
    assert not any("${{" in script for script in scripts().values())
    (job,) = workflow()["jobs"].values()
    secret = {name: value for name, value in job["env"].items() if "secrets." in value}
    assert secret == {"FORMULAMINE_LEDGER_URL": "${{ secrets.FORMULAMINE_LEDGER_URL }}"}
    assert WORKFLOW.read_text().count("secrets.") == 1


def test_every_command_of_the_workflow_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (TOP / "Makefile").read_text(), re.MULTILINE))
    seen = set()
    for script in scripts().values():
        subprocess.run(["bash", "-n", "-c", script], check=True)
        for line in script.splitlines():
            words = shlex.split(line.strip())
            if not words or words[0] in ("if", "else", "fi") or "=" in words[0]:
                continue
            seen.add(words[0])
            if words[0] == ".venv/bin/formulamine":
                command = main.commands[words[1]]
                options = {name for one in command.params if isinstance(one, Option) for name in one.opts}
                assert {word for word in words if word.startswith("--")} <= options
            elif words[0] == "make":
                assert set(words[1:]) <= targets
            else:
                assert shutil.which(words[0]), words[0]
    assert {".venv/bin/formulamine", "make", "tar"} <= seen


@pytest.mark.parametrize("damaged", [False, True])
def test_scripts_of_the_workflow_do_what_they_say(copy: Path, tmp_path: Path, damaged: bool) -> None:
    """Restore, check and show, run by bash as the hosted CI runs them."""
    if damaged:
        spoil(copy)
    work = tmp_path / "work"
    (work / ".venv" / "bin").mkdir(parents=True)
    (work / ".venv" / "bin" / "formulamine").symlink_to(Path(sys.executable).with_name("formulamine"))
    subprocess.run(["tar", "--exclude=./cache", "-C", str(copy), "-czf", str(work / "home.tar.gz"), "."], check=True)
    shutil.rmtree(copy)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("FORMULAMINE_", "DAGSTER"))
    }
    environment |= {
        "FORMULAMINE_HOME": str(tmp_path / "restored"), "FORMULAMINE_LEDGER_URL": "", "MONTH": MONTH,
        "GITHUB_STEP_SUMMARY": str(work / "summary"),
    }  # fmt: skip

    def script(name: str) -> int:
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", scripts()[name]]
        return subprocess.run(command, cwd=work, env=environment, timeout=120, check=False).returncode

    assert script("Restore the state") == 0
    assert script("Check the month") == (1 if damaged else 0)
    assert script("Show the summary") == 0
    assert json.loads((work / "checks.json").read_text())["passed"] is not damaged
    assert (work / "summary").read_text() == (work / "checks.md").read_text()
    for name in ("checks.json", "checks.md", "summary"):
        (work / name).unlink()
    assert script("Show the summary") == 0
    assert "could not be run" in (work / "summary").read_text()


def test_every_table_has_its_checks_from_its_schema(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMULAMINE_HOME", str(copy))
    with undisturbed():
        said = run_job(Settings(), "gates", MONTH, None, {})
    made = {(one.asset_key.to_user_string(), one.check_name) for one in said}
    assert {(name, check) for name in TABLES for check in ("well_formed", "as_recorded")} <= made
