"""From sources to an unpacked wheel: what is refused, and that the same wheel gives the same bytes."""

from pathlib import Path

import pytest

from formulamine.build.pair import Pair
from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine_tests.build.workbench import Workbench, project


def built(bench: Workbench, hook: str = "") -> Pair:
    item = bench.simple_input(bench.repository(project(hook=hook)))
    return bench.backend.pair(item.recipe(), item.url, bench.sandbox, item.pr_id)


def wrapping(lines: str) -> str:
    """A hook that does something more once the wheel is made."""
    return f"""
    def build_wheel(output, settings=None, metadata=None, real=build_wheel):
        name = real(output)
        path = os.path.join(output, name)
        {lines}
        return name
    """


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("os.remove(path)", "the build backend made 0 wheels, expected 1"),
        ("os.link(path, path.replace('1.0', '2.0'))", "the build backend made 2 wheels, expected 1"),
        ("os.rename(path, '../aside'); os.symlink('../aside', path)", "the build backend made what is no plain file"),
        ("os.remove(path); os.mkfifo(path)", "the build backend made what is no plain file"),
    ],
)
def test_anything_but_one_plain_wheel_is_a_failed_build(bench: Workbench, lines: str, told: str) -> None:
    with pytest.raises(BuildFailed, match=told) as raised:
        built(bench, wrapping(lines))
    assert raised.value.reason == ImageReason.BUILD_FAILED


def test_a_wheel_that_cannot_be_unpacked_is_told_apart(bench: Workbench) -> None:
    with pytest.raises(BuildFailed) as raised:
        built(bench, wrapping("open(path, 'wb').close()"))
    assert raised.value.reason == ImageReason.INSTALL_FAILED


def test_a_backend_that_leaves_without_a_word_has_failed(bench: Workbench) -> None:
    with pytest.raises(BuildFailed) as raised:
        built(bench, wrapping("os._exit(0)"))
    assert raised.value.reason == ImageReason.BUILD_FAILED


def test_the_same_wheel_is_unpacked_to_the_same_bytes(bench: Workbench) -> None:
    sites = [built(bench).base.site for _ in range(2)]

    def contents(site: Path) -> dict[str, bytes]:
        return {str(one.relative_to(site)): one.read_bytes() for one in site.rglob("*") if one.is_file()}

    first, second = ({k: v for k, v in contents(site).items() if "direct_url" not in k} for site in sites)
    assert sites[0] != sites[1], "of two repositories"
    record = next(name for name in first if name.endswith("RECORD"))
    # Where the wheel was is in one file, whose hash is in the list.
    for one in (first, second):
        one[record] = b"\n".join(line for line in one[record].splitlines() if b"direct_url" not in line)
    assert first == second
    assert not [name for name in first if "uv_cache" in name]
