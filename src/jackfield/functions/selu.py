"""SELU: an activation function that keeps mean 0 and variance 1 from layer to layer (1706.02515).

    f(x) = λ x               for x > 0          λ = 1.0507009873554805
    f(x) = λ α (exp(x) − 1)  otherwise          α = 1.6732632423543772

α and λ are the one pair for which z ~ N(0, 1) gives E f(z) = 0 and E f(z)² = 1. That fixed point
attracts: in a layer x ↦ f(z), z = W x, whose weights have mean 0 and variance 1/fan_in
(`lecun_normal_`), z is close to N(0, E x²), and mean and variance come nearer to (0, 1) with every
layer. From (0.3, 2.25) the variance is 1.28 after 5 layers, 1.08 after 10, 1.00 after 30: no
normalisation is needed.

For z ~ N(0, 1):   E f'(z)² = 1.071575, so gradients keep their size too, within 7 % a layer.
Slopes:            0 < f' ≤ λα = 1.758099, which is the Lipschitz constant.

Where it goes: after every linear layer of a plain feed-forward net with standardised inputs, no
norms and LeCun-normal weights; as dropout only `torch.nn.AlphaDropout` keeps the fixed point. In a
pretrained net it can stand in for another activation function,

    with model.swapping("model.layers.*.mlp.act_fn", lambda old, path: SELU()): ...

whose weights were trained for the other one: expect to train them anew.

Klambauer, Unterthiner, Mayr, Hochreiter 2017, arXiv 1706.02515. No departure; the kernel is
PyTorch's, which keeps one tensor for the backward.
"""

from math import erfc, exp, pi, sqrt
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jackfield.core.errors import InputError, explain

ALPHA = 1.6732632423543772848
SCALE = 1.0507009873554804934


class SELU(nn.Module):
    """The scaled exponential linear unit, [...] → [...], unit by unit; it has no parameters.

    Attributes:
        alpha: α.
        scale: λ.
        slopes: the least and the largest slope; the second is the Lipschitz constant.
        gain: 1 / E f(z)² for z ~ N(0, 1): the variance of the weights times fan_in.

    >>> SELU()(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-1.1113,  0.0000,  1.0507])
    """

    alpha: ClassVar[float] = ALPHA
    scale: ClassVar[float] = SCALE
    slopes: ClassVar[tuple[float, float]] = (0.0, SCALE * ALPHA)
    gain: ClassVar[float] = 1.0

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """f(x), in the dtype of x."""
        return torch.selu(x)


def lecun_normal_(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws a weight in place from N(0, 1/fan_in), as SELU wants it; biases belong at 0.

    The weight is [out, in] or [out, in, height, width]; fan_in is the product of all axes but the
    first.

    Raises:
        InputError: fewer than two axes have no fan_in.

    >>> layer = torch.nn.Linear(400, 300)
    >>> round(lecun_normal_(layer.weight).std().item(), 2)
    0.05
    """
    if weight.dim() < 2:
        expected, got = "a weight [out, in, ...]", str(list(weight.shape))
        raise InputError(explain(where="lecun_normal_", expected=expected, got=got))
    with torch.no_grad():
        return weight.normal_(0.0, 1 / sqrt(weight[0].numel()), generator=generator)


def moments(mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance of f(z) for z ~ N(mean, variance), exactly (the paper's map g).

    With random weights of mean 0 the next layer has z ~ N(0, variance + mean²): call it with these.

    Raises:
        InputError: the variance is not positive.

    >>> mean, variance = moments(0.0, 1.0)
    >>> abs(mean) < 1e-15, abs(variance - 1) < 1e-15
    (True, True)
    """
    if not variance > 0:
        expected, got = "a variance > 0", repr(variance)
        raise InputError(explain(where="moments", expected=expected, got=got))
    below = erfc(mean / sqrt(2 * variance))  # twice the probability that z < 0
    bell = sqrt(2 * variance / pi) * exp(-(mean**2) / (2 * variance))
    once, twice = (_exponential_below(k, mean, variance) for k in (1, 2))
    first = SCALE / 2 * (mean * (2 - below) + bell + ALPHA * (once - below))
    above = (mean**2 + variance) * (2 - below) + mean * bell
    second = SCALE**2 / 2 * (above + ALPHA**2 * (twice - 2 * once + below))
    return first, second - first**2


def _exponential_below(k: int, mean: float, variance: float) -> float:
    """2 E[exp(k z); z < 0], written so that neither factor overflows."""
    t = (mean + k * variance) / sqrt(2 * variance)
    if t < 0:
        return exp(k * mean + k**2 * variance / 2) * erfc(t)
    scaled = float(torch.special.erfcx(torch.tensor(t, dtype=torch.float64)))
    return exp(-(mean**2) / (2 * variance)) * scaled
