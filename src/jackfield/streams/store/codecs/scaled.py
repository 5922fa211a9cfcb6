"""What int8 and fp8 share: one scale a row, and how far off a row may be.

    scale = max |row| / top      values = round(row / scale)      back = values · scale

with `top` the largest value of the small format. The scale is a float32, never below the least
normal number 2⁻¹²⁶ (where it would have few bits itself) and never so large that top · scale would
overflow. A row that holds NaN or Inf has none: its scale is NaN, and so is all that comes back.

How far off, with m = max |row| and r the largest rounding of the small format in steps of a scale:

    |back − x|  ≤  r · scale             rounding x / scale to the small format
                 + m · 2⁻²²              the quotient and the product in float32, 2⁻²⁴ m each, and
                                         room for what they add to one another
                 + m · ε / 2 + τ · ε / 2   rounding to the row's own dtype (ε its machine epsilon,
                                         τ its least normal number)
"""

import math

import torch
from torch import Tensor

from jackfield.core.errors import ConfigError, explain
from jackfield.streams.store.codecs.base import Kind

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def check_floats(name: str, kind: Kind) -> None:
    """Raises ConfigError unless rows of this kind are numbers that float32 holds exactly."""
    if kind.dtype not in FLOATS or kind.row_bytes == 0:
        expected = "rows of at least one number in float32, bfloat16 or float16"
        got = f"{list(kind.shape)} in {str(kind.dtype).removeprefix('torch.')}"
        hint = "The codecs none and byteplanes take every dtype."
        raise ConfigError(explain(where=f"codec {name}", expected=expected, got=got, hint=hint))


def flat(rows: Tensor) -> Tensor:
    """[row, ...] as [row, number]."""
    return rows.reshape(len(rows), rows.shape[1:].numel())


def scales(rows: Tensor, top: float) -> Tensor:
    """[row] float32, the scale of each row; NaN where the row is not finite."""
    limits, largest = torch.finfo(torch.float32), _largest(rows)
    scale = (largest / top).clamp(limits.tiny, limits.max / top * (1 - limits.eps))
    return scale.where(largest.isfinite(), math.nan)


def in_scales(rows: Tensor, scale: Tensor) -> Tensor:
    """Rows / scale in float32, [row, ...]; 0 where the scale is NaN."""
    layout = torch.contiguous_format
    found = flat(rows).to(torch.float32, copy=True, memory_format=layout).div_(scale[:, None])
    found[scale.isnan()] = 0
    return found.reshape(rows.shape)


def restored(values: Tensor, scale: Tensor, kind: Kind) -> Tensor:
    """The values times their row's scale, [row, ...] of `kind`."""
    found = flat(values).float().mul_(scale[:, None])
    return found.to(kind.dtype).reshape(len(scale), *kind.shape)


def bounds(rows: Tensor, top: float, rounding: float) -> Tensor:
    """[row] float64: how far off a row may be (see above); inf where it is not finite.

    Args:
        rows: [row, ...] in one of `FLOATS`.
        top: the largest value of the small format.
        rounding: its largest rounding error, r.
    """
    limits, largest = torch.finfo(rows.dtype), _largest(rows).double()
    off = rounding * scales(rows, top).double()
    off = off + largest * (2.0**-22 + limits.eps / 2) + limits.tiny * limits.eps / 2
    return off.where(largest > 0, 0.0).where(largest.isfinite(), math.inf)


def _largest(rows: Tensor) -> Tensor:
    """[row] float32, the largest magnitude of each row; NaN if it holds one."""
    low, high = flat(rows).aminmax(dim=1)
    return torch.maximum(-low, high).float()
