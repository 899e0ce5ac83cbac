"""The sandbox: where code of a mined repository runs, and nowhere else.

Here belongs running one command in a prepared root under limits: bubblewrap for foreign code, and no isolation at all
for the demo's own tree on a machine without it. What is run, and what its answer means, does not belong here.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from formulamine.items import Cancelled
from formulamine.services.cgroup import Cgroup

OUTPUT_KEPT = 256 * 1024  # bytes of a command's output kept from its start, and as many from its end
POLL_S = 0.1
MAX_PROCESSES = 512  # enough for a parallel compiler, far below what harms a host
MAX_FILE_MB = 4096
TMP_MB = 2048
DISK_FULL_MB = 64  # free space below which a tool's word that the disk is full is believed
ENDED_POLL_S = 0.01  # between a command's last output and its end
# What a build or a benchmark may need of the host's /etc: certificates, the loader's cache, how names resolve.
# Of /etc/ssl not `private`: started by root, the user inside may read what only root may.
ETC = (
    "ssl/certs",
    "ssl/openssl.cnf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "mime.types",
)
ETC_NETWORK = ("resolv.conf", "hosts", "nsswitch.conf", "services")
# Settings of the machine's network that an installing step needs. Never a value with a login in it.
NETWORK_VARIABLES = (
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "no_proxy", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "PIP_INDEX_URL",
)  # fmt: skip

_log = logging.getLogger(__name__)


class NoSandbox(Exception):
    """Foreign code cannot run on this machine; the message says what is missing and the mend."""


@dataclass(frozen=True)
class Command:
    """One command and the root it sees."""

    argv: list[str]
    readable: tuple[Path, ...] = ()
    """Host folders and files seen read-only."""
    writable: tuple[Path, ...] = ()
    """Host folders seen writable; disk use there is not limited."""
    scratch: tuple[Path, ...] = ()
    """The same of folders that nobody looks at afterwards: a container is given them, and keeps what it wrote."""
    hidden: tuple[Path, ...] = ()
    """Host programs that the command does not find; a container has only its image's."""
    inside: Mapping[Path, str] = field(default_factory=dict)
    """Where the command sees a host path; at its own path where it is not named here."""
    image: str = ""
    """The image whose root the command sees, where the sandbox is a container."""
    environment: dict[str, str] = field(default_factory=dict)
    cwd: Path = Path("/tmp")
    """As the command sees it."""
    network: bool = False
    timeout_s: float = 600
    memory_mb: int = 4096

    @property
    def changed(self) -> tuple[Path, ...]:
        """Host folders that the command sees writable."""
        return (*self.writable, *self.scratch)


@dataclass(frozen=True)
class Result:
    """How a command ended. `output` is its output and error output, cut in the middle where it is long."""

    exit_code: int
    output: str
    timed_out: bool
    out_of_memory: bool
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it ended by itself and well."""
        return self.exit_code == 0 and not self.timed_out and not self.out_of_memory


@dataclass
class Running:
    """A running command. `process` has binary pipes on stdin and stdout, where it is a long-lived one."""

    process: subprocess.Popen[bytes]
    cgroup: Cgroup | None

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something in it for want of memory."""
        return self.cgroup is not None and self.cgroup.out_of_memory()

    def bring_back(self) -> None:
        """Bring what an ended command wrote to the host's folders, where they are not the same files."""

    def close(self) -> None:
        """Kill every process in it and wait for that."""
        kill(self.process, self.cgroup)


class Sandbox:
    """Runs commands under bubblewrap, or bare where `isolated` is False: that is for our own code only."""

    def __init__(self, *, isolated: bool, cgroups: bool, cancelled: threading.Event) -> None:
        self.isolated = isolated
        self._cgroups = cgroups
        self._cancelled = cancelled
        self._spawner = _Spawner()

    @property
    def limits(self) -> list[str]:
        """Limits that hold for every command run here."""
        if not self.isolated:
            return ["wall_time", "process_memory", "file_size"]
        held = ["network", "filesystem", "wall_time", "process_memory", "file_size"]
        return held + (["total_memory", "process_count"] if self._cgroups else [])

    def run(self, command: Command) -> Result:
        """Run a command to its end.

        Raises:
            Cancelled: the run was told to end; the command's processes are gone.
            OSError: the disk is full.
        """
        started = time.monotonic()
        running = self._start(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        process, output, timed_out, open_ = running.process, _Output(), False, True
        assert process.stdout is not None
        try:
            while True:
                if self._cancelled.is_set():
                    raise Cancelled(command.argv[0])
                if time.monotonic() - started > command.timeout_s:
                    timed_out = True
                    break
                ended = has_ended(process)  # asked first: all that it said is in the pipe then
                if open_ and select.select([process.stdout], [], [], 0 if ended else POLL_S)[0]:
                    chunk = os.read(process.stdout.fileno(), 65536)
                    output.add(chunk)
                    open_ = bool(chunk)
                elif ended:
                    break  # though something it left behind may hold the pipe open
                elif not open_:
                    time.sleep(ENDED_POLL_S)
            if not timed_out:
                running.bring_back()
        finally:
            out_of_memory = running.out_of_memory()
            running.close()
        text = output.text()
        # Foreign code may say anything, and its own /tmp may be full: only a full disk of ours ends the run.
        if any(shutil.disk_usage(folder).free < DISK_FULL_MB * 2**20 for folder in command.changed):
            raise_if_disk_full(text)
        return Result(process.returncode, text, timed_out, out_of_memory, time.monotonic() - started)

    def start(self, command: Command) -> Running:
        """Start a long-lived command with pipes on stdin and stdout. The caller closes it and keeps its time."""
        return self._start(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def _start(self, command: Command, stdin: int, stderr: int) -> Running:
        cgroup = Cgroup.create(command.memory_mb, MAX_PROCESSES) if self._cgroups else None
        script = f"ulimit -v {command.memory_mb * 1024}; ulimit -f {MAX_FILE_MB * 2048}; " + (
            cgroup.enter if cgroup else ""
        )
        argv = bubblewrap(command) if self.isolated else command.argv
        # Variables that a repository names (LD_PRELOAD ...) reach its command alone, not what sets up the sandbox.
        environment = {"PATH": "/usr/bin:/bin"} if self.isolated else environment_of(command, isolated=False)
        process = self._spawner.spawn(
            lambda: subprocess.Popen(
                ["/bin/sh", "-c", script + ' exec "$@"', "sh", *argv],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                cwd="/" if self.isolated else command.cwd,
                start_new_session=True,
            )
        )
        return Running(process, cgroup)


def bubblewrap(command: Command) -> list[str]:
    """The bubblewrap command line that gives a command its root."""
    argv = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"]
    argv += ["--share-net"] if command.network else []
    argv += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--cap-drop", "ALL"]
    argv += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            argv += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            argv += ["--ro-bind", str(path), str(path)]
    for name in ETC + (ETC_NETWORK if command.network else ()):
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    # Started by root, the user inside is root to files of the host: without this it writes the kernel's settings, so
    # that a core dump starts a program of its choice outside. bubblewrap 0.8 covers /proc/sys only where the folder
    # itself, not the files in it, could be written.
    argv += ["--proc", "/proc", "--remount-ro", "/proc"]
    size = ["--size", str(TMP_MB * 2**20)]
    argv += ["--dev", "/dev", *size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    argv += [*size, "--tmpfs", "/tmp", "--dir", "/tmp/home"]
    for path in command.readable:
        argv += ["--ro-bind", str(path), command.inside.get(path, str(path))]
    for path in command.changed:
        argv += ["--bind", str(path), command.inside.get(path, str(path))]
    for path in filter(Path.is_file, command.hidden):
        argv += ["--ro-bind", "/dev/null", os.path.realpath(path)]  # which nobody can execute
    argv += ["--remount-ro", "/", "--clearenv"]
    for name, value in environment_of(command, isolated=True).items():
        argv += ["--setenv", name, value]
    return [*argv, "--chdir", str(command.cwd), "--", *command.argv]


def environment_of(command: Command, *, isolated: bool) -> dict[str, str]:
    """The whole environment of a command: nothing of the host's but what an installing step needs."""
    home = "/tmp/home" if isolated else str(command.cwd)
    environment = {"PATH": "/usr/bin:/bin", "HOME": home, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    environment |= {"PYTHONHASHSEED": "0", "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if command.network:
        environment |= network_variables()
    return environment | command.environment


def network_variables() -> dict[str, str]:
    """The host's proxy, certificate and index settings that carry no login."""
    return {name: os.environ[name] for name in NETWORK_VARIABLES if name in os.environ and "@" not in os.environ[name]}


def kill(process: subprocess.Popen[bytes], cgroup: Cgroup | None = None) -> None:
    """Kill a process, its session and its cgroup, wait for it, and close its pipes."""
    if process.returncode is None:  # not reaped, so its number is still its own and no stranger's
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    if cgroup is not None:
        cgroup.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    if cgroup is not None:
        cgroup.remove()


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended, which is left to be reaped."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def raise_if_disk_full(output: str) -> None:
    """Turn a tool's word that the disk is full into the error that ends the run.

    Raises:
        OSError: the output says so.
    """
    if "No space left on device" in output or "ENOSPC" in output:
        raise OSError(28, "No space left on device")


@dataclass(frozen=True)
class Isolation:
    """What this machine can enforce, probed once."""

    bubblewrap: bool
    why_not: str
    cgroups: bool

    @classmethod
    def probe(cls) -> Isolation:
        """Try a trivial command under bubblewrap, and a cgroup."""
        if shutil.which("bwrap") is None:
            return cls(False, "bubblewrap is not installed", False)
        argv = bubblewrap(Command(["/bin/true"]))
        tried = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
        if tried.returncode != 0:
            return cls(False, f"bubblewrap cannot run here: {tried.stderr.strip()}", False)
        return cls(True, "", Cgroup.available())


class ChoosesSandbox(Protocol):
    """Gives the sandbox in which code of some commits may run."""

    def for_commits(self, commits: Iterable[str]) -> Sandbox:
        """The sandbox in which code of these commits may run.

        Raises:
            NoSandbox: there is none.
        """


class Sandboxes:
    """Chooses the sandbox for a tree: bubblewrap always; bare only for our own demo where there is none."""

    def __init__(
        self,
        *,
        trust: bool,
        is_ours: Callable[[str], bool],
        cancelled: threading.Event,
        probe: Callable[[], Isolation] = Isolation.probe,
    ) -> None:
        self._trust = trust
        self._is_ours = is_ours
        self._cancelled = cancelled
        self._probe = probe

    @cached_property
    def isolation(self) -> Isolation:
        """What this machine can enforce; probed when first asked."""
        return self._probe()

    @cached_property
    def _sandbox(self) -> Sandbox:
        return Sandbox(isolated=self.isolation.bubblewrap, cgroups=self.isolation.cgroups, cancelled=self._cancelled)

    def for_commits(self, commits: Iterable[str]) -> Sandbox:
        """The sandbox in which code of these commits may run.

        Raises:
            NoSandbox: there is none for foreign code, or it does not hold every limit and nobody said `--trust`.
        """
        if self.isolation.bubblewrap and (self.isolation.cgroups or self._trust):
            return self._sandbox
        known = [self._is_ours(commit) for commit in commits]
        if known and all(known):
            return self._sandbox
        if not self.isolation.bubblewrap:
            raise NoSandbox(f"{self.isolation.why_not}: install bubblewrap, foreign code never runs without it")
        raise NoSandbox(
            "no cgroup is writable, so total memory and process count are not limited: run as a user who may "
            "write one, or accept that with --trust"
        )


class _Output:
    """The start and the end of a command's output, bounded however much it prints."""

    def __init__(self) -> None:
        self._start = bytearray()
        self._end = bytearray()
        self._dropped = 0

    def add(self, chunk: bytes) -> None:
        room = OUTPUT_KEPT - len(self._start)
        self._start += chunk[:room]
        self._end += chunk[room:] if room < len(chunk) else b""
        if (excess := len(self._end) - OUTPUT_KEPT) > 0:
            del self._end[:excess]
            self._dropped += excess

    def text(self) -> str:
        middle = f"\n[... {self._dropped} bytes left out ...]\n".encode() if self._dropped else b""
        return (bytes(self._start) + middle + bytes(self._end)).decode("utf-8", "replace")


class _Spawner:
    """One thread that starts every sandbox: bubblewrap's --die-with-parent follows the thread that spawned it."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]]
        self._requests = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="sandbox-spawner", daemon=True).start()

    def spawn(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        future: Future[subprocess.Popen[bytes]] = Future()
        self._requests.put((start, future))
        return future.result()

    def _serve(self) -> None:
        while True:
            start, future = self._requests.get()
            try:
                future.set_result(start())
            except BaseException as error:  # handed to the thread that asked, which raises it
                future.set_exception(error)
