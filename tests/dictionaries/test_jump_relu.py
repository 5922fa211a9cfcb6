"""JumpReLU: the pseudo-derivatives as the paper has them, and what they are good for."""

import pytest
import torch
from tests.dictionaries.plain import LATENTS, ROWS, D, outcome, pre, rows, weights_for

from jackfield.dictionaries import JumpReLU
from jackfield.dictionaries.jump_relu import JumpReLUObjective, jump, step
from jackfield.streams import Stream

EPS = 0.5


def around(p, threshold):
    """K((p − θ) / ε), one number at a time."""
    thetas = threshold.tolist()
    near = [
        [float(abs((value - theta) / EPS) < 0.5) for value, theta in zip(row, thetas, strict=True)]
        for row in p.tolist()
    ]
    return torch.tensor(near, dtype=p.dtype)


def inputs():
    draw = torch.Generator().manual_seed(2)
    p = torch.randn(40, 6, generator=draw, dtype=torch.float64)
    threshold = 0.2 + torch.rand(6, generator=draw, dtype=torch.float64)
    upstream = torch.randn(40, 6, generator=draw, dtype=torch.float64)
    return p.requires_grad_(), threshold.requires_grad_(), upstream


def test_jump_and_its_pseudo_derivatives():
    p, threshold, upstream = inputs()
    z = jump(p, threshold, EPS)
    on = (p > threshold).double()
    assert torch.equal(z, p * on)
    (z * upstream).sum().backward()
    torch.testing.assert_close(p.grad, upstream * on)
    expected = (-(threshold.detach() / EPS) * around(p, threshold) * upstream).sum(dim=0)
    torch.testing.assert_close(threshold.grad, expected.detach())
    assert threshold.grad.any()


def test_step_and_its_pseudo_derivatives():
    p, threshold, upstream = inputs()
    on = step(p, threshold, EPS)
    assert torch.equal(on, (p > threshold).double())
    (on * upstream).sum().backward()
    assert p.grad is None or not p.grad.any()
    expected = (-(1 / EPS) * around(p, threshold) * upstream).sum(dim=0)
    torch.testing.assert_close(threshold.grad, expected.detach())


def test_the_pseudo_derivative_is_that_of_the_expected_loss():
    """E over many p: the estimate of d E[H(p − θ)] / dθ against the density of p at θ."""
    p = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    threshold = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    step(p, threshold, 0.1).mean().backward()
    density = torch.distributions.Normal(0.0, 1.0).log_prob(torch.tensor(0.5)).exp()
    assert float(threshold.grad) == pytest.approx(-float(density), rel=0.02)


@pytest.mark.parametrize("penalty", ["step", "tanh", "quadratic"])
def test_loss_and_gradients_of_each_penalty(penalty):
    """The gradients written out by hand from the pseudo-derivatives."""
    settings = JumpReLU(penalty=penalty, l0=0.2, target=3.0, rise=0.0, bandwidth=EPS, wake=0.05)
    x, weights, dead = rows(), weights_for({"threshold": (LATENTS,)}), (3, 8)
    with torch.no_grad():
        weights["threshold"].abs_()
    found = outcome(JumpReLUObjective(settings), x, weights, dead)
    found.loss.backward()

    d, theta = weights["decoder"].detach(), weights["threshold"].detach()
    p = pre(x, weights).detach()
    on, near = (p > theta).double(), around(p, theta)
    z, size = p * on, d.norm(dim=1)
    e = z @ d + weights["decoder_bias"].detach() - x
    l0 = on.sum(dim=1).mean()
    loss = e.square().sum(dim=1).mean() / D
    by_z = 2 * e @ d.T / (D * ROWS)  # ∂L/∂z
    by_theta = torch.zeros(LATENTS, dtype=x.dtype)
    if penalty == "tanh":
        t = (4 * z * size).tanh()
        loss = loss + 0.2 * t.sum(dim=1).mean()
        by_z = by_z + 0.2 * (1 - t.square()) * 4 * size / ROWS
    elif penalty == "step":
        loss = loss + 0.2 * l0
        by_theta = by_theta - 0.2 * near.sum(dim=0) / EPS / ROWS
    else:
        loss = loss + 0.2 * (l0 / 3 - 1) ** 2
        by_theta = by_theta - 0.2 * 2 * (l0 / 3 - 1) / 3 * near.sum(dim=0) / EPS / ROWS
    by_p = by_z * on
    by_theta = by_theta - (theta / EPS) * (by_z * near).sum(dim=0)
    asleep = torch.zeros(LATENTS, dtype=x.dtype)
    asleep[list(dead)] = 1
    low = (theta - p > 0).double() * asleep
    loss = loss + 0.05 * ((theta - p) * low * size).sum() / ROWS
    by_p = by_p - 0.05 * low * size / ROWS
    by_theta = by_theta + 0.05 * (low * size).sum(dim=0) / ROWS

    torch.testing.assert_close(found.loss.detach(), loss)
    torch.testing.assert_close(weights["threshold"].grad, by_theta)
    torch.testing.assert_close(weights["encoder_bias"].grad, by_p.sum(dim=0))
    centred = x - weights["decoder_bias"].detach()
    torch.testing.assert_close(weights["encoder"].grad, by_p.T @ centred)


def test_thresholds_stay_at_zero_or_above():
    x = torch.randn(600, 12, generator=torch.Generator().manual_seed(1))
    sae = JumpReLU(latents=16, rows=6000, batch=100, l0=0.0, learning_rate=0.05).fit(
        Stream.from_tensor(x), progress=False
    )
    assert (sae.threshold >= 0).all()


@pytest.mark.parametrize("target", [4.0, 9.0])
def test_the_quadratic_penalty_comes_near_its_target(target):
    x = torch.randn(2000, 16, generator=torch.Generator().manual_seed(1))
    method = JumpReLU(
        latents=64,
        rows=80_000,
        batch=200,
        penalty="quadratic",
        target=target,
        l0=1.0,
        bandwidth=1.0,
    )
    stream = Stream.from_tensor(x)
    assert method.fit(stream, progress=False).measure(stream).l0 == pytest.approx(target, rel=0.25)
