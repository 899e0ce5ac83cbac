"""What foreign code in a container tries, and what it comes to; and what the host takes back from it."""

import contextlib
import io
import os
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.build.backend import WORK
from formulamine.items import Cancelled
from formulamine.services.archives import BadArchive, pack, unpack
from formulamine.services.docker_engine import Engine, EngineError
from formulamine.services.docker_sandbox import GIVEN, DockerSandbox
from formulamine.services.sandbox import Command, Result
from formulamine_tests.docker.engine import BASE_IMAGE

OUT = f"{WORK}/out"
docker = pytest.mark.docker


@pytest.fixture
def sandbox(engine: Engine) -> DockerSandbox:
    return DockerSandbox(engine, "host", threading.Event())


def shell(sandbox: DockerSandbox, script: str, **more: object) -> Result:
    return sandbox.run(Command(["/bin/sh", "-c", script], image=BASE_IMAGE, **more))  # type: ignore[arg-type]


def python(sandbox: DockerSandbox, script: str, **more: object) -> Result:
    return sandbox.run(Command(["python3", "-c", script], image=BASE_IMAGE, **more))  # type: ignore[arg-type]


@docker
def test_nothing_of_the_host_is_seen(sandbox: DockerSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_HOST", "sesame")
    (tmp_path / "secret").write_text("sesame")
    told = shell(sandbox, f"env; id -u; cat {tmp_path}/secret; ls -a /root; ls /var/run/docker.sock; echo $HOME")
    assert "sesame" not in told.output
    assert "1000\n" in told.output
    assert "'/root': Permission denied" in told.output
    assert "'/var/run/docker.sock': No such file" in told.output


@docker
def test_the_network_is_there_only_when_asked_for(sandbox: DockerSandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        connect = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 3)"
        assert not python(sandbox, connect).ok
        with pytest.raises(TimeoutError):
            server.accept()
        assert python(sandbox, connect, network=True).ok, "the test's own network is the host's"
        server.accept()[0].close()


@docker
def test_the_root_cannot_be_written_and_rights_cannot_be_won(sandbox: DockerSandbox) -> None:
    told = shell(
        sandbox,
        "touch /usr/x /etc/x /x; mknod /tmp/device c 1 3; mount -t tmpfs none /mnt; unshare -U true; "
        "grep -E 'CapEff|NoNewPrivs' /proc/self/status; echo 1 > /proc/sys/kernel/core_pattern",
    )
    assert told.output.count("Read-only file system") >= 3
    assert "CapEff:\t0000000000000000" in told.output
    assert "NoNewPrivs:\t1" in told.output
    assert "mknod: /tmp/device: Operation not permitted" in told.output


@docker
def test_memory_is_bounded(sandbox: DockerSandbox) -> None:
    told = python(sandbox, "x = bytearray(600 * 2**20); print('had it')", memory_mb=256)
    assert "had it" not in told.output
    assert told.out_of_memory or not told.ok


@docker
def test_processes_are_bounded_and_end_with_the_command(sandbox: DockerSandbox) -> None:
    script = """if True:
        import os, time
        made = 0
        try:
            while True:
                if os.fork() == 0: time.sleep(60)
                made += 1
        except OSError:
            print("made", made)
    """
    told = python(sandbox, script, timeout_s=60)
    assert 100 < int(told.output.split()[-1]) < 600


@docker
def test_the_disk_of_a_container_is_bounded_where_it_can_write(sandbox: DockerSandbox) -> None:
    told = shell(sandbox, "dd if=/dev/zero of=/tmp/big bs=1M count=3000; ls -s /tmp/big", memory_mb=4096)
    assert "No space left" in told.output or "File size limit" in told.output or told.out_of_memory


@docker
def test_time_is_bounded_whatever_the_command_starts(sandbox: DockerSandbox, engine: Engine) -> None:
    started = time.monotonic()
    told = shell(sandbox, "trap '' TERM; (setsid sleep 1000 &) ; setsid sleep 1000", timeout_s=2)
    assert told.timed_out
    assert time.monotonic() - started < 30
    assert not engine.client.api.containers(all=True, filters={"label": f"formulamine.owner={engine.owner}"})


@docker
def test_a_cancel_ends_the_container_at_once(engine: Engine) -> None:
    cancelled = threading.Event()
    sandbox = DockerSandbox(engine, "host", cancelled)
    threading.Timer(1.5, cancelled.set).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        shell(sandbox, "sleep 1000")
    assert time.monotonic() - started < 10
    assert not engine.client.api.containers(all=True, filters={"label": f"formulamine.owner={engine.owner}"})


@docker
def test_a_flood_of_output_is_cut_and_its_end_kept(sandbox: DockerSandbox) -> None:
    told = shell(sandbox, "yes | head -c 5000000; echo the end", timeout_s=60)
    assert told.output.endswith("the end\n")
    assert len(told.output) < 600_000


@docker
def test_what_is_written_comes_back_and_what_is_given_is_seen(sandbox: DockerSandbox, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "before").write_text("was here\n")
    (tmp_path / "given.txt").write_text("given\n")
    inside = {folder: OUT, tmp_path / "given.txt": f"{GIVEN}/given.txt"}
    told = shell(
        sandbox,
        f"cd {OUT} && cat before {GIVEN}/given.txt > after && rm before && ln -s /etc/passwd link && mkfifo pipe "
        "&& mkdir -p deep/er && chmod 000 after && ln after deep/er/same",
        readable=(tmp_path / "given.txt",), writable=(folder,), inside=inside,
    )  # fmt: skip
    assert told.ok, told.output
    assert sorted(path.name for path in folder.rglob("*")) == ["after", "deep", "er", "link", "same"]
    assert (folder / "deep/er/same").read_text() == "was here\ngiven\n"
    assert os.readlink(folder / "link") == "/etc/passwd"
    assert (folder / "after").stat().st_uid == os.getuid()


@docker
def test_what_nobody_wants_back_is_seen_and_stays_there(sandbox: DockerSandbox, tmp_path: Path) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "before").write_text("was here\n")
    script = f"cat {OUT}/before && echo more > {OUT}/after && echo other > {OUT}/before"
    told = shell(sandbox, script, scratch=(folder,), inside={folder: OUT})
    assert (told.ok, told.output) == (True, "was here\n")
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("before", "was here\n")]


@docker
@pytest.mark.parametrize("alone", [True, False])
def test_a_layer_is_what_was_put_in_on_either_store_of_images(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    assert engine._knows_layers_alone, "the engine of the tests keeps its layers itself"
    monkeypatch.setitem(engine.__dict__, "_knows_layers_alone", alone)
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "run").write_text("echo it runs as $WHO\n")
    name = f"formulamine/test-layer-{os.getpid()}:{alone}".lower()
    labels = {"formulamine.pr": "acme__toy-7"}
    made = engine.layer(BASE_IMAGE, [("opt/content", tmp_path / "content")], name, labels, {"WHO": "root"})
    below, told = engine.inspect(BASE_IMAGE), engine.inspect(made)
    assert told["RootFS"]["Layers"][:-1] == below["RootFS"]["Layers"]
    assert told["Config"]["Labels"]["formulamine.pr"] == "acme__toy-7"
    assert not told["Config"]["Labels"].get("formulamine.owner")
    assert told["Config"]["Cmd"] == (below["Config"]["Cmd"] or ["/bin/sh"])
    [files] = engine.contents([made]).values()
    own = {path.partition(":")[2] for path in files} - {
        path.partition(":")[2] for path in engine.contents([below["Id"]])[below["Id"]]
    }
    assert own == {"opt/content/run"}
    with engine.container(made, ["/bin/sh", "/opt/content/run"]) as container:
        engine.client.api.start(container)
        engine.client.api.wait(container)
        assert engine.client.api.logs(container) == b"it runs as root\n"
    if alone:
        again = engine.layer(BASE_IMAGE, [("opt/content", tmp_path / "content")], name, labels, {"WHO": "root"})
        assert again == made, "the same content, the same id"


@docker
def test_the_loopback_of_a_container_is_its_own(sandbox: DockerSandbox) -> None:
    told = python(
        sandbox,
        "import os, socket; print(os.listdir('/sys/class/net')); here = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(here.getsockname(), 2); print('reached itself')",
    )
    assert told.output == "['lo']\nreached itself\n"


@docker
def test_an_engine_that_is_gone_is_told_as_such(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"[Nn]o such"):
        engine.create("formulamine-no-such-image:1", ["true"])


Entry = tuple[str, bytes, bytes, str]


def archive(entries: list[Entry]) -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, kind, content, link in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(entry, io.BytesIO(content))
    made.seek(0)
    return made


@pytest.mark.parametrize(
    "entries",
    [
        [("out/../../evil", tarfile.REGTYPE, b"x", "")],
        [("/etc/evil", tarfile.REGTYPE, b"x", "")],
        [("other/evil", tarfile.REGTYPE, b"x", "")],
        [("out/up", tarfile.SYMTYPE, b"", "/"), ("out/up/tmp/evil", tarfile.REGTYPE, b"x", "")],
        [("out/up", tarfile.SYMTYPE, b"", ".."), ("out/up/evil", tarfile.REGTYPE, b"x", "")],
        [("out/hard", tarfile.LNKTYPE, b"", "/etc/passwd")],
        [("out/hard", tarfile.LNKTYPE, b"", "out/../../secret")],
        [("out/link", tarfile.SYMTYPE, b"", "../secret"), ("out/hard", tarfile.LNKTYPE, b"", "out/link/x")],
    ],
)
def test_an_archive_that_leads_out_is_refused(entries: list[Entry], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("sesame")
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(BadArchive):
        unpack(archive(entries), "out", folder)
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("out", "secret")] == []
    assert (tmp_path / "secret").read_text() == "sesame"


def test_garbage_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(BadArchive):
        unpack(io.BytesIO(b"\1" * 2000), "out", tmp_path)


NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "link", "out", "-rf"]), min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])


@given(st.lists(st.tuples(NAMES.map("out/".__add__), KINDS, st.binary(max_size=4), NAMES), max_size=8))
def test_whatever_a_container_gives_stays_in_its_folder(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]
) -> None:
    around = tmp_path_factory.mktemp("around")
    (around / "secret").write_text("sesame")
    folder = around / "out"
    folder.mkdir()
    with contextlib.suppress(BadArchive):
        unpack(archive(entries), "out", folder)
    assert sorted(path.name for path in around.iterdir()) == ["out", "secret"]
    assert (around / "secret").read_text() == "sesame"


@pytest.fixture
def packed(tmp_path: Path) -> Iterator[tarfile.TarFile]:
    tree = tmp_path / "tree"
    (tree / "b").mkdir(parents=True)
    (tree / "b/run").write_text("x")
    (tree / "b/run").chmod(0o4777)
    (tree / "a").symlink_to("/etc/passwd")
    os.link(tree / "b/run", tree / "c")
    os.mkfifo(tree / "pipe")
    made = io.BytesIO()
    pack(made, [("opt/here/tree", tree)], user=0)
    made.seek(0)
    with tarfile.open(fileobj=made) as tar:
        yield tar


def test_a_layer_holds_plain_files_of_root_in_order(packed: tarfile.TarFile) -> None:
    entries = {entry.name: entry for entry in packed}
    top = "opt/here/tree"
    assert list(entries) == ["opt", "opt/here", top, f"{top}/a", f"{top}/b", f"{top}/b/run", f"{top}/c"]
    assert {(one.uid, one.gid, one.mtime, one.uname) for one in entries.values()} == {(0, 0, 0, "")}
    assert entries[f"{top}/b/run"].mode == 0o755
    assert entries[f"{top}/c"].isreg(), "no hard links"
    assert entries[f"{top}/a"].linkname == "/etc/passwd"
