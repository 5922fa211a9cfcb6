"""Edits that make an activation less exact: FakeQuantize and Noise."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import EditError, explain
from jackfield.edits.base import Context, Edit, generator_of


@dataclass(frozen=True, eq=False, repr=False)
class FakeQuantize(Edit):
    """Rounds to `bits`-bit integers and back, with a step of its own for each token.

    Symmetric: step = max|x| / (2^(bits−1) − 1). Otherwise step = (max − min) / (2^bits − 1).
    The error of a unit is at most half a step (and the rounding of its dtype). The gradient
    passes straight through.

    Attributes:
        bits: 2 to 16.
        symmetric: zero is the middle of the range.
    """

    bits: int = 8
    symmetric: bool = True

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        if not 2 <= self.bits <= 16:
            raise EditError(
                explain(where="FakeQuantize", expected="2 to 16 bits", got=str(self.bits))
            )
        with torch.no_grad():
            wide = x.detach().float()
            low, step = self._grid(wide)
            rounded = (((wide - low) / step).round() * step + low).to(x.dtype)
        return x + (rounded - x.detach())

    def _grid(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Offset and step of each token; a token of one value keeps it."""
        if self.symmetric:
            step = x.abs().amax(-1, keepdim=True) / (2 ** (self.bits - 1) - 1)
            low = torch.zeros_like(step)
        else:
            low = x.amin(-1, keepdim=True)
            step = (x.amax(-1, keepdim=True) - low) / (2**self.bits - 1)
        return low, step.where(step > 0, torch.ones_like(step))


@dataclass(frozen=True, eq=False, repr=False)
class Noise(Edit):
    """Adds Gaussian noise; the same seed gives the same noise for the same input.

    Attributes:
        std: standard deviation, in units of the activation.
        relative: `std` counts in units of each token's own root-mean-square instead.
        seed: of the generator, which goes on within a sequence and starts anew with the next.
    """

    stateful: ClassVar[bool] = True

    std: float
    relative: bool = False
    seed: int = 0

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        noise = torch.randn(x.shape, generator=generator_of(context, self.seed)).to(x) * self.std
        size = x.detach().pow(2).mean(-1, keepdim=True).sqrt() if self.relative else 1.0
        return x + noise * size
