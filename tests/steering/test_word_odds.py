"""The shift of the odds at equal cost: by hand, and on the real model."""

import pytest
import torch

from jackfield.core.errors import InputError
from jackfield.steering import JOYFUL, SORROWFUL, MeanDifference, SteeringVector, WordOdds


def unembedding_direction(model, up: int, down: int) -> SteeringVector:
    weight = model.module.lm_head.weight.detach().float()
    vector = weight[up] - weight[down]
    return SteeringVector(
        vector=vector, at="layers.2.resid_post", method={"name": "planted", "where": "all"},
        model="tiny", counts=(1, 1), tokens_read=2, sinks=(), residual_norm=1.0, d_prime=None,
        cosine=None,
    )  # fmt: skip


def test_a_planted_direction_moves_its_words_and_its_reverse_moves_them_back(tiny64, tokens):
    vector = unembedding_direction(tiny64, up=42, down=17)
    found = WordOdds(kl=0.05, randoms=2).run(
        tiny64, vector, prompts=tokens, positive=[42], negative=[17], neutral=tokens
    )
    assert found.names == ("direction", "reversed", "random 0", "random 1")
    assert float(found.mean[0]) > 0 > float(found.mean[1])
    assert float(found.mean[2:].abs().max()) < float(found.mean[0])
    run = tiny64.run(tokens, edits=vector.edits(found.strengths[0])).logits[:, -1]
    plain = tiny64.run(tokens).logits[:, -1]
    by_hand = (run[:, 42] - run[:, 17]) - (plain[:, 42] - plain[:, 17])
    torch.testing.assert_close(found.shifts[0], by_hand.double())


def test_words_of_several_tokens_are_left_out(smollm2):
    vector = MeanDifference().fit(
        smollm2, positive=["Glad."], negative=["Sad."], at="layers.2.resid_post"
    )
    with pytest.raises(InputError, match="at least one word of one token"):
        WordOdds().run(smollm2, vector, positive=[" antidisestablishmentarianism"])


@pytest.mark.slow
def test_sentiment_moves_more_than_by_a_random_direction_of_the_same_cost(
    smollm2, record_property, tmp_path
):
    joy = MeanDifference().fit(
        smollm2, positive=JOYFUL, negative=SORROWFUL, at="layers.18.resid_post"
    )
    found = WordOdds(randoms=1).run(smollm2, joy)
    bounds = found.interval()
    for name, mean, (low, high) in zip(found.names, found.mean, bounds.tolist(), strict=True):
        record_property(name, f"{float(mean):+.2f} [{low:.2f}, {high:.2f}]")
    apart = found.shifts[0].abs() - found.shifts[2].abs()
    error = apart.std() / len(apart) ** 0.5
    assert float(apart.mean() - 3 * error) > 0  # measurable; in which direction is reported
    assert found.report().save(tmp_path / "odds.png").stat().st_size > 0
