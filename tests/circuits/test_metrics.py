"""Metrics against their formulas, and the checks of answers."""

import pytest
import torch

from jackfield.circuits import KL, Custom, LogitDifference, Probability
from jackfield.circuits.metrics import answer_ids, token_id
from jackfield.core.errors import InputError

LOGITS = torch.randn(3, 2, 101, generator=torch.Generator().manual_seed(3))  # copy, pair, vocab
CLEAN = torch.randn(2, 101, generator=torch.Generator().manual_seed(4))


def test_logit_difference_takes_each_pairs_own_answer(tiny):
    found = LogitDifference([5, 6], 9).prepare(tiny, CLEAN)(LOGITS)
    assert torch.equal(found[:, 0], LOGITS[:, 0, 5] - LOGITS[:, 0, 9])
    assert torch.equal(found[:, 1], LOGITS[:, 1, 6] - LOGITS[:, 1, 9])


def test_probability_sums_to_one_over_answers(tiny):
    every = [Probability(each).prepare(tiny, CLEAN)(LOGITS) for each in range(101)]
    torch.testing.assert_close(torch.stack(every).sum(0), torch.ones(3, 2))


def test_kl_is_that_of_torch_and_zero_on_the_clean_run(tiny):
    measure = KL().prepare(tiny, CLEAN)
    assert torch.equal(measure(CLEAN), torch.zeros(2))
    wanted = torch.distributions.Categorical(logits=CLEAN)
    other = torch.distributions.Categorical(logits=LOGITS[1])
    torch.testing.assert_close(measure(LOGITS)[1], torch.distributions.kl_divergence(wanted, other))


def test_a_custom_metric_of_the_wrong_shape_is_refused(tiny):
    with pytest.raises(InputError, match=r"\[\.\.\., pair\] = \[2\]"):
        Custom(lambda logits: logits.mean()).prepare(tiny, CLEAN)


def test_text_needs_a_tokenizer(tiny):
    with pytest.raises(InputError, match="a token id"):
        answer_ids(tiny, " Mary", 1)


def test_an_answer_of_several_tokens_offers_what_is_near(smollm2):
    assert smollm2.token_strings([token_id(smollm2, " Mary")]) == [" Mary"]
    with pytest.raises(InputError, match=r"expected one token.*Did you mean ' Paris'\?"):
        token_id(smollm2, "  Paris")
    with pytest.raises(InputError, match="Its first token is"):
        token_id(smollm2, " antidisestablishmentarianism")
