"""What tests of build, verify and ship stand on: small projects as git repositories, a package index, services.

Nothing here stands in for the project's own parts: git, uv, interpreters, harness and sandbox are the real ones. The
index is a server on this machine, and build backends are a few lines inside the fixture projects, so that no test
needs the network unless it is marked so.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import shutil
import sys
import textwrap
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from formulamine.build.backend import TOOLS
from formulamine.build.images import ImageInput, ImageStep
from formulamine.build.local import LocalBackend
from formulamine.build.payloads import PayloadInput, PayloadStep
from formulamine.records import EnvPayload
from formulamine.services.git import Git
from formulamine.services.llm import Llm
from formulamine.services.resolver import Interpreter, Resolver
from formulamine.services.sandbox import ChoosesSandbox, Isolation, Sandbox, Sandboxes
from formulamine.services.store import Blobs
from formulamine.settings import BuildSettings, DiskSettings, LlmSettings, ResolveSettings
from formulamine_tests.services.histories import History, day

SERIES = f"{sys.version_info[0]}.{sys.version_info[1]}"
MERGED = day(20)
SUITE = """
import toy

def time_work():
    toy.work()
"""
# A build backend without any requirement: METADATA says what it says, and everything below src/ becomes the wheel.
BACKEND = """
import os, zipfile
from email.parser import Parser

def _text():
    with open("METADATA") as file:
        return file.read()

def _folder():
    meta = Parser().parsestr(_text())
    return "%s-%s" % (meta["Name"].replace("-", "_"), meta["Version"])

def prepare_metadata_for_build_wheel(output, settings=None):
    folder = _folder() + ".dist-info"
    os.makedirs(os.path.join(output, folder))
    with open(os.path.join(output, folder, "METADATA"), "w") as file:
        file.write(_text())
    return folder

def build_wheel(output, settings=None, metadata=None):
    name = _folder() + "-py3-none-any.whl"
    entries = {}
    for parent, folders, names in os.walk("src"):
        for one in names:
            path = os.path.join(parent, one)
            with open(path, "rb") as file:
                entries[os.path.relpath(path, "src")] = file.read()
    info = _folder() + ".dist-info/"
    entries[info + "METADATA"] = _text().encode()
    entries[info + "WHEEL"] = b"Wheel-Version: 1.0\\nGenerator: toy\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    record = "".join(path + ",,\\n" for path in entries) + info + "RECORD,,\\n"
    with zipfile.ZipFile(os.path.join(output, name), "w") as archive:
        for path, content in sorted(entries.items()):
            archive.writestr(zipfile.ZipInfo(path), content)
        archive.writestr(zipfile.ZipInfo(info + "RECORD"), record)
    return name
"""

Files = dict[bytes | str, bytes | str | tuple[bytes, bytes]]


def project(
    work: str = "def work(): return sum(range(2000))\n",
    *,
    dependencies: Sequence[str] = (),
    dynamic: bool = False,
    build_requires: Sequence[str] = (),
    requires_python: str = f"=={SERIES}.*",
    suite: str = SUITE,
    asv: object = None,
    root: str = "",
    hook: str = "",
    **more: str,
) -> Files:
    """Files of a project `toy` with a suite.

    Args:
        work: the module `toy`.
        dependencies: what it requires at run time.
        dynamic: whether only its backend tells that.
        build_requires: of [build-system].
        requires_python: of its metadata.
        suite: the suite's one module.
        asv: more of asv.conf.json.
        root: folder of the package, with a slash at its end.
        hook: added to the end of its build backend.
        more: further files, "__" in a name standing for a slash.
    """
    metadata = ["Metadata-Version: 2.1", "Name: toy", "Version: 1.0", f"Requires-Python: {requires_python}"]
    metadata += [f"Requires-Dist: {one}" for one in dependencies]
    static = f'dependencies = {json.dumps(list(dependencies))}\nrequires-python = "{requires_python}"\n'
    pyproject = (
        f'[build-system]\nrequires = {json.dumps(list(build_requires))}\nbuild-backend = "backend"\n'
        'backend-path = ["_build"]\n[project]\nname = "toy"\nversion = "1.0"\n'
        + ('dynamic = ["dependencies", "requires-python"]\n' if dynamic else static)
    )
    return {
        f"{root}pyproject.toml": pyproject,
        f"{root}METADATA": "\n".join(metadata) + "\n\n",
        f"{root}_build/backend.py": BACKEND + textwrap.dedent(hook),
        f"{root}src/toy/__init__.py": work,
        "asv.conf.json": json.dumps({"version": 1, "benchmark_dir": "benchmarks", **(asv or {})}),  # type: ignore[dict-item]
        "benchmarks/__init__.py": "",
        "benchmarks/bench.py": textwrap.dedent(suite),
        **{name.replace("__", "/"): text for name, text in more.items()},
    }


@dataclass
class Workbench:
    """A home with real services, and a repository to work on."""

    home: Path
    interpreters: dict[str, Interpreter]
    isolated: bool = False
    uv_cache: Path | None = None
    build: BuildSettings = field(default_factory=BuildSettings)
    disk: DiskSettings = field(default_factory=DiskSettings)
    llm: LlmSettings = field(default_factory=LlmSettings)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.written = 0
        self.git = Git(self.home / "mirrors", self.cancelled)
        self.blobs = Blobs(self.home / "blobs")
        self.scratch = scratch = self.home / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        self.resolver = Resolver(self.uv_cache or self.home / "cache" / "uv", scratch, self.cancelled)
        self.resolver.__dict__["interpreters"] = self.interpreters  # finding them takes a second
        self.backend = LocalBackend(self.home / "cache", self.git, self.resolver, self.build, self.disk, self.cancelled)
        if self.isolated:
            self.sandboxes = Sandboxes(trust=True, is_ours=lambda _: False, cancelled=self.cancelled)
        else:  # the projects are written by the tests themselves
            bare = Isolation(bubblewrap=False, why_not="the test's own code", cgroups=False)
            self.sandboxes = Sandboxes(
                trust=False, is_ours=lambda _: True, cancelled=self.cancelled, probe=lambda: bare
            )

    def sandbox(self) -> Sandbox:
        return self.sandboxes.for_commits(["of the test"])

    def repository(
        self, base: Files, head: Files | None = None, *, tag: str | None = None, when: datetime = MERGED
    ) -> tuple[str, str]:
        """Write a repository of two commits; their ids. `head` is what changes."""
        history = History()
        history.commit("Start", day(1), base)
        if tag:
            history.tag(tag, 1)
        history.commit("Work on it (#7)", when, head or {"news.txt": "more\n"}, start=1)
        self.written += 1
        self.repo = f"acme/toy{self.written}"
        path = self.home / f"source-{self.written}.git"
        _, before, after = history.write(path)
        self.url = str(path)
        return before, after

    def payload_input(self, commits: tuple[str, str], **changes: object) -> PayloadInput:
        values = {
            "pr_id": "acme__toy-7", "repo": self.repo, "url": self.url, "asv_config": "asv.conf.json",
            "benchmark_dir": "benchmarks", "base_sha": commits[0], "merge_sha": commits[1], "merged_at": MERGED,
        }  # fmt: skip
        return PayloadInput.model_validate({**values, **changes})

    def payload_step(self, min_python: str = "3.8") -> PayloadStep:
        settings = ResolveSettings(min_python=min_python)
        return PayloadStep(self.git, self.resolver, self.backend, self.sandboxes, settings, self.scratch)

    def image_input(self, payload: EnvPayload, asked: PayloadInput) -> ImageInput:
        values = {**asked.model_dump(), **payload.model_dump()}
        return ImageInput.model_validate({name: values[name] for name in ImageInput.model_fields})

    def image_step(self) -> ImageStep:
        return self.image_step_on(self.sandboxes)

    def image_step_on(self, sandboxes: ChoosesSandbox) -> ImageStep:
        llm = Llm(self.llm, self.home / "cache", self.cancelled)
        return ImageStep(self.git, self.backend, sandboxes, self.blobs, self.build, self.resolver, llm)

    def simple_input(self, commits: tuple[str, str], **changes: object) -> ImageInput:
        """A build of a `project()` without pins."""
        values = {
            "pr_id": "acme__toy-7", "repo": self.repo, "url": self.url, "benchmark_dir": "benchmarks",
            "base_sha": commits[0], "merge_sha": commits[1], "merged_at": MERGED, "cutoff": "",
            "python_version": SERIES, "distribution": "toy",
            "package_root": ".", "pins": [], "pins_base": [], "build_pins": [], "build_environment_variables": [],
        }  # fmt: skip
        return ImageInput.model_validate({**values, **changes})

    def own_tools(self) -> None:
        """Put this machine's asv_runner where the backend would install it, so that no index is needed."""
        found = importlib.util.find_spec("asv_runner")
        assert found is not None
        assert found.origin is not None
        package = Path(found.origin).parent
        (metadata,) = package.parent.glob("asv_runner-*.dist-info")
        assert (metadata.name.removesuffix(".dist-info").replace("asv_runner-", "asv-runner=="),) == TOOLS
        real = self.backend.environment

        def environment(
            key: str, pins: Sequence[str], series: str, sandbox: Callable[[], Sandbox], packages: Sequence[str] = ()
        ) -> Path:
            folder = real(key, [] if tuple(pins) == TOOLS else pins, series, sandbox, packages)
            link = folder / "lib" / f"python{series}" / "site-packages" / "asv_runner"
            if tuple(pins) == TOOLS and not link.exists():
                shutil.copytree(package, link)
            return folder

        self.backend.environment = environment  # type: ignore[method-assign]
        self.backend.test_tools = lambda *_: self.own_pytest()  # type: ignore[method-assign]

    def own_pytest(self) -> Path:
        """A folder with this machine's pytest and nothing else."""
        folder = self.home / "test-tools"
        for name in ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments"):
            found = importlib.util.find_spec(name)
            assert found is not None
            assert found.origin is not None
            package = Path(found.origin).parent
            for path in (package, *package.parent.glob(f"{name}-*.dist-info")):
                if not (folder / path.name).exists():
                    shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "py.py").write_text("import _pytest._py.error as error\nimport _pytest._py.path as path\n")
        return folder


class Index:
    """A package index on this machine, with the day of each upload."""

    def __init__(self) -> None:
        self.files: dict[str, list[dict[str, object]]] = {}
        self.content: dict[str, bytes] = {}
        self.asked: list[str] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append(self.path)
                body, kind = index.answer(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Cache-Control", "no-store")
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, path: str) -> tuple[bytes | None, str]:
        name = path.strip("/").removeprefix("simple/")
        if path.startswith("/files/"):
            return self.content.get(path.removeprefix("/files/")), "application/octet-stream"
        if name not in self.files:
            return None, "text/plain"
        listing = {"meta": {"api-version": "1.1"}, "name": name, "files": self.files[name]}
        return json.dumps(listing).encode(), "application/vnd.pypi.simple.v1+json"

    def add(self, name: str, version: str, uploaded: datetime, requires: Sequence[str] = ()) -> None:
        """Upload a wheel that holds one empty module."""
        module = name.replace("-", "_")
        info = f"{module}-{version}.dist-info/"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
        wheel = "Wheel-Version: 1.0\nGenerator: toy\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        entries = {f"{module}.py": f"__version__ = {version!r}\n", f"{info}METADATA": metadata, f"{info}WHEEL": wheel}
        record = ""
        for path, text in entries.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(text)}\n"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, text in {**entries, f"{info}RECORD": record + f"{info}RECORD,,\n"}.items():
                archive.writestr(path, text)
        filename = f"{module}-{version}-py3-none-any.whl"
        self.content[filename] = buffer.getvalue()
        self.content[f"{filename}.metadata"] = metadata.encode()
        self.files.setdefault(name, []).append(
            {
                "filename": filename, "url": f"{self.url}/files/{filename}",
                "hashes": {"sha256": hashlib.sha256(buffer.getvalue()).hexdigest()},
                "core-metadata": {"sha256": hashlib.sha256(metadata.encode()).hexdigest()},
                "upload-time": uploaded.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
            }
        )  # fmt: skip
