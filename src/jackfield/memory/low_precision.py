"""LowPrecision: keep what autograd saves in fewer bits (1901.07988).

The forward computes with x itself and stays bit-equal; the backward gets x' in its place:

    float32, bfloat16, float16   x' = round(x)                   |x' − x| ≤ 2⁻²⁴, 2⁻⁸, 2⁻¹¹ |x|
    int8                         x' = s · round(x / s),          |x' − x| ≤ s / 2
                                 s = max |row| / 127, one for each row of the last axis

so the error is in the gradients only, and is as large as that of the saved values. (Below 6e-5
float16 is coarser: 2⁻²⁵ of absolute error. Values past its range, 65504, are kept at its end. A
bfloat16 x rounds int8's x' once more.)

Of x [..., d] the bytes kept are 2 · numel (16 bits), or numel + 4 · rows (int8). A tensor is kept
as it is where this would not be fewer; where it is not floating-point, has less than `min_elements`
elements, repeats its elements (an expanded mask), or, with int8, has a value that is not finite.
What several operations save (the input of q, k and v) is packed once.

Chakrabarti and Moseley 2019, Backprop with approximate activations, arXiv 1901.07988. Where we
depart: one grid for each row, symmetric about 0, not one for each channel after a batch norm; and
every saved tensor is approximated, not the inputs of convolutions and ReLUs alone. An attention's
log-sum-exp is packed too if it has `min_elements`, and its error there is a factor of all weights.
"""

from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float, Int8
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from jackfield.core.config import config, setting
from jackfield.model.saving import SavingPolicy


@config
class LowPrecision(SavingPolicy):
    """A policy for `model.saving`: saved activations in fewer bits, [..., d] row by row.

    Attributes:
        dtype: how they are kept.
        min_elements: smaller tensors are kept as they are.

    >>> policy = LowPrecision(dtype="int8", min_elements=1)
    >>> x = torch.tensor([[127.0, 3.4, -2.0, 0.0, 1.0, 1.6]])
    >>> policy.unpack(policy.pack(x))
    tensor([[127.,   3.,  -2.,   0.,   1.,   2.]])
    """

    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "bfloat16"
    min_elements: int = setting(default=1024, ge=1)

    def pack(self, x: Tensor) -> "Tensor | Packed":
        """What is kept of x: x itself, or its values in fewer bits."""
        if not self._shrinks(x):
            return x
        key = (self, _identity(x))
        known = _packed.get(key)
        if known is None:
            known = self._made(x)
            if known is None:
                return x
            _packed[key] = known
        return known

    def unpack(self, kept: Any) -> Tensor:
        """The tensor for the backward, in the dtype that was packed."""
        if isinstance(kept, Tensor):
            return kept
        if kept.scale is None:
            return kept.values.to(kept.dtype)
        return (kept.values * kept.scale).to(kept.dtype)

    def _shrinks(self, x: Tensor) -> bool:
        if not x.is_floating_point() or x.layout != torch.strided or x.numel() < self.min_elements:
            return False
        size = x.numel() * x.element_size()
        packed = x.numel() * getattr(torch, self.dtype).itemsize
        if self.dtype == "int8":
            packed += 4 * x.numel() // (x.shape[-1] if x.dim() else 1)
        return packed < size <= x.untyped_storage().nbytes()

    def _made(self, x: Tensor) -> "Packed | None":
        """The packed tensor, None for int8 where a value is not finite."""
        source = StorageWeakRef(x.untyped_storage())
        x = x.detach()
        if self.dtype != "int8":
            return Packed(_rounded(x, getattr(torch, self.dtype)), None, x.dtype, source)
        scale = x.abs().amax(dim=-1, keepdim=True).float() / 127
        if not bool(scale.isfinite().all()):
            return None
        steps = (x / scale.clamp(min=torch.finfo(torch.float32).tiny)).round()
        return Packed(steps.clamp(-127, 127).to(torch.int8), scale, x.dtype, source)


@dataclass(frozen=True, eq=False)
class Packed:
    """A saved tensor in fewer bits.

    Attributes:
        values: [..., d] rounded values, or steps of `scale`.
        scale: [..., 1] the step of each row, with int8.
        dtype: that of the tensor.
        source: keeps the identity of the tensor's storage from being given to another one.
    """

    values: Float[Tensor, "*rows d"] | Int8[Tensor, "*rows d"]
    scale: Float[Tensor, "*rows 1"] | None
    dtype: torch.dtype
    source: StorageWeakRef


# What is packed now, by what it was packed from: an entry lives as long as a graph that holds it.
_packed: WeakValueDictionary[Any, Packed] = WeakValueDictionary()


def _identity(x: Tensor) -> tuple[Any, ...]:
    """Equal for two tensors only if they are the same view of the same, unchanged storage."""
    storage = x.untyped_storage()
    place = (storage._cdata, x.storage_offset(), tuple(x.shape), x.stride())
    return (*place, x.dtype, x._version)


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """X in a narrower dtype; finite values past its range go to its end, infinite ones stay."""
    end = torch.finfo(dtype).max
    return torch.where(x.isinf(), x, x.clamp(-end, end)).to(dtype)
