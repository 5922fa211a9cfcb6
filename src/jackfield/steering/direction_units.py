"""Direction units: how long a direction is to be for one "norm" and one "sigma" of strength."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor


def direction_units(
    vector: Float[Tensor, " d"], norm: float, sigma: float | None
) -> Mapping[str, float]:
    """How many times a direction is one unit: what a steering's `units` gives.

    Args:
        vector: what is added at strength 1.
        norm: mean length of the activation.
        sigma: standard deviation of the activation along the vector; None if unknown.

    >>> import torch
    >>> direction_units(torch.tensor([3.0, 4.0]), 20.0, 2.5)
    {'norm': 4.0, 'sigma': 0.5}
    """
    length = float(vector.norm())
    known = {"norm": norm / length}
    return known if sigma is None else {**known, "sigma": sigma / length}
