"""Guided controller: planted classes and layers, rows on their own, what each objective trains."""

import pytest
import torch
from torch import nn

from jackfield.core.errors import EditError, InputError, SiteError
from jackfield.steering import MeanDifference, SteeringVector
from jackfield.steering.control import Decider, GuidedController, GuidedSteering
from jackfield.testing import tiny_llama

READS = "layers.0.resid_post"
WORD, AGAINST = 5, 90


def texts(count: int, seed: int, low: int, high: int) -> torch.Tensor:
    """Prompts whose last token is between low and high; the others are any."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(1, 100, (count, 7), generator=draw)
    rows[:, -1] = torch.randint(low, high, (count,), generator=draw)
    return rows


STEER, LEAVE = texts(48, 1, 1, 50), texts(48, 2, 50, 100)


def planted() -> tuple[object, torch.Tensor]:
    """Silent blocks; ids below 50 have 1 more in six units; and the direction of a word."""
    model = tiny_llama()
    with torch.no_grad():
        for block in model.module.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        model.module.model.embed_tokens.weight[:50, 4:10] += 1.0
        head = model.module.lm_head.weight
        word = (head[WORD] - head[AGAINST]).clone()
    word[4:10] = 0.0
    return model, word / word.norm()


def direction(vector: torch.Tensor, at: str) -> SteeringVector:
    return SteeringVector(
        vector, at, {"name": "planted", "where": "all"}, "tiny", (1, 1), 1, (), 1.0, None, None
    )


def fitted(objective: str = "task", **settings) -> tuple[object, GuidedSteering]:
    """Trained with a helpful direction at layer 1 and its opposite at layer 2."""
    model, word = planted()
    base = [direction(word, "layers.1.resid_post"), direction(-word, "layers.2.resid_post")]
    method = GuidedController(objective=objective, strength=5.0, hidden=16, **settings)
    found = method.fit(
        model, directions=base, steer=STEER, leave=LEAVE, reads=READS,
        words=[WORD], against=[AGAINST],
    )  # fmt: skip
    return model, found


@pytest.fixture(scope="module")
def task() -> tuple[object, GuidedSteering]:
    return fitted()


def test_new_prompts_are_decided_by_their_class(task):
    model, found = task
    steer, leave = texts(40, 8, 1, 50), texts(40, 9, 50, 100)
    assert float(found.steers(model, steer).float().mean()) > 0.95
    assert float(found.steers(model, leave).float().mean()) < 0.05
    assert found.accuracy > 0.95


def test_rows_of_the_class_are_steered_and_the_others_are_not(task):
    model, found = task
    mixed = torch.cat([texts(6, 8, 1, 50), texts(6, 9, 50, 100)])
    plain, steered = (
        model.run(mixed, edits=edits).logits[:, -1].log_softmax(dim=-1)
        for edits in ([], found.edits(where="all"))
    )
    odds = [x[:, WORD] - x[:, AGAINST] for x in (plain, steered)]
    assert float((odds[1] - odds[0])[:6].min()) > 2.0
    assert float((steered.exp() - plain.exp()).abs().sum(dim=-1)[6:].max()) < 0.2
    alone = torch.cat(
        [model.run(row[None], edits=found.edits(where="all")).logits for row in mixed]
    )
    torch.testing.assert_close(
        model.run(mixed, edits=found.edits(where="all")).logits, alone, atol=1e-4, rtol=1e-4
    )


def test_the_task_teaches_the_weights_which_layer_helps(task):
    helps, harms = task[1].weights
    assert helps > 0.8
    assert harms < 0.2


def test_the_paper_s_objective_leaves_the_weights_at_a_half():
    model, found = fitted("decision")
    assert all(abs(weight - 0.5) < 0.05 for weight in found.weights)
    assert float(found.steers(model, STEER).float().mean()) > 0.95


def test_amounts_are_those_of_the_same_network_in_torch(task):
    model, found = task
    d = found.decider
    net = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3))
    net.load_state_dict(
        {"0.weight": d.inner, "0.bias": d.inner_bias, "2.weight": d.outer, "2.bias": d.outer_bias}
    )
    h = model.run(STEER, sites=[READS])[READS][:, -1]
    out = net((h - d.mean) / d.spread).sigmoid()
    torch.testing.assert_close(d.amounts(h), out[:, :1] * out[:, 1:])
    at = "layers.1.resid_post"
    moved = model.run(STEER, sites=[at], edits=found.edits(where="all"))[at]
    plain = model.run(STEER, sites=[at])[at]
    expected = 5.0 * d.amounts(h)[:, :1, None] * found.vectors[at]
    torch.testing.assert_close(moved - plain, expected.expand_as(plain), atol=1e-5, rtol=1e-4)


def test_a_new_decider_does_not_decide_yet():
    h = torch.randn(5, 8)
    torch.testing.assert_close(Decider.drawn(h, 4, 3, 0).amounts(h), torch.full((5, 3), 0.25))


def test_the_answer_keeps_what_the_prompt_decided(task):
    """Tokens of the other class in the answer change nothing, with a cache or without."""
    model, found = task
    rows = torch.cat([STEER[:3], LEAVE[:3]])
    made = [
        model.generate(rows, edits=found.edits(), max_new_tokens=6, cache=cache).tokens
        for cache in ("dynamic", "none")
    ]
    assert torch.equal(*made)


def test_a_cache_of_the_prompt_alone_cannot_be_decided_on(task):
    model, found = task
    past = model.run(STEER[:2, :-1], cache=True).past
    with pytest.raises(EditError, match="the prompt in the same sequence"):
        model.run(STEER[:2, -1:], past=past, edits=found.edits(where="all"))


def test_the_model_is_not_trained(task):
    assert all(each.grad is None for each in task[0].module.parameters())


def test_prompts_are_read_alike_however_many_there_are(task, monkeypatch):
    from jackfield.steering.control import training

    model, found = task
    together = found.scales(model, STEER[:7])
    monkeypatch.setattr(training, "_PROMPTS", 2)
    torch.testing.assert_close(found.scales(model, STEER[:7]), together)


def test_bad_input_is_refused(tiny):
    sides = {"positive": STEER, "negative": LEAVE}
    base = MeanDifference().fit(tiny, **sides, at="layers.1.resid_post")
    good = {"directions": base, "steer": STEER, "leave": LEAVE, "reads": READS}
    fit = GuidedController(steps=1).fit
    with pytest.raises(SiteError, match=r"layers\.2\.resid_post read too late"):
        fit(tiny, **{**good, "reads": "layers.2.resid_post"})
    with pytest.raises(SiteError, match="directions that act after"):
        fit(tiny, **{**good, "directions": []})
    with pytest.raises(SiteError, match=r"one direction a site, got several at layers\.1"):
        fit(tiny, **{**good, "directions": [base, base]})
    with pytest.raises(InputError, match="prompts on both sides"):
        fit(tiny, **{**good, "leave": LEAVE[:0]})
    with pytest.raises(InputError, match="at least one word of one token"):
        fit(tiny, **good)
    wide = GuidedController(steps=1, objective="decision").fit(tiny, **good)
    with pytest.raises(EditError, match=r"fits|numbers at"):
        tiny_llama(d_model=16).run(STEER, edits=wide.edits())
