import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jackfield.core import where as rules
from jackfield.core.errors import EditError
from jackfield.core.where import Coordinates, Mask, Role, Rows, Tokens, where

# Row 0: five tokens. Row 1: three tokens behind two places of padding on the left.
AT = Coordinates(
    positions=torch.tensor([[0, 1, 2, 3, 4], [-1, -1, 0, 1, 2]]),
    lengths=torch.tensor([5, 3]),
    tokens=torch.tensor([[7, 8, 9, 8, 7], [8, 8, 7, 8, 9]]),
    sinks=(0,),
    spans=torch.tensor([[0, 0, 1, 1, 0], [-1, -1, 1, 1, 1]]),
    roles=("user", "assistant"),
)

TABLE = [
    ("all", ["11111", "00111"]),
    ("prompt", ["11110", "00110"]),
    ("generated", ["00001", "00001"]),
    ("last", ["00001", "00001"]),
    ("sinks", ["10000", "00100"]),
    ("~sinks", ["01111", "00011"]),
    ("~all", ["00000", "00000"]),
    ("prompt & ~sinks", ["01110", "00010"]),
    ("sinks | last", ["10001", "00101"]),
    ("~prompt & ~sinks", ["00001", "00001"]),
    ("sinks | prompt & ~sinks", ["11110", "00110"]),
    (0, ["10000", "00100"]),
    (3, ["00010", "00000"]),
    (-1, ["00001", "00001"]),
    ([0, -1], ["10001", "00101"]),
    ([-4], ["01000", "00000"]),
    ([], ["00000", "00000"]),
    (slice(1, 3), ["01100", "00011"]),
    (slice(2, None), ["00111", "00001"]),
    (slice(None, 2), ["11000", "00110"]),
    (slice(-2, None), ["00011", "00011"]),
    (slice(None, -1), ["11110", "00110"]),
    (slice(-3, -1), ["00110", "00110"]),
    (Tokens((8,)), ["01010", "00010"]),
    (Tokens((7, 9)), ["10101", "00101"]),
    (Tokens(()), ["00000", "00000"]),
    (Rows((1,)), ["00000", "00111"]),
    (Rows((-1,)), ["00000", "00111"]),
    (Rows((0, 1)), ["11111", "00111"]),
    (Role("user"), ["11001", "00000"]),
    (Role("assistant"), ["00110", "00111"]),
    (~Role("user"), ["00110", "00111"]),
    (Tokens((8,)) & "prompt", ["01010", "00010"]),
    (Rows((0,)) & ~where("sinks") | Tokens((9,)), ["01111", "00001"]),
]


@pytest.mark.parametrize(("rule", "rows"), TABLE, ids=lambda value: str(value))
def test_the_tokens_that_a_rule_chooses(rule, rows):
    expected = torch.tensor([[digit == "1" for digit in row] for row in rows])
    assert torch.equal(where(rule).mask(AT), expected)


def test_in_later_steps_the_prompt_ends_where_it_did():
    step = Coordinates(positions=torch.tensor([[5], [3]]), lengths=torch.tensor([5, 3]))
    chosen = {
        name: where(name).mask(step).flatten().tolist()
        for name in ("prompt", "generated", "last", "all")
    }
    assert chosen == {
        "prompt": [False, False],
        "generated": [True, True],
        "last": [False, False],
        "all": [True, True],
    }
    assert where([3]).mask(step).flatten().tolist() == [False, True]
    assert where(slice(-1, None)).mask(step).flatten().tolist() == [True, True]


def test_a_mask_is_taken_as_it_is_without_padding():
    given_ = torch.ones(2, 5, dtype=torch.bool)
    assert torch.equal(where(given_).mask(AT), AT.real)


def test_a_mask_of_another_input_is_refused():
    with pytest.raises(EditError, match=r"\[batch, position\] = \[2, 5\], got \[1, 5\]"):
        where(torch.ones(1, 5, dtype=torch.bool)).mask(AT)


@pytest.mark.parametrize(
    "value",
    [
        "promt",
        "prompt &",
        "",
        "~~",
        1.5,
        True,
        [True, False],
        [0, "1"],
        slice(0, 8, 2),
        None,
        torch.ones(2, 5),
        torch.ones(5, dtype=torch.bool),
    ],
    ids=str,
)
def test_what_is_no_rule_is_refused(value):
    with pytest.raises(EditError, match="where: expected one of all, sinks, prompt"):
        where(value)


def test_a_misspelt_phase_offers_the_nearest():
    with pytest.raises(EditError, match="Did you mean prompt"):
        where("promt")


def test_a_rule_that_the_model_cannot_answer_is_refused():
    bare = Coordinates(positions=AT.positions, lengths=AT.lengths)
    with pytest.raises(EditError, match="token ids"):
        Tokens((8,)).mask(bare)
    with pytest.raises(EditError, match="give the run a list of messages"):
        Role("user").mask(bare)
    with pytest.raises(EditError, match="user, assistant"):
        Role("system").mask(AT)
    with pytest.raises(EditError, match=r"rows of 2, got \[2\]"):
        Rows((0, 2)).mask(AT)


LEAF = st.one_of(
    st.sampled_from(["all", "prompt", "generated", "last", "sinks"]).map(where),
    st.lists(st.integers(-3, 6), max_size=3).map(where),
    st.builds(slice, st.none() | st.integers(-3, 4), st.none() | st.integers(-3, 6)).map(where),
    st.lists(st.integers(6, 9), max_size=3).map(lambda ids: Tokens(tuple(ids))),
    st.lists(st.integers(0, 1), max_size=2).map(lambda rows: Rows(tuple(rows))),
    st.sampled_from(["user", "assistant"]).map(Role),
)
RULE = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        inner.map(lambda rule: ~rule),
    ),
    max_leaves=5,
)


@given(rule=RULE)
def test_json_round_trip(rule):
    again = rules.from_json(json.loads(json.dumps(rules.to_json(rule))))
    assert again == rule
    assert torch.equal(again.mask(AT), rule.mask(AT))


@given(left=RULE, right=RULE)
def test_rules_are_sets_of_real_tokens(left, right):
    a, b = left.mask(AT), right.mask(AT)
    assert torch.equal((left & right).mask(AT), a & b)
    assert torch.equal((left | right).mask(AT), a | b)
    assert torch.equal((~left).mask(AT), AT.real & ~a)
    assert torch.equal((~~left).mask(AT), a)
    assert not (a & ~AT.real).any()


def test_a_mask_cannot_be_saved():
    rule = where("prompt") & Mask(torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(EditError, match="cannot be saved"):
        rules.to_json(rule)


@pytest.mark.parametrize(
    ("rule", "depends"),
    [
        ("prompt & ~sinks", False),
        (Tokens((1,)), False),
        (Rows((0,)), True),
        (~(where("prompt") | ~Rows((0,))), True),
        (Mask(torch.ones(1, 1, dtype=torch.bool)), True),
    ],
    ids=str,
)
def test_depends_on_row(rule, depends):
    assert rules.depends_on_row(where(rule)) is depends
