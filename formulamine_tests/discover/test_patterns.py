from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulamine.discover.patterns import Patterns
from formulamine.discover.sieve_rules import load_rules

RULES = load_rules()
EVERY = [rule.pattern for rule in RULES.signals if rule.pattern]
EVERY += [rule.removed for rule in RULES.signals if rule.removed]
EVERY += [RULES.text.said, RULES.text.silent, *(rule.pattern for rule in RULES.not_core)]
# Words of the rules' own patterns, so that texts of them come close to what is looked for; and what RE2 reads its way.
WORDS = sorted({word for pattern in EVERY for word in re.findall(r"\w{3,}", pattern.pattern)})
ODD = ["é", "K", "ſ", "\v", "\x1c", "\r", "\f", "\n", "\u2028", "µs", "\\xe9", "\0"]
SIGNS = [" ", "\t", "\n", "(", ")", "[", "]", "=", "#", "//", ".", ",", ":", "_", "-", "@", "/", ".py", ".txt", "co"]
texts = st.lists(st.sampled_from(WORDS + 20 * SIGNS + 5 * ODD), max_size=12).map("".join)


@settings(max_examples=2000, deadline=None, derandomize=True)
@given(texts)
def test_what_is_found_is_what_python_finds_one_by_one(text: str) -> None:
    found = {number: match.span() for number, match in TOGETHER.search(text)}
    alone = {number: match.span() for number, pattern in enumerate(EVERY) if (match := pattern.search(text))}
    assert found == alone


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(texts.map(lambda text: text.replace("\n", " ")), max_size=9))
def test_lines_that_are_read_together_hold_what_each_holds(lines: list[str]) -> None:
    found = [(name, at, match.span()) for name, at, match in TOGETHER.search_lines(lines)]
    assert found == [(name, at, match.span()) for at, line in enumerate(lines) for name, match in TOGETHER.search(line)]


TOGETHER = Patterns(dict(enumerate(EVERY)))


def test_names_come_in_the_order_of_the_patterns() -> None:
    patterns = Patterns({"z": re.compile("b"), "a": re.compile("a"), "m": re.compile("c")})
    assert [name for name, _ in patterns.search("a b")] == ["z", "a"]
    assert [name for name, _ in patterns.search("é a b")] == ["z", "a"]
    assert list(patterns.search("")) == []


def test_blanks_and_comments_of_a_pattern_are_ignored_as_python_does() -> None:
    patterns = Patterns({"it": re.compile(r"(?ix) [ #]x\ y \# # a comment" + "\n z")})
    assert [found[0] for _, found in patterns.search("a #X y#z")] == ["#X y#z"]


def test_lookaround_narrows_what_is_found() -> None:
    patterns = Patterns({"it": re.compile(r"(?<!co)efficien(?!cy)")})
    assert [bool(list(patterns.search(text))) for text in ("efficient", "coefficient", "efficiency")] == [
        True,
        False,
        False,
    ]


def test_a_pattern_that_re2_cannot_read_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"invalid|failed"):
        Patterns({"it": re.compile(r"(a)\1")})
