"""int8: each row on a grid of 255 steps of its own.

    scale = max |row| / 127      values = round(row / scale)      |back − x| ≤ scale / 2 + …

The declared bound is half a scale, and what the roundings of float32 and of the row's own dtype
add (see `scaled.py`; in bfloat16 that is as much again). A value smaller than half a scale comes
back as 0, so one outlier in a row costs all its small values: fp8 keeps those.
"""

from typing import ClassVar

import torch
from torch import Tensor

from jackfield.core.config import config
from jackfield.streams.store.codecs.base import Kind, RowCodec
from jackfield.streams.store.codecs.scaled import bounds, check_floats, in_scales, restored, scales

_TOP = 127.0


@config
class Int8Rows(RowCodec):
    """A byte a number and four a row. A row that holds NaN or Inf comes back as all NaN.

    >>> parts = Int8Rows().encode(torch.tensor([[127.0, 3.4, -2.0, 0.0]]))
    >>> parts["values"].tolist(), parts["scale"].tolist()
    ([[127, 3, -2, 0]], [1.0])
    """

    name: ClassVar[str] = "int8"

    def check(self, kind: Kind) -> None:
        """Takes float32, bfloat16 and float16."""
        check_floats(self.name, kind)

    def bound(self, rows: Tensor) -> Tensor:
        """Half a scale and a little; 0 for a row of zeros, inf for one that is not finite."""
        return bounds(rows, _TOP, rounding=0.5)

    def parts(self, kind: Kind) -> dict[str, Kind]:
        """The values in steps of the scale, and the scale."""
        return {"values": Kind(kind.shape, torch.int8), "scale": Kind((), torch.float32)}

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """Rounds to the nearest step, halves to the even one."""
        scale = scales(rows, _TOP)
        return {"values": in_scales(rows, scale).round_().to(torch.int8), "scale": scale}

    def decode(self, parts: dict[str, Tensor], kind: Kind) -> Tensor:
        """Values times scale."""
        return restored(parts["values"], parts["scale"], kind)
