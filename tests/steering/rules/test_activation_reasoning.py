"""Reasoning over activations: planted propositions, rows, caches, latches, and steering by hand."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from jackfield.core.errors import ConfigError, EditError, InputError, SiteError
from jackfield.steering import MeanDifference
from jackfield.steering.rules import ActivationReasoning, Reasoning
from jackfield.steering.rules.concepts import best_threshold, decay
from jackfield.testing import tiny_llama, tiny_world

AT = "layers.1.resid_post"
RULES = ("a and b -> both", "a and not b -> alone", "both -> not c", "c -> other")


def planted(dtype: torch.dtype = torch.float64):
    """Silent blocks: tokens 10, 20 and 30 have a unit of the embedding each, all others noise."""
    model = tiny_llama(dtype)
    with torch.no_grad():
        for block in model.module.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        table = model.module.model.embed_tokens.weight
        table.mul_(0.3)
        for unit, token in enumerate((10, 20, 30)):
            table[:, unit] = 0.0
            table[token, unit] = 4.0
    return model


def texts(*ids: int, count: int = 6, seed: int = 0) -> torch.Tensor:
    """Random texts of 8 tokens with some planted ones in random places."""
    draw = torch.Generator().manual_seed(seed + sum(ids))
    rows = torch.randint(40, 100, (count, 8), generator=draw)
    for row in rows:
        for place, token in zip(torch.randperm(8, generator=draw), ids, strict=False):
            row[place] = token
    return rows


@pytest.fixture(scope="module")
def model():
    return planted()


@pytest.fixture(scope="module")
def reasoning(model) -> Reasoning:
    concepts = {"a": texts(10), "b": texts(20), "c": texts(30)}
    return ActivationReasoning(rules=RULES).fit(
        model, concepts=concepts, negative=texts(count=12), at=AT
    )


def followed(ids: set[int]) -> dict[str, bool | None]:
    """The rules, by hand."""
    a, b, c = (token in ids for token in (10, 20, 30))
    held = {"a": a, "b": b, "c": c, "both": a and b, "alone": a and not b, "other": c}
    answers: dict[str, bool | None] = {name: yes or None for name, yes in held.items()}
    if a and b:
        answers["c"] = None if c else False
    return answers


def test_planted_propositions_are_read_and_what_follows_is_right(model, reasoning):
    assert reasoning.accuracies == (1.0, 1.0, 1.0)
    given = [set(), {10}, {20}, {30}, {10, 20}, {10, 30}, {20, 30}, {10, 20, 30}]
    rows = torch.cat([texts(*each, count=3, seed=9) for each in given])
    found = reasoning.read(model, rows)
    for name in ("a", "b", "c", "both", "alone", "other"):
        expected = tuple(followed(each)[name] for each in given for _ in range(3))
        assert found.holds(name) == expected, name
    assert [row.contested for row in found.rows[-3:]] == [("c",)] * 3


def test_the_reading_says_where_it_was_seen_and_how_it_follows(model, reasoning):
    row = torch.tensor([[50, 60, 10, 70, 20, 80]])
    found = reasoning.read(model, row)
    text = found.report().text
    assert "seen from token 2 on, most at token 2, '10'" in text
    assert "seen from token 4 on" in text
    chains = {each.atom: each.text for each in found.rows[0].derived}
    assert chains["not c"] == ("a (seen); b (seen); both (a and b -> both); not c (both -> not c)")
    with pytest.raises(InputError, match="Did you mean both"):
        found.holds("bot")


def test_each_token_is_steered_by_what_was_seen_up_to_it(model, reasoning):
    """c is denied from the token on at which both a and b have been seen, and never before."""
    always = replace(reasoning, method={**reasoning.method, "acts": "all"})
    row = torch.tensor([[50, 60, 10, 70, 20, 80]])
    plain = model.run(row, sites=[AT])[AT][0]
    moved = model.run(row, sites=[AT], edits=always.edits(0.5))[AT][0]
    away = -normalize(reasoning.directions[2].double(), dim=0)
    for place in range(6):
        step = 0.5 * plain[place].norm() * away if place >= 4 else torch.zeros(32)
        torch.testing.assert_close(moved[place] - plain[place], step.double(), atol=1e-6, rtol=1e-6)


def test_what_is_derived_is_steered_to_and_what_is_only_seen_is_not(model):
    concepts = {"a": texts(10), "c": texts(30)}
    found = ActivationReasoning(rules=("a -> c",), acts="all").fit(model, concepts=concepts, at=AT)
    rows = torch.tensor([[50, 10, 60], [50, 30, 60]])
    plain, moved = (
        model.run(rows, sites=[AT], edits=edits)[AT] for edits in ((), found.edits(1.0))
    )
    towards = (moved - plain)[0, 1:] @ found.directions[1].double()
    torch.testing.assert_close(towards, plain[0, 1:].norm(dim=-1), atol=1e-5, rtol=1e-5)
    assert torch.equal(moved[1], plain[1])


@pytest.mark.parametrize("scope", ["local", "global"])
def test_rows_padding_and_caches_make_no_difference(scope):
    world = tiny_world(torch.float64)
    concepts = {"low": world.tokens, "high": world.other}
    found = ActivationReasoning(rules=("low or high -> high",), scope=scope).fit(
        world.model, concepts=concepts, at=AT
    )
    rows = torch.cat([world.tokens[:2], world.other[:2]])
    options = {"edits": found.edits(1.5), "max_new_tokens": 8, "logits": True}
    cached = world.model.generate(rows, **options)
    whole = world.model.generate(rows, cache="none", **options)
    assert torch.equal(cached.tokens, whole.tokens)
    torch.testing.assert_close(cached.logits, whole.logits, atol=1e-4, rtol=1e-4)
    for index in range(4):
        alone = world.model.generate(rows[index : index + 1], **options)
        assert torch.equal(alone.tokens[0], cached.tokens[index])
    plain = world.model.generate(rows, max_new_tokens=8).tokens
    assert not torch.equal(plain, cached.tokens)


def test_what_was_seen_in_the_prompt_stays_while_it_generates(model, reasoning):
    """Row 0 shows a and b, row 1 only a: only row 0 is steered away from c, at every new token."""
    rows = torch.tensor([[10, 50, 20, 60], [10, 50, 51, 60]])
    edits = reasoning.edits(2.0)
    steered = model.generate(rows, edits=edits, max_new_tokens=5, logits=True)
    plain = model.generate(rows, max_new_tokens=5, logits=True)
    assert torch.equal(steered.logits[1, 0], plain.logits[1, 0])
    whole = torch.cat([rows, steered.tokens], dim=1)
    run = model.run(whole, sites=[AT], edits=edits, prompt_lengths=[4, 4])[AT]
    bare = model.run(whole, sites=[AT])[AT]
    changed = (run != bare).any(dim=-1)
    assert changed[0].tolist() == [False] * 3 + [True] * 6


def test_the_mean_is_global_and_a_single_token_is_local(model):
    """One strong token in a long text counts for the local scope only."""
    concepts = {"a": torch.full((4, 6), 10), "b": texts(count=8)}
    long = torch.cat([torch.full((1, 1), 10), texts(count=1).repeat(1, 5)], dim=1)
    for scope, seen in (("local", True), ("global", None)):
        found = ActivationReasoning(rules=("a or b -> x",), scope=scope).fit(
            model, concepts=concepts, at=AT
        )
        assert found.read(model, long).holds("a") == (seen,)


def test_watched_tokens_are_the_only_ones_read(model):
    concepts = {"a": torch.cat([texts(count=6)[:, :7], torch.full((6, 1), 10)], dim=1)}
    found = ActivationReasoning(rules=("a -> x",), watch="last", tokens="last").fit(
        model, concepts=concepts, negative=texts(count=6, seed=5), at=AT
    )
    rows = torch.tensor([[50, 10, 60], [50, 60, 10]])
    assert found.read(model, rows).holds("x") == (None, True)


class Units:
    """A coder whose latents are the positive and negative parts of the units."""

    directions = torch.cat([torch.eye(32), -torch.eye(32)])

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, -x], dim=-1).relu().float()


@pytest.mark.parametrize("scope", ["local", "global"])
def test_tokens_that_are_not_read_are_not_said_to_be_seen(model, scope):
    concepts = {"a": texts(10), "b": texts(20)}
    method = ActivationReasoning(rules=("a -> b",), scope=scope, watch="prompt")
    found = method.fit(model, concepts=concepts, negative=texts(count=12), at=AT)
    shut = replace(found, sinks=(0,))
    ids = texts(10, count=1, seed=3)
    ids[0, 0], ids[0, 1:] = 10, ids[0, 1:].where(ids[0, 1:] != 10, 41)  # only where nothing is read
    row = shut.read(model, ids).rows[0]
    assert all(torch.tensor(values).isnan()[0] for values in row.margins)
    assert row.seen == ()
    assert "a" in found.read(model, ids).rows[0].seen or scope == "global"


def test_latents_of_a_coder_are_concepts(model):
    method = ActivationReasoning(rules=("a -> b",), scorer="latents", latents=3, acts="all")
    found = method.fit(model, concepts={"a": texts(10), "b": texts(20)}, at=AT, coder=Units())
    assert int(found.weights[0].argmax()) == 0
    assert int(found.weights[1].argmax()) == 1
    assert found.weights[0].sort(descending=True).values[:3].tolist() == pytest.approx(
        decay(3).tolist()
    )
    assert found.accuracies == (1.0, 1.0)
    assert found.read(model, texts(10, count=2, seed=4)).holds("b") == (True, True)
    assert float(found.directions[1].norm()) == pytest.approx(1.0)


def test_a_direction_of_ones_own_is_taken(model):
    concepts = {"a": texts(10), "b": texts(20)}
    own = MeanDifference().fit(model, positive=texts(10), negative=texts(20), at=AT)
    found = ActivationReasoning(rules=("a -> b",)).fit(
        model, concepts=concepts, at=AT, directions={"a": own}
    )
    torch.testing.assert_close(found.weights[0], normalize(own.vector, dim=0))
    with pytest.raises(InputError, match=r"a direction \[32\] at layers\.1"):
        ActivationReasoning(rules=("a -> b",)).fit(
            model, concepts=concepts, at=AT, directions={"a": torch.ones(64)}
        )


def test_the_threshold_has_the_best_balanced_accuracy_of_all():
    draw = torch.Generator().manual_seed(0)
    plus, minus = torch.randn(9, generator=draw) + 1, torch.randn(14, generator=draw)
    threshold, accuracy = best_threshold(plus, minus)

    def by_hand(at: float) -> float:
        return ((plus >= at).double().mean() + (minus < at).double().mean()).item() / 2

    assert accuracy == pytest.approx(by_hand(threshold))
    assert accuracy == pytest.approx(max(by_hand(t) for t in torch.linspace(-4, 4, 4001).tolist()))
    assert best_threshold(torch.ones(3), torch.ones(2)) == (2.0, 0.5)


def test_a_cache_of_a_prompt_that_was_not_read_is_refused(model, reasoning):
    rows = texts(10, count=1)
    past = model.run(rows, cache=True).past
    with pytest.raises(EditError, match="the prompt in the same sequence"):
        model.run(torch.tensor([[5]]), past=past, edits=reasoning.edits(1.0))


def test_what_does_not_fit_is_refused(model, reasoning):
    def fit(rules: tuple[str, ...], **changed):
        given = {"concepts": {"a": texts(10), "b": texts(20)}, "at": AT, **changed}
        return ActivationReasoning(rules=rules).fit(model, **given)

    with pytest.raises(InputError, match="column 6: expected a name or not"):
        fit(("a -> ",))
    with pytest.raises(InputError, match="a cycle, not a -> a"):
        fit(("not a -> a",))
    with pytest.raises(InputError, match="rules that ask for concepts or for what is derived"):
        fit(("a and b and bb -> x",))
    with pytest.raises(InputError, match="concepts of the rules: a, x, got 'b'"):
        fit(("a -> x",))
    with pytest.raises(InputError, match="texts without it, in another concept"):
        fit(("a -> x",), concepts={"a": texts(10)})
    same = torch.full((3, 6), 50)
    with pytest.raises(InputError, match="sides that differ"):
        fit(("a -> x",), concepts={"a": same}, negative=same[:, 1:])
    with pytest.raises(InputError, match="at least one, got none"):
        fit(("a or b -> x",), concepts={"a": texts(10), "b": []})
    with pytest.raises(InputError, match="a coder with the scorer 'latents'"):
        fit(("a or b -> x",), coder=Units())
    with pytest.raises(SiteError, match=r"a site \[batch, position, d\]"):
        fit(("a or b -> x",), at="layers.1.z")
    with pytest.raises(InputError, match="a rule whose head has texts or a direction"):
        fit(("a or b -> x",)).edits(1.0)
    with pytest.raises(ConfigError, match="scorer"):
        ActivationReasoning(rules=("a -> x",), scorer="tree")
    with pytest.raises(EditError, match="Reason: expected activations of width 32, got 64"):
        tiny_llama(d_model=64).run(texts(10), edits=reasoning.edits(1.0))
