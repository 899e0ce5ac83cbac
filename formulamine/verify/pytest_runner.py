"""The half of a test run that is inside the sandbox: one test file of one side under pytest, test by test.

It lays the tree of a side out in a folder of its own, where tests may write, with the built package over its sources,
and speaks JSON lines, each after a word that the host sends on standard input, on the standard output it was started
with; what tests print goes nowhere. Here belong that layout, pytest's options, and which of its reports is a test's
outcome. Not here: which files run, for how long, and what their outcomes mean (`correctness`, `outcomes`).

The tests run in this process, as pytest does it. Code that wants to be believed can find the word in the memory of
this process and report outcomes that never were; printing, exiting or crashing cannot.

It runs on Python 3.8 and later with nothing but the standard library and our pytest, as
`python -B pytest_runner.py CONFIG`, CONFIG being the JSON of `correctness.RunnerConfig`.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import shutil
import sys
import tempfile
from typing import Any

# Above what a test is likely to open or close by number, as in `harness`.
PROTOCOL_FD = 200
INTERNAL_ERROR = 3  # as pytest has it
LONGEST_DETAIL = 300
LONGEST_NAME = 500
# Where a package may stand below the folder of its build files.
SOURCE_ROOTS = ("", "src", "lib", "python")
# Loaded from our tools before anything else is, so that these win over any that the environment brings.
PRELOADED = ("iniconfig", "pluggy", "pytest")
OPTIONS = (
    "-p", "no:cacheprovider",
    "-p", "no:randomly",  # both sides in the same order
    # A project's own options name plugins, coverage and reports that are not here; the rest of its configuration stays.
    "-o", "addopts=", "-o", "required_plugins=",
)  # fmt: skip


class Reporter:
    """A plugin of pytest that says what was collected, and how each test ended."""

    def __init__(self, token: str, channel: int) -> None:
        self.token, self.channel = token, channel
        self.outcome, self.detail = "", ""

    def say(self, **fields: Any) -> None:
        """Write one line to the host."""
        data = f"{self.token} {json.dumps(fields)}\n".encode()
        while data:
            data = data[os.write(self.channel, data) :]

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be collected, or that says itself that it is not to run here."""
        if report.failed or (report.skipped and report.nodeid.endswith(".py")):
            self.say(uncollected=report.outcome, detail=last_line(report))

    def pytest_internalerror(self, excrepr: Any) -> None:
        """Pytest itself, or a plugin of it, cannot go on."""
        self.say(uncollected="failed", detail=str(excrepr).strip().rpartition("\n")[2][:LONGEST_DETAIL])

    def pytest_collection_finish(self, session: Any) -> None:
        """Every test that the file holds, before the first one runs."""
        self.say(collected=[name_of(item.nodeid) for item in session.items])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self.outcome, self.detail = "passed", ""
        self.say(began=name_of(nodeid))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Set-up, call or teardown has ended; the first one that did not pass decides."""
        if report.passed or self.outcome != "passed":
            return
        failed = "failed" if report.when == "call" else "error"
        self.outcome, self.detail = ("skipped" if report.skipped else failed), last_line(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test has ended."""
        self.say(test=name_of(nodeid), outcome=self.outcome, detail=self.detail)


def name_of(nodeid: str) -> str:
    """A test's name inside its file."""
    return nodeid.partition("::")[2][:LONGEST_NAME]


def last_line(report: Any) -> str:
    """What a report says in its last line that is not empty."""
    representation = report.longrepr
    if isinstance(representation, tuple):  # of what is skipped: file, line, why
        return str(representation[-1])[:LONGEST_DETAIL]
    crash = getattr(representation, "reprcrash", None)
    text = crash.message.partition("\n")[0] if crash else str(representation or "").strip().rpartition("\n")[2]
    return str(text)[:LONGEST_DETAIL]


def laid_out(config: dict[str, Any], work: str) -> list[str]:
    """Make a copy of the tree with the built package over its sources; where its modules are imported from.

    Tests inside of a package import it from where they stand, those beside it from the path; here both are the built
    one, with its compiled and generated files.
    """
    shutil.copytree(config["tree"], work, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    found = []
    for root in SOURCE_ROOTS:
        folder = os.path.normpath(os.path.join(work, config["package_root"], root))
        for name in os.listdir(config["site"]):
            built, source = os.path.join(config["site"], name), os.path.join(folder, name)
            if name.endswith((".dist-info", ".data")) or os.path.islink(source):
                continue
            if os.path.isdir(built) and os.path.isdir(source):
                shutil.copytree(built, source, symlinks=True, dirs_exist_ok=True)
            elif os.path.isfile(built) and os.path.isfile(source):
                shutil.copy2(built, source)
            else:
                continue
            if folder not in found:
                found.append(folder)
    return [*found, *([] if work in found else [work]), config["site"]]


def run(config: dict[str, Any], reporter: Reporter, work: str) -> int:
    """Run one file in the folder `work`, which is made; pytest's exit code."""
    path = laid_out(config, work)
    sys.path.insert(0, config["tools"])
    for name in PRELOADED:
        importlib.import_module(name)
    sys.path.remove(config["tools"])
    # At the end, for what pytest imports later and the environment lacks.
    sys.path[:] = [*path, *sys.path, config["tools"]]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    if not config["plugins"]:
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.chdir(work)
    if not os.path.isfile(config["file"]):
        reporter.say(absent=True)
        return 0
    arguments = [config["file"], "--rootdir", work, "--confcutdir", work, *OPTIONS]
    return int(sys.modules["pytest"].main(arguments, plugins=[reporter]))


def main() -> None:
    """Set the process up, run the file, and say how that ended."""
    config = json.loads(sys.argv[1])
    token = os.read(0, 200).decode().strip()
    del sys.path[0]  # this file's folder; its neighbours must not pass for modules of the standard library
    channel = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, PROTOCOL_FD)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    reporter = Reporter(token, channel)
    scratch = tempfile.mkdtemp(prefix="formulamine-")
    try:
        code = run(config, reporter, os.path.join(scratch, "tree"))
    except BaseException as error:  # also SystemExit: whatever foreign code raises is no end of ours
        reporter.say(uncollected="failed", detail=f"{type(error).__name__}: {error}"[:LONGEST_DETAIL])
        code = INTERNAL_ERROR
    finally:
        os.chdir("/")
        shutil.rmtree(scratch, ignore_errors=True)
    reporter.say(ended=code)


if __name__ == "__main__":
    main()
