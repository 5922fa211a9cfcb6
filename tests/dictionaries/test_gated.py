"""Gated: the gate's loss does not train the decoder, and the fold is a threshold rule."""

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

from jackfield.dictionaries.code import encode
from jackfield.dictionaries.gated import GatedObjective

OWN = {"magnitude_log": (LATENTS,), "magnitude_bias": (LATENTS,)}


def plain_code(x, weights):
    plain = (x - weights["decoder_bias"]) @ weights["encoder"].T
    gate = plain + weights["encoder_bias"]
    strength = weights["magnitude_log"].exp() * plain + weights["magnitude_bias"]
    return gate, (gate > 0).double() * strength.relu()


def plain_loss(x, weights, dead):
    gate, z = plain_code(x, weights)
    x_hat = z @ weights["decoder"] + weights["decoder_bias"]
    frozen = weights["decoder"].detach(), weights["decoder_bias"].detach()
    through = gate.relu() @ frozen[0] + frozen[1]
    loss = (x - x_hat).square().sum(dim=1).mean() / D + (x - through).square().sum(dim=1).mean() / D
    loss = loss + 0.3 * gate.relu().sum(dim=1).mean() / math.sqrt(D)
    return loss + 0.01 * sum((-gate[:, i]).relu().mean() for i in dead)


@pytest.mark.parametrize("dead", [(), (2, 5)], ids=["none dead", "two dead"])
def test_loss_and_gradients_equal_plain_autograd(dead):
    x, mine, plain = rows(), weights_for(OWN), weights_for(OWN)
    found = outcome(GatedObjective(0.3, 0.0, 0.01), x, mine, dead)
    assert_same_gradients(found.loss, mine, plain_loss(x, plain, dead), plain)


def test_the_loss_through_the_frozen_decoder_does_not_touch_the_decoder():
    """With magnitudes at 0 the decoder has no part but in the frozen term: its gradient is 0."""
    x, weights = rows(), weights_for(OWN)
    with torch.no_grad():
        weights["magnitude_bias"] -= 1e6
    found = outcome(GatedObjective(0.3, 0.0, 0.0), x, weights)
    assert int(found.code.fired().sum()) == 0
    gate = pre(x, weights).relu()
    assert (gate > 0).any()
    found.loss.backward()
    assert not weights["decoder"].grad.any()
    assert weights["encoder"].grad.any()


def test_the_threshold_rule_is_the_gate_and_the_magnitude():
    x, weights = rows(), weights_for(OWN)
    objective = GatedObjective(0.3, 0.0, 0.0)
    rule, k = objective.rule(weights, {})
    assert k is None
    found = encode(
        x - weights["decoder_bias"], rule["encoder"], rule["encoder_bias"], None, rule["threshold"]
    )
    _, z = plain_code(x, weights)
    assert (z > 0).any()
    torch.testing.assert_close(found.dense(), z)
