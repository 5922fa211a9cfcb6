"""Input noise: order and noise are told by what fires, shuffles keep the tokens."""

import pytest
import torch

from jackfield.dictionaries import InputNoise
from jackfield.dictionaries.judging.input_noise import _shuffled
from jackfield.testing import tiny_llama

STUDY = InputNoise(where="all")


@pytest.fixture
def model():
    return tiny_llama()


def of_tokens(model, make):
    """One latent a token: z_t fires where token t stands, whatever is around it."""
    table = model.module.model.embed_tokens.weight.detach()
    unit = torch.nn.functional.normalize(table)
    dictionary = make(unit, encoder=table, site="embed")
    dictionary.threshold = (table @ table.T).fill_diagonal_(-torch.inf).amax(dim=1)
    own = table.square().sum(dim=1)
    return dictionary, (own > dictionary.threshold).nonzero()[:, 0]


def test_order_does_not_change_what_a_dictionary_of_tokens_sees(model, make):
    dictionary, known = of_tokens(model, make)
    assert len(known) > 50
    tokens = known[:24].reshape(3, 8)
    repeated = torch.cat([tokens, tokens], dim=1)
    result = STUDY.run(dictionary, model, repeated)
    assert result.latents[:-1].tolist() == [[8, 8, 8]] * 4, "8 tokens, each twice"
    assert result.active[:-1].tolist() == [[1, 1, 1]] * 4
    assert (result.latents[-1] > 8).all(), "random tokens repeat less"
    assert result.more.tolist() == [0, 0, 0, 0, 1]


def test_a_dictionary_that_always_says_the_same_sees_no_noise(model, make):
    always = make(torch.eye(32), encoder=torch.zeros(32, 32), site="layers.1.resid_post")
    always.encoder_bias = torch.tensor([1.0] * 5 + [-1.0] * 27)
    result = STUDY.run(always, model, torch.randint(2, 100, (3, 8)))
    assert (result.latents == 5).all()
    assert not result.more.any()


def test_a_shuffle_keeps_tokens_and_the_first_place():
    draw, row = torch.Generator().manual_seed(0), list(range(40))
    for share, most in ((0.0, 0), (0.25, 10), (1.0, 39)):
        new = _shuffled(row, share, draw)
        assert sorted(new) == row
        assert new[0] == 0
        moved = sum(a != b for a, b in zip(new, row, strict=True))
        assert moved <= most
        assert moved >= most // 2


def test_padding_makes_no_difference(model, make):
    some = make(torch.eye(32)[:20], site="layers.1.resid_post")
    rows = [torch.randint(2, 100, (n,)).tolist() for n in (5, 9, 3)]
    one, other = (InputNoise(where="all", batch=b).run(some, model, rows) for b in (1, 3))
    assert torch.equal(one.latents, other.latents)
    assert one.report().table[0]["input"] == "0% shuffled"
