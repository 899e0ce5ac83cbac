"""uv: resolution as of a day, environments, and the interpreters on offer.

Here belongs calling uv and saying what its answer was. Which requirements a pull request has, and which cutoff is
tried, is `build/`'s matter. On the host uv only reads wheels; a distribution that must be built to be read or
installed is handed to the sandbox, with a cache of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import uv

from formulamine.items import Cancelled
from formulamine.services.sandbox import Command, Sandbox, kill, network_variables, raise_if_disk_full

POLL_S = 0.05
TIMEOUT_S = 600  # of one uv call; a large resolution takes seconds, a large download a minute or two
_NOT_FOUND = re.compile(r"\b([A-Za-z0-9._-]+) was not found in the package registry")
_PIN = re.compile(r"[A-Za-z0-9._-]+==\S+")
_OFFLINE = ("Request failed after", "Failed to fetch", "client error (Connect)", "dns error", "operation timed out")
_NEEDS_BUILD = ("no usable wheels", "building from source is disabled", "no wheels with a matching", "--no-build")
PROBE = (
    "import json,os,sys;"
    "print(json.dumps([sys.version_info[:3],sys.implementation.name,sys.base_prefix,os.path.realpath(sys.executable)]))"
)

# Variables of uv that decide which releases are taken; the others (retries, caches, threads) do not.
PIN_VARIABLES = (
    "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INDEX_STRATEGY",
    "UV_NO_INDEX", "UV_RESOLUTION", "UV_PRERELEASE", "UV_FORK_STRATEGY", "UV_EXCLUDE_NEWER", "UV_CONSTRAINT",
    "UV_OVERRIDE", "UV_BUILD_CONSTRAINT", "UV_NO_BINARY", "UV_ONLY_BINARY", "UV_CONFIG_FILE",
)  # fmt: skip

_log = logging.getLogger(__name__)


class Unresolvable(Exception):
    """No set of releases satisfies the requirements. `unknown` are names that the index does not have."""

    def __init__(self, message: str, unknown: frozenset[str]) -> None:
        super().__init__(message)
        self.unknown = unknown


class IndexUnreachable(Exception):
    """The package index did not answer."""


class InstallFailed(Exception):
    """A pinned distribution could not be installed; the message is the end of the log."""


@dataclass(frozen=True)
class Interpreter:
    """A CPython on this machine."""

    series: str
    version: str
    path: Path
    prefix: Path


class Resolver:
    """Answers from uv, with one cache for all calls on the host."""

    def __init__(self, cache: Path, scratch: Path, cancelled: threading.Event) -> None:
        self.uv = Path(uv.find_uv_bin())
        self._cache = cache
        self._scratch = scratch
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._answers: dict[tuple[tuple[str, ...], str, datetime | None], Future[list[str]]] = {}

    @cached_property
    def version(self) -> str:
        """Version of uv, as "0.9.1"."""
        return subprocess.run([self.uv, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]

    @property
    def settings_hash(self) -> str:
        """Hash of the variables that may give other pins, as another index does. Tells no login."""
        settings = {name: os.environ[name] for name in PIN_VARIABLES if name in os.environ}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def interpreters(self) -> dict[str, Interpreter]:
        """CPythons on offer by series: what uv finds, and what pyenv has installed without putting it on the path."""
        listed = subprocess.run(
            [self.uv, "python", "list", "--only-installed", "--output-format", "json", "--no-config"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        paths = [Path(one["path"]) for one in json.loads(listed.stdout)]
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
        paths += sorted(pyenv.glob("versions/3.*/bin/python"), reverse=True)
        found: dict[str, Interpreter] = {}
        with ThreadPoolExecutor(max_workers=8) as pool:  # each takes a moment to start, and there may be a dozen
            for interpreter in pool.map(_probe, paths):
                if interpreter is not None:
                    found.setdefault(interpreter.series, interpreter)
        return found

    def compile(
        self, requirements: Sequence[str], series: str, cutoff: datetime | None, sandbox: Callable[[], Sandbox]
    ) -> list[str]:
        """Pins that satisfy requirements with releases uploaded before a cutoff.

        Args:
            requirements: PEP 508 lines without URLs.
            series: of the interpreter, as "3.11".
            cutoff: None for no cutoff.
            sandbox: gives the sandbox in which metadata of source distributions is asked for.

        Returns:
            Lines "name==version", sorted, with markers evaluated away.

        Raises:
            Unresolvable: there is no such set.
            IndexUnreachable: the index did not answer.
        """
        question = (tuple(sorted(set(requirements))), series, cutoff)
        with self._lock:
            asked = self._answers.get(question)
            answer = asked or self._answers.setdefault(question, Future())
        if asked is None:
            try:
                answer.set_result(self._compile(question[0], series, cutoff, sandbox))
            except BaseException as error:  # raised again below, here and where the same was asked meanwhile
                if not isinstance(error, Unresolvable):  # no answer: whoever asks later asks anew
                    with self._lock:
                        del self._answers[question]
                answer.set_exception(error)
        while not answer.done():
            if self._cancelled.wait(POLL_S):
                raise Cancelled("uv")
        return answer.result()

    def _compile(
        self, requirements: Sequence[str], series: str, cutoff: datetime | None, sandbox: Callable[[], Sandbox]
    ) -> list[str]:
        if not requirements:
            return []
        arguments = ["pip", "compile", "--python-version", series, "--no-header", "--no-annotate", "--quiet"]
        arguments += ["--no-emit-index-url", "--no-progress"]
        if cutoff is not None:
            arguments += ["--exclude-newer", cutoff.strftime("%Y-%m-%dT%H:%M:%SZ")]
        interpreter = self.interpreters[series]
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            listing = Path(folder, "requirements.in")
            listing.write_text("\n".join(requirements) + "\n")
            arguments += ["--python", str(interpreter.path), str(listing)]
            code, output = self._run([*arguments, "--no-build"], Path(folder))
            if code != 0 and any(sign in output for sign in _NEEDS_BUILD):
                result = sandbox().run(
                    Command(
                        [str(self.uv), *arguments],
                        readable=(self.uv, Path(folder), interpreter.prefix),
                        environment={"UV_CACHE_DIR": "/tmp/uv"},
                        network=True,
                        timeout_s=TIMEOUT_S,
                    )
                )
                code, output = result.exit_code, result.output
        if code != 0:
            raise _failure(output)
        return sorted(line for line in output.splitlines() if _PIN.fullmatch(line))

    def make_environment(self, pins: Sequence[str], series: str, folder: Path, sandbox: Callable[[], Sandbox]) -> None:
        """A virtual environment with pins and nothing else. Wheels are copied on the host, the rest is built inside.

        Raises:
            InstallFailed: a pin could not be installed.
            IndexUnreachable: the index did not answer.
        """
        interpreter = self.interpreters[series]
        code, output = self._run(["venv", "--quiet", "--no-project", "--python", str(interpreter.path), str(folder)])
        if code != 0:
            raise InstallFailed(output)
        if not pins:
            return
        listing = folder / "pins.txt"
        listing.write_text("\n".join(pins) + "\n")
        # Copied, not linked: what foreign code might do to an environment must not reach the cache.
        install = ["pip", "install", "--quiet", "--no-deps", "--no-progress", "--link-mode", "copy"]
        install += ["--python", str(folder / "bin" / "python"), "--requirements", str(listing)]
        code, output = self._run([*install, "--only-binary", ":all:"])
        if code == 0:
            return
        if is_offline(output):
            raise IndexUnreachable(_last_line(output))
        result = sandbox().run(
            Command(
                [str(self.uv), *install],
                readable=(self.uv, interpreter.prefix),
                writable=(folder,),
                environment={"UV_CACHE_DIR": "/tmp/uv"},
                network=True,
                timeout_s=TIMEOUT_S * 3,
            )
        )
        if not result.ok:
            raise InstallFailed(result.output[-4000:])

    def _run(self, arguments: Sequence[str], cwd: Path | None = None) -> tuple[int, str]:
        """Run uv on the host, polling for a cancel."""
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LC_ALL": "C.UTF-8"}
        environment |= network_variables() | {k: v for k, v in os.environ.items() if k.startswith("UV_")}
        environment["UV_CACHE_DIR"] = str(self._cache)
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                [self.uv, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=environment, cwd=cwd or "/", start_new_session=True,
            )  # fmt: skip
            try:
                while True:
                    try:
                        process.wait(timeout=POLL_S)
                        break
                    except subprocess.TimeoutExpired:
                        if self._cancelled.is_set():
                            raise Cancelled("uv") from None
            finally:
                kill(process)
            log.seek(0)
            output = log.read().decode("utf-8", "replace")
        raise_if_disk_full(output)
        return process.returncode, output


def _probe(path: Path) -> Interpreter | None:
    """What an interpreter says of itself; None where it does not start or is no CPython 3."""
    tried = subprocess.run([path, "-I", "-c", PROBE], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        _log.debug("%s does not start: %s", path, tried.stderr.strip())
        return None
    version, implementation, prefix, real = json.loads(tried.stdout)
    if implementation != "cpython" or version[0] != 3:
        return None
    return Interpreter(f"{version[0]}.{version[1]}", ".".join(map(str, version)), Path(real), Path(prefix))


def is_offline(output: str) -> bool:
    """Whether uv says that it did not reach the index."""
    return any(sign in output for sign in _OFFLINE)


def _failure(output: str) -> Exception:
    if is_offline(output):
        return IndexUnreachable(_last_line(output))
    message = " ".join(line.strip() for line in output.splitlines() if line.strip() and not line.startswith("warning"))
    return Unresolvable(message[:1000], frozenset(_NOT_FOUND.findall(" ".join(output.split()))))


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
