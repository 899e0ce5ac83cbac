"""The command line, thin: arguments in, one call, one line or table out, an exit code.

Exit codes: 0 done, 1 could not finish, 2 refused before anything started, 130 interrupted. Heavy imports happen inside
commands, so that help and questions answer at once.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from formulamine.refusals import (
    COULD_NOT_FINISH,
    DONE,
    REFUSED,
    disk_fault,
    interrupted,
    refuse,
    register,
    run_or_refuse,
    selected,
)
from formulamine.settings import Settings, SettingsError

if TYPE_CHECKING:
    from formulamine.redo import Redo
    from formulamine.services.container import Backend
    from formulamine.services.store import Tables
    from formulamine.story import Story

SELECTABLE = "asset or phase names by comma, as `candidate_prs,classifications`"


class Commands(click.Group):
    """Turns known faults into one line and an exit code; unknown ones keep their traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run; wrong usage is told in one line like every other fault."""
        try:
            return super().main(*args, **{**extra, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(REFUSED)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "formulamine"
            refuse(f"{error.format_message().rstrip('.')}: see `{command} --help`")

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            refuse(error)
        except KeyboardInterrupt:
            interrupted()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="formulamine")
def main() -> None:
    """Public Python repositories in, a benchmark of verified performance work out, one month at a time."""


def month_argument(_: click.Context, __: click.Parameter, value: str) -> str:
    """A month that is over."""
    from formulamine.discover.months import MonthError, parse_month

    try:
        return parse_month(value, datetime.now(UTC))
    except MonthError as error:
        refuse(error)


takes_month = click.argument("month", callback=month_argument)
BACKENDS = click.Choice(["local", "docker"])
takes_backend = click.option("--backend", type=BACKENDS, default="local", help="Where code is built and measured.")
wants_backend = click.option(
    "--backend", type=BACKENDS, help="Whose run is wanted: refuse where the tables show the other's."
)
takes_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


@main.command()
@takes_month
@click.option(
    "--repo", "repos", multiple=True, metavar="[OWNER/NAME=]PATH_OR_URL", help="Add a repository; repeatable."
)
@click.option("--repositories", "file", type=click.Path(path_type=Path), help="Add the repositories of a TOML file.")
@click.option("--source", type=click.Choice(["git", "github"]), default="git", help="Where pull requests come from.")
@click.option("--select", metavar="ASSETS", help=f"Only these: {SELECTABLE}.")
@click.option("--limit", type=click.IntRange(min=0), help="Compute at most N new items an asset.")
@takes_backend
@click.option("--trust", is_flag=True, help="Accept sandbox limits that this machine cannot enforce.")
@click.option("--force", is_flag=True, help="Compute again what is known.")
@click.option("--refresh", is_flag=True, help="Ask the sources of repositories again.")
@click.option("--partial", is_flag=True, help="Release although items are open, and list them.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be done, and do nothing.")
def month(
    month: str,
    repos: tuple[str, ...],
    file: Path | None,
    source: str,
    select: str | None,
    limit: int | None,
    backend: Backend,
    trust: bool,
    force: bool,
    refresh: bool,
    partial: bool,
    only_plan: bool,
) -> None:
    """Carry a month (2024-02) from repositories to a release."""
    from formulamine.services.store import LockHeld, exclusive

    if source != "git":
        refuse("source github does not exist yet: leave --source out")
    settings = Settings()
    assets = selected(select)
    if only_plan:
        show_plan(settings, month, backend, limit, force)
        return
    click.echo(f"state is in {settings.home}", err=True)
    register(settings, repos, file)
    options: dict[str, Any] = {
        "limit": limit, "force": force, "refresh": refresh, "partial": partial, "trust": trust, "backend": backend,
    }  # fmt: skip
    lock = settings.home / "locks" / f"month-{month}.lock"
    try:
        with exclusive(lock, f"a run of {month}"):
            pass  # said early and in one line; the run itself takes it again and keeps it
    except LockHeld as error:
        refuse(error, COULD_NOT_FINISH)
    except OSError as error:
        refuse(disk_fault(error, settings), COULD_NOT_FINISH)
    from formulamine.month import show_progress

    show_progress()
    run_or_refuse(settings, "month", month, assets, options)
    show_funnel(settings, month)
    folder = settings.home / "release" / month
    if assets is None and folder.exists():
        click.echo(f"\nrelease: {folder}")


@main.command()
@takes_month
@wants_backend
@click.option("--by-repository", is_flag=True, help="Say what failed in each repository, also where there is only one.")
@takes_json
def funnel(month: str, backend: Backend | None, by_repository: bool, as_json: bool) -> None:
    """How many came how far, why the rest stopped, cost, time."""
    from formulamine import lineage
    from formulamine.services.store import StoreError, Tables

    tables = Tables(Settings().home / "tables")
    try:
        counts, failed = lineage.funnel(month, tables), lineage.failures(month, tables)
        backend_shown(month, backend, tables)
    except (lineage.UnknownMonth, StoreError) as error:
        refuse(error, COULD_NOT_FINISH)
    if as_json:
        assets = [asdict(one) for one in counts]
        click.echo(lineage.to_json({"month": month, "assets": assets, "by_repository": failed.by_repository}))
    else:
        click.echo(lineage.render_funnel(month, counts))
        if by_repository or len(failed.by_repository) > 1:
            click.echo("\n" + lineage.render_failures(failed))


def backend_shown(month: str, wanted: Backend | None, tables: Tables) -> Backend:
    """The backend of the last run, which is the one that the tables of a month show; refuses another."""
    import polars as pl

    from formulamine.services.store import StoreError

    try:
        images = tables.read("images", month)
    except StoreError:
        images = None  # whoever goes on reading tables says that it is damaged
    if images is None:
        return wanted or "local"
    built = images.filter(pl.col("status") == "done").get_column("backend").unique().to_list()
    shown: Backend = built[0] if len(built) == 1 else wanted or "local"
    if wanted not in (None, shown):
        refuse(
            f"the tables of {month} show the run on {shown}: run `formulamine month {month} --backend {wanted}`, which "
            "reuses what it knows",
            COULD_NOT_FINISH,
        )
    return shown


@main.command(name="lineage")
@click.argument("pull_request", metavar="OWNER/NAME#123")
@click.option("--why-not", "only_why", is_flag=True, help="Why it is in or out, in two sentences, and nothing else.")
@click.option("--redo", "with_redo", is_flag=True, help="Say too what a run would do with it now, and why.")
@wants_backend
@takes_json
def lineage_command(pull_request: str, only_why: bool, with_redo: bool, backend: Backend | None, as_json: bool) -> None:
    """The story of one pull request."""
    from formulamine import story, telling
    from formulamine.discover.registry import RegistryError
    from formulamine.lineage import UnknownPullRequest, to_json
    from formulamine.services.store import StoreError, Tables

    pr_id = story.pr_id_of(pull_request)
    if pr_id is None:
        refuse(f"{pull_request!r} names no pull request: write OWNER/NAME#123")
    settings = Settings()
    try:
        found = story.tell(pr_id, settings)
        shown = backend_shown(found.month, backend, Tables(settings.home / "tables"))
        redone = redo_of(found, shown, settings) if with_redo else []
    except (UnknownPullRequest, RegistryError, StoreError) as error:
        refuse(error, COULD_NOT_FINISH)
    if as_json:
        facts = found.facts() | ({"if_it_ran_now": [asdict(one) for one in redone]} if with_redo else {})
        click.echo(to_json(facts))
    else:
        click.echo(story.why_not(found) if only_why else telling.for_terminal(found, redone))


def redo_of(found: Story, backend: Backend, settings: Settings) -> list[Redo]:
    """What a run would do with a pull request now."""
    import contextlib

    from formulamine.redo import redo
    from formulamine.services.container import Services
    from formulamine.services.ledger import LedgerError

    try:
        with contextlib.closing(Services(settings, backend)) as services:
            return redo(found.pr_id, found.repo, found.month, services)
    except LedgerError as error:
        refuse(error, COULD_NOT_FINISH)


@main.command()
@takes_month
@wants_backend
@takes_json
@click.option(
    "--markdown", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write a summary for a page, as that of a hosted CI.",
)  # fmt: skip
def check(month: str, backend: Backend | None, as_json: bool, markdown: Path | None) -> None:
    """Run the asset checks of a month; exit 1 if a blocking one fails."""
    from formulamine import lineage, report
    from formulamine.services.store import StoreError, Tables
    from formulamine.tables import TABLES

    settings = Settings()
    tables = Tables(settings.home / "tables")
    if markdown is not None and not markdown.parent.is_dir():
        refuse(f"--markdown {markdown}: its folder does not exist")
    made = [name for name in TABLES if tables.path(name, month).exists()]
    counts: list[lineage.AssetCount] | str
    try:
        counts = lineage.funnel(month, tables)
    except (lineage.UnknownMonth, StoreError) as error:
        if not made or not (as_json or markdown):  # a program gets every check's answer, a person what to mend
            refuse(error, COULD_NOT_FINISH)
        counts = str(error)
    if missing := [name for name in TABLES if name not in made]:
        refuse(f"{', '.join(missing)} of {month} not made yet: run `formulamine month {month}`", COULD_NOT_FINISH)
    shown = backend_shown(month, backend, tables)
    evaluations = run_or_refuse(settings, "gates", month, None, {"backend": shown}, checks=True)
    from formulamine.definitions import defs

    keys = defs.resolve_asset_graph().asset_check_keys
    found = report.answers(evaluations, [(key.asset_key.to_user_string(), key.name) for key in keys])
    click.echo(report.as_json(month, found) if as_json else report.for_terminal(found))
    if markdown is not None:
        try:
            markdown.write_text(report.as_markdown(month, found, counts), encoding="utf-8")
        except OSError as error:
            refuse(f"--markdown {markdown} cannot be written ({error.strerror})", COULD_NOT_FINISH)
    sys.exit(DONE if report.passes(found) else COULD_NOT_FINISH)


@main.group()
def repositories() -> None:
    """The registry of repositories kept in FORMULAMINE_HOME."""


@repositories.command(name="add")
@click.argument("repos", nargs=-1, required=True, metavar="[OWNER/NAME=]PATH_OR_URL...")
def add(repos: tuple[str, ...]) -> None:
    """Add repositories."""
    register(Settings(), repos, None)


@repositories.command(name="remove")
@click.argument("name", metavar="OWNER/NAME")
def remove(name: str) -> None:
    """Hide a repository; what is known of it stays."""
    from formulamine.discover.registry import Registry, RegistryError

    try:
        Registry(Settings().home / "repositories.toml").remove(name)
    except RegistryError as error:
        refuse(error)


@repositories.command(name="list")
@takes_json
def list_repositories(as_json: bool) -> None:
    """List the repositories that months cover."""
    from formulamine.discover.registry import Registry, RegistryError
    from formulamine.lineage import to_json

    try:
        entries = Registry(Settings().home / "repositories.toml").visible()
    except RegistryError as error:
        refuse(error)
    if as_json:
        click.echo(to_json({"repositories": [{"name": one.name, "source": one.source} for one in entries]}))
    else:
        for one in entries:
            click.echo(f"{one.name}  {one.source}")


@main.command(name="doctor")
@takes_json
def doctor_command(as_json: bool) -> None:
    """What is configured, reachable and missing, and what each gap disables; exit 1 if no month can be run."""
    from formulamine.doctor import doctor

    report = doctor(Settings())
    click.echo(report.to_json() if as_json else report.render())
    sys.exit(report.exit_code)


@main.command()
@takes_month
@click.argument("pull_requests", nargs=-1, metavar="[OWNER/NAME#123]...")
@click.option("--trials", default=20, type=click.IntRange(min=1), help="Of each ratio, those of earlier runs included.")
@click.option("--ratio", "ratios", type=float, multiple=True, help="Try only this one; repeatable. 1 is base as it is.")
@click.option(
    "--benchmarks", default=0, type=click.IntRange(min=0), help="Cases in each trial; 0 for all of the suite."
)
@takes_backend
@click.option("--trust", is_flag=True, help="Accept sandbox limits that this machine cannot enforce.")
def calibrate(
    month: str,
    pull_requests: tuple[str, ...],
    trials: int,
    ratios: tuple[float, ...],
    benchmarks: int,
    backend: Backend,
    trust: bool,
) -> None:
    """Measure how often the verdict errs, on pull requests that a month has built; a run that was ended carries on."""
    from formulamine.items import Cancelled
    from formulamine.services.store import StoreError
    from formulamine.verify import calibrate as calibrations
    from formulamine.verify.calibration import RATIOS, render, summarize
    from formulamine.verify.side import SideBroken

    if bad := [ratio for ratio in ratios if not ratio >= 1]:
        refuse(f"--ratio {bad[0]:g}: base can only be made slower, by 1 or more")
    settings = Settings()
    chosen = [name.replace("/", "__").replace("#", "-") for name in pull_requests]
    try:
        with calibrations.services_of(settings, backend, trust) as services:
            for one in calibrations.calibrate(
                calibrations.built(month, chosen, services), services,
                ratios=ratios or RATIOS, trials=trials, benchmarks=benchmarks,
            ):  # fmt: skip
                ended = "FALSE" if one.false else "found" if one.power else "quiet"
                click.echo(f"{one.pair} {one.ratio:g}x: {ended}, {one.verdict} in {one.seconds:.0f} s", err=True)
    except calibrations.UnknownPair as error:
        refuse(error)
    except (StoreError, SideBroken) as error:
        refuse(error, COULD_NOT_FINISH)
    except Cancelled:
        interrupted()
    click.echo(render(summarize(calibrations.read_trials(settings.home))))


@main.command()
@click.option("--port", default=3000, help="Port of the UI on 127.0.0.1.")
def dev(port: int) -> None:
    """Start the Dagster UI; it has no login, so it listens on this machine alone."""
    import os

    from formulamine.month import TOP, seed_dagster_home

    settings = Settings()
    seed_dagster_home(settings)
    os.environ["FORMULAMINE_HOME"] = str(settings.home)
    click.echo(f"state is in {settings.home}; the UI opens at http://127.0.0.1:{port}/asset-groups", err=True)
    dagster = Path(sys.executable).with_name("dagster")
    os.execv(dagster, [str(dagster), "dev", "-h", "127.0.0.1", "-p", str(port), "-w", str(TOP / "workspace.yaml")])


@main.command(name="judge-eval")
@click.argument("labels", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--repo", "repos", multiple=True, required=True, metavar="[OWNER/NAME=]PATH_OR_URL", help="Repeatable.")
@click.option("--prefixes", is_flag=True, help="Judge titles with prefixes (PERF: against DOC:, TST: ...), hidden.")
@click.option("--merged", type=click.IntRange(min=0), default=2000, help="Pull requests of the pass rate; 0: all.")
@takes_json
def judge_eval(labels: Path | None, repos: tuple[str, ...], prefixes: bool, merged: int, as_json: bool) -> None:
    """Recall, false positives and pass rate of sieve and judges on LABELS (rows of JSON)."""
    import json

    from formulamine.discover.registry import RegistryError, parse_repo_argument
    from formulamine.judge.judge_eval import judge_eval as evaluated
    from formulamine.services.container import Services
    from formulamine.services.git import GitError
    from formulamine.services.llm_errors import LlmError

    if labels is None and not prefixes:
        refuse("nothing to judge: name a file of LABELS, or --prefixes")
    services = Services(Settings())
    try:
        try:
            entries = [parse_repo_argument(text, services.git) for text in repos]
        except (RegistryError, GitError) as error:
            refuse(error)
        try:
            report = evaluated(labels, entries, services, merged=merged, prefixes=prefixes)
        except UnicodeDecodeError as error:
            refuse(f"{labels} is no text ({error}): give a file with one JSON object a line")
        except (GitError, LlmError, OSError) as error:
            refuse(error, COULD_NOT_FINISH)
    finally:
        services.close()
    click.echo(json.dumps(report.as_json()) if as_json else report.as_text())


def show_plan(settings: Settings, month: str, backend: Backend, limit: int | None, force: bool) -> None:
    """What a run of a month would do, from tables and ledger alone."""
    from formulamine import plan
    from formulamine.services.container import Services

    if not settings.home.exists():
        refuse(f"{settings.home} holds nothing yet, so nothing can be planned: run the month")
    services = Services(settings, backend)
    click.echo(plan.render(month, plan.plan(month, services, limit=limit, force=force)))
    services.close()


def show_funnel(settings: Settings, month: str) -> None:
    """The funnel of a month, for a person."""
    from formulamine import lineage
    from formulamine.services.store import StoreError, Tables

    try:
        tables = Tables(settings.home / "tables")
        counts, failed = lineage.funnel(month, tables), lineage.failures(month, tables)
    except StoreError as error:  # of an asset that this run did not make
        refuse(error, COULD_NOT_FINISH)
    click.echo("\n" + lineage.render_funnel(month, counts))
    if len(failed.by_repository) > 1:
        click.echo("\n" + lineage.render_failures(failed))
