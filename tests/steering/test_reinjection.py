"""Reinjection: a planted part that carries the answer is found; the edit is plain arithmetic."""

import pytest
import torch

from jackfield.core.errors import EditError, InputError, SiteError
from jackfield.edits import Context
from jackfield.model.load import wrap
from jackfield.steering.reinjected import Reinject, Reinjected
from jackfield.steering.reinjection import Reinjection
from jackfield.testing import tiny_llama, tiny_world

SOURCES = ["layers.0:2.attn_out", "layers.0:2.mlp_out"]
AT = "layers.2.resid_post"
SUBJECT = (2, 3)


@pytest.fixture
def facts() -> dict:
    """The likeliest token after each of six texts is its answer."""
    world = tiny_world()
    prompts = world.tokens[:6]
    answers = world.model.run(prompts).logits[:, -1].argmax(dim=-1).tolist()
    return {"model": world.model, "prompts": prompts, "answers": answers, "subjects": [SUBJECT] * 6}


def fit(facts: dict, **settings) -> Reinjected:
    return Reinjection(**{"draws": 2, **settings}).fit(**facts, sources=SOURCES, at=AT)


def planted():
    """A model in which only block 1's attention carries anything to the last token."""
    model = tiny_llama(layers=3)
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            writes = "o_proj" in name or "down_proj" in name
            if writes and "layers.1.self_attn" not in name:
                weight.zero_()
    return wrap(model.module, name="planted")


def test_the_part_that_carries_the_fact_is_found_and_brings_all_of_it_back():
    model, draw = planted(), torch.Generator().manual_seed(0)
    prompts = torch.randint(2, 100, (5, 6), generator=draw)
    answers = model.run(prompts).logits[:, -1].argmax(dim=-1).tolist()
    given = {"prompts": prompts, "answers": answers, "subjects": [SUBJECT] * 5}
    found = Reinjection().fit(model, **given, sources=SOURCES, at=AT)
    rates = dict(zip(found.sources, found.rates.tolist(), strict=True))
    assert rates.pop("layers.1.attn_out") == pytest.approx(1.0, abs=1e-4)
    assert list(rates.values()) == pytest.approx([0.0] * 3, abs=1e-4)
    assert list(found.kept) == ["layers.1.attn_out"]


def test_rates_are_those_of_a_plain_loop(facts):
    """One fact, one draw, every restoration by a whole forward of its own."""
    model, tokens, answer = facts["model"], facts["prompts"][:1], facts["answers"][0]
    one = {**facts, "prompts": tokens, "answers": [answer], "subjects": [SUBJECT]}
    found = fit(one, draws=1, noise=2.0, seed=3)

    def probability(edits=()):
        return float(model.run(tokens, edits=edits).logits[0, -1].double().softmax(-1)[answer])

    from jackfield.edits import Replace

    clean = model.run(tokens, sites=["embed", *SOURCES])
    spread = 2.0 * clean["embed"][0, list(SUBJECT)].std()
    x = clean["embed"].clone()
    noise = torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(3))
    x[:, list(SUBJECT)] += spread * noise
    covered = [Replace(x, at="embed")]
    gap = probability() - probability(covered)
    for name, rate in zip(found.sources, found.rates.tolist(), strict=True):
        put = Replace(clean[name][:, -1:], at=name, where="last")
        gain = probability([*covered, put]) - probability(covered)
        assert rate == pytest.approx(gain / gap, rel=1e-4, abs=1e-6)


def test_the_edit_adds_the_weighted_sum_at_the_length_of_the_stream():
    x, one, two = (torch.randn(2, 3, 4) for _ in range(3))
    held = {"a": one, "b": two}
    edit = Reinject(torch.tensor([0.5, 2.0]), 4, 0.1, at="x", reads=("a", "b"))
    s = 0.5 * one + 2.0 * two
    expected = x + 0.1 * x.norm(dim=-1, keepdim=True) * s / s.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(edit.apply(x, Context("x", read=held.__getitem__)), expected)
    silent = {"a": torch.zeros(2, 3, 4), "b": torch.zeros(2, 3, 4)}
    assert torch.equal(edit.apply(x, Context("x", read=silent.__getitem__)), x)


def test_every_step_of_decoding_hears_its_own_token(facts):
    """With a cache and without one the same is said."""
    model, found = facts["model"], fit(facts)
    edits = found.edits(0.3, where="generated")
    prompts = facts["prompts"]
    cached, plain = (
        model.generate(prompts, edits=edits, max_new_tokens=5, cache=kind).tokens
        for kind in ("dynamic", "none")
    )
    assert torch.equal(cached, plain)
    assert not torch.equal(cached, model.generate(prompts, max_new_tokens=5).tokens)


def test_nothing_added_changes_no_bit(facts):
    model, found = facts["model"], fit(facts)
    same = model.run(facts["prompts"], edits=found.edits(0.0)).logits
    assert torch.equal(same, model.run(facts["prompts"]).logits)
    assert found.factor("norm:0.2") == 0.2


def test_saved_and_loaded_it_says_and_does_the_same(facts, tmp_path):
    found = fit(facts, keep=2)
    again = Reinjected.load(found.save(tmp_path / "again"))
    assert again.report().text == found.report().text
    one, other = (facts["model"].run(facts["prompts"], edits=x.edits(0.2)) for x in (found, again))
    assert torch.equal(one.logits, other.logits)
    assert list(found.kept.values()) == sorted(found.kept.values(), reverse=True)


def test_what_it_cannot_trace_is_refused(facts):
    with pytest.raises(InputError, match=r"as many prompts, subjects and answers.*\[6, 6, 5\]"):
        fit({**facts, "answers": facts["answers"][:5]})
    with pytest.raises(InputError, match=r"\[0, 0, 0\]"):
        fit({**facts, "prompts": facts["prompts"][:0], "answers": [], "subjects": []})
    with pytest.raises(InputError, match="Reinjection: expected finite activations"):
        fit({**facts, "model": tiny_world().poisoned().model})
    unlikely = facts["model"].run(facts["prompts"]).logits[:, -1].argmin(dim=-1).tolist()
    with pytest.raises(InputError, match="noise that covers the answers"):
        fit({**facts, "answers": unlikely})
    with pytest.raises(SiteError, match=r"places to add after layers.1.mlp_out"):
        Reinjection().fit(**facts, sources=SOURCES, at="layers.1.resid_mid")
    with pytest.raises(EditError, match="a model of width 32, got 8"):
        fit(facts).edits()[0].apply(torch.zeros(1, 8), Context("x"))


def test_subjects_are_found_by_their_words(smollm2):
    given = {"sources": "layers.20.attn_out", "at": "layers.25.resid_post", "answers": [" Paris"]}
    prompt, method = "The capital of France is", Reinjection(draws=1)
    by_words = method.fit(smollm2, prompts=[prompt], subjects=["France"], **given)
    place = smollm2.token_strings(smollm2.inputs(prompt).tokens[0]).index(" France")
    by_place = method.fit(smollm2, prompts=[prompt], subjects=[(place,)], **given)
    assert torch.equal(by_words.rates, by_place.rates)
    with pytest.raises(InputError, match="'Spain' in 'The capital of France is'"):
        method.fit(smollm2, prompts=[prompt], subjects=["Spain"], **given)
    with pytest.raises(InputError, match="one word of one token"):
        method.fit(
            smollm2, prompts=[prompt], subjects=["France"], **{**given, "answers": [" Ouagadougou"]}
        )
