"""The result of a patching study: a grid of shares, the sentence that reads it, its uncertainty."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.core.sites import layer_of
from jackfield.core.study import Result
from jackfield.reports import Bars, HeatMap, Report, Table
from jackfield.reports.intervals import bootstrap_weights, tails

_CARRIES = 0.5  # share of the effect from which a cell counts as carrying the answer
_LISTED = 12  # of the strongest cells


@dataclass(frozen=True)
class PatchGrid(Result):
    """Shares of the gap between corrupted (0) and clean (1), for each site and unit.

    Attributes:
        per_pair: [pair, site, unit] the same for each pair, all divided by the mean gap.
        sites: names of the rows; `labels` those of the columns.
        by: what a column is: "position", "head", "neuron", or None (the whole site).
        direction: "denoise" or "noise".
        metric: its name.
        clean, corrupted: [pair] the metric without patching, in its own unit.
        model: its name.
        seconds: how long it took.
        method: how the values were found: "activation patching", or an approximation of it.
        moved: what was put in, where it is not the twin's value: "Zeros".
    """

    per_pair: Float[Tensor, "pair site unit"]
    sites: tuple[str, ...]
    labels: tuple[str, ...]
    by: str | None
    direction: str
    metric: str
    clean: Float[Tensor, "pair"]  # noqa: F821
    corrupted: Float[Tensor, "pair"]  # noqa: F821
    model: str
    seconds: float
    method: str = "activation patching"
    moved: str = ""

    @property
    def values(self) -> Float[Tensor, "site unit"]:
        """[site, unit] the mean over the pairs; a site is a layer."""
        return self.per_pair.mean(dim=0)

    @property
    def effect(self) -> Float[Tensor, "site unit"]:
        """How far a patch moves the metric: `values` when denoising, 1 − `values` when noising."""
        return self.values if self.direction == "denoise" else 1 - self.values

    @property
    def layers(self) -> list[int]:
        """The block of each row; the embedding counts as block 0."""
        return [layer_of(site) or 0 for site in self.sites]

    def interval(
        self, level: float = 0.95, *, draws: int = 1000, seed: int = 0
    ) -> tuple[Float[Tensor, "site unit"], Float[Tensor, "site unit"]]:
        """A bootstrap interval of `values` over the pairs (gap included): low and high.

        Raises:
            InputError: there is only one pair.
        """
        pairs = len(self.per_pair)
        if pairs < 2:
            raise InputError(explain(where="interval", expected="several pairs", got="one"))
        weights = bootstrap_weights(pairs, draws=draws, seed=seed)
        gaps = self.clean - self.corrupted
        scale = (gaps.mean() / (weights @ gaps))[:, None]
        rows = [tails(weights @ row * scale, level) for row in self.per_pair.double().unbind(1)]
        low, high = torch.stack(rows, dim=1)
        return low, high

    def strongest(self, count: int = _LISTED) -> list[tuple[int, int]]:
        """(row, column) of the cells with the largest effect, largest first."""
        order = self.effect.abs().flatten().argsort(descending=True, stable=True)[:count]
        return [divmod(int(cell), len(self.labels)) for cell in order]

    def sentence(self) -> str:
        """Where the information is and between which layers it moves, or the strongest units."""
        if self.by == "position":
            return self._path()
        what = f"a single {self.by}" if self.by else "a whole site"
        named = [
            f"{self._name(i, j)} ({float(self.values[i, j]):.2f})" for i, j in self.strongest(3)
        ]
        return f"The strongest effects of {what}: {', '.join(named)}."

    def report(self) -> Report:
        """The map, a table of what stands out, and the sentence."""
        role = self.sites[0].rpartition(".")[2]
        return Report(
            f"{self.method[0].upper()}{self.method[1:]} of {role}",
            [self._map(), self._table()],
            summary=f"{self.sentence()} {self._how()}",
        )

    def _path(self) -> str:
        """Follows the position that carries most, layer by layer."""
        stays = list(self._stays())
        if not stays:
            i, j = self.strongest(1)[0]
            return (
                f"No single position carries half of the effect; the largest is "
                f"{self._name(i, j)} ({float(self.values[i, j]):.2f})."
            )
        needs = "brings the answer back" if self.direction == "denoise" else "the answer needs"
        places = [f"at {self._column(j)} in layers {a}–{b}" for a, b, j in stays]
        moves = [f"between layers {old[1]} and {new[0]}" for old, new in pairwise(stays)]
        moved = f" It moves {' and '.join(moves)}." if moves else ""
        return f"What {needs} sits {', then '.join(places)}.{moved}"

    def _stays(self) -> Iterator[tuple[int, int, int]]:
        """(first layer, last layer, column) of each stretch in which one column carries most."""
        top, column = self.effect.max(dim=1)
        carrier = column.masked_fill(top < _CARRIES, -1).tolist()
        for j, group in groupby(range(len(carrier)), key=carrier.__getitem__):
            rows = list(group)
            if j >= 0:
                yield self.layers[rows[0]], self.layers[rows[-1]], j

    def _column(self, j: int) -> str:
        name = self.labels[j]
        return f"{name!r} (position {j})" if self.by == "position" else f"{self.by} {name}"

    def _name(self, i: int, j: int) -> str:
        return f"{self.sites[i]} {self._column(j)}" if self.by else self.sites[i]

    def _how(self) -> str:
        ends = ("corrupted", "Clean") if self.direction == "denoise" else ("clean", "Corrupted")
        moved = f"{self.moved or ends[1]} into {ends[0]}"
        clean, corrupted = float(self.clean.mean()), float(self.corrupted.mean())
        pairs = f"{len(self.per_pair)} pair{'s' * (len(self.per_pair) > 1)}"
        return (
            f"{moved}, {pairs}, {self.model}; 0 is the corrupted run ({self.metric} "
            f"{corrupted:.3g}), 1 the clean one ({clean:.3g}); "
            f"{self.values.numel()} cells in {self.seconds:.1f} s."
        )

    def _map(self) -> HeatMap | Bars:
        """The grid; of a single column a bar for each layer."""
        if not self.by:
            name = "share of the gap"
            return Bars(self.sites, self.values[:, 0], label_title="site", value_title=name)
        return HeatMap(
            self.values,
            self.labels,
            self.layers,
            x_title="token" if self.by == "position" else self.by,
            y_title="layer",
            limits=(-1.0, 1.0),
            value_name="share of the gap",
        )

    def _table(self) -> Table:
        """Every cell, first those that matter; the rest is for the file, not for the eye."""
        first = self._ends() if self.by == "position" else self.strongest()
        rest = [cell for cell in self.strongest(self.values.numel()) if cell not in first]
        cells = [*first, *rest]
        named = ["token"] if self.by == "position" else []
        columns = ["site", self.by or "unit", *named, "value"]
        rows: list[list[Any]] = [
            [self.sites[i], j, *[self.labels[j] for _ in named], float(self.values[i, j])]
            for i, j in cells
        ]
        if len(self.per_pair) > 1:
            low, high = self.interval()
            columns += ["low (95 %)", "high (95 %)"]
            rows = [
                [*row, float(low[cell]), float(high[cell])]
                for row, cell in zip(rows, cells, strict=True)
            ]
        caption = "Where it comes and goes." if self.by == "position" else "The largest effects."
        return Table(columns, rows, caption=caption, limit=len(first) or _LISTED)

    def _ends(self) -> list[tuple[int, int]]:
        """The first and the last cell of each stretch in which one position carries most."""
        row = self.layers.index
        ends = [((row(first), j), (row(last), j)) for first, last, j in self._stays()]
        return list(dict.fromkeys(cell for pair in ends for cell in pair))
