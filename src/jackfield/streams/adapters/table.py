"""Table: what every format is to the rest, named arrays whose first axis is the row.

A format opens a `Table`, which knows the shape, dtype and row count of each array from the headers
alone and reads them in pieces; and it writes `Columns`, which come in pieces too. Neither ever has
a whole array in memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.streams.store.codecs import Kind

Piece = dict[str, Tensor]  # column -> [row, ...], all with the same rows


@dataclass(frozen=True)
class Columns:
    """Arrays on their way to a file.

    Attributes:
        kinds: column -> shape and dtype of a row.
        pieces: the rows, in order.
    """

    kinds: dict[str, Kind]
    pieces: Iterator[Piece]


@dataclass
class Listing:
    """What a table holds.

    Attributes:
        kinds: column -> shape and dtype of a row.
        rows: column -> how many rows it has.
        unusable: columns that cannot be read as rows of numbers -> why.
    """

    kinds: dict[str, Kind] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, kind: Kind | str, rows: int) -> None:
        """Notes a column, or (a string) why it cannot be read."""
        if isinstance(kind, str):
            self.unusable[name] = kind
        else:
            self.kinds[name] = kind
            self.rows[name] = rows


class Table(ABC):
    """Named arrays that can be read in pieces, from any row on.

    Attributes:
        format: the format's name.
        name: where it is, for people.
        listing: what it holds.
    """

    format: str
    name: str
    listing: Listing

    @abstractmethod
    def pieces(self, names: Sequence[str], start: int, most: int) -> Iterator[Piece]:
        """The rows of some columns from `start` on, at most `most` at once.

        Args:
            names: columns of the listing, all with the same number of rows.
            start: the first row wanted.
            most: rows a piece; a piece may have fewer.

        Raises:
            InputError: the file is damaged, or a row is not of the kind that the listing says.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What is known of the content, as JSON; equal means the same rows."""


def torch_dtype(dtype: "np.dtype[Any]") -> torch.dtype | str:
    """The dtype that torch calls it, or why it has none."""
    try:
        return torch.from_numpy(np.zeros(0, dtype.newbyteorder("="))).dtype
    except TypeError:
        what = "Python objects, which are not unpickled" if dtype.hasobject else f"dtype {dtype}"
        return f"it holds {what}"


def damaged(where: object, expected: str, got: object) -> InputError:
    """The error of a file that is not what its name says."""
    reason = f"{type(got).__name__}: {got}" if isinstance(got, Exception) else str(got)
    return InputError(explain(where=str(where), expected=expected, got=reason))
