"""Stress: a feature with tokens of its own passes, twins are not told apart, chance fails."""

import pytest
import torch
import torch.nn.functional as F

from jackfield.core.config import replace
from jackfield.core.errors import InputError
from jackfield.dictionaries import StressTest
from jackfield.dictionaries.judging.stress_test import _rises
from jackfield.testing import tiny_llama

SITE = "layers.2.resid_post"  # the last block: steering acts through norm and head alone
STUDY = StressTest(strengths=(0.5, 2.0, 8.0), neighbours=2, promoted=1, where="all")


@pytest.fixture
def model():
    return tiny_llama()


@pytest.fixture
def contexts():
    return torch.randint(2, 100, (12, 6), generator=torch.Generator().manual_seed(1))


def rows_of_head(model, tokens):
    """Directions that promote a token each."""
    head = model.module.lm_head.weight.detach()
    return F.normalize(head[tokens] - head.mean(dim=0))


def test_a_feature_with_tokens_of_its_own_is_told_apart(model, contexts, make):
    dictionary = make(rows_of_head(model, [5, 9, 20, 31]), site=SITE)
    result = STUDY.run(dictionary, 0, model, contexts)
    assert float(result.shares[0, 0, -1]) > 0.9
    chance = [
        replace(STUDY, seed=seed).run(dictionary, 0, model, contexts).shares[0, 1, -1]
        for seed in range(6)
    ]
    assert sum(chance) / 6 < 0.5, "random directions"
    assert result.tokens == ("5",)
    assert (result.rises[0, 0, 2] > result.rises[0, 0, 0]).all()


def test_a_twin_cannot_be_told_apart(model, contexts, make):
    one = rows_of_head(model, [5, 9, 20])
    dictionary = make(torch.cat([one, one[:1]]), site=SITE)
    result = STUDY.run(dictionary, 0, model, contexts)
    assert result.neighbours[0] == 3
    assert result.gaps[..., 0].isnan().all()
    assert not result.told_apart.any()
    assert float(result.rises[0, 0, -1].min()) > 0, "it works, and so does its twin"


def test_rises_are_those_of_the_module(model, contexts, make):
    dictionary = make(rows_of_head(model, [5, 9, 20]), site=SITE)
    result = STUDY.run(dictionary, 1, model, contexts)
    x = model.run(contexts, sites=[SITE])[SITE]
    norm = x.norm(dim=-1).mean()

    def log_p(x):
        return model.unembed(x[:, -1]).log_softmax(-1)

    tokens = [int(each) for each in result.tokens]
    change = log_p(x + 2.0 * norm * dictionary.directions[1]) - log_p(x)
    torch.testing.assert_close(result.rises[0, 0, 1], change[:, tokens].mean(1), atol=1e-4, rtol=0)


def test_padding_makes_no_difference_and_sites_are_kept_apart(model, contexts, make):
    dictionary = make(rows_of_head(model, [5, 9, 20]), site=SITE)
    rows = [row[: 3 + i % 4].tolist() for i, row in enumerate(contexts)]
    sites = ("layers.0.resid_post", SITE)
    results = [
        StressTest(strengths=(1.0,), neighbours=2, sites=sites, where="all", batch=batch).run(
            dictionary, 0, model, rows
        )
        for batch in (1, 12)
    ]
    torch.testing.assert_close(results[0].rises, results[1].rises, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(results[0].rises[0], results[0].rises[1])
    table = results[0].report().table
    assert [row["site"] for row in table] == list(sites)


def test_no_strength_does_nothing(model, contexts, make):
    dictionary = make(rows_of_head(model, [5, 9, 20]), site=SITE)
    study = StressTest(strengths=(0.0,), neighbours=2, where="all")
    result = study.run(dictionary, 0, model, contexts)
    assert not result.rises.any()
    assert not result.told_apart.any()


def test_what_cannot_be_tested_is_refused(model, contexts, make):
    dictionary = make(rows_of_head(model, [5, 9, 20]), site=SITE)
    for latent in (3, -1):
        with pytest.raises(InputError, match="a latent from 0 to 2"):
            STUDY.run(dictionary, latent, model, contexts)
    with pytest.raises(InputError, match="more latents than 5 neighbours"):
        StressTest().run(dictionary, 0, model, contexts)


def test_tokens_that_both_promote_are_left_out_of_the_comparison():
    plain = torch.full((1, 5), 0.2).log()
    moved = plain + torch.tensor([[1.0, 3.0, 0.5, 0.0, -9.0]])
    own, others = [0, 1], [[1, 2], [1, 0], [3, 4]]
    rise, gaps, _ = _rises(moved, plain, own, others)
    assert rise.tolist() == pytest.approx([2.0])
    assert gaps[0, 0] == pytest.approx(1.0 - 0.5, abs=1e-6), "token 1 is of both"
    assert gaps[0, 1].isnan(), "the same tokens"
    assert gaps[0, 2] == pytest.approx(2.0 + 4.5, abs=1e-6)
