"""TopExamples: for each unit, the k rows it is largest on.

A unit is a coordinate of the site, a direction, or what a function gives (a dictionary's latents).
One pass, memory k · units whatever the length of the stream, no loop over rows or units.

How: a row's value and its number in the batch are packed into one int64 key, value first, so that
one maximum per (document, unit) or one top-k finds value and row together, and equal values go to
the earlier row. Units whose best value in the batch does not beat what they hold are skipped, which
after a while is nearly all of them. Values are ranked in float32. The result does not depend on how
the rows were cut into batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.streams.protocol import Batch, Sink
from jackfield.streams.units import Of, unit_values
from jackfield.streams.views import check_count

_LEAST = torch.iinfo(torch.int64).min
Slots = dict[str, Tensor]  # the fields of TopRows, [unit, slot] each
_ROW_BITS = 32  # the low half of a key: up to four thousand million rows a batch


@dataclass(frozen=True)
class Example:
    """One kept row: how much, and where it came from."""

    value: float
    row: int
    document: int
    position: int
    token: int | None


@dataclass(frozen=True, eq=False)
class TopRows:
    """The k largest rows of every unit, largest first. Slots not filled hold -inf and -1.

    Attributes:
        values: [unit, k] float32.
        rows: [unit, k] int64, the row's number in the stream (in a store: its id).
        documents: [unit, k] int64.
        positions: [unit, k] int64.
        tokens: [unit, k] int64, None if the stream has no tokens.
    """

    values: Tensor
    rows: Tensor
    documents: Tensor
    positions: Tensor
    tokens: Tensor | None

    @property
    def counts(self) -> Tensor:
        """[unit] int64, how many slots are filled."""
        return (self.rows >= 0).sum(dim=1)

    def of(self, unit: int) -> list[Example]:
        """The examples of one unit, largest first."""
        filled = int(self.counts[unit])
        tokens = [None] * filled if self.tokens is None else self.tokens[unit, :filled].tolist()
        columns = (
            part[unit, :filled].tolist()
            for part in (self.values, self.rows, self.documents, self.positions)
        )
        return [Example(*fields) for fields in zip(*columns, tokens, strict=True)]

    def __repr__(self) -> str:
        units, k = self.values.shape
        return f"TopRows({units:,} units, up to {k} rows each)"


class TopExamples(Sink[TopRows]):
    """Keeps the k largest rows of every unit.

    Args:
        site: the site to read.
        k: how many rows a unit.
        of: what the units are: None for the site's own coordinates, a tensor [unit, d] of
            directions, or a function [row, ...] -> [row, unit].
        per_document: keep at most one row a document, its largest (several tokens of one sentence
            tell little more than one).
        above: keep only rows whose value is larger; 0.0 for latents that are zero when silent.

    >>> from jackfield.streams import Stream
    >>> x = torch.tensor([[0.1], [3.0], [2.0]])
    >>> top = Stream.from_tensor(x).into(TopExamples("x", k=2))
    >>> [(example.row, example.value) for example in top.of(0)]
    [(1, 3.0), (2, 2.0)]
    """

    def __init__(
        self,
        site: str,
        k: int = 20,
        *,
        of: Of = None,
        per_document: bool = True,
        above: float = float("-inf"),
    ) -> None:
        self.site, self.k, self.above = site, check_count(k, "TopExamples: k"), above
        self._of, self._per_document = of, per_document
        self._seen = 0
        self._best: Slots = {}

    @property
    def sites(self) -> tuple[str, ...]:
        """The one site."""
        return (self.site,)

    def update(self, batch: Batch) -> None:
        """Takes in a batch.

        Raises:
            InputError: NaN or Inf, or a number of units that changes.
        """
        values = unit_values(batch, self.site, self._of, where="TopExamples").float()
        self._prepare(values.shape[1], tokens=batch.tokens is not None)
        to_beat = self._best["values"][:, -1].clamp(min=self.above)
        units = (values.amax(dim=0).cpu() > to_beat).nonzero().squeeze(1)
        if len(units):
            old = {name: part[units] for name, part in self._best.items()}
            new = self._top_of(batch, values[:, units.to(values.device)])
            for name, part in self._merged(old, new).items():
                self._best[name][units] = part
        self._seen += len(batch)

    def finish(self) -> TopRows:
        """The rows kept.

        Raises:
            InputError: nothing came.
        """
        if not self._best:
            where = f"TopExamples at {self.site}"
            raise InputError(explain(where=where, expected="rows", got="none"))
        held = self._best
        return TopRows(
            held["values"], held["rows"], held["documents"], held["positions"], held.get("tokens")
        )

    def _prepare(self, units: int, *, tokens: bool) -> None:
        names = ("rows", "documents", "positions", *(("tokens",) if tokens else ()))
        if not self._best:
            self._best = {name: torch.full((units, self.k), -1) for name in names}
            self._best["values"] = torch.full((units, self.k), float("-inf"))
        elif len(self._best["values"]) != units:
            expected = f"{len(self._best['values'])} units in every batch"
            where = f"TopExamples at {self.site}"
            raise InputError(explain(where=where, expected=expected, got=f"{units}"))

    def _top_of(self, batch: Batch, values: Tensor) -> Slots:
        """The best rows of this batch alone, for some units: values is [row, unit]."""
        keys = _keys(values)
        if self._per_document:
            keys = _best_of_each(keys, batch.documents.to(keys.device))
        top = keys.topk(min(self.k, len(keys)), dim=0).values.T
        row = _row_of(top, len(values))
        found = {"values": values.T.gather(1, row).cpu()}
        row = row.cpu()
        found["rows"] = row + self._seen
        found["documents"] = batch.documents.cpu()[row]
        found["positions"] = batch.positions.cpu()[row]
        if batch.tokens is not None:
            found["tokens"] = batch.tokens.cpu()[row]
        return _keep(found, found["values"] > self.above)

    def _merged(self, old: Slots, new: Slots) -> Slots:
        """The k best of both, the earlier row first where values are equal."""
        both = {name: torch.cat([old[name], new[name]], dim=1) for name in old}
        if self._per_document:
            both = _keep(both, ~_repeated(old, new))
        order = both["values"].sort(dim=1, descending=True, stable=True).indices[:, : self.k]
        return {name: part.gather(1, order) for name, part in both.items()}


def _keep(slots: Slots, kept: Tensor) -> Slots:
    """Empties the slots that are not kept."""
    return {
        name: part.where(kept, float("-inf") if name == "values" else -1)
        for name, part in slots.items()
    }


def _keys(values: Tensor) -> Tensor:
    """[row, unit] float32 -> int64 in the same order; of equal values the earlier row is larger."""
    bits = (values + 0.0).contiguous().view(torch.int32)  # -0.0 + 0.0 is 0.0
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)
    late = torch.arange(len(values) - 1, -1, -1, device=values.device)
    return ordered.bitwise_left_shift_(_ROW_BITS).add_(late[:, None])


def _row_of(keys: Tensor, rows: int) -> Tensor:
    """The row that is packed into a key."""
    return rows - 1 - (keys & ((1 << _ROW_BITS) - 1))


def _best_of_each(keys: Tensor, documents: Tensor) -> Tensor:
    """The largest key of each document: [document, unit]."""
    names, group = documents.unique(return_inverse=True)
    best = keys.new_full((len(names), keys.shape[1]), _LEAST)
    return best.scatter_reduce(0, group[:, None].expand_as(keys), keys, "amax")


def _repeated(old: Slots, new: Slots) -> Tensor:
    """[unit, old + new] bool: slots whose document has a better one on the other side."""
    same = old["documents"][:, :, None] == new["documents"][:, None, :]
    same &= (old["rows"] >= 0)[:, :, None] & (new["rows"] >= 0)[:, None, :]
    new_wins = new["values"][:, None, :] > old["values"][:, :, None]
    return torch.cat([(same & new_wins).any(dim=2), (same & ~new_wins).any(dim=1)], dim=1)
