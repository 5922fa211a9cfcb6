"""AUSteer: a few single units of the model, those that tell the two sides apart in most pairs.

    β_i = +N⁺/N if N⁺ ≥ N⁻, else −N⁻/N           N±: pairs in which unit i is larger, or smaller
    x_i ← x_i + α β_i x_i                         for the k units of largest |β|, of all sites

a⁺, a⁻ [pair, d] are one vector a text; the units ("atomic units") of all sites compete. As the
change is a share of x_i, it pushes a unit away from 0, which is not always towards the positive
side; `push="toward"` adds α β_i σ_i instead (σ_i: the unit's spread over texts), as a control.

The AUSteer paper, 2026 (arXiv 2602.04428), and its code. Departures: with few pairs many |β| are 1,
so ties go to the larger |mean Δ| / std Δ; the input of attention's output projection is not
offered, as its units lie in heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Method
from jackfield.core.sites import in_words
from jackfield.edits import Edit
from jackfield.edits.transport import MoveUnits
from jackfield.reports import Bars, Report, Table
from jackfield.steering.contrast import Pooling, read_contrast
from jackfield.steering.steering import Steering

if TYPE_CHECKING:
    from jackfield.model.model import Model

Push = Literal["scale", "toward"]


@config
class AUSteer(Method):
    """The units that differ in the same direction in most pairs.

    Attributes:
        units: k, how many are steered, of all sites together.
        push: by a share of the unit's value ("scale", as published), or by a constant towards the
            positive side ("toward").
        tokens: what stands for a text: its last token ("last") or the mean of its tokens ("all").
        where: which tokens are read.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> found = AUSteer(units=5).fit(world.model, positive=world.tokens, negative=world.other)
    >>> sum(int((beta != 0).sum()) for beta in found.momentum.values())
    5
    """

    units: int = setting(default=32, ge=1)
    push: Push = "scale"
    tokens: Pooling = "last"
    where: str | int | tuple[int, ...] = "~sinks"

    def fit(
        self,
        model: "Model",
        *,
        positive: Any,
        negative: Any,
        at: str = "layers.*.mlp_out",
        progress: bool = False,
    ) -> "SteeredUnits":
        """Chooses the units.

        Args:
            model: the model to steer.
            positive: texts that have the property: strings, chats, or token ids [text, position].
            negative: as many texts that have not; text i of both sides is a pair.
            at: sites [batch, position, d], or a pattern of them.
            progress: show a live line.

        Raises:
            InputError: sides of different size, more units than there are, or sides that do not
                differ.
            SiteError: a site of another shape.
        """
        where = f"{model.name}, AUSteer"
        read = read_contrast(
            model, positive, negative, at, tokens=self.tokens, where=self.where, progress=progress
        )
        if not read.paired:
            got = f"{read.counts[0]} and {read.counts[1]} texts"
            raise InputError(explain(where=where, expected="pairs", got=got))
        sides = {site: read.sides(site) for site in read.sites}
        beta = torch.cat([momentum(plus - minus) for plus, minus in sides.values()])
        size = torch.cat([_size(plus - minus) for plus, minus in sides.values()])
        if self.units > len(beta) or not bool(beta.any()):
            got = f"{len(beta)} units" if beta.any() else "sides that do not differ"
            expected = f"{self.units} units that differ between the sides"
            raise InputError(explain(where=where, expected=expected, got=got))
        kept = torch.zeros_like(beta)
        chosen = _ranked(beta.abs(), size)[: self.units]
        kept[chosen] = beta[chosen]
        widths = [plus.shape[1] for plus, _ in sides.values()]
        return SteeredUnits(
            dict(zip(sides, (each.float() for each in kept.split(widths)), strict=True)),
            {site: _spread(*pair).float() for site, pair in sides.items()},
            {"name": type(self).__name__, **to_json(self)},
            model.name,
            len(sides[read.sites[0]][0]),
        )


@dataclass(frozen=True, eq=False)
class SteeredUnits(Steering):
    """Some units and how consistently they differ.

    Attributes:
        momentum: {site: β [d]} float32, 0 for units that are left alone.
        spread: {site: σ [d]} the standard deviation of each unit over texts, within a side.
        method: the settings of the fit.
        model: the name of the model.
        pairs: how many there were.
    """

    momentum: Mapping[str, Float[Tensor, " d"]]
    spread: Mapping[str, Float[Tensor, " d"]]
    method: Mapping[str, Any]
    model: str
    pairs: int

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Steers the units, `factor` is α; sites without a unit are not touched."""
        scale = self.method["push"] == "scale"
        found: list[Edit] = []
        for site, beta in self.momentum.items():
            if bool(beta.any()):
                gain = beta if scale else torch.zeros_like(beta)
                bias = torch.zeros_like(beta) if scale else beta * self.spread[site]
                found.append(MoveUnits(gain, bias, strength=float(factor), at=site, where=where))
        return found

    def units(self) -> Mapping[str, float]:
        """One "sigma" is one raw unit where units are pushed towards a side."""
        return {} if self.method["push"] == "scale" else {"sigma": 1.0}

    def report(self) -> Report:
        """The units, strongest first."""
        rows = sorted(self._rows(), key=lambda row: -abs(row[2]))
        sites = in_words({row[0] for row in rows})
        low = min(abs(row[2]) for row in rows)
        summary = (
            f"AUSteer chose {len(rows)} units at {sites} of {self.model}; each differs in "
            f"the same direction in at least {low:.0%} of {self.pairs} pairs."
        )
        labels = [f"{site}[unit={unit}]" for site, unit, _ in rows]
        blocks = [
            Bars(labels, [beta for *_, beta in rows], value_title="β"),
            Table(["site", "unit", "β"], rows),
        ]
        return Report("AUSteer", blocks, summary=summary)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, β and σ of every site."""
        tensors = {f"{site}/beta": each for site, each in self.momentum.items()}
        tensors |= {f"{site}/spread": each for site, each in self.spread.items()}
        extra = {"sites": list(self.momentum), "model": self.model, "pairs": self.pairs}
        return dict(self.method), tensors, extra

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the steering from `state`."""
        beta, spread = (
            {site: tensors[f"{site}/{name}"] for site in extra["sites"]}
            for name in ("beta", "spread")
        )
        return cls(beta, spread, config, extra["model"], extra["pairs"])

    def _rows(self) -> list[list[Any]]:
        return [
            [site, unit, float(beta[unit])]
            for site, beta in self.momentum.items()
            for unit in beta.nonzero().flatten().tolist()
        ]


def momentum(pairs: Float[Tensor, "pair d"]) -> Float[Tensor, " d"]:
    """β of each unit from its differences: the share of the more frequent sign, with that sign.

    >>> momentum(torch.tensor([[1.0, -1.0], [2.0, -3.0], [-1.0, -2.0], [1.0, 0.0]]))
    tensor([ 0.7500, -0.7500], dtype=torch.float64)
    """
    up, down = ((sign * pairs > 0).double().mean(dim=0) for sign in (1, -1))
    return torch.where(up >= down, up, -down)


def _size(pairs: Tensor) -> Tensor:
    """|mean| / std of each unit's differences."""
    if len(pairs) < 2:
        return pairs.mean(dim=0).abs()
    return pairs.mean(dim=0).abs() / pairs.std(dim=0).clamp(min=1e-12)


def _spread(plus: Tensor, minus: Tensor) -> Tensor:
    both = torch.cat([plus - plus.mean(dim=0), minus - minus.mean(dim=0)])
    return both.square().mean(dim=0).sqrt()


def _ranked(first: Tensor, second: Tensor) -> Tensor:
    """Places by `first`, the largest in front; ties by `second`."""
    order = second.argsort(descending=True, stable=True)
    return order[first[order].argsort(descending=True, stable=True)]
