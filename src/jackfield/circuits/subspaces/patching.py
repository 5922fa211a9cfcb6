"""Subspace patching: which part of an activation carries what makes the answer?

Of two runs only the part that lies in a subspace is exchanged, w' = w + (u − w) VᵀV, at one site
and some tokens; beside it all of the activation, and random subspaces of as many dimensions. As in
`ActivationPatching` the effect is the share of the gap between both runs.

A subspace that moves the answer need not be the one that the model uses: every result has its
illusion verdict (`illusion.py`). Geiger et al. 2023 (arXiv 2303.02536) for the patch; Makelov,
Lange and Nanda 2023 (2311.17030) for the test. FLDD, the fractional logit difference decrease, is
1 − m_patched / m_base over the means of the metric.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.circuits.metrics import Metric
from jackfield.circuits.patching import Direction
from jackfield.circuits.subspaces.illusion import IllusionVerdict, Thresholds, judge, parts_of
from jackfield.circuits.subspaces.interchange import Place, random_rows, read_place, rows_of
from jackfield.circuits.subspaces.spaces import seen_space
from jackfield.circuits.tasks.accuracy import mean_and_interval
from jackfield.core.config import config, setting
from jackfield.core.study import Result, Study
from jackfield.reports import Report, Table

if TYPE_CHECKING:
    from jackfield.model.model import Model

PARTS = ("subspace", "row part", "null part", "whole activation", "random subspace")


@config
class SubspacePatching(Study):
    """Exchange of the part of an activation in a subspace, with the illusion verdict.

    Attributes:
        site: one site with a vector for each token: layers.9.mlp_post, or layers.9.z[head=3].
        positions: the tokens on which it is exchanged; −1 is the last.
        direction: "denoise" (clean into corrupted) or "noise" (corrupted into clean).
        readers: for a site of the residual stream: what reads it, for the verdict; see `spaces.py`.
        effect, inert, loses, keeps, borrowed: the thresholds of the verdict; see `illusion.py`.
        controls: random subspaces of as many dimensions.
        seed: of the random subspaces.

    >>> from jackfield.circuits import LogitDifference
    >>> from jackfield.testing import tiny_llama
    >>> clean, corrupted = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 8, 7]])
    >>> found = SubspacePatching(site="layers.1.resid_post", positions=(0, 1, 2)).run(
    ...     tiny_llama(),
    ...     torch.eye(32),
    ...     clean=clean,
    ...     corrupted=corrupted,
    ...     metric=LogitDifference(answer=3, wrong=4),
    ... )
    >>> round(found.effect, 4)  # all directions at all tokens are all of the effect
    1.0
    """

    site: str
    positions: tuple[int, ...] = (-1,)
    direction: Direction = "denoise"
    readers: tuple[str, ...] = ()
    effect: float = setting(default=0.1, gt=0)
    inert: float = setting(default=0.1, ge=0)
    loses: float = setting(default=0.5, ge=0, le=1)
    keeps: float = setting(default=0.8, ge=0)
    borrowed: float = setting(default=0.5, ge=0, le=1)
    controls: int = setting(default=3, ge=1)
    seed: int = 0

    def run(
        self,
        model: "Model",
        directions: Float[Tensor, "*k d"],
        *,
        clean: Any,
        corrupted: Any,
        metric: Metric | Callable[[Tensor], Tensor],
        batch_tokens: int = 1024,
    ) -> "SubspacePatch":
        """Patches the subspace, its parts, the whole activation and random subspaces.

        Args:
            model: a language model with known blocks.
            directions: [d] or [k, d], of the site's width; they need not be orthonormal.
            clean: prompts, all of one length.
            corrupted: their twins.
            metric: what to measure at the last token.
            batch_tokens: tokens in one forward.

        Raises:
            InputError: prompts that do not align, a gap too small to divide by, directions of
                another width or that are no numbers.
            SiteError: a site with several vectors a token, or outside the blocks.
        """
        given = {"clean": clean, "corrupted": corrupted, "metric": metric}
        place = read_place(model, self.site, self.positions, self.direction, **given)
        return self.at(place, directions, batch_tokens)

    def at(
        self, place: Place, directions: Float[Tensor, "*k d"], batch_tokens: int = 1024
    ) -> "SubspacePatch":
        """The same on two runs that have been made."""
        began = perf_counter()
        basis = rows_of(directions, place.width, where=f"{place.model.name}, {self.site}")
        seen = seen_space(place.model, place.site, self.readers)
        parts = parts_of(basis, seen)
        patched = [place.patched(each, batch_tokens) for each in (basis, parts.row, parts.null)]
        patched.append(place.whole(batch_tokens))
        drawn = [random_rows(len(basis), place.width, self.seed + i) for i in range(self.controls)]
        patched.append(torch.stack([place.patched(each, batch_tokens) for each in drawn]).mean(0))
        effects = [float(place.share(each).mean()) for each in patched[:4]]
        limits = Thresholds(
            effect=self.effect, inert=self.inert, loses=self.loses, keeps=self.keeps,
            borrowed=self.borrowed,
        )  # fmt: skip
        return SubspacePatch(
            metrics=torch.stack(patched, dim=1),
            per_pair=torch.stack([place.share(each) for each in patched], dim=1),
            base=place.base.metric,
            source=place.source.metric,
            accuracies=tuple(place.accuracy(each) for each in patched),
            illusion=judge(place, basis, seen, effects, limits),
            site=place.site.name,
            positions=place.positions,
            dimensions=len(basis),
            direction=self.direction,
            metric=place.pair.metric.name,
            model=place.model.name,
            seconds=perf_counter() - began,
        )


@dataclass(frozen=True)
class SubspacePatch(Result):
    """What was measured with a subspace exchanged.

    Attributes:
        metrics: [pair, part] the metric with each of `PARTS` exchanged, in its unit.
        per_pair: [pair, part] the same as shares of the gap: 0 as without, 1 as the other run.
        base, source: [pair] the metric of the run that is patched, and of the one that gives.
        accuracies: of each part, how many pairs answer as the run that gives asks.
        illusion: the verdict.
        site, positions: where.
        dimensions: k.
        direction: "denoise" or "noise".
        metric: its name.
        model: its name.
        seconds: how long it took.
    """

    metrics: Float[Tensor, "pair part"]
    per_pair: Float[Tensor, "pair part"]
    base: Float[Tensor, "pair"]  # noqa: F821
    source: Float[Tensor, "pair"]  # noqa: F821
    accuracies: tuple[float, ...]
    illusion: IllusionVerdict
    site: str
    positions: tuple[int, ...]
    dimensions: int
    direction: str
    metric: str
    model: str
    seconds: float

    @property
    def effect(self) -> float:
        """How far the subspace moves the metric, as a share of the gap."""
        return float(self.per_pair[:, 0].mean())

    @property
    def accuracy(self) -> float:
        """Interchange accuracy of the subspace."""
        return self.accuracies[0]

    @property
    def fldd(self) -> tuple[float, ...]:
        """1 − m_patched / m_base for each of `PARTS`."""
        return tuple((1 - self.metrics.mean(dim=0) / self.base.mean()).tolist())

    def report(self) -> Report:
        """The parts with their intervals, the verdict and its numbers."""
        many = self.dimensions > 1
        what = f"{self.dimensions} dimension{'s' * many} of {self.site}"
        where = f"position {', '.join(map(str, self.positions))} carr{'y' if many else 'ies'}"
        summary = (
            f"{what} at {where} {self.effect:.2f} of the gap ({self.metric}, {len(self.base)} "
            f"pairs, {self.model}). {self.illusion.sentence()}"
        )
        return Report("Subspace patching", [self._table(), self.illusion.table()], summary=summary)

    def _table(self) -> Table:
        columns = ["exchanged", "share of the gap", "low (95 %)", "high (95 %)"]
        rows = [
            [part, *mean_and_interval(values.tolist()), accuracy, fldd]
            for part, values, accuracy, fldd in zip(
                PARTS, self.per_pair.T, self.accuracies, self.fldd, strict=True
            )
        ]
        return Table([*columns, "interchange accuracy", "FLDD"], rows)
