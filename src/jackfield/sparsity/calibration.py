"""What a calibration stream tells: the quantiles of scores, and what rules leave out.

Two sinks, each over all sites of the rules in one pass.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.edits import Context
from jackfield.streams import Batch, Sink
from jackfield.streams.units import nonfinite_rows, raise_nonfinite

if TYPE_CHECKING:
    from jackfield.sparsity.sparse_inputs import SiteRule

_OCTAVES, _CELLS = 64, 256  # scores from 2^-64 to 2^64, in cells 0.3 % wide


class ScoreQuantiles(Sink[dict[str, float]]):
    """The q-quantile of the scores |x_i| c_i over all units and tokens, for each site.

    Counted in cells 0.3 % wide; the value is the upper end of the cell, so at least the share q of
    the scores does not exceed it. It is 0 for q = 0.
    """

    def __init__(self, rules: Mapping[str, "SiteRule"], q: float) -> None:
        self._rules, self._q = rules, q
        self._counts = {
            site: torch.zeros(2 * _OCTAVES * _CELLS, dtype=torch.int64) for site in rules
        }

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self._rules)

    def update(self, batch: Batch) -> None:
        for site, rule in self._rules.items():
            x = _rows(batch, site, rule).float()
            scores = x.abs() if rule.norms is None else x.abs() * rule.norms.to(x.device)
            cells = ((scores.log2() + _OCTAVES) * _CELLS).clamp(0, 2 * _OCTAVES * _CELLS - 1)
            counts = torch.bincount(cells.long().flatten(), minlength=2 * _OCTAVES * _CELLS)
            self._counts[site] += counts.cpu()

    def finish(self) -> dict[str, float]:
        return {site: self._quantile(counts) for site, counts in self._counts.items()}

    def _quantile(self, counts: Tensor) -> float:
        if self._q == 0:
            return 0.0
        below = counts.cumsum(0) >= self._q * int(counts.sum())
        cell = int(below.nonzero()[0]) + 1
        return float(2.0 ** (cell / _CELLS - _OCTAVES))


class Deviations(Sink[dict[str, "SiteRule"]]):
    """What each rule keeps, and how far the readers' output moves, on otherwise full inputs.

    error = Σ_tokens ‖W (x − m∘x)‖² / Σ_tokens ‖W x‖²; `by_norms` is the same with
    Σ_{i dropped} x_i² c_i² above, which it equals where the columns of W are orthogonal.
    """

    def __init__(
        self, rules: Mapping[str, "SiteRule"], matrices: Mapping[str, Float[Tensor, "out d"]]
    ) -> None:
        self._rules, self._matrices = rules, matrices
        self._sums = {site: torch.zeros(4, dtype=torch.float64) for site in rules}
        self._units = dict.fromkeys(rules, 0)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self._rules)

    def update(self, batch: Batch) -> None:
        for site, rule in self._rules.items():
            W = self._matrices[site].float()
            x = _rows(batch, site, rule).to(W)
            kept = rule.edit(site).apply(x, Context(site))
            rows, dropped = x.flatten(1), (x - kept).flatten(1)
            parts = [(dropped @ W.T), dropped * W.norm(dim=0), rows @ W.T]
            sizes = [part.double().pow(2).sum().cpu() for part in parts]
            self._sums[site] += torch.stack([*sizes, (kept != 0).sum().double().cpu()])
            self._units[site] += x.numel()

    def finish(self) -> dict[str, "SiteRule"]:
        return {site: self._measured(site) for site in self._rules}

    def _measured(self, site: str) -> "SiteRule":
        error, by_norms, whole, kept = self._sums[site].tolist()
        return replace(
            self._rules[site],
            kept=kept / self._units[site],
            error=error / whole if whole else 0.0,
            by_norms=by_norms / whole if whole else 0.0,
        )


def _rows(batch: Batch, site: str, rule: "SiteRule") -> Tensor:
    """The site's rows, checked to be finite and as wide as the weights that read them."""
    x = batch[site]
    if x[0].numel() != rule.width:
        expected = f"rows of {rule.width} units, as {', '.join(rule.readers)} reads them"
        raise InputError(
            explain(where=f"calibration at {site}", expected=expected, got=str(list(x.shape[1:])))
        )
    bad = nonfinite_rows(x)
    if bad.any():
        raise_nonfinite(batch, bad, where=f"calibration at {site}")
    return x
