"""Who a text tells of, and the text without them."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulamine.services.git import Commit
from formulamine.ship.identity import People, StandIns
from formulamine.ship.leak import Base

BASE = Base.of(["def mark(art, will): pass  # grant it to hal-bot and scikit_learn\n@cached_property\n@njit(x)\n"])
COMMIT = Commit("0" * 40, (), datetime(2024, 1, 1, tzinfo=UTC), "", "", "subject", "")


def commit(name: str, mail: str, **more: str) -> Commit:
    return replace(COMMIT, author_name=name, author_email=mail, **more)


HISTORY = [
    commit("Priya Raman", "priya@example.org"),
    commit("Mark Grant", "12345+markg-7@users.noreply.github.com"),
    commit("Zoë de la Cruz", "zoe@example.org", body="x\n\nCo-authored-by: Tomas Lind <tomas.lind@uni-x.edu>\n"),
    commit("scikit-learn", "bot@example.org"),
    commit("quux99", "q@example.org"),
    commit("dependabot[bot]", "support@github.com"),
    replace(COMMIT, subject="Merge pull request #12 from jonas-k/faster"),
]
PEOPLE = People.of(HISTORY, BASE)


@pytest.mark.parametrize(
    ("told", "hidden"),
    [
        ("Priya Raman saw it.", "@user1 saw it."),
        ("priya raman's loop and PRIYA RAMAN", "@user1's loop and @user1"),
        ("Priya said so, and Raman too; @priya did not.", "@user1 said so, and @user1 too; @user2 did not."),
        ("Thanks to Zoë de la Cruz and Tomas!", "Thanks to @user1 and @user2!"),
        ("Mark Grant, markg-7 and @markg-7", "@user1, @user1 and @user1"),
        ("as quux99 says", "as @user1 says"),
        ("jonas-k opened it", "@user1 opened it"),
        ("@some-body and @someone-else, @some-body", "@user1 and @user2, @user1"),
        ("@acme/core-devs", "@user1"),
        ("mail tomas.lind@uni-x.edu or else@where.org", "mail @user1 or @user2"),
        ("write to me [at] example.org", "write to @user1"),
        ("in /home/priya/src and /home/priya", "in /home/user/src and /home/user"),
        ("in /Users/tom.l/x, C:\\Users\\tom\\x, ~tom/x", "in /Users/user/x, C:\\Users\\user\\x, /home/user/x"),
        ("on node7.cluster.local and 10.0.0.12:80", "on host1 and host2"),
        ("tom@laptop:~/src$ make", "host1:~/src$ make"),
        ("at login.hpc.uni-x.edu", "at host1"),
    ],
)
def test_whoever_is_named_has_a_stand_in_and_always_the_same(told: str, hidden: str) -> None:
    assert StandIns(PEOPLE).hide(told) == hidden
    assert PEOPLE.leaks(told)
    assert PEOPLE.leaks(hidden) == []


@pytest.mark.parametrize(
    "told",
    [
        "It will mark the art, Mark it, and grant Art.", "`@cached_property` and @njit(x)", "@cached_property is slow",
        "@pytest.fixture", "a @ b and A@B", "scikit-learn is slow", "in /home/user and ~/src", "numpy.random.rng",
        "version 1.2.3 of foo.bar", "pandas.io.parsers", "x.com(1)", "a~b", "1.2.3.4.5", "@user1", "The Loop of All",
        "`self.mat@self.vec`",
    ],
)  # fmt: skip
def test_what_is_nobody_stays(told: str) -> None:
    assert PEOPLE.leaks(told) == []
    assert StandIns(PEOPLE).hide(told) == told


@pytest.mark.parametrize("told", ["Pr\u200biya Raman", "Рriya Rаman", "＠somebody", "/home/p\u200briya"])
def test_hidden_letters_hide_nobody(told: str) -> None:
    assert PEOPLE.leaks(told)


def test_persons_are_numbered_over_all_texts_of_a_statement() -> None:
    stand_ins = StandIns(PEOPLE)
    assert [stand_ins.hide(text) for text in ("@bo and @al", "@al and Tomas Lind", "Tomas")] == [
        "@user1 and @user2", "@user2 and @user3", "@user3",
    ]  # fmt: skip


PIECES = st.sampled_from(
    ["Priya", "Raman", "Mark", "@", "markg-7", "/home/", "~", "tom", ".local", "10.0.0.1", " ", " ", "x@y.org", "'s",
     "-", "C:\\Users\\", "de la Cruz", "Zoë", "quux99", "/", ":", "user1", "(", "\n"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=80))
def test_hiding_twice_changes_nothing_more(text: str) -> None:
    hidden = StandIns(PEOPLE).hide(text)
    again = StandIns(PEOPLE).hide(hidden)
    assert StandIns(PEOPLE).hide(again) == again
