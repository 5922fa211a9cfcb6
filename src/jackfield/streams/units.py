"""What a sink looks at, row by row: the site's own coordinates, or units read from them.

A *unit* is one number a row: a coordinate of the site, a direction's dot product, a latent of a
dictionary. `of` chooses: None for the site itself, a tensor [unit, d] of directions, or a function
[row, ...] -> [row, unit].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.streams.protocol import Batch

_PART = 2048  # rows looked at together, so that the copy stays in the processor's cache

Of = Callable[[Tensor], Tensor] | Tensor | None


def unit_values(batch: Batch, site: str, of: Of, *, where: str) -> Tensor:
    """The units of one batch.

    Returns:
        [row, unit], in the site's dtype or the function's; always finite.

    Raises:
        InputError: a wrong width, a function of the wrong shape, or NaN or Inf (with its place).
    """
    x = batch[site].detach()
    with torch.no_grad():
        values = _apply(x, of, site, where)
    if values.ndim != 2 or len(values) != len(x):
        expected = f"a function that gives [row, unit] for {len(x)} rows"
        raise InputError(explain(where=f"{where} at {site}", expected=expected, got=_shape(values)))
    bad = nonfinite_rows(values)
    if bad.any():
        raise_nonfinite(batch, bad, where=f"{where} at {site}")
    return values


def nonfinite_rows(x: Tensor) -> Tensor:
    """Which rows of [row, ...] hold NaN or Inf: [row] bool."""
    if not x.is_floating_point():
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)
    # A maximum keeps NaN and Inf, and is ten times faster than asking every number.
    largest = [part.abs().amax(dim=1) for part in x.reshape(len(x), -1).split(_PART)]
    return ~torch.isfinite(torch.cat(largest))


def raise_nonfinite(batch: Batch, bad: Tensor, *, where: str) -> None:
    """Raises InputError that counts the bad rows and places the first."""
    first = int(bad.nonzero()[0])
    place = f"document {int(batch.documents[first])}, position {int(batch.positions[first])}"
    got = f"NaN or Inf in {int(bad.sum())} of {len(bad)} rows, first at {place}"
    raise InputError(explain(where=where, expected="finite activations", got=got))


def _apply(x: Tensor, of: Of, site: str, where: str) -> Tensor:
    if of is None:
        return x.reshape(len(x), -1)
    if not isinstance(of, Tensor):
        return of(x)
    if of.ndim != 2 or x.ndim != 2 or of.shape[1] != x.shape[1]:
        expected = f"directions [unit, d] for rows {list(x.shape[1:])}"
        raise InputError(explain(where=f"{where} at {site}", expected=expected, got=_shape(of)))
    return x.to(of.dtype) @ of.detach().to(x.device).T


def _shape(x: Tensor) -> str:
    return f"shape {list(x.shape)}"
