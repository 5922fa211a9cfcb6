"""Rules: the grammar, and forward chaining against a brute-force search for stable models."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield.core.errors import InputError
from jackfield.steering.rules.grammar import Formula, Head, Joined, Name, Not, Rule, parse
from jackfield.steering.rules.program import Program, program

NAMES = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("a and -> b", 7, r"a name, not or \("),
        ("a -> ", 6, "a name or not, got the end"),
        ("a b -> c", 3, "and, or or ->, got 'b'"),
        ("(a or b -> c", 9, r"and, or or \)"),
        ("a -> b c", 8, "a comma or the end, got 'c'"),
        ("a & b -> c", 3, "got '&'"),
        ("-> a", 1, "a name, not or"),
        ("a -> b,", 8, "got the end"),
        ("a -> not not b", 10, "a name, got 'not'"),
        ("a -> __import__('os')", 16, r"a comma or the end, got '\('"),
        ("", 1, "got the end"),
    ],
)
def test_what_does_not_parse_is_refused_at_its_column(text, column, expected):
    with pytest.raises(InputError, match=rf"column {column}: expected .*{expected}"):
        parse(text)


def test_and_binds_stronger_than_or_and_not_strongest():
    rule = parse("not a and b or (c or d) and e -> f, not g")
    expected = Joined(
        (
            Joined((Not(Name("a")), Name("b")), every=True),
            Joined((Joined((Name("c"), Name("d")), every=False), Name("e")), every=True),
        ),
        every=False,
    )
    assert rule.body == expected
    assert rule.heads == (Head("f", True), Head("g", False))


@st.composite
def formulas(draw, names: tuple[str, ...], below: tuple[str, ...]) -> str:
    """A body in which only names of lower strata stand under not, as text."""
    kind = draw(st.sampled_from(["name", "name", "not", "and", "or"]))
    if kind == "not" and below:
        return f"not {draw(st.sampled_from(below))}"
    if kind in ("and", "or"):
        left, right = (draw(formulas(names, below)) for _ in range(2))
        return f"({left} {kind} {right})"
    return draw(st.sampled_from(names))


@st.composite
def programs(draw) -> list[str]:
    """Rules that are stratified by construction: b may ask for `not a`, a never for `not b`."""
    rules = []
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(NAMES) - 1))
        body = draw(formulas(NAMES[: place + 1], NAMES[:place]))
        rules.append(f"{body} -> {NAMES[place]}")
    return rules


def truth(formula: Formula, held: set[str], absent: set[str]) -> bool:
    """A body where names under not are looked up in `absent`'s complement: the reduct."""
    if isinstance(formula, Name):
        return formula.name in held
    if isinstance(formula, Not):
        assert isinstance(formula.of, Name)
        return formula.of.name in absent
    assert isinstance(formula, Joined)
    parts = [truth(part, held, absent) for part in formula.parts]
    return all(parts) if formula.every else any(parts)


def stable_models(rules: list[Rule], facts: set[str]) -> list[set[str]]:
    """Gelfond and Lifschitz by brute force: a set that is the least model of its own reduct."""
    found = []
    for bits in product([False, True], repeat=len(NAMES)):
        guess = {name for name, bit in zip(NAMES, bits, strict=True) if bit}
        absent, least = set(NAMES) - guess, set(facts)
        for _ in range(len(NAMES) * len(rules) + 1):
            least |= {rule.heads[0].name for rule in rules if truth(rule.body, least, absent)}
        if least == guess:
            found.append(guess)
    return found


@settings(max_examples=25, deadline=None)
@given(programs(), st.sets(st.sampled_from(NAMES)))
def test_forward_chaining_gives_the_one_stable_model(texts, facts):
    rules = [parse(text) for text in texts]
    made = Program(rules)
    seen = torch.tensor([[name in facts for name in made.names]])
    closure = made.closure(seen)
    got = {name for name in made.names if bool(closure.of(name))}
    (expected,) = stable_models(rules, facts & set(made.names))
    assert got == expected
    backwards = Program(rules[::-1])
    again = backwards.closure(torch.tensor([[name in facts for name in backwards.names]]))
    assert {name for name in backwards.names if bool(again.of(name))} == expected


@settings(max_examples=20, deadline=None)
@given(programs(), st.sets(st.sampled_from(NAMES)))
def test_every_derivation_holds_when_it_is_carried_out_step_by_step(texts, facts):
    made = Program([parse(text) for text in texts])
    closure = made.closure(torch.tensor([[name in facts for name in made.names]]))
    final = {name for name in made.names if bool(closure.of(name))}
    for name in final:
        done: set[str] = set()
        for atom, index in made.reasons(closure, (0,), name):
            if index < 0:
                assert atom in facts
            else:
                body = made.rules[index].body
                assert truth(body, done, set(NAMES) - final)
            done.add(atom)
        assert name in done


def test_rows_go_through_together_and_alone():
    made = program(("a and not b -> c, d", "c -> e", "not e -> f"))
    facts = torch.randint(0, 2, (3, 7, len(made.names))).bool()
    whole = made.closure(facts)
    for i, j in product(range(3), range(7)):
        assert torch.equal(made.closure(facts[i, j]).held, whole.held[i, j])


def test_a_head_of_a_lower_stratum_is_done_before_it_is_asked_for():
    """One rule derives x, which is asked for as absent, and y, which is of a higher stratum."""
    made = program(("a -> x, y", "not x -> z", "z -> y"))
    held = made.closure(torch.tensor([[name == "a" for name in made.names]]))
    assert [bool(held.of(name)) for name in "xyz"] == [True, True, False]


@pytest.mark.parametrize(
    ("rules", "cycle"),
    [
        (("not a -> a",), "not a -> a"),
        (("not b -> a", "a -> c", "c -> b"), "not b -> a -> c -> b"),
        (("x and not (y or not z) -> y",), "not y -> y"),
    ],
)
def test_a_cycle_through_not_is_refused_and_named(rules, cycle):
    with pytest.raises(InputError, match=f"a cycle, {cycle}"):
        program(rules)


def test_a_cycle_without_not_is_carried_out():
    made = program(("a -> b", "b -> a"))
    assert made.closure(torch.tensor([[True, False]])).held.all()
    assert not made.closure(torch.tensor([[False, False]])).held.any()


@pytest.mark.parametrize(
    "rules",
    [
        ("a -> b", "a -> not b"),
        ("a -> b", "b -> c", "b -> not c"),
        ("a -> b", "a or d -> not b"),
        ("a -> not a",),
    ],
)
def test_rules_that_contradict_in_any_case_are_refused(rules):
    with pytest.raises(InputError, match="rules that do not both derive and deny"):
        program(rules)


def test_rules_that_contradict_in_some_rows_are_contested_there():
    made = program(("a -> c", "b -> not c"))
    closure = made.closure(torch.tensor([[True, False, False], [True, False, True]]))
    assert made.names == ("a", "c", "b")
    assert closure.contested("c").tolist() == [False, True]


def test_no_rules_are_refused():
    with pytest.raises(InputError, match="at least one, got none"):
        program(())
