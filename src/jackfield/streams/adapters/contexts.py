"""Contexts: arrays whose first axis is not the row but the context, [context, position, ...].

So SAELens caches activations: an HF dataset, a column a hook, each cell an Array2D
[position, d_in], and `token_ids` beside it; every context is equally long. A context reads as a
document, and rows are grouped into contexts for writing.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain, warn
from jackfield.streams.adapters.table import Listing, Piece, Table
from jackfield.streams.protocol import Batch
from jackfield.streams.store.codecs import Kind

Partial = Literal["refuse", "drop", "join"]


class Contexts(Table):
    """A table of contexts, read as one of rows.

    Args:
        table: its columns are [context, position, ...]; one that is not cannot be read.
        length: positions of a context.
    """

    def __init__(self, table: Table, length: int) -> None:
        self.format, self.name = table.format, table.name
        self._table, self._length = table, length
        self.listing = Listing(unusable=dict(table.listing.unusable))
        for name, kind in table.listing.kinds.items():
            fits = kind.shape[:1] == (length,)
            inner = Kind(kind.shape[1:], kind.dtype)
            told = f"it is {list(kind.shape)} a context of {length}"
            self.listing.add(name, inner if fits else told, table.listing.rows[name] * length)

    def pieces(self, names: Sequence[str], start: int, most: int) -> Iterator[Piece]:
        context, left = divmod(start, self._length)
        for piece in self._table.pieces(names, context, max(1, most // self._length)):
            rows = {name: x.flatten(0, 1)[left:] for name, x in piece.items()}
            left = 0
            for first in range(0, len(rows[names[0]]), most):
                yield {name: x[first : first + most] for name, x in rows.items()}

    def labels(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The context of each row, as its document, and the position in it."""
        return rows // self._length, rows % self._length

    def fingerprint(self) -> dict[str, Any]:
        return {**self._table.fingerprint(), "context": self._length}


def context_of(table: Table, tokens: str | None) -> int | None:
    """How long the contexts are, if the tokens say that the table is one of contexts."""
    shape = table.listing.kinds[tokens].shape if tokens is not None else ()
    return shape[0] if len(shape) == 1 else None


class Grouping:
    """Rows into whole contexts.

    A context is `length` rows of one document, one position after another. What is left over of a
    document is refused, dropped, or joined to the rows that follow.

    Args:
        length: rows a context.
        partial: what is done with rows that do not fill one.
    """

    def __init__(self, length: int, partial: Partial) -> None:
        self._length, self._partial = length, partial
        self.left_out = 0

    def contexts(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Batches of which every `length` rows are a context; at the end says what was left out."""
        held: Batch | None = None
        for batch in batches:
            together = batch if held is None else Batch.concat([held, batch])
            whole, held = self._cut(together)
            if len(whole):
                yield whole
        if held is not None and len(held):
            self._leave_out(held)
        if self.left_out:
            warn(f"{self.left_out:,} rows do not fill a context of {self._length}: left out.")

    def _cut(self, batch: Batch) -> tuple[Batch, Batch]:
        """What fills contexts, and the last rows, which the next may complete."""
        starts = self._starts(batch)
        lengths = torch.diff(starts, append=torch.tensor([len(batch)]))
        full = lengths // self._length * self._length
        place = torch.arange(len(batch)) - starts.repeat_interleave(lengths)
        chosen = place < full.repeat_interleave(lengths)
        last = int(starts[-1] + full[-1])
        left = (~chosen[:last]).nonzero()[:, 0]
        if len(left):
            self._leave_out(batch.rows(left))
        return batch.rows(chosen), batch.rows(slice(last, None))

    def _starts(self, batch: Batch) -> Tensor:
        """[run] where each run of one document's rows without a gap begins."""
        if self._partial == "join":
            return torch.tensor([0])
        breaks = (batch.documents.diff() != 0) | (batch.positions.diff() != 1)
        return torch.cat([torch.tensor([0]), breaks.nonzero()[:, 0] + 1])

    def _leave_out(self, rows: Batch) -> None:
        if self._partial == "refuse":
            document, position = int(rows.documents[0]), int(rows.positions[0])
            raise InputError(
                explain(
                    where="export, format 'saelens'",
                    expected=f"documents that are whole contexts of {self._length} rows",
                    got=f"document {document}, which ends or has a gap within the context that"
                    f" begins at its position {position}",
                    hint="partial='drop' leaves such rows out; partial='join' lets contexts go on "
                    "in the next document, as SAELens' own do. A reading has every position with "
                    "where='all', keep_special=True.",
                )
            )
        self.left_out += len(rows)
