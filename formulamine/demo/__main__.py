"""`make demo`: the sample repository's month, end to end, in a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import click

from formulamine.cli import main
from formulamine.demo.sample import MONTH, REPOSITORY, write_sample
from formulamine.refusals import COULD_NOT_FINISH, refuse
from formulamine.services.sandbox import Isolation
from formulamine.settings import Settings, SettingsError


def demo() -> None:
    """Write the sample, run its month, and say where to look."""
    try:
        home = Settings().home.with_name(".formulamine-demo")
        sample = write_sample(home / "sample.git").path
    except SettingsError as error:
        refuse(error)
    except (OSError, subprocess.CalledProcessError) as error:
        refuse(f"the sample cannot be written below {home}: {error}", COULD_NOT_FINISH)
    os.environ["FORMULAMINE_HOME"] = str(home)
    isolation = Isolation.probe()
    if not isolation.bubblewrap:
        click.echo(
            f"{isolation.why_not}: the demo's code is ours, so it runs without a sandbox; no other code would", err=True
        )
    try:
        main(["month", MONTH, "--repo", f"{REPOSITORY}={sample}"])
    except SystemExit as ended:
        if ended.code:
            sys.exit(ended.code)
    click.echo(f"to look at it in the Dagster UI: FORMULAMINE_HOME={home} make dev")


if __name__ == "__main__":
    demo()
