"""Histogram: how each unit's values are distributed, in one pass, without knowing the range.

The bins of a unit are cells [i · w, (i + 1) · w) of a grid whose width w = 2^e is the smallest
power of two with which all values so far fit into `bins` cells. When a value falls outside, e
grows and cells are added in pairs. Since the grids are nested, the counts are exact, and neither
the order of the rows nor their cutting into batches can change the result. Histograms merge.

As w is the smallest that fits, it is at most 2 / (bins − 1) of the spread of the values (but never
finer than 2⁻⁴⁴ of the largest), and a quantile is right to within half of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.streams.protocol import Batch, Sink
from jackfield.streams.units import Of, unit_values

_FINEST = 44  # a cell is never finer than 2^-44 of the largest value, so that its number is exact


class Histogram(Sink["Histogram"]):
    """Streaming histogram, density and quantiles of each unit; its own result.

    Args:
        site: the site to read.
        of: what the units are: None for the site's own coordinates, a tensor [unit, d] of
            directions, or a function [row, ...] -> [row, unit].
        bins: cells a unit, at least 4; at least half of them are in use.
        above: count only values that are larger; 0.0 for latents that are zero when silent.

    Attributes:
        rows: rows taken in.
        counts: [unit, bins] int64.

    >>> from jackfield.streams import Stream
    >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.5]])
    >>> h = Stream.from_tensor(x).into(Histogram("x", bins=4, above=0.0))
    >>> h.edges(0).tolist(), h.counts[0].tolist(), h.density.tolist()
    ([1.0, 2.0, 3.0, 4.0, 5.0], [1, 1, 1, 0], [0.75])
    """

    def __init__(
        self, site: str, *, of: Of = None, bins: int = 64, above: float = float("-inf")
    ) -> None:
        if bins < 4:
            raise InputError(explain(where="Histogram: bins", expected="at least 4", got=f"{bins}"))
        self.site, self.bins, self.above = site, bins, above
        self.rows = 0
        self.counts = torch.zeros(0, bins, dtype=torch.int64)
        self._of = of
        self._least = self._most = torch.zeros(0, dtype=torch.float64)  # [unit], of counted values
        self._grid = _grid(self._least, self._most, bins)

    @property
    def sites(self) -> tuple[str, ...]:
        """The one site."""
        return (self.site,)

    def update(self, batch: Batch) -> None:
        """Takes in a batch.

        Raises:
            InputError: NaN or Inf, or a number of units that changes.
        """
        values = unit_values(batch, self.site, self._of, where="Histogram")
        self._begin(values.shape[1])
        row, unit = (values > self.above).nonzero(as_tuple=True)
        counted, unit = values[row, unit].cpu().to(torch.float64), unit.cpu()
        least = self._least.scatter_reduce(0, unit, counted, "amin")
        most = self._most.scatter_reduce(0, unit, counted, "amax")
        self._widen(least, most)
        exponent, first = self._grid
        cell = _cell(counted, exponent[unit]) - first[unit]
        flat = torch.bincount(unit * self.bins + cell, minlength=self.counts.numel())
        self.counts += flat.reshape(self.counts.shape)
        self.rows += len(batch)

    def finish(self) -> Histogram:
        """Itself."""
        return self

    def merge(self, other: Histogram) -> Histogram:
        """Adds the rows of `other`, another part of the same stream; returns itself.

        Raises:
            InputError: the other has other units, bins or threshold.
        """
        if (other.bins, other.above) != (self.bins, self.above):
            expected = f"bins={self.bins}, above={self.above}"
            got = f"bins={other.bins}, above={other.above}"
            raise InputError(explain(where=f"Histogram at {self.site}", expected=expected, got=got))
        self._begin(len(other.counts))
        self._widen(self._least.minimum(other._least), self._most.maximum(other._most))
        self.counts += _moved(other.counts, other._grid, self._grid)
        self.rows += other.rows
        return self

    @property
    def density(self) -> Tensor:
        """[unit] float64, the share of rows whose value is larger than `above`."""
        return self.counts.sum(dim=1).to(torch.float64) / self.rows

    def edges(self, unit: int) -> Tensor:
        """The borders of a unit's bins, [bins + 1] float64."""
        exponent, first = self._grid
        cells = first[unit] + torch.arange(self.bins + 1)
        return torch.ldexp(cells.to(torch.float64), exponent[unit])

    def quantile(self, q: float) -> Tensor:
        """[unit] float64, the q-quantile of the counted values, right to within half a bin.

        The middle of the bin that holds it; NaN for a unit of which nothing was counted.

        Raises:
            InputError: q is not between 0 and 1.
        """
        if not 0 <= q <= 1:
            where = f"Histogram at {self.site}"
            raise InputError(explain(where=where, expected="q in [0, 1]", got=f"{q}"))
        total = self.counts.sum(dim=1, keepdim=True)
        rank = (q * (total - 1)).floor()  # the lower of the two order statistics around q
        cell = (self.counts.cumsum(dim=1) <= rank).sum(dim=1)
        exponent, first = self._grid
        middle = torch.ldexp((first + cell).to(torch.float64) + 0.5, exponent)
        return middle.where(total.squeeze(1) > 0, float("nan"))

    def __repr__(self) -> str:
        return f"Histogram({self.site}: {len(self.counts):,} units, {self.rows:,} rows)"

    def _begin(self, units: int) -> None:
        if not self.rows:
            self.counts = torch.zeros(units, self.bins, dtype=torch.int64)
            self._least = torch.full((units,), float("inf"), dtype=torch.float64)
            self._most = -self._least
            self._grid = _grid(self._least, self._most, self.bins)
        elif units != len(self.counts):
            where, expected = (
                f"Histogram at {self.site}",
                f"{len(self.counts)} units in every batch",
            )
            raise InputError(explain(where=where, expected=expected, got=f"{units}"))

    def _widen(self, least: Tensor, most: Tensor) -> None:
        grid = _grid(least, most, self.bins)
        self.counts = _moved(self.counts, self._grid, grid)
        self._least, self._most, self._grid = least, most, grid


Grid = tuple[Tensor, Tensor]  # [unit] exponent e of the width 2^e, and number of the first cell


def _grid(least: Tensor, most: Tensor, bins: int) -> Grid:
    """The finest grid with which [least, most] lies in `bins` cells; anything where it is empty."""
    empty = most < least
    least, most = least.masked_fill(empty, 0.0), most.masked_fill(empty, 0.0)
    exponent = _exponent(most - least) - bins.bit_length()  # one finer would not fit,
    exponent = exponent.maximum(_exponent(torch.maximum(least.abs(), most.abs())) - _FINEST)
    for _ in range(2):  # and two coarser always does
        cells = _cell(most, exponent) - _cell(least, exponent) + 1
        exponent = exponent + (cells > bins).long()
    return exponent, _cell(least, exponent)


def _exponent(x: Tensor) -> Tensor:
    """E with 2^(e - 1) <= x < 2^e; for 0 something below all."""
    return torch.frexp(x).exponent.long().where(x > 0, -1000)


def _cell(x: Tensor, exponent: Tensor) -> Tensor:
    """The number of the cell of width 2^exponent that x lies in (exact: a power of two)."""
    return torch.ldexp(x, -exponent).floor().to(torch.int64)


def _moved(counts: Tensor, old: Grid, new: Grid) -> Tensor:
    """The same counts on a coarser grid: 2^(difference of exponents) cells become one."""
    bins = counts.shape[1]
    cells = old[1][:, None] + torch.arange(bins)
    cells = cells >> (new[0] - old[0]).clamp(0, 62)[:, None]
    place = (cells - new[1][:, None]).clamp(0, bins - 1)  # cells beyond the grid are empty ones
    return torch.zeros_like(counts).scatter_add(1, place, counts)
