"""ReLU: its loss against plain autograd, and what the penalty does to codes and norms."""

import math

import pytest
import torch
from tests.dictionaries.plain import (
    LATENTS,
    D,
    assert_same_gradients,
    outcome,
    pre,
    rows,
    weights_for,
)

from jackfield.dictionaries import ReLU
from jackfield.dictionaries.relu import ReLUObjective
from jackfield.streams import Stream


def plain_loss(x, weights, l1, wake, dead):
    p = pre(x, weights)
    z = p.relu()
    x_hat = z @ weights["decoder"] + weights["decoder_bias"]
    norms = weights["decoder"].square().sum(dim=1).sqrt()
    loss = (x - x_hat).square().sum(dim=1).mean() / D
    loss = loss + l1 * (z * norms).sum(dim=1).mean() / math.sqrt(D)
    return loss + wake * sum(((0 - p[:, i]).relu() * norms[i]).mean() for i in dead)


@pytest.mark.parametrize("dead", [(), (2, 5)], ids=["none dead", "two dead"])
def test_loss_and_gradients_equal_plain_autograd(dead):
    x, mine, plain = rows(), weights_for(), weights_for()
    found = outcome(ReLUObjective(0.3, 0.0, 0.01, unit=False), x, mine, dead)
    assert_same_gradients(found.loss, mine, plain_loss(x, plain, 0.3, 0.01, dead), plain)


def test_the_penalty_rises_over_the_first_part_of_the_run():
    """In the middle of the run (0.5), with a rise over all of it, λ is half."""
    x, weights = rows(), weights_for()
    losses = {
        (l1, rise): float(
            outcome(ReLUObjective(l1, rise, 0.0, unit=False), x, weights).loss.detach()
        )
        for l1, rise in ((0.0, 0.0), (0.4, 0.0), (0.4, 1.0))
    }
    nothing, full, half = losses.values()
    assert half - nothing == pytest.approx((full - nothing) / 2)


def test_the_free_penalty_ignores_how_length_is_shared_between_encoder_and_decoder():
    """With lengths in the penalty, a longer decoder row and a shorter encoder row cost the same."""
    x, weights = rows(), weights_for()
    longer = {name: value.detach().clone() for name, value in weights.items()}
    factor = torch.linspace(0.5, 4, LATENTS, dtype=torch.float64)
    longer["decoder"] *= factor[:, None]
    longer["encoder"] /= factor[:, None]
    longer["encoder_bias"] /= factor
    objective = ReLUObjective(0.3, 0.0, 0.0, unit=False)
    losses = [outcome(objective, x, each).loss.detach() for each in (weights, longer)]
    torch.testing.assert_close(*losses)


def test_more_penalty_gives_fewer_latents_and_more_error():
    x = torch.randn(600, 12, generator=torch.Generator().manual_seed(1))
    stream = Stream.from_tensor(x)
    settings = {"latents": 32, "rows": 6000, "batch": 100, "learning_rate": 0.01}
    few, many = (
        ReLU(l1=l1, **settings).fit(stream, progress=False).measure(stream) for l1 in (0.5, 0.02)
    )
    assert few.l0 < 0.7 * many.l0
    assert few.fvu > 1.5 * many.fvu
