"""Taking texts apart, and whether a sentence stands in its source."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.ship.extraction import split
from formulamine.ship.issues import Document
from formulamine.ship.sentences import common, stands_in


def sentences(body: str) -> list[str]:
    return split(Document(kind="message", name="", text=body))


def test_an_indented_line_takes_nothing_with_it_but_itself() -> None:
    body = "Before the code there is text.\n\n    code(1)\n\nAfter the code there is more text."
    assert sentences(body) == ["Before the code there is text.", "After the code there is more text."]


def test_sentences_are_taken_as_they_stand_but_for_line_breaks_and_bullets() -> None:
    body = (
        "A sentence over\r\ntwo lines. Another one\nfollows it here:\n- a very first point of it\n"
        "- **bold** second point of it\n1. and a numbered one too"
    )
    assert sentences(body) == [
        "A sentence over two lines.", "Another one follows it here:", "a very first point of it",
        "**bold** second point of it", "and a numbered one too",
    ]  # fmt: skip


def test_a_sentence_is_never_put_together_of_two_that_stand_apart() -> None:
    body = "The loop is slow\n- [x] tests\nbecause of the sort.\nAnother half <!-- x --> and its rest of words."
    assert all(stands_in(one, body) for one in sentences(body))


WORDS = st.lists(
    st.sampled_from(
        ["slow", "word", "The", "a.", "b!", "\n", "\n\n", "\r\n", "- ", "* ", "```", "    ", "\t", "# h", "> q", "<!--",
         "-->", "| x |", "- [x] y", "1. ", "---", "Co-authored-by: x", "\x0c", "\u2028", "\xa0", "`code`"]
    ),
    max_size=40,
)  # fmt: skip


@given(WORDS.map(" ".join) | st.text(max_size=200))
def test_every_sentence_of_any_body_stands_in_it(body: str) -> None:
    for sentence in sentences(body):
        assert stands_in(sentence, body), sentence


SOURCE = (
    "Reading a file with `read_table(path)` takes 12 s on my machine with 100 columns. It is not slow\n"
    "with few columns. Most of the time is spent in the parser of headers, which sees each row."
)


@pytest.mark.parametrize(
    "sentence",
    [
        "Reading a file with `read_table(path)` takes 12 s on my machine with 100 columns.",
        "It is not slow with few columns.",
        "Reading a file with `read_table(path)` takes 12 s with 100 columns.",
        "Most of the time is spent in the parser of headers, which reads each row.",
        "It is not slow with few columns. Most of the time is spent in the parser of headers.",
    ],
)
def test_what_was_said_stands_there(sentence: str) -> None:
    assert stands_in(sentence, SOURCE)


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "Reading is done again and again for each of the columns.",
        "It is slow with few columns.",  # the sense is another one
        "Reading a file with `read_table(path)` takes 13 s on my machine with 100 columns.",
        "Reading a file with `read_tables(path)` takes 12 s on my machine with 100 columns.",
        "Reading a file with read_csv(path) takes 12 s on my machine with 100 columns.",
        "Reading of headers takes time in the parser, which sees 100 columns.",  # words of sentences that stand apart
    ],
)
def test_what_nobody_said_does_not(sentence: str) -> None:
    assert not stands_in(sentence, SOURCE)


def test_a_sentence_of_two_sources_stands_in_neither() -> None:
    assert not stands_in("a word b word c word d word", "a word b word")


@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
def test_the_longest_common_subsequence_is_the_longest(one: list[str], other: list[str]) -> None:
    def slow(left: list[str], right: list[str]) -> int:
        if not left or not right:
            return 0
        if left[0] == right[0]:
            return 1 + slow(left[1:], right[1:])
        return max(slow(left[1:], right), slow(left, right[1:]))

    assert common(one, other) == slow(one, other)


def test_what_is_left_out_ends_a_sentence() -> None:
    assert re.search("slow sort", " ".join(sentences("The loop is slow\n# x\nsort it, all of it."))) is None
