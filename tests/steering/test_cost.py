"""Costs against by-hand computation."""

import math

import pytest
import torch

from jackfield.edits import Add
from jackfield.steering import fluency, kl_costs


def test_fluency_is_the_nll_of_what_was_generated(tiny64, tokens):
    made = tiny64.generate(tokens, max_new_tokens=4, logits=True)  # no text ends within 4
    found = fluency(tiny64, tokens, made.tokens)
    said = made.logits.log_softmax(dim=-1).gather(-1, made.tokens[..., None])
    assert found.nll == pytest.approx(-float(said.mean()), rel=1e-4)


def test_distinct2_is_low_for_a_loop(tiny64, tokens):
    loop = torch.tensor([[5, 6, 5, 6, 5, 6], [1, 2, 3, 4, 5, 6]])
    found = fluency(tiny64, tokens, loop)
    assert found.distinct2 == pytest.approx((2 / 5 + 1) / 2)


def test_what_follows_the_end_of_a_text_is_not_counted(tiny64, tokens):
    short = torch.tensor([[5, 6, 100, 0, 0, 0], [5, 6, 7, 100, 0, 0]])  # 100 ends a text
    whole = fluency(tiny64, tokens, short)
    first, second = (
        fluency(tiny64, tokens[:1], short[:1, :2]),
        fluency(tiny64, tokens[1:], short[1:, :3]),
    )
    assert whole.nll == pytest.approx((first.nll + second.nll) / 2, rel=1e-5)


def test_the_end_is_that_of_the_generation(tiny64, tokens, monkeypatch):
    monkeypatch.setattr(tiny64.module.generation_config, "eos_token_id", None)
    monkeypatch.setattr(tiny64.config, "eos_token_id", 100)
    short, cut = (torch.tensor([[5, 6, *rest]] * 2) for rest in ([100, 0, 0], []))
    assert fluency(tiny64, tokens, short).nll == pytest.approx(fluency(tiny64, tokens, cut).nll)


def test_a_text_that_ends_at_once_has_no_fluency(tiny64, tokens):
    ended = torch.full((2, 3), 100)
    assert math.isnan(fluency(tiny64, tokens, ended).nll)


def test_variants_are_measured_each_on_its_own(tiny64, tokens, monkeypatch):
    from jackfield.steering import unsteered

    vector = torch.randn(32, dtype=torch.float64)
    variants = [[], [Add(vector, at="layers.0.resid_post")], [Add(-vector, at="layers.1.mlp_out")]]
    together = kl_costs(tiny64, variants, tokens)
    assert together[0].mean == 0
    assert together[1].mean > 0
    monkeypatch.setattr(unsteered, "_TEXTS", 1)
    monkeypatch.setattr(unsteered, "_ROWS", 2)
    for variant, found in zip(variants, together, strict=True):
        (alone,) = kl_costs(tiny64, [variant], tokens)
        assert alone.mean == pytest.approx(found.mean, rel=1e-4, abs=1e-9)
        assert alone.tokens == found.tokens
