"""A reading: which propositions each text shows, at which token, and what follows from them."""

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, did_you_mean, explain
from jackfield.core.study import Result
from jackfield.reports import Report, Table, Tokens
from jackfield.steering.rules.program import SEEN, Closure, Program

_SHOWN = 6  # texts whose tokens are shown


@dataclass(frozen=True)
class Derived:
    """A proposition that was derived, or denied.

    Attributes:
        atom: "name", or "not name".
        rule: as it was written.
        chain: what it comes from, facts first: (atom, rule), the rule "" of a fact.
    """

    atom: str
    rule: str
    chain: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """The chain in a line."""
        return "; ".join(f"{atom} ({rule or 'seen'})" for atom, rule in self.chain)


@dataclass(frozen=True)
class RowRead:
    """One text.

    Attributes:
        tokens: its tokens.
        margins: [concept, token] score − threshold.
        seen: the concepts that it shows.
        derived: what follows from them.
        contested: propositions that are both held and denied.
    """

    tokens: tuple[str, ...]
    margins: tuple[tuple[float, ...], ...]
    seen: tuple[str, ...]
    derived: tuple[Derived, ...]
    contested: tuple[str, ...]


@dataclass(frozen=True)
class Reading(Result):
    """What some texts show.

    Attributes:
        model, at: what was read, and where.
        names: of the concepts.
        known: propositions of the rules.
        rows: one a text.
    """

    model: str
    at: str
    names: tuple[str, ...]
    known: tuple[str, ...]
    rows: tuple[RowRead, ...]

    def holds(self, name: str) -> tuple[bool | None, ...]:
        """[text] whether a proposition holds; None where it is neither held nor denied, or both.

        Raises:
            InputError: no rule names it.
        """
        if name not in self.known:
            hint, expected = did_you_mean(name, self.known), f"one of {', '.join(self.known)}"
            raise InputError(explain(where="holds", expected=expected, got=repr(name), hint=hint))
        return tuple(_answer(row, name) for row in self.rows)

    def report(self) -> Report:
        """The tokens at which propositions were seen, and the chains of what follows."""
        shown = self.rows[:_SHOWN]
        tokens = Tokens(
            [row.tokens for row in shown],
            [_largest(row) for row in shown],
            [f"text {index}" for index in range(len(shown))],
            value_name="score − threshold",
            caption="How far the concept that is farthest above its threshold is above it.",
        )
        columns = ["text", "proposition", "how"]
        table = Table(columns, [line for i in range(len(self.rows)) for line in self._lines(i)])
        return Report("Propositions read", [tokens, table], summary=self._sentence())

    def _lines(self, index: int) -> list[list[Any]]:
        row = self.rows[index]
        found: list[list[Any]] = []
        for name in row.seen:
            values = row.margins[self.names.index(name)]
            peak = max(range(len(values)), key=lambda i: _or(values[i], -math.inf))
            first = next((i for i, value in enumerate(values) if value >= 0), peak)
            most = f"most at token {peak}, {row.tokens[peak].strip()!r}"
            found.append([index, name, f"seen from token {first} on, {most}"])
        found += [[index, each.atom, each.text] for each in row.derived]
        return found + [[index, name, "contested: held and denied"] for name in row.contested]

    def _sentence(self) -> str:
        seen, derived = (
            sum(len(getattr(row, kind)) for row in self.rows) for kind in ("seen", "derived")
        )
        contested = sum(bool(row.contested) for row in self.rows)
        told = f" In {contested} of them rules contradict." if contested else ""
        return (
            f"In {len(self.rows)} texts at {self.at} of {self.model}, {seen} propositions are "
            f"seen and {derived} follow.{told}"
        )


def row_read(
    rules: Program,
    closure: Closure,
    place: tuple[int, ...],
    tokens: tuple[str, ...],
    names: tuple[str, ...],
    margins: Float[Tensor, "token concept"],
) -> RowRead:
    """What holds at one place of a closure."""
    held = [atom for atom in closure.atoms if bool(closure.of(atom)[place])]
    by = {atom: int(closure.by[place][closure.atoms.index(atom)]) for atom in held}
    derived = [
        Derived(
            atom,
            rules.rules[by[atom]].text,
            tuple((a, _rule(rules, i)) for a, i in rules.reasons(closure, place, atom)),
        )
        for atom in held
        if by[atom] != SEEN
    ]
    return RowRead(
        tokens,
        tuple(tuple(each) for each in margins.T.tolist()),
        tuple(name for name in names if by.get(name) == SEEN),
        tuple(derived),
        tuple(name for name in rules.names if bool(closure.contested(name)[place])),
    )


def _rule(rules: Program, index: int) -> str:
    return "" if index == SEEN else rules.rules[index].text


def _answer(row: RowRead, name: str) -> bool | None:
    found = {*row.seen, *(each.atom for each in row.derived)}
    held, denied = name in found, f"not {name}" in found
    return None if held == denied else held


def _largest(row: RowRead) -> list[float]:
    """The largest margin at each token; nothing below the threshold."""
    columns = zip(*row.margins, strict=True)
    return [max(0.0, *(_or(value, 0.0) for value in values)) for values in columns] or [math.nan]


def _or(value: float, other: float) -> float:
    """The value, or another one for a token that is not read."""
    return other if math.isnan(value) else value
