"""Quantiles: the values below which given shares of each unit's activations lie, in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.streams.histogram import Histogram
from jackfield.streams.protocol import Batch, Sink
from jackfield.streams.units import Of


class Quantiles(Sink["Quantiles"]):
    """Streaming quantiles of each unit; its own result.

    They are read from a histogram that widens as it must, so order and batches do not matter, and
    each is right to within 1 / (bins − 1) of the spread of its unit's values.

    Args:
        site: the site to read.
        shares: which quantiles, each in 0..1.
        of: what the units are, as `Histogram` has it.
        bins: cells a unit.

    Attributes:
        shares: as given.

    Raises:
        InputError: a share outside 0..1.

    >>> from jackfield.streams import Stream
    >>> x = torch.arange(1001.0)[:, None]
    >>> Stream.from_tensor(x).into(Quantiles("x", (0.1, 0.5))).values.round()
    tensor([[100.],
            [500.]], dtype=torch.float64)
    """

    def __init__(
        self,
        site: str,
        shares: Sequence[float] = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99),
        *,
        of: Of = None,
        bins: int = 4096,
    ) -> None:
        wrong = [share for share in shares if not 0 <= share <= 1]
        if wrong or not shares:
            got = str(wrong[0]) if wrong else "none"
            expected = "shares from 0 to 1"
            raise InputError(explain(where="Quantiles", expected=expected, got=got))
        self.shares = tuple(shares)
        self._histogram = Histogram(site, of=of, bins=bins)

    @property
    def sites(self) -> tuple[str, ...]:
        return self._histogram.sites

    @property
    def rows(self) -> int:
        """Rows taken in."""
        return self._histogram.rows

    def update(self, batch: Batch) -> None:
        self._histogram.update(batch)

    def finish(self) -> Quantiles:
        self._histogram.finish()
        return self

    @property
    def values(self) -> Tensor:
        """[share, unit] float64."""
        return torch.stack([self._histogram.quantile(share).double() for share in self.shares])

    def __repr__(self) -> str:
        return f"Quantiles({self.sites[0]}, {len(self.shares)} shares, {self.rows:,} rows)"
