"""What a hostile setup.py tries while it is built by the local backend, and that none of it comes to anything.

The code under test runs as a build backend does, under bubblewrap. It tries, says what came of it in a module of its
own wheel, and is then judged by what the host sees.
"""

import os
import shutil
import socket
import stat
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from formulamine.build import cache, digests, facts
from formulamine.build.pair import Pair
from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine.services import sandbox
from formulamine.services.resolver import Interpreter
from formulamine.settings import BuildSettings
from formulamine_tests.build.test_images import FAST, processes
from formulamine_tests.build.workbench import Files, Workbench, project

pytestmark = pytest.mark.bubblewrap
SECRET = "hunter2-of-the-test"
ATTEMPT = """
import glob, shutil, signal, socket, stat, subprocess, sys, time
FOUND = dict()

def attempt(what, act):
    try:
        FOUND[what] = repr(act())
    except BaseException as error:
        FOUND[what] = "refused: " + type(error).__name__

def tell():
    with open("src/toy/found.py", "w") as file:
        file.write("FOUND = " + repr(FOUND))
"""


@pytest.fixture
def make(
    tmp_path: Path, interpreters: dict[str, Interpreter], uv_cache: Path, warm_cache: Path
) -> Callable[..., Workbench]:
    """A home under bubblewrap in which environments stand already."""

    def made(**limits: int) -> Workbench:
        home = tmp_path / "home"
        shutil.copytree(warm_cache / "environments", home / "cache" / "environments", symlinks=True)
        bench = Workbench(
            home, interpreters, isolated=True, uv_cache=uv_cache, build=BuildSettings.model_validate(limits)
        )
        bench.own_tools()
        return bench

    return made


def tried(bench: Workbench, hook: str, head: Files | None = None) -> tuple[Pair, dict[str, str]]:
    """Build a project whose backend tries something, verify it, and return what it says of its own success."""
    item = bench.simple_input(bench.repository(project(hook=ATTEMPT + hook + "\ntell()\n"), head or FAST))
    pair = bench.backend.pair(item.recipe(), item.url, bench.sandbox, item.pr_id)
    facts.verify(pair, bench.git, bench.url, bench.sandbox(), 2048)
    space: dict[str, dict[str, str]] = {}
    exec((pair.base.site / "toy" / "found.py").read_text(), space)
    assert space["FOUND"]
    return pair, space["FOUND"]


def fails(bench: Workbench, hook: str, **more: object) -> BuildFailed:
    item = bench.simple_input(bench.repository(project(hook=ATTEMPT + hook), FAST))
    with pytest.raises(BuildFailed) as raised:
        bench.backend.pair(item.recipe(), item.url, bench.sandbox, item.pr_id)
    return raised.value


def refused(found: dict[str, str]) -> None:
    assert {what: answer for what, answer in found.items() if not answer.startswith("refused")} == {}


def seen(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and bytes of everything below a folder."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def test_the_hosts_home_and_environment_are_not_there(
    make: Callable[..., Workbench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    home = tmp_path / "somebody"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_ed25519").write_text(SECRET)
    real = os.path.expanduser("~")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GITHUB_TOKEN", SECRET)
    hook = f"""
HOME = {str(home)!r}
def variables():
    said = [open(path, "rb").read() for path in glob.glob("/proc/*/environ")]
    return [one for one in [*map(os.fsencode, os.environ.values()), *said] if b"hunter2" in one]
attempt("key", lambda: open(HOME + "/.ssh/id_ed25519").read())
attempt("home", lambda: os.listdir(HOME))
def real_home():
    here = {real!r}
    return [name for name in os.listdir(here) if not sys.base_prefix.startswith(os.path.join(here, name))]
attempt("real home", real_home)
attempt("own home", lambda: open(os.path.expanduser("~/.ssh/id_ed25519")).read())
attempt("by the root of process 1", lambda: open("/proc/1/root" + HOME + "/.ssh/id_ed25519").read())
attempt("accounts", lambda: open("/etc/passwd").read())
attempt("keys of the machine", lambda: os.listdir("/etc/ssl/private"))
attempt("variables", variables)
"""
    pair, found = tried(bench, hook)
    assert found.pop("variables") == "[]"
    assert found.pop("real home") in ("[]", "refused: FileNotFoundError")  # but for the way to the interpreter
    refused(found)
    assert not any(SECRET.encode() in content for _, content in seen(pair.base.tree.parent).values())


def test_a_step_without_network_reaches_nobody(make: Callable[..., Workbench], tmp_path: Path) -> None:
    name = f"\0formulamine-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as named,
    ):
        udp.bind(("127.0.0.1", 0))
        abstract.bind(name)
        named.bind(str(tmp_path / "socket"))
        for server in (abstract, named):
            server.listen()
        for server in (tcp, udp, abstract, named):
            server.setblocking(False)
        hook = f"""
TCP, UDP, NAME, PLACE = {tcp.getsockname()[1]}, {udp.getsockname()[1]}, {name!r}, {str(tmp_path / "socket")!r}
def unix(where):
    one = socket.socket(socket.AF_UNIX)
    one.connect(where)
    return "connected"
def datagram():
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return one.sendto(b"x", ("127.0.0.1", UDP))
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", TCP), 2))
attempt("outside", lambda: socket.create_connection(("1.1.1.1", 53), 2))
attempt("name", lambda: socket.getaddrinfo("example.org", 443))
attempt("abstract", lambda: unix(NAME))
attempt("named", lambda: unix(PLACE))
attempt("raw", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("datagram", datagram)
"""
        _, found = tried(make(), hook)
        found.pop("datagram")  # to its own loopback, where nobody listens
        refused(found)
        for server in (tcp, abstract, named):
            with pytest.raises(BlockingIOError):
                server.accept()
        with pytest.raises(BlockingIOError):
            udp.recv(1)


def test_the_docker_socket_is_not_there(
    make: Callable[..., Workbench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{place}")
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(place))
        engine.listen()
        engine.setblocking(False)
        hook = f"""
def engine(path):
    one = socket.socket(socket.AF_UNIX)
    one.connect(path)
    one.sendall(b"GET /version HTTP/1.0" + bytes([13, 10, 13, 10]))
    return one.recv(100)
for path in ({str(place)!r}, "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"):
    attempt(path, lambda: engine(path))
attempt("variable", lambda: os.environ["DOCKER_HOST"])
"""
        _, found = tried(make(), hook)
        refused(found)
        with pytest.raises(BlockingIOError):
            engine.accept()


def test_forking_without_end(make: Callable[..., Workbench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(build_timeout_s=3)
    if "process_count" not in bench.sandbox().limits:
        pytest.skip("no cgroup is writable here, so the limit is not claimed")
    monkeypatch.setattr(sandbox, "MAX_PROCESSES", 60)
    most, ended = [0], threading.Event()

    def count() -> None:
        while not ended.wait(0.1):
            most[0] = max(most[0], len(processes(str(bench.home))))

    counter = threading.Thread(target=count)
    counter.start()
    try:
        failure = fails(
            bench,
            """
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.05)
""",
        )
    finally:
        ended.set()
        counter.join()
    assert failure.reason == ImageReason.TIMEOUT
    assert 10 < most[0] <= 2 * 60, "both sides are built at once"
    assert gone(str(bench.home))


def test_filling_memory(make: Callable[..., Workbench]) -> None:
    bench = make(build_memory_mb=300)
    held = "held = [bytearray(b'x') * 50_000_000 for _ in range(40)]\n"
    alone = fails(bench, held)
    assert alone.reason == ImageReason.OUT_OF_MEMORY or "MemoryError" in str(alone)
    if "total_memory" not in bench.sandbox().limits:
        pytest.skip("no cgroup is writable here, so the limit on all processes together is not claimed")
    together = """
for _ in range(6):
    if os.fork() == 0:
        held = bytearray(b"x") * 120_000_000
        time.sleep(60)
os.wait()
raise SystemExit(1)
"""
    assert fails(bench, together).reason == ImageReason.OUT_OF_MEMORY
    assert gone(str(bench.home))


def test_filling_the_disk(make: Callable[..., Workbench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "TMP_MB", 16)
    monkeypatch.setattr(sandbox, "MAX_FILE_MB", 8)
    hook = """
def fill(pattern, size, count):
    for number in range(count):
        with open(pattern % number, "wb") as file:
            for _ in range(size):
                file.write(bytes(2**20))
attempt("one file in its tree", lambda: fill("big%d", 64, 1))
attempt("one file beside its wheel", lambda: fill("../wheels/big%d", 64, 1))
attempt("many files in /tmp", lambda: fill("/tmp/big%d", 4, 16))
attempt("by growing it", lambda: os.truncate("big0", 2**40))
attempt("many files in /dev/shm", lambda: fill("/dev/shm/big%d", 4, 16))
attempt("in /dev", lambda: fill("/dev/big%d", 1, 1))
attempt("in the root", lambda: fill("/big%d", 1, 1))
for path in glob.glob("/tmp/big*"):
    os.remove(path)  # its own wheel is unpacked there
"""
    pair, found = tried(make(), hook)
    refused(found)
    largest = max(path.lstat().st_size for path in pair.base.tree.parent.rglob("*"))
    assert largest <= 8 * 2**20


def test_writing_outside_its_folder(make: Callable[..., Workbench], tmp_path: Path) -> None:
    bench = make()
    tried(bench, "attempt('nothing', lambda: 1)")  # so that there is something to spoil: mirrors, sides, markers
    before = seen(bench.home)
    hook = f"""
HOME = {str(bench.home)!r}
def write(path):
    with open(path, "w") as file:
        file.write("was here")
    return "written"
attempt("environment", lambda: write(os.path.join(sys.prefix, "lib/python3.11/site-packages/evil.py")))
attempt("environment's folder", lambda: write(os.path.join(sys.prefix, "evil")))
attempt("interpreter", lambda: write(os.path.join(sys.base_prefix, "evil")))
attempt("the hooks' own file", lambda: write(sys.argv[0]))
attempt("system", lambda: write("/usr/bin/evil"))
attempt("settings", lambda: write("/etc/evil"))
attempt("the root of process 1", lambda: write("/proc/1/root/usr/evil"))
# Opened and not written to: were it possible, the test would change the machine.
for path in glob.glob("/proc/sys/*/*") + ["/proc/sysrq-trigger", "/proc/mtrr", "/proc/1/oom_score_adj"]:
    attempt(path, lambda: os.close(os.open(path, os.O_WRONLY)))
attempt("another side", lambda: write(glob.glob(HOME + "/cache/sides/*/site/toy/__init__.py")[0]))
attempt("mount", lambda: subprocess.run(["mount", "-o", "remount,rw", "/usr"], check=True))
attempt("move its folder", lambda: os.rename(os.getcwd(), os.path.dirname(os.getcwd()) + "/moved"))
attempt("replace the wheels", lambda: os.rename("../wheels", "../other"))
write(HOME + "/evil")
attempt("the package's folder", lambda: write("../site"))
attempt("a marker beside its tree", lambda: write("../.x.ready"))
"""
    _, found = tried(bench, hook)
    refused(found)
    # The folders above those that it was given are on a disk in memory that ends with it.
    after = seen(bench.home)
    assert {path: after.get(path) for path in before} == before
    names = {Path(path).name for path in after} - {Path(path).name for path in before}
    assert not names & {"evil", "evil.py", "moved", "other", ".x.ready"}


def test_nothing_survives_the_timeout(make: Callable[..., Workbench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(build_timeout_s=3)
    monkeypatch.setattr(cache, "discard", lambda folder: None)  # what failed stays, to be looked at
    name = f"formulamine-survivor-{os.getpid()}"
    hook = f"""
BEAT = "import signal, sys, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; " \\
       "[(open(sys.argv[1], 'a').write('x'), time.sleep(0.05)) for _ in range(10000)]"
for number in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 100)
            os.chdir("/")
            os.execv(sys.executable, [sys.executable, "-c", BEAT, {str(bench.home)!r} + "/beats", {name!r}])
        os._exit(0)
BEATS = os.path.abspath("beats")
if os.fork() == 0:
    os.setsid()
    os.execv(sys.executable, [sys.executable, "-c", BEAT, BEATS, {name!r}])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    time.sleep(1)
"""
    assert fails(bench, hook).reason == ImageReason.TIMEOUT
    sizes = {beats: beats.stat().st_size for beats in bench.home.rglob("beats")}  # it ran, and wrote where it may
    assert len(sizes) == 2, "one of each side"
    assert all(sizes.values())
    assert gone(name)
    time.sleep(0.3)
    assert {beats: beats.stat().st_size for beats in sizes} == sizes


class TestLinks:
    @pytest.fixture
    def outside(self, tmp_path: Path) -> Iterator[Path]:
        """A folder of the host that must stay as it is, with a wheel nobody built."""
        folder = tmp_path / "outside"
        folder.mkdir()
        (folder / "secret").write_text(SECRET)
        with zipfile.ZipFile(folder / "toy-1.0-py3-none-any.whl", "w") as wheel:
            info = "toy-1.0.dist-info/"
            wheel.writestr("toy/__init__.py", f"stolen = {SECRET!r}\ndef work(): pass\n")
            wheel.writestr(f"{info}METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
            wheel.writestr(f"{info}WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}RECORD", "")
        before = seen(folder)
        folder.chmod(0o750)
        yield folder
        assert seen(folder) == before
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750

    @pytest.mark.parametrize("target", ["toy-1.0-py3-none-any.whl", "secret", "", "gone"])
    def test_a_wheel_that_is_a_link_is_not_followed(
        self, make: Callable[..., Workbench], outside: Path, target: str
    ) -> None:
        bench = make()
        hook = f"""
def build_wheel(output, *_, **__):
    os.symlink({str(outside / target)!r}, os.path.join(output, "toy-1.0-py3-none-any.whl"))
    return "toy-1.0-py3-none-any.whl"
"""
        assert fails(bench, hook).reason == ImageReason.BUILD_FAILED
        assert not list(bench.home.glob("cache/sides/*/site"))

    def test_links_left_in_what_is_removed_are_not_followed(
        self, make: Callable[..., Workbench], outside: Path
    ) -> None:
        hook = f"""
for place in ("left", "_build/left", "../wheels/left"):
    attempt(place, lambda: os.symlink({str(outside)!r}, place))
os.makedirs("locked/inside", exist_ok=True)
os.symlink({str(outside)!r}, "locked/inside/left")
os.chmod("locked/inside", 0)
os.chmod("locked", 0)
"""
        pair, found = tried(make(), hook)
        assert set(found.values()) == {"None"}
        assert not list(pair.base.tree.rglob("left"))
        assert not (pair.base.tree.parent / "build").exists()

    def test_a_hard_link_leads_nowhere(self, make: Callable[..., Workbench], outside: Path) -> None:
        hook = f"""
for source in ({str(outside / "secret")!r}, sys.executable, "/usr/bin/env", sys.argv[0], "/etc/ssl/openssl.cnf"):
    attempt(source, lambda: os.link(source, "linked"))
attempt("opened", lambda: os.link("/proc/self/fd/0", "linked", follow_symlinks=True))
"""
        pair, found = tried(make(), hook)
        refused(found)
        assert not list(pair.base.tree.parent.rglob("linked"))

    def test_links_among_the_sources_are_not_read_through(self, make: Callable[..., Workbench], outside: Path) -> None:
        """Neither by a digest nor by a scan, and head's content behind one is none in what ships."""
        bench = make()
        solution = "def solved(): return 'the whole solution'\n"
        (outside / "secret").write_text(solution)
        links: Files = {"src/toy/data": (b"120000", str(outside / "secret").encode())}
        links |= {"all": (b"120000", str(outside).encode()), "conftest.py": (b"120000", b"/etc/passwd")}
        links |= {"benchmarks/data.py": (b"120000", str(outside / "secret").encode())}
        base: Files = {**project(), **links}
        item = bench.simple_input(bench.repository(base, {"src/toy/solution.py": solution}))
        # The toy backend reads its files as they are; inside, this one leads nowhere.
        hook = ATTEMPT + "\nos.remove('src/toy/data')\n"
        base["_build/backend.py"] = str(base["_build/backend.py"]) + hook
        item = bench.simple_input(bench.repository(base, {"src/toy/solution.py": solution}))
        pair = bench.backend.pair(item.recipe(), item.url, bench.sandbox, item.pr_id)

        def everything() -> tuple[object, ...]:
            found = facts.verify(pair, bench.git, bench.url, bench.sandbox(), 2048)
            return found, digests.base_digest(pair), digests.measure_digest(pair)

        first = everything()
        (outside / "secret").write_text("def time_stolen(): pass\n")
        assert everything() == first
        (outside / "secret").write_text(SECRET)
        assert os.readlink(pair.base.tree / "all") == str(outside)


class TestOutput:
    @pytest.mark.parametrize(
        "make_it",
        [
            "os.mkfifo(place)",
            "socket.socket(socket.AF_UNIX).bind(place)",
            "os.mkdir(place)",
            "os.mknod(place, stat.S_IFIFO | 0o600)",
        ],
    )
    def test_a_wheel_that_is_no_file_is_not_waited_for(self, make: Callable[..., Workbench], make_it: str) -> None:
        hook = f"""
def build_wheel(output, *_, **__):
    os.chdir(output)
    place = "toy-1.0-py3-none-any.whl"
    {make_it}
    return place
"""
        started = time.monotonic()
        assert fails(make(build_timeout_s=60), hook).reason == ImageReason.BUILD_FAILED
        assert time.monotonic() - started < 20

    def test_devices_cannot_be_made_and_nothing_odd_is_kept(self, make: Callable[..., Workbench]) -> None:
        hook = """
attempt("disk", lambda: os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(8, 0)))
attempt("memory", lambda: os.mknod("memory", stat.S_IFCHR | 0o600, os.makedev(1, 1)))
attempt("null", lambda: os.mknod("null", stat.S_IFCHR | 0o600, os.makedev(1, 3)))
attempt("in its own /dev", lambda: open("/dev/mem", "rb"))
os.mkfifo("pipe")
os.mkfifo("../wheels/pipe")
for place in ("setuid", "../wheels/setuid", "src/toy/setuid.py"):
    shutil.copy("/bin/sh", place) if "toy" not in place else open(place, "w").close()
    os.chmod(place, 0o6755)
"""
        pair, found = tried(make(), hook)
        refused(found)
        left = [path for path in pair.base.tree.parent.rglob("*") if not path.is_symlink()]
        assert all(path.is_file() or path.is_dir() for path in left)
        assert not [path for path in left if path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)]

    @pytest.mark.parametrize("kind", ["stat.S_IFIFO", "stat.S_IFLNK", "stat.S_IFCHR", "stat.S_ISUID | stat.S_IFREG"])
    def test_what_a_wheel_calls_a_device_or_a_link_becomes_none(
        self, make: Callable[..., Workbench], kind: str
    ) -> None:
        bench = make(build_timeout_s=60)
        hook = f"""
one_wheel = build_wheel
def build_wheel(output, *_, **__):
    name = one_wheel(output)
    with zipfile.ZipFile(os.path.join(output, name), "a") as archive:
        entry = zipfile.ZipInfo("toy/odd.py")
        entry.create_system = 3
        entry.external_attr = ({kind} | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    return name
"""
        item = bench.simple_input(bench.repository(project(hook=ATTEMPT + hook), FAST))
        try:
            pair = bench.backend.pair(item.recipe(), item.url, bench.sandbox, item.pr_id)
            facts.verify(pair, bench.git, bench.url, bench.sandbox(), 2048)
        except BuildFailed as error:
            assert error.reason in (ImageReason.INSTALL_FAILED, ImageReason.TAMPERED)  # noqa: PT017
            return
        mode = (pair.base.site / "toy" / "odd.py").lstat().st_mode
        assert stat.S_ISREG(mode)
        assert not mode & stat.S_ISUID

    @pytest.mark.parametrize(
        "name", ["../../evil.py", "/tmp/evil.py", "toy-1.0.data/scripts/../../../evil.py", "toy/../../evil.py"]
    )
    def test_a_wheel_that_unpacks_upwards_stays_in_its_folder(self, make: Callable[..., Workbench], name: str) -> None:
        bench = make()
        hook = f"""
one_wheel = build_wheel
def build_wheel(output, *_, **__):
    wheel = one_wheel(output)
    with zipfile.ZipFile(os.path.join(output, wheel), "a") as archive:
        archive.writestr({name!r}, "evil")
    return wheel
"""
        item = bench.simple_input(bench.repository(project(hook=ATTEMPT + hook), FAST))
        try:
            bench.backend.pair(item.recipe(), item.url, bench.sandbox, item.pr_id)
        except BuildFailed as error:
            assert error.reason == ImageReason.INSTALL_FAILED  # noqa: PT017
        places = [path for path in bench.home.rglob("evil.py") if "site" not in path.relative_to(bench.home).parts]
        assert not places
        assert not Path("/tmp/evil.py").exists()

    @pytest.mark.parametrize("name", ["--target=..whl", "-rf.whl", "--index-url=http:__127.0.0.1.whl", "-.whl"])
    def test_a_wheel_named_like_an_option_is_a_name(self, make: Callable[..., Workbench], name: str) -> None:
        bench = make()
        hook = f"""
one_wheel = build_wheel
def build_wheel(output, *_, **__):
    os.rename(os.path.join(output, one_wheel(output)), os.path.join(output, {name!r}))
    return {name!r}
"""
        before = seen(bench.home / "cache" / "environments")
        failure = fails(bench, hook)
        assert failure.reason == ImageReason.INSTALL_FAILED
        assert seen(bench.home / "cache" / "environments") == before
        assert not [path for path in bench.home.rglob("toy") if "build" not in path.parts]

    def test_sources_named_like_options_are_names(self, make: Callable[..., Workbench]) -> None:
        bench = make()
        odd: Files = {"-rf": "x\n", "--upload-pack=touch evil": "x\n", "-c": "x\n", "--": "x\n", "--help/-x": "x\n"}
        odd |= {"-suite/__init__.py": "", "-suite/-bench.py": "def time_it(): pass\n"}
        commits = bench.repository({**project(), **odd}, FAST, tag="--output=evil1")
        item = bench.simple_input(commits, benchmark_dir="-suite")
        pair = bench.backend.pair(item.recipe(), item.url, bench.sandbox, item.pr_id)
        found = facts.verify(pair, bench.git, bench.url, bench.sandbox(), 2048)
        assert found.head.benchmarks == ["-bench.time_it"]
        assert not list(bench.home.rglob("evil*"))


def gone(text: str, seconds: float = 3.0) -> bool:
    """Whether no process with this text on its command line is left, or none soon."""
    until = time.monotonic() + seconds
    while processes(text) and time.monotonic() < until:
        time.sleep(0.05)
    return not processes(text)
