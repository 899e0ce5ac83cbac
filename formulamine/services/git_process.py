"""How git is run: an environment in which nothing foreign is read or started, typed errors, and a prompt end.

Here belongs one git process: its environment, its output as it comes, killing it. What git is asked is in `git.py`.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from formulamine.items import Cancelled

GITCONFIG = Path(__file__).with_name("gitconfig")
POLL_MS = 200  # how long a cancel may wait to be seen
CHUNK_BYTES = 1 << 16  # what a pipe holds
DISK_FULL = ("No space left on device", "unable to write file")  # the latter: a checkout's word, without the reason

# What git may inherit: where programs and keys are, how the network is reached. Everything else (GIT_DIR,
# GIT_EXEC_PATH, GIT_SSH_COMMAND ...) would let the caller's surroundings decide what is read or started.
INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "SSH_AUTH_SOCK"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"),
)
ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": str(GITCONFIG),
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
    "GIT_PAGER": "cat",
    "LC_ALL": "C",
    "TZ": "UTC",
    # What a large file took is kept for the next one instead of given back, page by page: a sixth of the time of
    # printing patches. Another libc than glibc reads none of it.
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=268435456",
}


class GitError(Exception):
    """Git could not do what was asked; the message is one line: what, and the mend."""

    infrastructure = False
    """Whether the fault lies with the world rather than with what was asked, so that a later try may differ."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(" ".join(f"{what}: {mend}".split()))
        self.what = what
        self.mend = mend


class CommandFailed(GitError):
    """A git process ended with an error that its caller did not foresee."""


class NotARepository(GitError):
    """A path or URL is no git repository."""


class ShallowRepository(GitError):
    """A repository holds only part of its history."""


class EmptyRepository(GitError):
    """A repository has no commit on its default branch."""


class DetachedHead(GitError):
    """A repository has no default branch."""


class UnreadableRepository(GitError):
    """A repository is damaged, or kept in a way that cannot be read."""


class RemoteUnreachable(GitError):
    """A remote did not answer, or not with a repository: one cannot tell from here."""

    infrastructure = True


class GitProcess:
    """Runs git so that no configuration, hook or filter of a mined repository, nor of the user, takes part."""

    def __init__(self, cancelled: threading.Event) -> None:
        """Prepare the environment.

        Args:
            cancelled: once set, every process under way is killed with its children within a second.
        """
        self._cancelled = cancelled
        self._environment = {name: os.environ[name] for name in INHERITED if name in os.environ} | ENVIRONMENT

    def run(
        self,
        arguments: Sequence[str],
        *,
        git_dir: Path,
        work_tree: Path | None = None,
        stdin: bytes = b"",
        environment: dict[str, str] | None = None,
        keep_open: Sequence[int] = (),
        accept: Sequence[int] = (0,),
    ) -> bytes:
        """Standard output of one git process, as `stream` describes it."""
        chunks = self.stream(
            arguments,
            git_dir=git_dir,
            work_tree=work_tree,
            stdin=stdin,
            environment=environment,
            keep_open=keep_open,
            accept=accept,
        )
        return b"".join(chunks)

    def stream(
        self,
        arguments: Sequence[str],
        *,
        git_dir: Path,
        work_tree: Path | None = None,
        stdin: bytes = b"",
        environment: dict[str, str] | None = None,
        keep_open: Sequence[int] = (),
        accept: Sequence[int] = (0,),
    ) -> Iterator[bytes]:
        """Output of one git process, in pieces as it comes.

        Args:
            arguments: what follows `git`.
            git_dir: the repository; never looked for in the working directory.
            work_tree: where its files are, for what writes them.
            stdin: what the process reads.
            environment: variables besides the fixed ones.
            keep_open: file descriptors that the process holds too, so that a lock lives as long as it does.
            accept: exit codes that are no error.

        Yields:
            Pieces of standard output.

        Raises:
            CommandFailed: any other exit code; the message ends with git's own last line.
            OSError: the disk is full.
            Cancelled: the run was told to end.
        """
        variables = self._environment | {"GIT_DIR": str(git_dir)} | (environment or {})
        if work_tree is not None:
            variables |= {"GIT_WORK_TREE": str(work_tree)}
        # Input and errors go through files: a pipe that nobody empties would block both sides.
        with tempfile.TemporaryFile() as input_file, tempfile.TemporaryFile() as errors:
            input_file.write(stdin)
            input_file.seek(0)
            process = self._start(arguments, variables, input_file, errors, keep_open, work_tree or git_dir.parent)
            try:
                assert process.stdout is not None
                yield from self._read(process.stdout, arguments[0])
                self._wait(process, arguments[0])
            finally:
                _kill(process)
            if process.returncode not in accept:
                errors.seek(0)
                raise _failure(arguments[0], process.returncode, errors.read().decode("utf-8", "replace"))

    def _start(
        self,
        arguments: Sequence[str],
        variables: dict[str, str],
        stdin: IO[bytes],
        errors: IO[bytes],
        keep_open: Sequence[int],
        folder: Path,
    ) -> subprocess.Popen[bytes]:
        if self._cancelled.is_set():
            raise Cancelled(f"git {arguments[0]}")
        try:
            return subprocess.Popen(
                ["git", *arguments],
                cwd=folder,
                env=variables,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                pass_fds=tuple(keep_open),
                start_new_session=True,  # a group of its own: it is killed with its helpers, and Ctrl-C is ours alone
                umask=0o022,  # modes of what is checked out do not depend on the caller
            )
        except FileNotFoundError as error:
            if error.filename != "git":
                raise
            raise GitError("git is not installed", "install it (Debian: apt-get install git)") from error

    def _read(self, pipe: IO[bytes], what: str) -> Iterator[bytes]:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while True:
            if self._cancelled.is_set():
                raise Cancelled(f"git {what}")
            if not poll.poll(POLL_MS):
                continue
            chunk = os.read(pipe.fileno(), CHUNK_BYTES)
            if not chunk:
                return
            yield chunk

    def _wait(self, process: subprocess.Popen[bytes], what: str) -> None:
        while True:
            try:
                process.wait(POLL_MS / 1000)
                return
            except subprocess.TimeoutExpired:
                if self._cancelled.is_set():
                    raise Cancelled(f"git {what}") from None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that has not ended, with its helpers."""
    if process.stdout is not None:
        process.stdout.close()
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        process.wait()


def _failure(command: str, code: int, errors: str) -> Exception:
    """What a failed process means, from what it said."""
    if any(sign in errors for sign in DISK_FULL):
        return OSError(errno.ENOSPC, f"no space left on device (git {command}): make room and run again")
    lines = [line.removeprefix("remote: ").strip() for line in errors.splitlines() if line.strip()]
    # The line that says what is wrong, not what follows from it nor the advice after it.
    telling = sorted(lines, key=lambda line: (not line.startswith("fatal:"), not line.startswith("error:")))
    return CommandFailed(f"git {command} failed", telling[0] if telling else f"exit code {code}")
