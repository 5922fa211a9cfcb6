"""Plain: nothing is done to the rows."""

from typing import ClassVar

import torch
from torch import Tensor

from jackfield.core.config import config
from jackfield.streams.store.codecs.base import Kind, RowCodec


@config
class Plain(RowCodec):
    """The rows as they are: one safetensors tensor that any program can read."""

    name: ClassVar[str] = "none"

    def check(self, kind: Kind) -> None:
        """Takes every kind."""

    def bound(self, rows: Tensor) -> Tensor:
        """Loses nothing."""
        return torch.zeros(len(rows), dtype=torch.float64)

    def parts(self, kind: Kind) -> dict[str, Kind]:
        """One tensor."""
        return {"activations": kind}

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """The rows."""
        return {"activations": rows}

    def decode(self, parts: dict[str, Tensor], kind: Kind) -> Tensor:
        """The tensor."""
        return parts["activations"]
