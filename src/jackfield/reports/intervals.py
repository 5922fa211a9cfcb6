"""Intervals: how far a mean or a share could be off, by the bootstrap over examples or by Wilson.

One place for what every chapter reports: 95 % unless another level is asked, 1000 draws, seeded.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

DRAWS = 1000
_Z = 1.959964  # of a normal distribution: 95 % lie within


def bootstrap_weights(
    examples: int, *, draws: int = DRAWS, seed: int = 0, generator: torch.Generator | None = None
) -> Float[Tensor, "draw example"]:
    """Each example's share of each draw with replacement, float64: `weights @ x` are the means."""
    generator = generator or torch.Generator().manual_seed(seed)
    drawn = torch.randint(examples, (draws, examples), generator=generator)
    weights = torch.zeros(draws, examples, dtype=torch.float64)
    return weights.scatter_add_(1, drawn, torch.ones_like(weights)) / examples


def tails(draws: Float[Tensor, "draw ..."], level: float = 0.95) -> Float[Tensor, "2 ..."]:
    """The two ends between which `level` of the draws lie, low and high."""
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=draws.dtype)
    return draws.quantile(ends, dim=0)


def mean_intervals(
    values: Float[Tensor, "example part"], *, seed: int = 0
) -> Float[Tensor, "part 2"]:
    """The 95 % interval of each mean over the examples, by bootstrap; NaN of a single example."""
    if len(values) < 2:
        return torch.full((values.shape[1], 2), torch.nan, dtype=torch.float64)
    return tails(bootstrap_weights(len(values), seed=seed) @ values.double()).T


def mean_interval(
    values: Float[Tensor, " example"] | Sequence[float], seed: int = 0
) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean over examples.

    >>> low, high = mean_interval([1.0, 2.0, 3.0, 4.0])
    >>> 1 <= low < 2.5 < high <= 4
    True
    """
    held = torch.as_tensor(values, dtype=torch.float64)
    low, high = tails(bootstrap_weights(len(held), seed=seed) @ held).tolist()
    return low, high


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of the share right / count (Wilson 1927), which holds near 0 and 1 too.

    >>> "{:.3f} {:.3f}".format(*wilson(8, 10))
    '0.490 0.943'
    """
    share, z2 = right / count, _Z**2 / count
    middle = (share + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * (share * (1 - share) / count + z2 / (4 * count)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def share_interval(hits: Sequence[bool]) -> tuple[float, float]:
    """`wilson` of the share that is True."""
    return wilson(sum(hits), len(hits))
