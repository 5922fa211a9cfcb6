"""BatchTopK: exactly k · rows codes in a batch, the threshold, and its loss in plain autograd."""

import pytest
import torch
from tests.dictionaries.plain import (
    LATENTS,
    ROWS,
    D,
    assert_same_gradients,
    aux_k,
    outcome,
    pre,
    rows,
    weights_for,
)

from jackfield.dictionaries import BatchTopK
from jackfield.dictionaries.batch_topk import BatchTopKObjective
from jackfield.dictionaries.sparse_method import learner_of
from jackfield.streams import Stream

K = 3


def plain_code(x, weights):
    """By a full sort of all that is above 0, weighted by the decoder's lengths."""
    p = pre(x, weights).relu()
    rank = p * weights["decoder"].norm(dim=1)
    edge = rank.flatten().sort(descending=True).values[K * ROWS - 1]
    return p * (rank >= edge).detach(), edge


def plain_loss(x, weights, dead):
    z, _ = plain_code(x, weights)
    x_hat = z @ weights["decoder"] + weights["decoder_bias"]
    loss = (x - x_hat).square().sum(dim=1).mean() / D
    return loss + (aux_k(x, x_hat, weights, dead, k=2) / 32 if dead else 0.0)


@pytest.mark.parametrize("dead", [(), (1, 4, 9)], ids=["none dead", "three dead"])
def test_loss_and_gradients_equal_plain_autograd(dead):
    x, mine, plain = rows(), weights_for(), weights_for()
    found = outcome(BatchTopKObjective(K, 1 / 32, 2), x, mine, dead)
    assert_same_gradients(found.loss, mine, plain_loss(x, plain, dead), plain)


def test_a_batch_has_exactly_k_codes_a_row_on_average():
    x, weights = rows(), weights_for()
    code = outcome(BatchTopKObjective(K, 0.0, None), x, weights).code
    a_row = (code.dense() > 0).sum(dim=1)
    assert int(code.fired().sum()) == int(a_row.sum()) == K * ROWS
    assert len(a_row.unique()) > 1, "rows differ in how many they have"


def test_the_least_that_was_kept_is_noted():
    x, weights = rows(), weights_for()
    found = outcome(BatchTopKObjective(K, 0.0, None), x, weights)
    torch.testing.assert_close(found.noted["least"], plain_code(x, weights)[1].detach())


def test_the_threshold_keeps_about_k_a_row_one_row_at_a_time():
    x = torch.randn(2000, 16, generator=torch.Generator().manual_seed(1))
    config = BatchTopK(latents=64, k=5, rows=20_000, batch=200)
    sae = config.fit(Stream.from_tensor(x), progress=False)
    active = torch.cat([(sae.encode(row[None]) > 0).sum(dim=1) for row in x[:500]])
    assert float(active.double().mean()) == pytest.approx(5, rel=0.1)
    assert float(sae.history[-1]["L0"]) == 5.0
    assert sae.k is None


def test_the_threshold_is_the_average_over_batches_as_they_were():
    x = torch.randn(400, D, generator=torch.Generator().manual_seed(1))
    method = BatchTopK(latents=LATENTS, k=K, learning_rate=1e-9)
    learner = learner_of(method, ("x",))
    learner.start({"x": x})
    parts = x.split(50)
    least = []
    for part in parts:
        scaled, _ = learner.units.scaled({"x": part})
        kept = learner.objective.code(scaled - learner.weights["decoder_bias"], learner.weights)
        least.append(float(kept.dense()[kept.dense() > 0].detach().min()))
        learner.step({"x": part}, 0.5)
    assert float(learner.held["noted.least"]) == pytest.approx(sum(least) / len(parts), rel=1e-4)
    (sae,) = learner.dictionaries([])
    expected = learner.held["noted.least"] / learner.units.held["scale"]
    torch.testing.assert_close(sae.threshold, expected.expand(LATENTS))


def test_without_anything_above_zero_there_is_no_threshold_to_note():
    x, weights = rows(), weights_for()
    with torch.no_grad():
        weights["encoder_bias"] -= 1e6
    found = outcome(BatchTopKObjective(K, 0.0, None), x, weights)
    assert found.noted["least"].isinf()
    assert int(found.code.fired().sum()) == 0
    assert found.loss.isfinite()
