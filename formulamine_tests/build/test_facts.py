"""All rules of verification on one built pair: what passes, and the one rule that each change breaks."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from formulamine.build import facts
from formulamine.build.facts import PairFacts
from formulamine.build.manifest import Manifest
from formulamine.build.pair import Pair
from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine_tests.build.workbench import SERIES, Files, Index, Workbench, project
from formulamine_tests.services.histories import day

FAST: Files = {"src/toy/__init__.py": "def work(): return 1999000  # the closed form\n"}
SUITE = "import toy\ndef time_work():\n    toy.work()\nclass Suite:\n    def time_more(self): pass\n"


def made(bench: Workbench, base: Files, head: Files | None = None, tag: str | None = None, **changes: object) -> Pair:
    item = bench.simple_input(bench.repository(base, head or FAST, tag=tag), **changes)
    return bench.backend.pair(item.recipe(), item.url, bench.sandbox, item.pr_id)


def verified(bench: Workbench, pair: Pair) -> PairFacts:
    return facts.verify(pair, bench.git, bench.url, bench.sandbox(), 2048)


def broken(bench: Workbench, pair: Pair) -> tuple[ImageReason, str]:
    with pytest.raises(BuildFailed) as raised:
        verified(bench, pair)
    return raised.value.reason, str(raised.value)


@pytest.fixture
def pair(bench: Workbench, index: Index) -> Pair:
    index.add("alpha", "1.0", day(1))
    return made(bench, project(suite=SUITE), tag="v1.0", pins=["alpha==1.0"])


def packages(pair: Pair) -> Path:
    return pair.head.environment / "lib" / f"python{SERIES}" / "site-packages"


def test_what_passes_is_told_with_its_manifest(bench: Workbench, pair: Pair) -> None:
    found = verified(bench, pair)
    assert found.rules == ["commits", "pins", "tampering", "head_in_base", "imports", "benchmarks"]
    assert found.benchmarks_in_source == 2
    assert found.head.benchmarks == ["bench.Suite.time_more", "bench.time_work"]
    assert found.base == found.head
    manifest = found.manifest
    assert (manifest.base.commit, manifest.head.commit) == (pair.recipe.base_sha, pair.recipe.merge_sha)
    assert (manifest.base.tag, manifest.head.tag) == ("", ""), "a build finds its version; what ships has no tag"
    assert (manifest.head.pins, manifest.head.import_path) == (["alpha==1.0"], "toy/__init__.py")
    assert (manifest.head.benchmarks_discovered, manifest.head.benchmarks_missing) == (2, [])
    assert manifest.base.digests["environment"] == manifest.head.digests["environment"]
    assert manifest.base.digests["site"] != manifest.head.digests["site"]
    assert manifest.base.digests["tree"] != manifest.head.digests["tree"]
    assert Manifest.model_validate_json(manifest.to_blob()) == manifest
    assert str(bench.home).encode() not in manifest.to_blob()
    assert verified(bench, pair).manifest.to_blob() == manifest.to_blob()


def test_an_environment_is_looked_at_once_until_it_is_made_anew(bench: Workbench, pair: Pair) -> None:
    known = facts.Environments()
    first = known.of(pair.base)
    assert first.tampering == []
    assert known.of(pair.head) is first, "both sides share it"
    folder, aside = pair.base.environment, pair.base.environment.with_name("aside")
    shutil.copytree(folder, aside, symlinks=True)
    shutil.rmtree(folder)
    aside.rename(folder)
    (packages(pair) / "sitecustomize.py").write_text("import os\n")
    assert known.of(pair.base).tampering
    assert known.of(pair.base).digest != first.digest


def test_what_the_source_names_and_nobody_discovers_is_recorded(bench: Workbench) -> None:
    broken_module = "import nothing_like_it\ndef time_lost(): pass\n"
    never = "if False:\n    def time_never(): pass\n"
    pair = made(bench, project(**{"benchmarks__lost.py": broken_module, "benchmarks__never.py": never}))
    found = verified(bench, pair)
    assert found.benchmarks_in_source == 3
    assert found.manifest.head.benchmarks_discovered == 1
    assert found.manifest.head.benchmarks_missing == ["lost.time_lost", "never.time_never"]
    assert any("nothing_like_it" in line for line in found.manifest.head.suite_errors)


def test_a_suite_behind_a_link_is_that_of_the_commit(bench: Workbench) -> None:
    pair = made(bench, project() | {"perf": (b"120000", b"benchmarks")}, benchmark_dir="perf")
    assert verified(bench, pair).benchmarks_in_source == 1
    (pair.suite_parent / pair.suite / "bench.py").write_text("def time_work(): pass\n")
    assert broken(bench, pair)[0] == ImageReason.WRONG_COMMIT


def add(where: Callable[[Pair], Path], text: str = "import os\n") -> Callable[[Pair], object]:
    def act(pair: Pair) -> None:
        where(pair).parent.mkdir(parents=True, exist_ok=True)
        where(pair).write_text(text)

    return act


def swap(pair: Pair) -> None:
    for name in ("tree", "site"):
        base, head = pair.base.tree.parent / name, pair.head.tree.parent / name
        base.rename(base.with_name("aside"))
        head.rename(base)
        base.with_name("aside").rename(head)


BREAKS: dict[str, tuple[Callable[[Pair], object], ImageReason, str]] = {
    "sides swapped": (swap, ImageReason.WRONG_COMMIT, "paths differ from the commit: src/toy/__init__"),
    "a file more": (add(lambda pair: pair.base.tree / "conftest.py"), ImageReason.WRONG_COMMIT, "conftest.py"),
    "no repository": (lambda pair: shutil.rmtree(pair.head.tree / ".git"), ImageReason.WRONG_COMMIT, "no .git"),
    "a reflog": (add(lambda pair: pair.base.tree / ".git/logs/HEAD"), ImageReason.WRONG_COMMIT, "logs/HEAD"),
    "another suite": (add(lambda pair: pair.suite_parent / "benchmarks/more.py"), ImageReason.WRONG_COMMIT, "more.py"),
    "another pin": (lambda pair: (packages(pair) / "beta-1.0.dist-info").mkdir(), ImageReason.PINS_DIFFER, "beta==1.0"),
    "a starter": (add(lambda pair: packages(pair) / "sitecustomize.py"), ImageReason.TAMPERED, "environment: .*/site"),
    "an edited package": (add(lambda pair: packages(pair) / "alpha.py"), ImageReason.TAMPERED, "alpha.py is not what"),
    "a wrapped tool": (add(lambda pair: pair.base.environment / "bin/git"), ImageReason.TAMPERED, "bin/git"),
    "a timer in front": (add(lambda pair: pair.head.site / "timeit.py"), ImageReason.TAMPERED, "head: timeit.py"),
    "a hook": (add(lambda pair: pair.base.site / "conftest.py"), ImageReason.TAMPERED, "base: conftest.py"),
    "a pipe": (lambda pair: os.mkfifo(pair.base.site / "toy" / "pipe"), ImageReason.TAMPERED, "neither file"),
    "head in base": (
        lambda pair: shutil.copy(pair.head.site / "toy/__init__.py", pair.base.site / "toy/copied.py"),
        ImageReason.HEAD_IN_BASE, "toy/copied.py",
    ),
    "no import": (
        add(lambda pair: pair.head.site / "toy/__init__.py", "import gone\n"), ImageReason.IMPORT_ERROR, "gone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", BREAKS)
def test_each_rule_finds_what_breaks_it(bench: Workbench, pair: Pair, change: str) -> None:
    act, reason, words = BREAKS[change]
    act(pair)
    found, message = broken(bench, pair)
    assert found == reason
    assert re.search(words, message), message
    assert "\n" not in message


LIES: dict[str, tuple[str, ImageReason, str]] = {
    "a benchmark slipped in": (
        "import sys, types\n"
        "module = types.ModuleType('benchmarks.evil')\n"
        "def time_fast(): pass\n"
        "module.time_fast = time_fast\n"
        "import pkgutil\n"
        "real = pkgutil.iter_modules\n"
        "def more(path=None, prefix=''):\n"
        "    yield from real(path, prefix)\n"
        "    if prefix == 'benchmarks.':\n"
        "        sys.modules['benchmarks.evil'] = module\n"
        "        yield None, 'benchmarks.evil', False\n"
        "pkgutil.iter_modules = more\n",
        ImageReason.TAMPERED, "evil.time_fast: discovered, and no file of the suite has it",
    ),
    "a place where nothing is": ("__file__ = __file__.replace('__init__', 'gone')\n", ImageReason.SHADOWED, "gone.py"),
    "a place elsewhere": ("__file__ = '/etc/passwd'\n", ImageReason.SHADOWED, "/etc/passwd"),
    "a tool of its own": (
        "import timeit\ntimeit.__file__ = __file__\n",
        ImageReason.SHADOWED, "timeit is imported from",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_what_a_package_says_of_itself_is_compared(bench: Workbench, lie: str) -> None:
    text, reason, words = LIES[lie]
    files: Files = {"src/toy/__init__.py": text + "def work(): pass\n"}
    found, message = broken(bench, made(bench, project(), files))
    assert (found, words in message) == (reason, True), message


def test_a_package_has_not_the_last_word(bench: Workbench) -> None:
    """Neither by an exit handler nor by a thread that goes on."""
    answer = json.dumps({"imported": {}, "errors": {}, "benchmarks": [], "suite_errors": [], "timer": "", "runner": ""})
    work = (
        "import atexit, threading, time\n"
        f"atexit.register(lambda: print('\\nFORMULAMINE_FACTS ' + {answer!r}))\n"
        "threading.Thread(target=time.sleep, args=(300,)).start()\ndef work(): pass\n"
    )
    pair = made(bench, project(work))
    assert facts.side_facts(pair, pair.head, bench.sandbox(), 2048).benchmarks == ["bench.time_work"]


def test_a_mirror_that_is_gone_is_made_again(bench: Workbench, pair: Pair) -> None:
    shutil.rmtree(bench.git.mirror_path(bench.repo))
    assert verified(bench, pair).rules == list(facts.RULES)


def test_names_that_are_no_text_can_be_told(bench: Workbench, pair: Pair) -> None:
    with open(os.fsencode(packages(pair)) + b"/\xff.py", "wb"):
        pass
    _, message = broken(bench, pair)
    assert message.encode()


@pytest.mark.bubblewrap
def test_all_rules_hold_in_the_sandbox(jail: Workbench) -> None:
    assert verified(jail, made(jail, project())).rules == list(facts.RULES)
