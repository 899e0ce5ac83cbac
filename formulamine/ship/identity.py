"""Who a text tells of: persons, their addresses, machines and homes; and the text without them.

Here belongs finding them by what the repository's history says of its authors and by their forms, and putting the same
stand-in for the same person everywhere. A name in a text that no commit knows, and that no form gives away, is not
found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from formulamine.discover.messages import is_bot
from formulamine.services.git import Commit
from formulamine.ship.leak import Base, Leak, Rule
from formulamine.ship.normal import visible

SHORTEST_PART = 3  # letters of a first or last name that is looked for alone
SHORTEST_LOGIN = 4
_TRAILER = re.compile(r"^[\w-]+-by:\s*(?P<name>[^<\n]+?)\s*<(?P<mail>[^>\n]+)>", re.MULTILINE | re.IGNORECASE)
_NOREPLY = re.compile(r"(?:\d+\+)?(?P<login>[\w-]+)@users\.noreply\.github\.com")
_FROM = re.compile(r"Merge pull request #\d+ from (?P<login>[\w-]+)/\S+")
_WORD = re.compile(r"[^\W\d_][\w'-]*")
# Top-level domains of most addresses, and no words that follow a dot in code.
_TOP = (
    r"(?:com|org|net|edu|gov|mil|int|info|io|dev|ai|me|app|co|eu|de|uk|fr|ch|at|nl|se|no|dk|fi|es|it|pl|cz|jp|cn|in|br"
    r"|au|ca|us|ru|kr)"
)
_MAIL = re.compile(
    rf"(?<![\w@/])[\w.+-]{{1,64}}(?:@| ?[\[(]at[\])] ?)(?:[\w-]{{1,63}}\.){{1,8}}{_TOP}\b", re.IGNORECASE
)
_HANDLE = re.compile(
    r"(?<![\w@/.`'\"])@(?:(?P<team>[\w-]+/[\w-]+)|(?P<name>[A-Za-z0-9](?:-?[A-Za-z0-9]){1,38})(?![\w(@/-]|\.\w))"
)
_HOME = re.compile(
    r"(?P<before>/(?:home|Users|export/home|var/home|usr/home)/|[A-Za-z]:(?:\\\\?|/)Users(?:\\\\?|/)|(?<![\w~/])~)(?P<name>[A-Za-z][\w.-]*)"
)
_SHELL = re.compile(r"\b[\w.-]{1,64}@[\w.-]{1,255}(?=:[~/][^\s]*\s*[$#%])")
_ADDRESS = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])(?::\d+)?")
_HOST = re.compile(
    r"(?<![\w@/.])(?:[a-z0-9][a-z0-9-]{0,62}\.){1,8}(?:local|localdomain|lan|internal|intranet|corp|edu|gov|com|org|net|ac\.[a-z]{2})(?![\w(]|[.-]\w)",
    re.IGNORECASE,
)
_PART = re.compile(r"[^\W\d_]+")
_STAND_IN = re.compile(r"user\d*|host\d*")


@dataclass(frozen=True)
class Spot:
    """Where a text tells of somebody."""

    start: int
    end: int
    rule: Rule
    who: str
    """The same for all spots of one person or machine."""
    before: str = ""
    """What stands before the name and stays."""


@dataclass(frozen=True)
class People:
    """Authors of a repository, by the ways in which a text may name them; each leads to who it is."""

    names: Mapping[tuple[str, ...], str]
    """Full names of two words or more, in small letters."""
    parts: Mapping[str, str]
    """First and last names that are no word of the base tree."""
    logins: Mapping[str, str]
    mails: Mapping[str, str]
    odd_logins: frozenset[str]
    """Those that are no words, so that they need no at sign to be a person."""
    decorators: frozenset[str] = frozenset()
    """What stands behind an at sign in base."""
    _by_first: dict[str, list[tuple[str, ...]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in self.names:
            self._by_first.setdefault(name[0], []).append(name)

    @classmethod
    def of(cls, commits: Iterable[Commit], base: Base) -> People:
        """Everybody whom commits name; programs are nobody."""
        names: dict[tuple[str, ...], str] = {}
        parts: dict[str, str] = {}
        logins: dict[str, str] = {}
        mails: dict[str, str] = {}
        for name, mail in _signatures(commits):
            words = tuple(one.casefold() for one in _WORD.findall(name))
            who = " ".join(words) or mail.casefold()
            mails.setdefault(mail.casefold(), who)
            if login := _NOREPLY.fullmatch(mail):
                logins.setdefault(login["login"].casefold(), who)
            if len(words) > 1:
                names.setdefault(words, who)
                alone = (one for one in words if len(one) >= SHORTEST_PART and one not in base.small_words)
                parts |= {one: who for one in alone if one not in parts}
            elif words:
                logins.setdefault(name.strip().casefold(), who)
        for commit in commits:
            if merged := _FROM.match(commit.subject):
                logins.setdefault(merged["login"].casefold(), merged["login"].casefold())
        odd = frozenset(one for one in logins if _is_odd(one, base))
        return cls(names, parts, logins, mails, odd, base.decorators)

    def leaks(self, text: str) -> list[Leak]:
        """Whom a text names, however it is written."""
        seen = visible(text)
        return sorted({Leak(one.rule, seen[one.start : one.end]) for one in self.spots(seen)})

    def spots(self, text: str) -> list[Spot]:
        """Where a text names somebody, in order and apart from each other."""
        found = sorted([*self._forms(text), *self._names(text)], key=lambda one: (one.start, -one.end))
        apart: list[Spot] = []
        for one in found:
            if not apart or one.start >= apart[-1].end:
                apart.append(one)
        return apart

    def _forms(self, text: str) -> Iterator[Spot]:
        """Addresses, handles, homes and machines."""
        for match in _MAIL.finditer(text):
            yield Spot(*match.span(), Rule.MAIL, self.mails.get(match[0].casefold(), match[0].casefold()))
        for match in _SHELL.finditer(text):
            yield Spot(*match.span(), Rule.HOST, match[0])
        for match in _HOME.finditer(text):
            if not _STAND_IN.fullmatch(match["name"]):
                yield Spot(*match.span(), Rule.HOME, "", match["before"])
        for pattern in (_ADDRESS, _HOST):
            for match in pattern.finditer(text):
                yield Spot(*match.span(), Rule.HOST, match[0].casefold())
        for match in _HANDLE.finditer(text):
            name = (match["name"] or match["team"]).casefold()
            if not _STAND_IN.fullmatch(name.partition("/")[0]) and (name in self.logins or name not in self.decorators):
                yield Spot(*match.span(), Rule.PERSON, self.logins.get(name, name))

    def _names(self, text: str) -> Iterator[Spot]:
        """Names of authors."""
        words = list(_WORD.finditer(text))
        small = [one[0].casefold().removesuffix("'s") for one in words]
        for place, match in enumerate(words):
            first = small[place]
            for name in self._by_first.get(first, ()):
                if tuple(small[place : place + len(name)]) == name:
                    last = words[place + len(name) - 1]
                    between = text[match.start() : last.end()]
                    if len(" ".join(between.split())) <= sum(map(len, name)) + 3 * len(name):
                        yield Spot(match.start(), _end(last), Rule.PERSON, self.names[name])
            if match[0][0].isupper() and first in self.parts:
                yield Spot(match.start(), _end(match), Rule.PERSON, self.parts[first])
            if first in self.odd_logins:
                yield Spot(match.start(), _end(match), Rule.PERSON, self.logins[first])


@dataclass
class StandIns:
    """The same stand-in for the same person or machine in all texts of one statement."""

    people: People
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict)

    def hide(self, text: str) -> str:
        """A text that names nobody."""
        parts: list[str] = []
        last = 0
        for spot in self.people.spots(text):
            parts += [text[last : spot.start], self._instead(spot)]
            last = spot.end
        return "".join([*parts, text[last:]])

    def _instead(self, spot: Spot) -> str:
        if spot.rule is Rule.HOME:
            return "/home/user" if spot.before == "~" else f"{spot.before}user"
        kind = "host" if spot.rule is Rule.HOST else "@user"
        known = [number for (other, _), number in self._numbers.items() if other == kind]
        return f"{kind}{self._numbers.setdefault((kind, spot.who), len(known) + 1)}"


def _signatures(commits: Iterable[Commit]) -> Iterator[tuple[str, str]]:
    """Names and addresses of authors and of those whom trailers name."""
    for commit in commits:
        told = [(match["name"], match["mail"]) for match in _TRAILER.finditer(commit.body)]
        for name, mail in [(commit.author_name, commit.author_email), *told]:
            if not is_bot(name, mail):
                yield name, mail


def _end(match: re.Match[str]) -> int:
    """Where a name ends; a genitive is none of it."""
    return match.end() - 2 if match[0].casefold().endswith("'s") else match.end()


def _is_odd(login: str, base: Base) -> bool:
    """Whether a login has a sign or a number, and parts that are no words of the base tree."""
    parts = _PART.findall(login)
    return len(login) >= SHORTEST_LOGIN and login != "".join(parts) and not base.small_words.issuperset(parts)
