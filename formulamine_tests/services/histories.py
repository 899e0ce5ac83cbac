"""Git repositories for tests, written by one `git fast-import`: any bytes as paths, messages and names."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ANN = b"Ann Example <ann@example.org>"


def git(*arguments: str, at: Path, stdin: bytes = b"") -> str:
    """Plain git, as the owner of the repository would call it."""
    names = {f"GIT_{role}_{part}": part for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    environment = {**names, "PATH": os.environ["PATH"], "HOME": str(at), "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-c", "protocol.file.allow=always", *arguments]
    done = subprocess.run(command, cwd=at, input=stdin, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode("utf-8", "backslashreplace").strip()


def day(number: int, month: int = 2, year: int = 2024, hour: int = 12) -> datetime:
    return datetime(year, month, number, hour, tzinfo=UTC)


@dataclass
class History:
    """A history in the making; `write` makes it a repository."""

    stream: list[bytes] = field(default_factory=list)
    marks: int = 0

    def commit(
        self,
        message: str | bytes,
        when: datetime,
        files: dict[bytes | str, bytes | str | tuple[bytes, bytes]] | None = None,
        *,
        author: bytes = ANN,
        committer: bytes = ANN,
        encoding: bytes | None = None,
        branch: str = "main",
        start: int | None = None,
        merge: int | None = None,
    ) -> int:
        """Add a commit and return its mark. A file's value is its content, or its mode and content."""
        self.marks += 1
        time = b"%d +0100" % int(when.timestamp())
        text = message.encode() if isinstance(message, str) else message
        lines = [b"commit refs/heads/%s\n" % branch.encode(), b"mark :%d\n" % self.marks]
        lines += [b"author %s %s\n" % (author, time), b"committer %s %s\n" % (committer, time)]
        lines += [b"encoding %s\n" % encoding] if encoding else []
        lines += [b"data %d\n%s\n" % (len(text), text)]
        lines += [b"from :%d\n" % start] if start else []
        lines += [b"merge :%d\n" % merge] if merge else []
        for path, value in (files or {}).items():
            mode, content = value if isinstance(value, tuple) else (b"100644", value)
            body = content.encode() if isinstance(content, str) else content
            name = path.encode() if isinstance(path, str) else path
            quoted = b'"' + b"".join(b"\\%03o" % byte for byte in name) + b'"'
            if mode == b"160000":
                lines.append(b"M 160000 %s %s\n" % (body, quoted))
            else:
                lines.append(b"M %s inline %s\ndata %d\n%s\n" % (mode, quoted, len(body), body))
        self.stream += lines
        return self.marks

    def tag(self, name: str, mark: int) -> None:
        self.stream.append(b"reset refs/tags/%s\nfrom :%d\n\n" % (name.encode(), mark))

    def write(self, path: Path, *, bare: bool = True) -> list[str]:
        """Write the repository and return the ids of its commits; number 0 is no commit."""
        path.mkdir(parents=True)
        git("init", "-q", "-b", "main", *(["--bare"] if bare else []), ".", at=path)
        marks = path.parent / f".marks-{path.name.encode().hex()[:50]}"
        git("fast-import", "--quiet", "--force", f"--export-marks={marks}", at=path, stdin=b"".join(self.stream))
        if not bare:
            git("reset", "-q", "--hard", at=path)
        found = dict(line.split() for line in marks.read_text().splitlines())
        return ["", *(found[f":{mark}"] for mark in range(1, self.marks + 1))]
