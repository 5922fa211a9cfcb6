"""The sweep: rows of one batch are what each variant says alone."""

import pytest
import torch

from jackfield.edits import Add
from jackfield.steering import CALM, FURIOUS, MeanDifference
from jackfield.steering.sweep import swept


def test_each_variant_says_what_it_says_alone(tiny64, tokens):
    vector = torch.randn(32, dtype=torch.float64)
    variants = {
        ("steered", 2.0): [Add(2 * vector, at="layers.1.resid_post", where="generated")],
        ("steered", -1.0): [Add(-vector, at="layers.0.resid_post", where="~sinks")],
    }
    _, results = swept(tiny64, tokens, variants, 6, tokens)
    assert [(each.direction, each.strength) for each in results] == [
        ("unsteered", 0.0),
        *variants,
    ]
    for each, edits in zip(results, ((), *variants.values()), strict=True):
        alone = tiny64.generate(tokens, edits=list(edits), max_new_tokens=6)
        assert each.texts == tuple(alone.texts)
    assert results[0].kl.mean == 0


def test_the_sweep_of_a_real_direction_is_reported(tmp_path, smollm2):
    at = "layers.18.resid_post"
    calm = MeanDifference().fit(smollm2, positive=CALM[:6], negative=FURIOUS[:6], at=at)
    chat = [{"role": "user", "content": "How was your day?"}]
    sweep = calm.sweep(smollm2, chat, (-2.0, 2.0), max_new_tokens=5, neutral=["A plain line."])
    assert sweep.prompts == ("How was your day?",)
    assert [each.strength for each in sweep.of("steered")] == [-2, 2]
    assert [each.strength for each in sweep.of("random")] == [-2, 2]
    alone = smollm2.generate(chat, edits=calm.edits(2.0), max_new_tokens=5)
    assert sweep.of("steered")[1].texts == tuple(alone.texts)
    report = sweep.report()
    assert "nats a token" in report.summary
    for suffix in ("html", "csv", "json"):
        assert report.save(tmp_path / f"sweep.{suffix}").stat().st_size > 0


@pytest.mark.parametrize("prompts", ["My day", ["My day", "The weather"]])
def test_plain_prompts_are_shown_as_they_are(smollm2, prompts):
    shown, results = swept(smollm2, prompts, {}, 1, ["A line."])
    assert shown == ((prompts,) if isinstance(prompts, str) else tuple(prompts))
    assert len(results) == 1
