"""top-k: the k largest numbers of each row with their places, and 0 for the rest.

    places = argtop_k |row|      back[places] = row[places], 0 elsewhere

Exact where at most k numbers of a row are not 0, as in the codes of a dictionary that keeps k
latents (up to the sign of a zero). Otherwise off by at most the largest magnitude that was dropped.
A row of several axes is one list of numbers, so its heads share the k.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import ConfigError, explain
from jackfield.streams.store.codecs.base import Kind, RowCodec
from jackfield.streams.store.codecs.scaled import check_floats, flat

_AT_ONCE = 1 << 18  # numbers sorted together: their keys take 8 bytes each


@config
class TopKRows(RowCodec):
    """k numbers as they are, and k places in 2 bytes each, or 4 in rows of more than 32 768.

    Of equal magnitudes the first is kept. NaN counts as the largest number and Inf as the next, so
    a row that holds either comes back with it.

    Attributes:
        k: numbers kept of a row.

    >>> parts = TopKRows(k=2).encode(torch.tensor([[0.5, -3.0, 0.0, 2.0]]))
    >>> parts["places"].tolist(), parts["values"].tolist()
    ([[1, 3]], [[-3.0, 2.0]])
    """

    name: ClassVar[str] = "top-k"

    k: int = setting(default=32, ge=1)

    def check(self, kind: Kind) -> None:
        """Takes float32, bfloat16 and float16, at least k numbers a row."""
        check_floats(self.name, kind)
        width = torch.Size(kind.shape).numel()
        if self.k > width:
            expected, got = f"k of at most {width}, the numbers of a row", str(self.k)
            raise ConfigError(explain(where=f"codec {self.name}", expected=expected, got=got))

    def bound(self, rows: Tensor) -> Tensor:
        """The largest magnitude dropped."""
        dropped = rows.shape[1:].numel() - self.k
        if dropped == 0:
            return torch.zeros(len(rows), dtype=torch.float64)
        largest = [part.abs().kthvalue(dropped, dim=1).values for part in _slices(flat(rows))]
        return torch.cat(largest).double()

    def parts(self, kind: Kind) -> dict[str, Kind]:
        """The places, ascending, and the values there."""
        places = _place_dtype(torch.Size(kind.shape).numel())
        return {"places": Kind((self.k,), places), "values": Kind((self.k,), kind.dtype)}

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """Finds the largest of each row."""
        numbers = flat(rows)
        places = torch.cat([_largest(part, self.k) for part in _slices(numbers)])
        kept = places.to(_place_dtype(numbers.shape[1]))
        return {"places": kept, "values": numbers.gather(1, places)}

    def decode(self, parts: dict[str, Tensor], kind: Kind) -> Tensor:
        """Puts the values in their places.

        Raises:
            ValueError: a place that is not in the row.
        """
        places, values = parts["places"].long(), parts["values"]
        width = torch.Size(kind.shape).numel()
        if ((places < 0) | (places >= width)).any():
            raise ValueError(f"a place outside of a row of {width} numbers")
        found = torch.zeros(len(values), width, dtype=kind.dtype)
        return found.scatter_(1, places, values).reshape(len(values), *kind.shape)


def _place_dtype(width: int) -> torch.dtype:
    return torch.int16 if width - 1 <= torch.iinfo(torch.int16).max else torch.int32


def _slices(numbers: Tensor) -> Sequence[Tensor]:
    return numbers.split(max(1, _AT_ONCE // numbers.shape[1]))


def _largest(numbers: Tensor, k: int) -> Tensor:
    """[row, k] int64, the places of the largest magnitudes, ascending.

    Each number gets a key of its own, so that no choice is left to the sort: the bits of its
    magnitude, which ascend from 0 to Inf and then NaN, and below them its place, the first highest.
    """
    bits = numbers.float().abs().view(torch.int32).long()
    keys = (bits << 32) - torch.arange(numbers.shape[1])
    return keys.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
