"""Matryoshka: each prefix's loss is its own dictionary's, and prefixes stand alone."""

import pytest
import torch
from tests.dictionaries.plain import D, assert_same_gradients, aux_k, outcome, rows, weights_for
from tests.dictionaries.test_batch_topk import K, plain_code

from jackfield.dictionaries import BatchTopK, Matryoshka
from jackfield.dictionaries.batch_topk import BatchTopKObjective, misses
from jackfield.dictionaries.ragged import batch_top
from jackfield.streams import Stream

WIDTHS = (2, 7, 16)


def plain_loss(x, weights, dead):
    z, _ = plain_code(x, weights)
    loss = torch.zeros((), dtype=x.dtype)
    for width in WIDTHS:
        x_hat = z[:, :width] @ weights["decoder"][:width] + weights["decoder_bias"]
        loss = loss + (x - x_hat).square().sum(dim=1).mean() / D
    return loss + (aux_k(x, x_hat, weights, dead, k=2) / 32 if dead else 0.0)


@pytest.mark.parametrize("dead", [(), (1, 4, 9)], ids=["none dead", "three dead"])
def test_loss_and_gradients_equal_plain_autograd(dead):
    x, mine, plain = rows(), weights_for(), weights_for()
    found = outcome(BatchTopKObjective(K, 1 / 32, 2, WIDTHS), x, mine, dead)
    assert_same_gradients(found.loss, mine, plain_loss(x, plain, dead), plain)


def test_what_a_prefix_misses_is_what_it_misses_alone():
    x, decoder, wanted = torch.rand(5, 3), torch.randn(16, D), torch.randn(5, D)
    code = batch_top(x, torch.randn(16, 3), torch.zeros(16), torch.ones(16), 20)
    codes, found = code.dense(), misses(wanted, code, decoder, WIDTHS)
    for width, missed in zip(WIDTHS, found, strict=True):
        torch.testing.assert_close(missed, wanted - codes[:, :width] @ decoder[:width])


def test_default_widths_halve():
    assert Matryoshka(latents=4096).nested == (256, 512, 1024, 2048, 4096)
    assert Matryoshka(latents=5, k=1).nested == (1, 2, 5)


def test_the_first_latents_rebuild_more_than_those_of_a_plain_dictionary():
    x = torch.randn(2000, 16, generator=torch.Generator().manual_seed(1))
    x = x * torch.linspace(3, 0.3, 16)
    stream = Stream.from_tensor(x)
    settings = {"latents": 64, "k": 6, "rows": 30_000, "batch": 200}
    left = {}
    for name, method in {
        "nested": Matryoshka(widths=(8, 64), **settings),
        "plain": BatchTopK(**settings),
    }.items():
        sae = method.fit(stream, progress=False)
        codes = sae.encode(x)
        codes[:, 8:] = 0
        left[name] = float((x - sae.decode(codes)).square().mean())
    assert left["nested"] < 0.6 * left["plain"]
