"""Grammar: rules over propositions, read from text by a parser of a few lines; nothing is run.

    rule    = formula "->" head {"," head}          bridge and (sf or not la) -> golden_gate
    formula = both {"or" both}
    both    = each {"and" each}
    each    = "not" each | "(" formula ")" | name
    head    = ["not"] name

A name is letters, digits and underscores. In a body `not x` means that x is neither seen nor
derived; as a head it says that x is denied, which is more than not known.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import NoReturn

from torch import Tensor

from jackfield.core.errors import InputError, explain

_TOKEN = re.compile(r"\s*(->|[(),]|[^\W\d]\w*)")
_WORDS = ("and", "or", "not")
_END = "the end"


class Formula(ABC):
    """What a rule asks for."""

    @abstractmethod
    def value(self, held: Callable[[str], Tensor]) -> Tensor:
        """Where it is true, of bool tensors of its names."""

    @abstractmethod
    def names(self, positive: bool = True) -> Iterator[tuple[str, bool]]:
        """Its names, and whether each stands under an even number of nots."""


@dataclass(frozen=True)
class Name(Formula):
    """A proposition."""

    name: str

    def value(self, held: Callable[[str], Tensor]) -> Tensor:
        return held(self.name)

    def names(self, positive: bool = True) -> Iterator[tuple[str, bool]]:
        yield self.name, positive


@dataclass(frozen=True)
class Not(Formula):
    """What holds where `of` does not."""

    of: Formula

    def value(self, held: Callable[[str], Tensor]) -> Tensor:
        return ~self.of.value(held)

    def names(self, positive: bool = True) -> Iterator[tuple[str, bool]]:
        yield from self.of.names(not positive)


@dataclass(frozen=True)
class Joined(Formula):
    """What holds where all parts do, or where any does."""

    parts: tuple[Formula, ...]
    every: bool

    def value(self, held: Callable[[str], Tensor]) -> Tensor:
        values = [part.value(held) for part in self.parts]
        return reduce(Tensor.logical_and if self.every else Tensor.logical_or, values)

    def names(self, positive: bool = True) -> Iterator[tuple[str, bool]]:
        for part in self.parts:
            yield from part.names(positive)


@dataclass(frozen=True)
class Head:
    """What a rule derives: that a proposition holds, or that it is denied."""

    name: str
    holds: bool

    @property
    def text(self) -> str:
        """As it is written."""
        return self.name if self.holds else f"not {self.name}"


@dataclass(frozen=True)
class Rule:
    """If `body`, then all `heads`; `text` is how it was written."""

    body: Formula
    heads: tuple[Head, ...]
    text: str


def parse(text: str) -> Rule:
    """Reads a rule.

    Raises:
        InputError: it is none; says the column, counted from 1.

    >>> parse("a and not b -> c").heads
    (Head(name='c', holds=True),)
    """
    return _Reader(text).rule()


class _Reader:
    """The tokens of one rule, read from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.token, self.column = "", 0
        self.step()

    def step(self) -> str:
        """Gives the present token and goes to the next one."""
        given, rest = self.token, self.text[self.at :]
        found = _TOKEN.match(rest)
        self.column = self.at + len(rest) - len(rest.lstrip())
        if found:
            self.token, self.at = found[1], self.at + found.end()
        elif rest.strip():
            self.token = rest.strip()[0]
            self.fail("a name, and, or, not, (, ) or ->")
        else:
            self.token = _END
        return given

    def fail(self, expected: str) -> NoReturn:
        where = f"rule {self.text!r}, column {self.column + 1}"
        got = self.token if self.token == _END else repr(self.token)
        raise InputError(explain(where=where, expected=expected, got=got))

    def take(self, token: str) -> bool:
        """Whether this token comes next, which then is passed."""
        found = self.token == token
        if found:
            self.step()
        return found

    def rule(self) -> Rule:
        body = self.joined("or")
        if not self.take("->"):
            self.fail("and, or or ->")
        heads = [self.head()]
        while self.take(","):
            heads.append(self.head())
        if self.token != _END:
            self.fail(f"a comma or {_END}")
        return Rule(body, tuple(heads), self.text.strip())

    def joined(self, word: str) -> Formula:
        parts = [self.part(word)]
        while self.take(word):
            parts.append(self.part(word))
        return parts[0] if len(parts) == 1 else Joined(tuple(parts), word == "and")

    def part(self, word: str) -> Formula:
        return self.joined("and") if word == "or" else self.each()

    def each(self) -> Formula:
        if self.take("not"):
            return Not(self.each())
        if self.take("("):
            inner = self.joined("or")
            if not self.take(")"):
                self.fail("and, or or )")
            return inner
        return Name(self.name("a name, not or ("))

    def head(self) -> Head:
        denied = self.take("not")
        return Head(self.name("a name" if denied else "a name or not"), not denied)

    def name(self, expected: str) -> str:
        if self.token in _WORDS or not self.token.isidentifier():
            self.fail(expected)
        return self.step()
