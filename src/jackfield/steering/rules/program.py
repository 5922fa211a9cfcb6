"""Program: rules that are carried out together, by forward chaining to a fixed point.

    held ← what is seen
    stratum by stratum, until nothing is new:  held(head) ← held(head) ∨ body(held)

A rule that asks for `not x` waits until all that could derive x is done (strata), so that the
result does not depend on the order of the rules: it is the one stable model. Where x depends on
`not x` through other rules there is no such order, and the rules are refused with the cycle.
Rows of facts go through together.

Refused, too, are rules that cannot be used without contradiction: whatever is seen, once they
apply, x is both derived and denied. Whether that is so is looked up in the table of all cases
(of at most 14 propositions that have to do with x). Rules that contradict in some cases only are
kept; in a row where that happens x is `contested`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.steering.rules.grammar import Head, Rule, parse

_TABLE = 14  # propositions of a table of all cases
SEEN = -1  # in the place of a rule


@dataclass(frozen=True)
class Closure:
    """What follows, a row for each row of facts.

    Attributes:
        atoms: names, and "not name" of those that can be denied.
        held: [..., atom] what holds.
        by: [..., atom] the rule that derived it first, −1 for none.
        when: [..., atom] the step at which it did, −1 for none.
    """

    atoms: tuple[str, ...]
    held: Bool[Tensor, "*rows atom"]
    by: Int[Tensor, "*rows atom"]
    when: Int[Tensor, "*rows atom"]

    def of(self, atom: str) -> Bool[Tensor, "*rows"]:
        """Where an atom holds; nowhere if no rule names it."""
        if atom not in self.atoms:
            return torch.zeros_like(self.held[..., 0])
        return self.held[..., self.atoms.index(atom)]

    def contested(self, name: str) -> Bool[Tensor, "*rows"]:
        """Where a proposition is both held and denied."""
        return self.of(name) & self.of(f"not {name}")


class Program:
    """Rules that can be carried out.

    Attributes:
        rules: in the order given.
        names: all propositions, by their first appearance.
        atoms: the names, then "not name" of those that a rule denies.
        strata: [stratum] of what is derived there: (rule, one of its heads).
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Orders the rules.

        Raises:
            InputError: no rules, a cycle through not, or rules that contradict in any case.
        """
        if not rules:
            raise InputError(explain(where="rules", expected="at least one", got="none"))
        self.rules = tuple(rules)
        self.names = tuple(dict.fromkeys(name for rule in rules for name in _mentioned(rule)))
        denied = [head.text for rule in rules for head in rule.heads if not head.holds]
        self.atoms = (*self.names, *dict.fromkeys(denied))
        self._place = {atom: index for index, atom in enumerate(self.atoms)}
        self._refuse_cycles()
        self.strata = self._strata()
        for name in self.names:
            if f"not {name}" in self._place:
                self._refuse_contradiction(name)

    def closure(self, facts: Bool[Tensor, "*rows name"]) -> Closure:
        """What follows from facts: [..., name] which propositions are seen."""
        missing = len(self.atoms) - len(self.names)
        held = torch.cat([facts, facts.new_zeros(*facts.shape[:-1], missing)], dim=-1)
        by, when = torch.full_like(held, SEEN, dtype=torch.long).repeat(2, *[1] * held.dim())
        step = 0
        for stratum in self.strata:
            before = None
            while before is None or not torch.equal(before, held):
                before = held.clone()
                for clause in stratum:
                    self._apply(clause, step, held, by, when)
                    step += 1
        return Closure(self.atoms, held, by, when)

    def applies(self, closure: Closure, atom: str) -> Bool[Tensor, "*rows"]:
        """Where a rule derives an atom, whether it was seen as well or not."""
        bodies = [rule.body for rule in self.rules if atom in (head.text for head in rule.heads)]
        met = torch.zeros_like(closure.held[..., 0])
        return reduce(torch.logical_or, (body.value(closure.of) for body in bodies), met)

    def reasons(self, closure: Closure, row: tuple[int, ...], atom: str) -> list[tuple[str, int]]:
        """The derivation of an atom in one row, facts first: (atom, rule or −1), each once."""
        found: dict[str, int] = {}
        self._trace(closure, row, atom, found)
        return list(found.items())

    def _trace(
        self, closure: Closure, row: tuple[int, ...], atom: str, found: dict[str, int]
    ) -> None:
        place = self._place[atom]
        index, when = int(closure.by[row][place]), int(closure.when[row][place])
        if index != SEEN:
            for name, positive in self.rules[index].body.names():
                other = self._place[name]
                earlier = int(closure.when[row][other]) < when
                if positive and earlier and bool(closure.held[row][other]) and name not in found:
                    self._trace(closure, row, name, found)
        found[atom] = index

    def _apply(
        self, clause: tuple[int, Head], step: int, held: Tensor, by: Tensor, when: Tensor
    ) -> None:
        index, place = clause[0], self._place[clause[1].text]
        met = self.rules[index].body.value(lambda name: held[..., self._place[name]])
        new = met & ~held[..., place]
        held[..., place] |= new
        by[..., place] = by[..., place].masked_fill(new, index)
        when[..., place] = when[..., place].masked_fill(new, step)

    def _edges(self) -> Iterator[tuple[str, str, bool]]:
        """(name asked for, name derived, asked for as it is); denials are asked for by no rule."""
        for rule in self.rules:
            for name, positive in rule.body.names():
                for head in rule.heads:
                    if head.holds:
                        yield name, head.name, positive

    def _refuse_cycles(self) -> None:
        edges = list(self._edges())
        for name, head, positive in edges:
            path = None if positive else _path(edges, head, name)
            if path is not None:
                cycle = f"not {name} -> {' -> '.join(path)}"
                expected = "rules in which nothing depends on its own absence"
                raise InputError(explain(where="rules", expected=expected, got=f"a cycle, {cycle}"))

    def _strata(self) -> tuple[tuple[tuple[int, Head], ...], ...]:
        """What is derived, by how many nots lie before it: no name is asked for before its turn."""
        level, edges, changed = dict.fromkeys(self.names, 0), list(self._edges()), True
        while changed:
            changed = False
            for name, head, positive in edges:
                least = level[name] + (not positive)
                if level[head] < least:
                    level[head], changed = least, True
        found: dict[int, list[tuple[int, Head]]] = {}
        for index, rule in enumerate(self.rules):
            asked = max(level[name] + (not positive) for name, positive in rule.body.names())
            for each in rule.heads:
                own = level[each.name] if each.holds else asked
                found.setdefault(own, []).append((index, each))
        return tuple(tuple(found[own]) for own in sorted(found))

    def _refuse_contradiction(self, name: str) -> None:
        """Refuses a rule for or against `name` that applies in cases of contradiction only."""
        concerned = [r for r in self.rules if any(head.name == name for head in r.heads)]
        cone = self._cone({name, *(n for rule in concerned for n, _ in rule.body.names())})
        if len(cone) > _TABLE:
            return
        cases = torch.arange(2 ** len(cone))[:, None] >> torch.arange(len(cone)) & 1
        facts = torch.zeros(len(cases), len(self.names), dtype=torch.bool)
        facts[:, [self._place[each] for each in cone]] = cases.bool()
        closure = self.closure(facts)
        both = closure.contested(name)
        for rule in concerned:
            met = rule.body.value(closure.of)
            if bool(met.any()) and bool(both[met].all()):
                others = "; ".join(repr(each.text) for each in concerned if each is not rule)
                expected = f"rules that do not both derive and deny {name}"
                got = f"{rule.text!r}, which cannot apply without, beside {others}"
                raise InputError(explain(where="rules", expected=expected, got=got))

    def _cone(self, names: set[str]) -> list[str]:
        """The names and all that they can be derived from."""
        edges, found = list(self._edges()), set(names)
        while more := {name for name, head, _ in edges if head in found} - found:
            found |= more
        return [name for name in self.names if name in found]


@lru_cache(maxsize=64)
def program(rules: tuple[str, ...]) -> Program:
    """The program of rules as text.

    Raises:
        InputError: a rule that does not parse, or rules that cannot be carried out together.
    """
    return Program([parse(text) for text in rules])


def _mentioned(rule: Rule) -> Iterator[str]:
    yield from (name for name, _ in rule.body.names())
    yield from (head.name for head in rule.heads)


def _path(edges: Sequence[tuple[str, str, bool]], start: str, stop: str) -> list[str] | None:
    """The shortest chain of names by which `stop` is derived from `start`; None if it is not."""
    paths = [[start]]
    seen = {start}
    for path in paths:
        if path[-1] == stop:
            return path
        for name, head, _ in edges:
            if name == path[-1] and head not in seen:
                seen.add(head)
                paths.append([*path, head])
    return None
