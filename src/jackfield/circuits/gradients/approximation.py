"""How near do gradient methods come to real patching? A table with intervals.

For each component (a kind of site, taken by position, head or as a whole) every cell of the grid
is patched for real and estimated by each method; the table holds the Pearson correlation of the
two over all cells of the mean grid, with a bootstrap interval over the pairs (the same draws for
all methods, so that differences between them have intervals too). A second figure is the slope of
the true values on the estimates, 1 for a method that is right in size as well as in order.

As in the RelP paper, arXiv 2508.21258, table 1. Departure: the interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jackfield.circuits.gradients.attribution import GradientStudy
from jackfield.circuits.gradients.door import METHODS
from jackfield.circuits.metrics import Metric
from jackfield.circuits.patch_grid import PatchGrid
from jackfield.circuits.patching import By, Direction, patch
from jackfield.core.config import config, setting
from jackfield.core.errors import ConfigError, InputError, explain
from jackfield.core.study import Result, Study
from jackfield.reports import Report, Table
from jackfield.reports.intervals import bootstrap_weights

if TYPE_CHECKING:
    from jackfield.model.model import Model


@dataclass(frozen=True)
class Component:
    """One row of the table: a kind of site, and what a cell of it is."""

    sites: str
    by: By | None

    @property
    def name(self) -> str:
        """As the table calls it, such as "z by head"."""
        return f"{self.sites.rpartition('.')[2]} by {self.by or 'layer'}"


@config
class ApproximationStudy(Study):
    """Real patching against each gradient method, component by component.

    Attributes:
        components: "pattern by position", "pattern by head", …; "… by layer" is the whole site.
        methods: keys of `METHODS`; each with its default settings.
        direction: of patching, "denoise" or "noise".
        draws: of the bootstrap over the pairs.
        seed: of the same.

    >>> from jackfield.circuits import LogitDifference
    >>> from jackfield.testing import tiny_llama
    >>> study = ApproximationStudy(components=("layers.*.z by head",), methods=("atp", "relp"))
    >>> table = study.run(
    ...     tiny_llama(), clean=torch.tensor([[5, 6, 7], [5, 9, 7]]),
    ...     corrupted=torch.tensor([[5, 8, 7], [5, 4, 7]]), metric=LogitDifference(3, 4),
    ... )  # fmt: skip
    >>> -1 <= table.correlation("z by head", "atp") <= 1
    True
    """

    components: tuple[str, ...] = (
        "layers.*.resid_post by position",
        "layers.*.attn_out by position",
        "layers.*.mlp_out by position",
        "layers.*.z by head",
    )
    methods: tuple[str, ...] = tuple(METHODS)
    direction: Direction = "denoise"
    draws: int = setting(default=1000, ge=10)
    seed: int = 0

    def run(
        self,
        model: "Model",
        *,
        clean: Any,
        corrupted: Any,
        metric: Metric | Callable[[Tensor], Tensor],
        labels: Sequence[str] | None = None,
        batch_tokens: int = 512,
    ) -> "ApproximationTable":
        """Patches and estimates every cell; see `GradientStudy.run` for the arguments.

        Raises:
            ConfigError: an unknown method or component.
            InputError: fewer than two pairs, or what patching refuses.
        """
        studies = [_study(name, self.direction) for name in self.methods]
        components = [_component(text) for text in self.components]
        given = {"clean": clean, "corrupted": corrupted, "metric": metric, "labels": labels}
        began = perf_counter()
        truth = [
            patch(model, sites=c.sites, by=c.by, direction=self.direction, **given)
            for c in components
        ]
        patched = perf_counter() - began
        wanted = [(component.sites, component.by) for component in components]
        found = [
            study.grids(model, wanted, batch_tokens=batch_tokens, **given) for study in studies
        ]
        names = [component.name for component in components]
        return ApproximationTable(
            truth=dict(zip(names, truth, strict=True)),
            estimates={
                method: dict(zip(names, grids, strict=True))
                for method, grids in zip(self.methods, found, strict=True)
            },
            weights=_draws(len(truth[0].per_pair), self.draws, self.seed),
            seconds={"patching": patched} | {
                method: grids[0].seconds for method, grids in zip(self.methods, found, strict=True)
            },
        )  # fmt: skip


@dataclass(frozen=True)
class ApproximationTable(Result):
    """Correlations with real patching.

    Attributes:
        truth: component → the patched grid.
        estimates: method → component → its grid.
        weights: [draw, pair] how often the bootstrap took each pair, over the number of pairs.
        seconds: of patching and of each method, for all components together.
    """

    truth: dict[str, PatchGrid]
    estimates: dict[str, dict[str, PatchGrid]]
    weights: Tensor
    seconds: dict[str, float]

    def correlation(self, component: str, method: str) -> float:
        """Pearson's r of all cells of the mean grids; NaN where one of them is constant."""
        grids = self.truth[component], self.estimates[method][component]
        return float(_pearson(*(grid.values.flatten() for grid in grids)))

    def interval(self, component: str, method: str, level: float = 0.95) -> tuple[float, float]:
        """Its bootstrap interval over the pairs."""
        return _ends(self._drawn[component, method], level)

    def advantage(self, component: str, method: str, over: str) -> tuple[float, float, float]:
        """r(method) − r(over), and its interval over the same draws."""
        drawn = self._drawn[component, method] - self._drawn[component, over]
        difference = self.correlation(component, method) - self.correlation(component, over)
        return difference, *_ends(drawn, 0.95)

    def slope(self, component: str, method: str) -> float:
        """The slope of the true effects on the estimated ones; 1 where sizes are right."""
        truth, found = (
            grid.values.flatten()
            for grid in (self.truth[component], self.estimates[method][component])
        )
        x, y = found - found.mean(), truth - truth.mean()
        return float((x * y).sum() / (x * x).sum())

    @cached_property
    def _drawn(self) -> dict[tuple[str, str], Tensor]:
        """[draw] the correlation of each draw; the gap divides out."""
        means = {
            (component, method): self.weights @ grids[component].per_pair.double().flatten(1)
            for method, grids in {"": self.truth, **self.estimates}.items()
            for component in grids
        }
        return {key: _pearson(means[key[0], ""], mean) for key, mean in means.items() if key[1]}

    def report(self) -> Report:
        """The table, one row a component and method, and the best method of each component."""
        rows = [
            [
                component, method, self.correlation(component, method),
                *self.interval(component, method), self.slope(component, method),
                grids[component].values.numel(),
            ]
            for component in self.truth
            for method, grids in self.estimates.items()
        ]  # fmt: skip
        columns = [
            "component",
            "method",
            "Pearson r",
            "low (95 %)",
            "high (95 %)",
            "slope",
            "cells",
        ]
        times = Table(["what", "seconds"], list(map(list, self.seconds.items())), caption="Time.")
        return Report(
            "Gradient methods against patching",
            [Table(columns, rows, caption="Over all cells of the mean grid."), times],
            summary=self.sentence(),
        )

    def sentence(self) -> str:
        """The method nearest to patching for each component."""
        best = []
        for component in self.truth:
            found = {method: self.correlation(component, method) for method in self.estimates}
            method = max(found, key=lambda each: (found[each] == found[each], found[each]))
            best.append(f"{component}: {method} ({found[method]:.2f})")
        grid = next(iter(self.truth.values()))
        count = len(grid.per_pair)
        return f"Nearest to patching on {grid.model}, {count} pairs: {'; '.join(best)}."


def _study(method: str, direction: Direction) -> GradientStudy:
    if method not in METHODS:
        expected = f"methods of {', '.join(METHODS)}"
        raise ConfigError(explain(where="ApproximationStudy", expected=expected, got=repr(method)))
    return METHODS[method](direction=direction)


def _component(text: str) -> Component:
    sites, word, by = text.rpartition(" by ")
    known: dict[str, By | None] = {
        "position": "position", "head": "head", "neuron": "neuron", "layer": None,
    }  # fmt: skip
    if not word or by not in known:
        expected = "components such as 'layers.*.z by head'"
        raise ConfigError(explain(where="ApproximationStudy", expected=expected, got=repr(text)))
    return Component(sites, known[by])


def _draws(pairs: int, draws: int, seed: int) -> Tensor:
    if pairs < 2:
        expected = "several pairs, for the interval"
        raise InputError(explain(where="ApproximationStudy", expected=expected, got=str(pairs)))
    return bootstrap_weights(pairs, draws=draws, seed=seed)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Along the last axis."""
    a, b = (x - x.mean(dim=-1, keepdim=True) for x in (a, b))
    return (a * b).sum(dim=-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def _ends(drawn: Tensor, level: float) -> tuple[float, float]:
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = drawn.nanquantile(tails).tolist()
    return low, high
