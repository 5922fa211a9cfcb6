"""Windows: the tokens around chosen rows of a stream, and how strongly one unit fires on them.

The place of a token is one number, document · 2³² + position. The places wanted are sorted once;
each batch looks its own up among them. A place that has no row (before a document's beginning,
a sink or special token that the stream leaves out) stays empty.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.streams import Batch, Sink, TopRows

_BITS = 32  # of a place that hold the position


@dataclass(frozen=True)
class Token:
    """One token of a window: its id (None if there is none), place and activation (NaN: a gap)."""

    id: int | None
    position: int
    value: float

    @property
    def is_gap(self) -> bool:
        """Whether it stands for tokens that the stream does not have."""
        return math.isnan(self.value)


class Windows(Sink["Windows"]):
    """Reads the surroundings of the top rows of every unit; its own result.

    Args:
        site: of [row, unit], the one that `top` was taken from.
        top: the rows, by document and position.
        before, after: how many tokens around each.

    Attributes:
        values: [unit, example, slot], the unit's value on each token; NaN where there is no row.
        tokens: [unit, example, slot] ids, -1 where there is no row or no token.
    """

    def __init__(self, site: str, top: TopRows, *, before: int, after: int) -> None:
        self.site = site
        self._top, self._before = top, before
        shape = (*top.positions.shape, before + 1 + after)
        self.values: Float[Tensor, "unit example slot"] = torch.full(shape, torch.nan)
        self.tokens: Int[Tensor, "unit example slot"] = torch.full(shape, -1, dtype=torch.int32)
        positions = top.positions[..., None] + torch.arange(-before, after + 1)
        exists = (top.rows[..., None] >= 0) & (positions >= 0)
        slots = exists.flatten().nonzero().squeeze(1)
        places = _places(top.documents[..., None].expand(shape), positions).flatten()[slots]
        self._places, order = places.sort()
        self._slots = slots[order]

    @property
    def sites(self) -> tuple[str, ...]:
        """The one site."""
        return (self.site,)

    def update(self, batch: Batch) -> None:
        """Takes what is wanted of a batch."""
        places = _places(batch.documents, batch.positions).cpu()
        first = torch.searchsorted(self._places, places)
        found = torch.searchsorted(self._places, places, right=True) - first
        row = torch.arange(len(batch)).repeat_interleave(found)
        skipped = found.cumsum(0) - found  # matches of the rows before
        match = torch.arange(len(row)) - skipped[row] + first[row]
        slot = self._slots[match]
        unit = slot // (self.values[0].numel())
        values = batch[self.site]
        self.values.view(-1)[slot] = (
            values[row.to(values.device), unit.to(values.device)].float().cpu()
        )
        if batch.tokens is not None:
            self.tokens.view(-1)[slot] = batch.tokens.cpu()[row].int()

    def finish(self) -> "Windows":
        """Itself."""
        return self

    def of(self, unit: int, example: int) -> list[Token]:
        """The tokens of one window, in order; a gap in the text is one token of value NaN."""
        start = int(self._top.positions[unit, example]) - self._before
        values, tokens = self.values[unit, example].tolist(), self.tokens[unit, example].tolist()
        window: list[Token] = []
        for position, (value, token) in enumerate(zip(values, tokens, strict=True), start):
            if math.isnan(value):
                continue
            if window and position > window[-1].position + 1:
                window.append(Token(None, position - 1, math.nan))
            window.append(Token(None if token < 0 else token, position, value))
        return window


def _places(documents: Tensor, positions: Tensor) -> Tensor:
    return documents.bitwise_left_shift(_BITS) + positions
