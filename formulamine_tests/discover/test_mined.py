"""Pull requests straight from a mirror, whole or not."""

from pathlib import Path

import pytest

from formulamine.discover.mined import mine
from formulamine.services.git import Git
from formulamine_tests.services.histories import History, day, git

COMMITS = 6


@pytest.mark.parametrize("lost", [(), (0,), (3,), (5,), (2, 3), (0, 5), (1, 3, 4), range(COMMITS)])
def test_what_a_mirror_lacks_costs_no_other_commit(tmp_path: Path, lost: tuple[int, ...]) -> None:
    history = History()
    for number in range(COMMITS):
        history.commit(f"Add {number} (#{number + 1})", day(number + 1), {f"{number}.py": f"a = {number}\n"})
    _, *shas = history.write(tmp_path / "r")
    for number in lost:
        blob = git("rev-parse", f"{shas[number]}:{number}.py", at=tmp_path / "r")
        (tmp_path / "r" / "objects" / blob[:2] / blob[2:]).unlink()
    found = list(mine(Git(tmp_path), tmp_path / "r", "o/n", shas))
    left = [number for number in range(COMMITS) if number not in lost]
    assert [one.item.merge_sha for one in found] == [shas[number] for number in left]
    assert [one.item.files[0].path for one in found] == [f"{number}.py" for number in left]
    assert all(one.patch.endswith(b"\n+a = %d\n" % number) for one, number in zip(found, left, strict=True))
