"""Filling: memory of one size that rows are put into until they make a commit.

The writer has two of them: one is filled while the other is encoded and written. Both are made
once, so that memory stays what it is however long the corpus.
"""

import numpy as np
import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.streams.protocol import Batch
from jackfield.streams.store.layout import Meta
from jackfield.streams.texts import Text


class Filling:
    """Rows waiting to be committed.

    Args:
        meta: what the rows are.
        most: rows it holds.
    """

    def __init__(self, meta: Meta, most: int) -> None:
        self.rows = 0
        self.texts: dict[int, Text] = {}
        self._sites = {
            site: torch.empty(most, *info.shape, dtype=info.dtype)
            for site, info in meta.sites.items()
        }
        labels = ["documents", "positions", *(["tokens"] if meta.tokens else [])]
        self._labels = {name: torch.empty(most, dtype=torch.int64) for name in labels}
        self._columns = {
            name: torch.empty(most, dtype=dtype) for name, dtype in meta.columns.items()
        }
        self._most = most

    @property
    def room(self) -> int:
        """How many more rows fit."""
        return self._most - self.rows

    @property
    def full(self) -> bool:
        """Whether no row more fits."""
        return not self.room

    def take(self, batch: Batch) -> int:
        """Puts in as many rows as fit, from the first on; returns how many that were."""
        count = min(len(batch), self.room)
        place = slice(self.rows, self.rows + count)
        for site, rows in self._sites.items():
            rows[place].copy_(batch[site][:count].detach())
        for name, label in self._labels.items():
            label[place].copy_(getattr(batch, name)[:count])
        for name, column in self._columns.items():
            column[place].copy_(batch.columns[name][:count])
        self.rows += count
        return count

    def note_texts(self, batch: Batch, documents: "Numbers") -> None:
        """Notes the texts of the batch's documents that are not among `documents` yet."""
        if batch.texts is None:
            return
        for number in documents.add(batch.documents).tolist():
            if number in batch.texts.documents:
                self.texts[number] = batch.texts.documents[number]

    def batch(self) -> Batch:
        """The rows that are in it: views, good until it is emptied."""
        labels = {name: label[: self.rows] for name, label in self._labels.items()}
        return Batch(
            {site: rows[: self.rows] for site, rows in self._sites.items()},
            labels.get("tokens"),
            labels["documents"],
            labels["positions"],
            {name: column[: self.rows] for name, column in self._columns.items()},
        )

    def empty(self) -> None:
        """Makes room for new rows."""
        self.rows = 0
        self.texts = {}


def check_range(site: str, rows: Tensor, dtype: torch.dtype, where: str) -> None:
    """Raises InputError if finite values of `rows` are too large for `dtype`."""
    if not rows.is_floating_point() or not rows.numel():
        return
    limit = torch.finfo(dtype).max
    if limit >= torch.finfo(rows.dtype).max:
        return
    largest = rows.abs().nan_to_num(nan=0.0, posinf=0.0).max().item()
    if largest > limit:
        expected = f"values that {str(dtype).removeprefix('torch.')} can hold"
        hint = "bfloat16 takes the same room and reaches as far as float32."
        place = f"{where}, {site}"
        raise InputError(explain(where=place, expected=expected, got=f"{largest:.4g}", hint=hint))


class Numbers:
    """A set of whole numbers, a byte each where they lie close together, as document ids do."""

    _PAGE = 1 << 16

    def __init__(self) -> None:
        self._pages: dict[int, np.ndarray[tuple[int], np.dtype[np.bool_]]] = {}

    def add(self, numbers: Tensor) -> Tensor:
        """Puts numbers in; gives those that are new, each once."""
        fresh = [n for n in numbers.unique().tolist() if self._put(*divmod(n, self._PAGE))]
        return torch.tensor(fresh, dtype=torch.int64)

    def _put(self, page: int, place: int) -> bool:
        there = self._pages.setdefault(page, np.zeros(self._PAGE, np.bool_))
        new = not there[place]
        there[place] = True
        return new
