"""Excerpts: the words around a row, and how strongly a latent fires on each."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jackfield.dictionaries.firings import Firings


@dataclass(frozen=True)
class Token:
    """One token of an excerpt: its words, row and place, and the activation on it.

    A gap, for tokens that the stream does not have (a sink), has the row -1 and the value NaN.
    """

    says: str
    row: int
    position: int
    value: float


@dataclass(frozen=True)
class Excerpt:
    """A piece of a document.

    Attributes:
        tokens: in order.
        peak: which of them it was chosen for.
    """

    tokens: tuple[Token, ...]
    peak: int

    def __str__(self) -> str:
        return "".join(
            f"«{token.says}»" if i == self.peak else token.says
            for i, token in enumerate(self.tokens)
        )


def excerpt(
    firings: Firings, row: int, fires: tuple[Tensor, Tensor], before: int, after: int
) -> Excerpt:
    """The excerpt around a row.

    Args:
        firings: words and places of all rows.
        row: the row it is for.
        fires: the rows that the latent fires on, rising, and the values.
        before: positions before it.
        after: positions after it.
    """
    rows = firings.around(row, before, after)
    positions = firings.rows["positions"][rows].tolist()
    tokens: list[Token] = []
    peak = 0
    for says, here, position, value in zip(
        firings.says(rows), rows.tolist(), positions, _values(rows, *fires), strict=True
    ):
        if tokens and position > tokens[-1].position + 1:
            tokens.append(Token("…", -1, position - 1, math.nan))
        peak = len(tokens) if here == row else peak
        tokens.append(Token(says or f" @{position}", here, position, value))
    return Excerpt(tuple(tokens), peak)


def _values(rows: Tensor, fired: Tensor, values: Tensor) -> list[float]:
    """The value on each row, 0 where it does not fire."""
    if not len(fired):
        return [0.0] * len(rows)
    at = torch.searchsorted(fired, rows).clamp_max(len(fired) - 1)
    return values[at].where(fired[at] == rows, 0.0).tolist()
