"""SELU: its fixed point, found by quadrature and in closed form; depth; swapped into a model."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import fsolve
from torch import nn

from jackfield.core.errors import InputError
from jackfield.functions import SELU, lecun_normal_, moments
from jackfield.functions.selu import ALPHA, SCALE

TOKENS = torch.tensor([[3, 14, 15, 92, 65]])


def selu(x, alpha=ALPHA, scale=SCALE):
    """The equation, in numpy."""
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def slope(x):
    return SCALE * np.where(x > 0, 1.0, ALPHA * np.exp(np.minimum(x, 0)))


def expected(f, mean=0.0, variance=1.0):
    """E f(z) for z ~ N(mean, variance), by adaptive quadrature on either side of the kink at 0."""
    std = math.sqrt(variance)

    def weighted(z):
        return (
            float(f(z)) * math.exp(-(((z - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
        )

    low, high = min(mean - 14 * std, -1.0), max(mean + 14 * std, 1.0)
    sides = [quad(weighted, *ends, epsabs=1e-14, limit=200)[0] for ends in ((low, 0), (0, high))]
    return sum(sides)


def test_mean_0_and_variance_1_are_kept():
    f = lambda z: SELU()(torch.tensor(z, dtype=torch.float64))  # noqa: E731
    assert abs(expected(f)) < 1e-12
    assert abs(expected(lambda z: f(z) ** 2) - 1) < 1e-12


def test_constants_solve_the_fixed_point_equations():
    def missed(constants):
        alpha, scale = constants
        first = expected(lambda z: selu(z, alpha, scale))
        return [first, expected(lambda z: selu(z, alpha, scale) ** 2) - 1]

    alpha, scale = fsolve(missed, [1.5, 1.0], xtol=1e-13)
    assert alpha == pytest.approx(ALPHA, abs=1e-10)
    assert scale == pytest.approx(SCALE, abs=1e-10)


def test_constants_are_the_nearest_floats_to_the_closed_form():
    with mpmath.workdps(40):
        root, e = mpmath.sqrt, mpmath.e
        one, two = mpmath.erfc(1 / root(2)), mpmath.erfc(root(2))
        alpha = -root(2 / mpmath.pi) / (one * root(e) - 1)
        inside = 2 * two * e**2 + mpmath.pi * one**2 * e - 2 * (2 + mpmath.pi) * one * root(e)
        scale = (1 - one * root(e)) * root(2 * mpmath.pi) / root(inside + mpmath.pi + 2)
    assert (float(alpha), float(scale)) == (ALPHA, SCALE) == (SELU.alpha, SELU.scale)


def test_slopes_are_as_stated():
    x = torch.linspace(-8, 8, 100_001, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(SELU()(x).sum(), x)
    least, largest = SELU.slopes
    assert largest == pytest.approx(1.758099, abs=1e-6)
    assert largest - 2e-4 < float(slopes.max()) <= largest
    assert float(slopes.min()) > least
    assert expected(lambda z: slope(z) ** 2) == pytest.approx(1.071575, abs=1e-6)


def test_equals_the_equation_and_torch():
    x = torch.randn(50, 7, dtype=torch.float64) * 3
    assert np.allclose(SELU()(x).numpy(), selu(x.numpy()), rtol=1e-14, atol=1e-15)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert torch.equal(SELU()(x.to(dtype)), nn.SELU()(x.to(dtype)))


def test_gradcheck():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SELU(), (x,))


@pytest.mark.parametrize(
    ("mean", "variance"), [(0.0, 1.0), (0.3, 2.25), (-1.0, 0.5), (2.0, 3.0), (-9.0, 1.5)]
)
def test_moments_are_those_of_quadrature(mean, variance):
    first = expected(selu, mean, variance)
    second = expected(lambda z: selu(z) ** 2, mean, variance)
    assert moments(mean, variance) == pytest.approx((first, second - first**2), abs=1e-11)


def test_moments_far_away_are_those_of_a_line():
    assert moments(-50.0, 1.0) == pytest.approx((-ALPHA * SCALE, 0.0), abs=1e-12)
    mean, variance = moments(500.0, 100.0)
    assert (mean, variance) == pytest.approx((SCALE * 500, SCALE**2 * 100), rel=1e-9)
    with pytest.raises(InputError, match="variance > 0"):
        moments(0.0, 0.0)


def test_the_fixed_point_attracts():
    """The figures of the docstring, with the exact map."""
    mean, variance = 0.3, 2.25
    seen = []
    for _ in range(30):
        mean, variance = moments(0.0, variance + mean**2)
        seen.append(variance)
    assert [seen[4], seen[9], seen[29]] == pytest.approx([1.30, 1.08, 1.01], rel=0.02)
    assert abs(mean) < 1e-3
    assert [round(each, 2) for each in (seen[4], seen[9], seen[29])] == [1.28, 1.08, 1.00]


def through(act, depth=100, width=256, rows=64):
    """A deep net with LeCun-normal weights on standard normal rows."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=draw)
    for _ in range(depth):
        x = act(x @ lecun_normal_(torch.empty(width, width), draw).T)
    return x


def test_a_hundred_layers_keep_the_variance_where_relu_loses_it():
    x = through(SELU())
    assert float(x.mean()) == pytest.approx(0, abs=0.1)
    assert 0.7 < float(x.var()) < 1.4
    assert float(through(nn.ReLU()).var()) < 1e-20


def test_lecun_normal_has_variance_one_over_fan_in():
    weight = torch.empty(64, 30, 3, 3)
    assert lecun_normal_(weight, torch.Generator().manual_seed(0)) is weight
    assert float(weight.var()) == pytest.approx(1 / 270, rel=0.05)
    layer = nn.Linear(20, 10)
    assert lecun_normal_(layer.weight) is layer.weight
    assert layer.weight.requires_grad
    with pytest.raises(InputError, match="lecun_normal_"):
        lecun_normal_(torch.empty(5))


def test_swapped_into_a_model_it_acts_inside_the_block_only(tiny):
    plain = tiny.run(TOKENS, sites="layers.*.mlp_pre")
    mlp = tiny.module.model.layers[0].mlp
    with tiny.swapping("model.layers.*.mlp.act_fn", lambda old, path: SELU()) as paths:
        swapped = tiny.run(TOKENS, sites="layers.0.mlp_post")
        up = mlp.up_proj(tiny.run(TOKENS, sites="layers.0.mlp_in")["layers.0.mlp_in"])
    assert paths == [f"model.layers.{i}.mlp.act_fn" for i in range(3)]
    by_hand = selu(plain["layers.0.mlp_pre"].double().numpy()) * up.detach().numpy()
    assert np.allclose(swapped["layers.0.mlp_post"], by_hand, atol=1e-5)
    assert not torch.allclose(plain.logits, swapped.logits, atol=1e-2)
    assert not isinstance(mlp.act_fn, SELU)
    assert torch.equal(plain.logits, tiny.run(TOKENS).logits)
