"""Intervals and tests by resampling, for many units at once.

Of a few hundred units tried at the 5 % level a few dozen pass by chance. `family_wise` gives p
values that hold for all of them together: the labels of the two samples are exchanged at random,
and a unit's t is compared with the *largest* t of any unit (Westfall and Young 1993):

    t = (mean_left − mean_right) / (standard error + floor)
    p = share of draws with max |t'| ≥ |t|

The floor keeps a unit whose values hardly differ from getting a large t out of rounding.
"""

from math import exp, lgamma

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.reports.intervals import bootstrap_weights, tails

_FLOOR = 1e-3  # of what the values are measured in: here shares of a gap


def difference_interval(
    left: Float[Tensor, "left unit"],
    right: Float[Tensor, "right unit"],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Float[Tensor, "unit 2"]:
    """The 95 % bootstrap interval of mean(left) − mean(right), two samples drawn each by itself."""
    generator = torch.Generator().manual_seed(seed)
    means = [
        bootstrap_weights(len(side), draws=draws, generator=generator) @ side.double()
        for side in (left, right)
    ]
    return tails(means[0] - means[1]).T


def family_wise(
    left: Float[Tensor, "left unit"],
    right: Float[Tensor, "right unit"],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Float[Tensor, "unit"]:  # noqa: F821
    """P values of a difference in means that hold for all units together; the smallest is 1/draws.

    Args:
        left: [example, unit] one sample.
        right: [example, unit] the other.
        draws: random exchanges of the labels, the given one among them.
        seed: of the draws.
    """
    pooled = torch.cat([left, right]).double()
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(draws, len(pooled), generator=generator).argsort(dim=1)
    order[0] = torch.arange(len(pooled))
    chosen = torch.zeros(draws, len(pooled), dtype=torch.float64)
    chosen.scatter_(1, order[:, : len(left)], 1.0)
    t = _welch(chosen, pooled).abs()
    largest = t.max(dim=1).values
    return (largest[:, None] >= t[0] - 1e-12).double().mean(dim=0)


def at_least(overlap: int, left: int, right: int, total: int) -> float:
    """P(two random sets of these sizes share as many of `total` or more): hypergeometric.

    >>> round(at_least(1, 1, 1, 4), 2)
    0.25
    """
    least, most = max(overlap, left + right - total), min(left, right)
    terms = (
        _log_ways(left, k) + _log_ways(total - left, right - k) - _log_ways(total, right)
        for k in range(least, most + 1)
    )
    return min(1.0, sum(map(exp, terms)))


def _log_ways(total: int, chosen: int) -> float:
    """The logarithm of the binomial coefficient: the number itself has thousands of digits."""
    return lgamma(total + 1) - lgamma(chosen + 1) - lgamma(total - chosen + 1)


def _welch(chosen: Tensor, pooled: Tensor) -> Float[Tensor, "draw unit"]:
    """T of each draw; `chosen` [draw, example] is 1 where an example counts to the left."""
    means, errors = [], []
    for weights in (chosen, 1 - chosen):
        count = weights.sum(dim=1, keepdim=True)
        mean = weights @ pooled / count
        spread = (weights @ pooled.square() / count - mean.square()).clamp_min(0)
        means.append(mean)
        errors.append(spread / (count - 1).clamp_min(1))
    error = (errors[0] + errors[1]).sqrt() + _FLOOR
    return (means[0] - means[1]) / error
