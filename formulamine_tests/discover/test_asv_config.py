"""ASV's configuration as people write it."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.discover.asv_config import (
    AsvConfig,
    AsvConfigError,
    Matrix,
    candidates,
    find_config,
    load_json,
    parse,
)
from formulamine.services.git import TreeEntry

TEXT = r"""
{
    // The version of the config file format
    "version": 1,  // "not": a key
    "project": "x // y",
    "repo": "https://example.org/a", /* a block
    over lines, with "quotes" */
    "benchmark_dir": "b\"//e",
    "pythons": ["3.11", "3.12",],
    "matrix": {
        "req": {"numpy": ["1.26", ""], "pip+x": [], "cython": null,},
        // "env": {},
        "env": {"A": "1"},
        "env_nobuild": {"B": ["1", null]},
    },
    "build_command": "python -m build",
    "install_command": ["a", "b"],
    "repo_subdir": 7,
    "environment_type": "virtualenv",
}
"""


def test_comments_commas_and_odd_values() -> None:
    assert parse(TEXT.encode()) == AsvConfig(
        benchmark_dir='b"//e',
        pythons=("3.11", "3.12"),
        matrix=Matrix(
            requirements={"numpy": ("1.26", ""), "pip+x": ("",), "cython": (None,)},
            env={"A": ("1",)},
            env_nobuild={"B": ("1", None)},
        ),
        build_command=("python -m build",),
        install_command=("a", "b"),
        repo_subdir="",
        environment_type="virtualenv",
    )


def test_the_old_flat_matrix_and_a_byte_order_mark() -> None:
    config = parse(b'\xef\xbb\xbf{"matrix": {"numpy": ["1.8"], "six": "", "req": {"scipy": []}}, "pythons": 3.8}')
    assert config.matrix.requirements == {"numpy": ("1.8",), "six": ("",), "scipy": ("",)}
    assert config.pythons == ()
    assert config.build_command is None
    assert parse(b'{"build_command": [], "matrix": [], "benchmark_dir": ""}') == AsvConfig(build_command=())


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": "/*}', b"\xff\xfe", b"[" * 100_000, b"{} x", b"/* {}"])
def test_what_is_no_configuration(content: bytes) -> None:
    with pytest.raises(AsvConfigError):
        parse(content)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('/*,"\\ ]}ab\n')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('/*,"\\ ]}ab')), inner),
    max_leaves=10,
)
FILLERS = st.sampled_from(["", " ", "\n", "// x\n", '// "\n', "/* , */", '/*"*/', "/*/ //*/", "//*\n", "/***/"])


@given(VALUES, st.data())
def test_comments_and_commas_anywhere_change_nothing(value: object, data: st.DataObject) -> None:
    def written(one: object) -> str:
        filler = data.draw(FILLERS)
        if isinstance(one, dict):
            parts = [f"{json.dumps(key)}{data.draw(FILLERS)}:{written(inner)}" for key, inner in one.items()]
        elif isinstance(one, list):
            parts = [written(inner) for inner in one]
        else:
            return filler + json.dumps(one) + data.draw(FILLERS)
        comma = data.draw(st.sampled_from(["", ","])) if parts else ""
        opening, closing = "{}" if isinstance(one, dict) else "[]"
        return filler + opening + ",".join(parts) + comma + data.draw(FILLERS) + closing

    assert load_json(written(value).encode()) == value


@given(st.binary() | st.text(st.sampled_from('{}[]",:/*\\ a1\n')).map(str.encode))
def test_any_bytes_parse_or_are_refused(content: bytes) -> None:
    with contextlib.suppress(AsvConfigError):
        assert isinstance(parse(content), AsvConfig)


@given(VALUES, VALUES)
def test_any_values_are_tolerated(one: object, two: object) -> None:
    names = ("benchmark_dir", "pythons", "build_command", "install_command", "repo_subdir", "environment_type")
    assert isinstance(parse(json.dumps(dict.fromkeys(names, one) | {"matrix": two}).encode()), AsvConfig)
    assert isinstance(parse(json.dumps({"matrix": {"req": one, "env": two, "x": two}}).encode()), AsvConfig)


def entry(path: str, mode: str = "100644", kind: str = "blob") -> TreeEntry:
    return TreeEntry(mode, kind, "0" * 40, path)


def test_the_best_configuration_of_a_tree() -> None:
    entries = [
        entry("tests/asv.conf.json"),
        entry("asv/template/asv.conf.json"),
        entry("a/b/asv.conf.json"),
        entry("z/asv.conf.json"),
        entry("b/asv.conf.jsonc"),
        entry("asv.conf.json", "120000"),
        entry("my-asv.conf.json"),
    ]
    assert candidates(entries) == ["z/asv.conf.json", "b/asv.conf.jsonc", "a/b/asv.conf.json"]
    assert find_config([*entries, entry("asv.conf.jsonc")]) == "asv.conf.jsonc"
    assert find_config([]) is None


@pytest.mark.parametrize(
    ("path", "folder", "suite"),
    [
        ("asv.conf.json", "benchmarks", "benchmarks"),
        ("benchmarks/asv.conf.json", "benchmarks", "benchmarks/benchmarks"),
        ("benchmarks/asv.conf.json", ".", "benchmarks"),
        ("a/asv.conf.json", "../b/", "b"),
        ("asv.conf.json", "./", "."),
        ("asv.conf.json", "../b", None),
        ("asv.conf.json", "/etc", None),
    ],
)
def test_the_suite_is_relative_to_the_configuration(path: str, folder: str, suite: str | None) -> None:
    assert AsvConfig(benchmark_dir=folder).suite(path) == suite
