"""The registry and what adds to it."""

from pathlib import Path

import pytest

from formulamine.discover.registry import Registry, RegistryEntry, RegistryError, load_file, parse_repo_argument
from formulamine.services.git import Git, NotARepository
from formulamine_tests.services.histories import History, day, git


@pytest.fixture
def service(tmp_path: Path) -> Git:
    return Git(tmp_path / "mirrors")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    history = History()
    history.commit("start", day(1), {"a": "a"})
    history.write(tmp_path / "a=b é\"'")
    return tmp_path / "a=b é\"'"


def test_added_hidden_brought_back(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "home" / "repositories.toml")
    assert registry.visible() == []
    registry.add(
        [RegistryEntry(name="o/a", source='/x "y"\\\n\x7f'), RegistryEntry(name="o/b", source="https://h/o/b")]
    )
    registry.remove("o/b")
    assert [entry.name for entry in registry.visible()] == ["o/a"]
    assert registry.entries()[1].hidden
    registry.add([RegistryEntry(name="O/B", source="/new")])
    assert [(entry.name, entry.source) for entry in registry.visible()] == [("o/a", '/x "y"\\\n\x7f'), ("O/B", "/new")]
    with pytest.raises(RegistryError, match="o/c is not in the registry"):
        registry.remove("o/c")


def test_arguments(service: Git, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_repo_argument(f"o/n={source}", service) == RegistryEntry(name="o/n", source=str(source))
    monkeypatch.chdir(source.parent)
    assert parse_repo_argument(f"o/n={source.name}", service).source == str(source)
    url = "https://github.com/o/n?a=b"
    assert parse_repo_argument("https://github.com/o/n.git", service).name == "o/n"
    assert parse_repo_argument(f"p/q={url}", service) == RegistryEntry(name="p/q", source=url)
    with pytest.raises(RegistryError, match="OWNER/NAME="):
        parse_repo_argument(str(source), service)
    git("config", "remote.origin.url", "https://github.com/from/origin", at=source)
    assert parse_repo_argument(str(source), service).name == "from/origin"
    for text in ("n=/x", "a/b/c=/x", "a__b/c=/x", "a/..=/x", "-a/b=/x", "o/n="):
        with pytest.raises(RegistryError):
            parse_repo_argument(text, service)
    with pytest.raises(NotARepository):
        parse_repo_argument("o/n=/no/such/path", service)


def test_a_file_of_repositories(service: Git, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "more.toml"
    path.write_text(
        f"""
[[repository]]
name = "o/n"
source = '''{source.name}'''
[[repository]]
source = "https://github.com/p/q"
"""
    )
    assert [(entry.name, entry.source) for entry in load_file(path, service)] == [
        ("o/n", str(source)),
        ("p/q", "https://github.com/p/q"),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[[repository]]\nname = "o/n"\nsource = \n', "line 3"),
        ('[[repository]]\nname = "o/n"\n', "line 1"),
        ('[[repository]]\nname="a/b"\nsource="x"\n\n[[ repository ]]\nname = "n"\nsource = "x"', "line 5"),
        ('[[repository]]\nname="a/b"\nsource="x"\nurl="y"', "line 1"),
        ("# x\n[repositories]\nname = 'a'\n", "line 2"),
        ("repository = 3\n", "line 1"),
        ("repository = [3]\n", "line 1"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(text: str, line: str, tmp_path: Path, service: Git) -> None:
    path = tmp_path / "repositories.toml"
    path.write_text(text)
    for call in (lambda: Registry(path).visible(), lambda: load_file(path, service)):
        with pytest.raises(RegistryError, match=line) as caught:
            call()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path, service: Git) -> None:
    (tmp_path / "latin").write_bytes(b"# \xe9")
    for name in ("absent", ".", "latin"):
        with pytest.raises(RegistryError):
            load_file(tmp_path / name, service)
