"""fp8: each row in 8-bit floats, scaled so that its largest number is the format's largest.

    scale = max |row| / 448      values = e4m3(row / scale)

e4m3 (2209.05433) has 4 bits of exponent and 3 of mantissa: of a value it keeps

    |back − x| ≤ max(2⁻⁴ |x|, 2⁻¹⁰ scale) + …

so small values next to large ones keep their leading digits, which int8 rounds to 0; of the largest
ones int8 keeps more. For a row as a whole the bound is 16 scales, max |row| / 28: half the distance
of neighbours among the largest values, 256 to 448. To it come the roundings of float32 and of the
row's own dtype (see `scaled.py`).
"""

from typing import ClassVar

import torch
from torch import Tensor

from jackfield.core.config import config
from jackfield.streams.store.codecs.base import Kind, RowCodec
from jackfield.streams.store.codecs.scaled import bounds, check_floats, in_scales, restored, scales

_TOP = 448.0


@config
class Fp8Rows(RowCodec):
    """A byte a number and four a row. A row that holds NaN or Inf comes back as all NaN.

    >>> rows = torch.tensor([[448.0, 26.9, -1.0, 0.0]])
    >>> Fp8Rows().encode(rows)["values"].float()
    tensor([[448.,  26.,  -1.,   0.]])
    """

    name: ClassVar[str] = "fp8"

    def check(self, kind: Kind) -> None:
        """Takes float32, bfloat16 and float16."""
        check_floats(self.name, kind)

    def bound(self, rows: Tensor) -> Tensor:
        """16 scales and a little; 0 for a row of zeros, inf for one that is not finite."""
        return bounds(rows, _TOP, rounding=16.0)

    def parts(self, kind: Kind) -> dict[str, Kind]:
        """The values, and the scale."""
        return {"values": Kind(kind.shape, torch.float8_e4m3fn), "scale": Kind((), torch.float32)}

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """Rounds to the nearest value of e4m3, halves to the even one."""
        scale = scales(rows, _TOP)
        return {"values": in_scales(rows, scale).to(torch.float8_e4m3fn), "scale": scale}

    def decode(self, parts: dict[str, Tensor], kind: Kind) -> Tensor:
        """Values times scale."""
        return restored(parts["values"], parts["scale"], kind)
