"""Moments: mean, variance and covariance of a site in one pass, in float64.

Each batch is centred on its own mean and merged into what came before (Chan, Golub and LeVeque
1983, "Algorithms for computing the sample variance"):

    δ = mean_b − mean_a,    mean = mean_a + δ · n_b / n,    S = S_a + S_b + δ δᵀ · n_a n_b / n

with n = n_a + n_b and S the sum of centred outer products. Nothing is squared before it is
centred, so a mean of 10⁶ beside a deviation of 1 costs no digits, and how the rows were cut into
batches does not matter beyond rounding of the last bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.streams.protocol import Batch, Sink
from jackfield.streams.units import nonfinite_rows, raise_nonfinite


class Moments(Sink["Moments"]):
    """Streaming mean, variance and covariance of one site; its own result.

    Args:
        site: the site to read.
        covariance: False keeps only the variances, d numbers in place of d².
        skip_nonfinite: a row with NaN or Inf raises; True leaves such rows out and counts them in
            `skipped`.

    Attributes:
        rows: rows taken in.
        skipped: rows left out because they held NaN or Inf.

    >>> from jackfield.streams import Stream
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    >>> moments = Stream.from_tensor(x).into(Moments("x"))
    >>> moments.mean.tolist(), moments.covariance.tolist()
    ([2.0, 4.0], [[1.0, 2.0], [2.0, 4.0]])
    """

    def __init__(self, site: str, *, covariance: bool = True, skip_nonfinite: bool = False) -> None:
        self.site = site
        self.rows = 0
        self.skipped = 0
        self._wants_covariance = covariance
        self._skip_nonfinite = skip_nonfinite
        self._shape: tuple[int, ...] = ()
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._spread = self._mean  # S: [d, d], or its diagonal [d]

    @property
    def sites(self) -> tuple[str, ...]:
        """The one site."""
        return (self.site,)

    def update(self, batch: Batch) -> None:
        """Takes in a batch.

        Raises:
            InputError: NaN or Inf (unless skipped), or rows of another shape than before.
        """
        x = batch[self.site].detach()
        bad = nonfinite_rows(x)
        if bad.any():
            if not self._skip_nonfinite:
                raise_nonfinite(batch, bad, where=f"Moments at {self.site}")
            self.skipped += int(bad.sum())
            x = x[~bad]
        if len(x):
            self._take(x)

    def finish(self) -> Moments:
        """Itself.

        Raises:
            InputError: every row was skipped.
        """
        if not self.rows:
            got = f"none ({self.skipped} with NaN or Inf)"
            raise InputError(explain(where=f"Moments at {self.site}", expected="rows", got=got))
        return self

    def merge(self, other: Moments) -> Moments:
        """Adds the rows of `other` (another part of the same stream) to these; returns itself.

        Raises:
            InputError: the other is of another shape, or one keeps a covariance and one does not.
        """
        if other._wants_covariance != self._wants_covariance:
            expected = f"covariance={self._wants_covariance} on both sides"
            got = f"covariance={other._wants_covariance}"
            raise InputError(explain(where=f"Moments at {self.site}", expected=expected, got=got))
        self.skipped += other.skipped
        if other.rows:
            self._check_shape(other._shape)
            self._merge(other.rows, other._mean.clone(), other._spread.clone())
        return self

    @property
    def mean(self) -> Tensor:
        """[*row shape] float64."""
        return self._mean.reshape(self._shape)

    @property
    def variance(self) -> Tensor:
        """[*row shape] float64, of the population (divided by `rows`)."""
        diagonal = self._spread.diagonal() if self._wants_covariance else self._spread
        return (diagonal / self.rows).reshape(self._shape)

    @property
    def std(self) -> Tensor:
        """[*row shape] float64, the root of `variance`."""
        return self.variance.sqrt()

    @property
    def covariance(self) -> Tensor:
        """[d, d] float64 of the population, d = the row flattened.

        Raises:
            InputError: made with covariance=False.
        """
        if not self._wants_covariance:
            expected, got = "Moments(site, covariance=True)", "covariance=False"
            raise InputError(explain(where=f"Moments at {self.site}", expected=expected, got=got))
        return self._spread / self.rows

    def __repr__(self) -> str:
        skipped = f", {self.skipped:,} skipped" if self.skipped else ""
        return f"Moments({self.site}: {self.rows:,} rows of {list(self._shape)}{skipped})"

    def _take(self, x: Tensor) -> None:
        self._check_shape(tuple(x.shape[1:]))
        if x.device.type == "mps":  # has no float64
            x = x.cpu()
        rows = x.reshape(len(x), -1).to(torch.float64)
        mean = rows.mean(dim=0)
        centred = rows - mean
        spread = centred.T @ centred if self._wants_covariance else centred.square().sum(dim=0)
        self._merge(len(x), mean, spread)

    def _merge(self, rows: int, mean: Tensor, spread: Tensor) -> None:
        if not self.rows:
            self.rows, self._mean, self._spread = rows, mean, spread
            return
        total = self.rows + rows
        delta = mean.to(self._mean.device) - self._mean
        between = torch.outer(delta, delta) if self._wants_covariance else delta.square()
        self._mean = self._mean + delta * (rows / total)
        self._spread = (
            self._spread + spread.to(self._spread.device) + between * (self.rows * rows / total)
        )
        self.rows = total

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if self.rows and shape != self._shape:
            expected, got = f"rows of shape {list(self._shape)}", f"{list(shape)}"
            raise InputError(explain(where=f"Moments at {self.site}", expected=expected, got=got))
        self._shape = shape
