"""What a change does to Python code, told from what its lines held before and hold afterwards.

Here belongs one small function for each thing that speaks for or against performance work, with the fact that shows
it. What the facts are is in `syntax.py`, names of functions that mean something in `sieve_rules.toml`, and how much
each signal weighs in `sieve_weights.toml`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from formulamine.discover.syntax import Fact, Facts
from formulamine.records import Record

Shown = tuple[str, Fact] | None
"""Where it shows: "-" before or "+" afterwards, and the fact; None where it does not."""


class Words(Record):
    """Names of functions, modules and decorators by what they do."""

    over_items: frozenset[str]
    """Functions that go through items in C."""
    arrays: frozenset[str]
    """Modules of arrays."""
    array_methods: frozenset[str]
    """Functions that go through an array at once."""
    copies: frozenset[str]
    """Functions that copy what they are given."""
    views: frozenset[str]
    """Functions that need not copy."""
    allocations: frozenset[str]
    """Functions that make room."""
    containers: frozenset[str]
    """Containers in which finding or adding is cheap."""
    caches: frozenset[str]
    """Decorators that remember."""
    concurrent: frozenset[str]
    """Modules and functions that do several things at once."""
    warns: frozenset[str]
    """Functions that complain."""


@dataclass(frozen=True)
class Change:
    """Both sides of a pull request's Python code."""

    before: Facts
    after: Facts
    words: Words

    def came(self, *kinds: str) -> list[Fact]:
        """Facts that are found more often afterwards, on a line that the patch adds."""
        return list(_more(self.after, self.before, kinds))

    def went(self, *kinds: str) -> list[Fact]:
        """Facts that are found less often afterwards, on a line that the patch removes."""
        return list(_more(self.before, self.after, kinds))

    def grew(self, kind: str) -> int:
        """By how many there are more of a kind."""
        return self.after.total(kind) - self.before.total(kind)

    @cached_property
    def loops_gone(self) -> list[Fact]:
        """Loops and comprehensions that went, if there are fewer now."""
        fewer = self.grew("loop") + self.grew("comprehension") < 0
        return self.went("loop", "comprehension") if fewer else []


def _more(here: Facts, there: Facts, kinds: tuple[str, ...]) -> Iterator[Fact]:
    for fact in here.places:
        if fact[0] in kinds and here.counts[fact] > there.counts.get(fact, 0):
            yield fact


def _first(mark: str, facts: list[Fact], names: frozenset[str] | None = None) -> Shown:
    """The first fact, of some names where they are given."""
    return next(((mark, fact) for fact in facts if names is None or fact[1] in names), None)


def loop_removed(change: Change) -> Shown:
    """There are fewer loops."""
    return _first("-", change.loops_gone)


def loop_to_arrays(change: Change) -> Shown:
    """A loop went, and operations on arrays came."""
    if not change.loops_gone:
        return None
    words = change.words
    return _first("+", change.came("of module"), words.arrays) or _first(
        "+", change.came("call", "repeated call"), words.array_methods
    )


def loop_to_builtin(change: Change) -> Shown:
    """A loop went, and a function came that goes through items in C."""
    return _first("+", change.came("call"), change.words.over_items) if change.went("loop", "comprehension") else None


def arrays_at_once(change: Change) -> Shown:
    """More operations on whole arrays."""
    return _first("+", change.came("call", "repeated call"), change.words.array_methods)


def out_of_loop(change: Change) -> Shown:
    """What was called in a loop is called outside of one."""
    outside = {name for _, name in change.came("call")}
    return next((("-", fact) for fact in change.went("repeated call") if fact[1] in outside), None)


def fewer_repeated_calls(change: Change) -> Shown:
    """Fewer calls in loops."""
    return _first("-", change.went("repeated call")) if change.grew("repeated call") < 0 else None


def fewer_calls(change: Change) -> Shown:
    """Fewer calls, although no function went."""
    if change.went("function", "private function", "class"):
        return None
    fewer = change.grew("call") + change.grew("repeated call") < 0
    return _first("-", change.went("call", "repeated call")) if fewer else None


def cache(change: Change) -> Shown:
    """Something is remembered: by a decorator, in a dictionary, or in an attribute that was not set."""
    stored = [fact for fact in change.came("stored in") if "cache" in fact[1].lower() or "memo" in fact[1].lower()]
    return (
        _first("+", change.came("decorator"), change.words.caches)
        or _first("+", stored)
        or _first("+", change.came("unset attribute"))
    )


def early_exit(change: Change) -> Shown:
    """A branch that does nothing but leave."""
    return _first("+", change.came("exit"))


def membership(change: Change) -> Shown:
    """Something is looked up in a set or a dictionary."""
    return _first("+", change.came("member of"), frozenset({"set", "dict", "frozenset", "keys"}))


def container(change: Change) -> Shown:
    """A container came in which finding or adding is cheap."""
    return _first("+", change.came("call", "repeated call"), change.words.containers)


def generator(change: Change) -> Shown:
    """Items are no longer all held at once."""
    yields = _first("+", change.came("yield"))
    if yields:
        return yields
    lazily = [fact for fact in change.came("comprehension") if fact[1] == "GeneratorExp"]
    eagerly = [fact for fact in change.went("comprehension") if fact[1] == "ListComp"]
    return _first("+", lazily) if eagerly else None


def copy_removed(change: Change) -> Shown:
    """A copy is no longer made."""
    return _first("-", change.went("call", "repeated call"), change.words.copies)


def no_copy(change: Change) -> Shown:
    """A view, or a result that goes where it is told."""
    told = [fact for fact in change.came("keyword") if fact[1] in ("copy=False", "deep=False", "out=", "copy=None")]
    return _first("+", told) or _first("+", change.came("call", "repeated call"), change.words.views)


def allocation(change: Change) -> Shown:
    """Room is made in another way."""
    return _first("+", change.came("call", "repeated call"), change.words.allocations)


def dtype(change: Change) -> Shown:
    """Another type of number."""
    told = [fact for fact in change.came("keyword") if fact[1].startswith("dtype=")]
    return _first("+", told) if change.went("keyword", "call", "repeated call") else None


def lazy_import(change: Change) -> Shown:
    """An import moved into a function."""
    return _first("-", change.went("import")) if change.came("inner import") else None


def alias(change: Change) -> Shown:
    """An attribute is looked up once and kept under a name."""
    return _first("+", change.came("alias"))


def cheaper_test(change: Change) -> Shown:
    """Identity instead of equality."""
    return _first("+", change.came("identity")) if change.grew("equality") < 0 else None


def integer_operation(change: Change) -> Shown:
    """Arithmetic that machines do well."""
    return _first("+", change.came("integer operation"))


def module_value(change: Change) -> Shown:
    """Computed once, when the module is imported."""
    return _first("+", change.came("module value"))


def concurrency(change: Change) -> Shown:
    """Several things are done at once."""
    names = change.words.concurrent
    return _first("+", change.came("import", "inner import"), names) or _first("+", change.came("call"), names)


def new_function(change: Change) -> Shown:
    """A public function or class came."""
    return _first("+", change.came("function", "class"))


def new_parameter(change: Change) -> Shown:
    """A function that is there on both sides has a parameter more."""
    both = {name for kind in ("function", "private function") for name in change.before.of(kind)}
    both |= change.after.kept
    return next((("+", fact) for fact in change.came("parameter") if fact[1].partition(".")[0] in both), None)


def new_error(change: Change) -> Shown:
    """It raises what it did not raise."""
    return _first("+", change.came("raise")) if change.grew("raise") > 0 else None


def new_warning(change: Change) -> Shown:
    """It complains where it did not."""
    return _first("+", change.came("call", "repeated call"), change.words.warns)


def new_handler(change: Change) -> Shown:
    """It catches what it did not catch."""
    return _first("+", change.came("try")) if change.grew("try") > 0 else None


SYNTAX_SIGNALS: dict[str, Callable[[Change], Shown]] = {
    one.__name__: one
    for one in (
        *(loop_removed, loop_to_arrays, loop_to_builtin, arrays_at_once, out_of_loop, fewer_repeated_calls),
        *(fewer_calls, cache, early_exit, membership, container, generator, copy_removed, no_copy, allocation, dtype),
        *(lazy_import, alias, cheaper_test, integer_operation, module_value, concurrency),
        *(new_function, new_parameter, new_error, new_warning, new_handler),
    )
}
