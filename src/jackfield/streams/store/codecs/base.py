"""Codecs: how the rows of a site become bytes in a store, and back.

Two kinds. A `RowCodec` turns rows into tensors whose first axis is still the row (a value and a
scale, an index and a value), so any row is read by itself. A `BlockCodec` packs a few rows together
into bytes of whatever length; a row costs the reading of its block.

A codec says how far off it may be: `bound(rows)` is the largest absolute error of each row, 0 for
one that loses nothing. The writer measures what it really was. Of a row that holds NaN or Inf only
this is promised, that it does not come back finite; each codec says what it does with one.

Codecs are configs: a store's meta.json names the codec of each site with its settings. They draw no
random numbers and remember nothing, take rows however they lie in memory, and leave them unchanged.
`jackfield.testing.check_codec` tries all of this.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Kind:
    """The shape of a row, without the row axis, and its dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as a plain tensor."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


class Codec(ABC):
    """What both kinds of codec have. Subclass `RowCodec` or `BlockCodec`, not this."""

    name: ClassVar[str]

    @abstractmethod
    def check(self, kind: Kind) -> None:
        """Raises ConfigError unless rows of this kind can be encoded."""

    @abstractmethod
    def bound(self, rows: Tensor) -> Tensor:
        """The largest absolute error that a finite row may suffer.

        Args:
            rows: [row, ...] as they will be encoded.

        Returns:
            [row] float64; 0 where nothing is lost. Means nothing where the row is not finite.
        """


class RowCodec(Codec):
    """Rows to tensors with a row axis."""

    @abstractmethod
    def parts(self, kind: Kind) -> dict[str, Kind]:
        """The tensors that rows of this kind become: name -> shape and dtype of a row."""

    @abstractmethod
    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """[row, ...] to the tensors that `parts` names, each [row, ...]; rows do not mix."""

    @abstractmethod
    def decode(self, parts: dict[str, Tensor], kind: Kind) -> Tensor:
        """The tensors of any rows, in any order, back to [row, ...] of `kind`.

        Raises:
            ValueError: the tensors cannot be what `encode` made.
        """


class BlockCodec(Codec):
    """Blocks of neighbouring rows to bytes of any length.

    Attributes:
        block: rows a block.
    """

    block: int

    @abstractmethod
    def pack(self, rows: Tensor) -> bytes:
        """[row, ...], at most `block` rows, to bytes."""

    @abstractmethod
    def unpack(self, data: bytes, out: Tensor) -> None:
        """Bytes back into `out` [row, ...], all rows of the block.

        Raises:
            ValueError: the bytes are not what `pack` made of so many rows of this kind.
        """
