"""Labels: what a store knows of each row beside its activations, as one table of int64.

    document  position  [token]  [a column each for what the user added]  [a checksum a site]  sum

One row of the table is one read. Floats of user columns are kept as the bits of a float64. The last
column is the sum of the others, so that a changed byte in the table shows too.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jackfield.streams.protocol import Batch
from jackfield.streams.store.codecs import Kind
from jackfield.streams.store.layout import Meta

TABLE = "labels"


class Labels:
    """How the table of a store is laid out."""

    def __init__(self, meta: Meta) -> None:
        self._tokens, self._columns = meta.tokens, meta.columns
        names = ["document", "position", *(["token"] if meta.tokens else []), *meta.columns]
        self.sums = {site: len(names) + number for number, site in enumerate(meta.sites)}
        self._at = {name: number for number, name in enumerate(names)}
        self.kind = Kind((len(names) + len(meta.sites) + 1,), torch.int64)

    def table(self, batch: Batch, sums: Mapping[str, Tensor]) -> Tensor:
        """The table of a batch, whose rows' checksums are `sums` (site -> [row])."""
        tokens = [batch.tokens] if batch.tokens is not None else []
        told = [batch.documents, batch.positions, *tokens]
        told += [_as_int(batch.columns[name]) for name in self._columns]
        told += [sums[site] for site in self.sums]
        table = torch.stack([column.to(torch.int64) for column in told], dim=1)
        return torch.cat([table, table.sum(dim=1, keepdim=True)], dim=1)

    @staticmethod
    def wrong(table: Tensor) -> Tensor:
        """[row] bool: which rows of the table are not as they were written."""
        return table[:, :-1].sum(dim=1) != table[:, -1]

    def batch(self, table: Tensor, activations: dict[str, Tensor]) -> Batch:
        """A batch of these labels and activations."""
        tokens = self.column(table, "token") if self._tokens else None
        columns = {
            name: _as_given(self.column(table, name), dtype)
            for name, dtype in self._columns.items()
        }
        documents, positions = self.column(table, "document"), self.column(table, "position")
        return Batch(activations, tokens, documents, positions, columns)

    def column(self, table: Tensor, name: str) -> Tensor:
        """One column of the table, [row] int64."""
        return table[:, self._at[name]].contiguous()

    def named(self, table: Tensor) -> dict[str, Tensor]:
        """Every column that is not a checksum, by name, in its own dtype."""
        given = {name: self.column(table, name) for name in self._at}
        return {
            name: _as_given(column, self._columns[name]) if name in self._columns else column
            for name, column in given.items()
        }


def column_dtypes(batch: Batch, names: Sequence[str]) -> dict[str, torch.dtype]:
    """The dtypes of a batch's columns."""
    return {name: batch.columns[name].dtype for name in names}


def _as_int(column: Tensor) -> Tensor:
    if column.is_floating_point():
        return column.to(torch.float64).contiguous().view(torch.int64)
    return column


def _as_given(column: Tensor, dtype: torch.dtype) -> Tensor:
    return column.view(torch.float64).to(dtype) if dtype.is_floating_point else column.to(dtype)
