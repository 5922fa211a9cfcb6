"""Axis cap: a projection is kept within what is usual, and everything else is left alone.

    floor   x ← x − min(x·r̂ − τ, 0) r̂           cap   x ← x − max(x·r̂ − τ, 0) r̂

τ is a percentile, at each site, of the projections of tokens of texts on which the model behaves
as it should. Tokens within the bound keep their bits; doing it twice is doing it once; a floor of r̂
at τ is a cap of −r̂ at −τ. With the axis from other roles to the assistant and its 25th percentile
as a floor it holds a model in its usual character (assistant axis: Lu et al. 2026, arXiv
2601.10387). Departure: the distribution is over tokens of given texts, not over the means of
answers that the model generates.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Method
from jackfield.core.progress import Progress
from jackfield.edits import Cap, Edit
from jackfield.reports import Report, Table
from jackfield.steering.steering import Steering
from jackfield.steering.steering_vector import SteeringVector
from jackfield.steering.unsteered import chosen_tokens

if TYPE_CHECKING:
    from jackfield.model.model import Model

Side = Literal["floor", "cap"]
_TEXTS = 16  # in one forward


@config
class AxisCap(Method):
    """A floor or a cap of the projection on an axis, at a percentile of what is usual.

    Attributes:
        percentile: of the projections, 0 to 100.
        side: "floor" or "cap".
        where: which tokens of the texts make the distribution.

    >>> from jackfield.steering import MeanDifference
    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> axis = MeanDifference().fit_all(world.model, **sides, at="layers.1:3.resid_post")
    >>> len(AxisCap().fit(world.model, axis=axis, texts=world.tokens).bounds)
    2
    """

    percentile: int = setting(default=25, ge=0, le=100)
    side: Side = "floor"
    where: str | int | tuple[int, ...] = "~sinks"

    def fit(
        self,
        model: "Model",
        *,
        axis: SteeringVector | Iterable[SteeringVector],
        texts: Any,
        progress: bool = False,
    ) -> "CappedAxis":
        """Reads the projections of tokens on the axis.

        Args:
            model: the model to steer.
            axis: a direction at one site, or one at each of several (`Directions`).
            texts: on which the model is as it should be: strings, chats, or token ids.
            progress: show a live line.

        Raises:
            InputError: no axis, no texts, no token to read, or numbers that are not finite.
        """
        axes = [axis] if isinstance(axis, SteeringVector) else list(axis)
        if not axes:
            raise InputError(explain(where="AxisCap.fit", expected="an axis", got="none"))
        along = _projections(model, {each.at: each.vector for each in axes}, texts, self.where,
                             progress)  # fmt: skip
        grid = torch.linspace(0, 1, 101, dtype=torch.float64)
        return CappedAxis(
            vectors=torch.stack([each.vector / each.vector.norm() for each in axes]),
            sites=tuple(each.at for each in axes),
            percentiles=torch.stack([quantiles(along[each.at], grid) for each in axes]).float(),
            method=to_json(self),
            model=model.name,
            tokens_read=len(along[axes[0].at]),
        )


@dataclass(frozen=True, eq=False)
class CappedAxis(Steering):
    """An axis at some sites, and how the projections on it are distributed there.

    Attributes:
        vectors: [site, d] of length 1.
        sites: where each is.
        percentiles: [site, 101] the 0th to the 100th percentile of the projections.
        method: the settings of `AxisCap`.
        model: the name of the model.
        tokens_read: how many tokens made the distribution.
    """

    limit: ClassVar[float] = 1.0

    vectors: Float[Tensor, "site d"]
    sites: tuple[str, ...]
    percentiles: Float[Tensor, "site 101"]
    method: Mapping[str, Any]
    model: str
    tokens_read: int

    @property
    def bounds(self) -> tuple[float, ...]:
        """τ at each site."""
        return tuple(self.percentiles[:, self.method["percentile"]].tolist())

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Moves tokens `factor` of the way to the bound; 1 puts them on it."""
        floor = self.method["side"] == "floor"
        return [
            Cap(
                vector,
                floor=bound if floor else None,
                cap=None if floor else bound,
                strength=float(factor),
                at=site,
                where=where,
            )
            for vector, site, bound in zip(self.vectors, self.sites, self.bounds, strict=True)
        ]

    def units(self) -> Mapping[str, float]:
        """None but the share of the way."""
        return {}

    def report(self) -> Report:
        """The bound at each site, beside the middle and the ends of what is usual."""
        columns = ["site", self.method["side"], "5th percentile", "median", "95th percentile"]
        rows = [
            [site, bound, *(float(usual[p]) for p in (5, 50, 95))]
            for site, bound, usual in zip(self.sites, self.bounds, self.percentiles, strict=True)
        ]
        table = Table(columns, rows, formats=dict.fromkeys(columns[1:], ".3g"))
        summary = (
            f"A {self.method['side']} of the projection at the {self.method['percentile']}th "
            f"percentile of {self.tokens_read} tokens of {self.model}, at {len(rows)} sites."
        )
        return Report("Axis cap", [table], summary=summary)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the axis and the distribution."""
        tensors = {"vectors": self.vectors, "percentiles": self.percentiles}
        extra = {"sites": list(self.sites), "model": self.model, "tokens_read": self.tokens_read}
        return dict(self.method), tensors, extra

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the cap from `state`."""
        return cls(
            vectors=tensors["vectors"],
            sites=tuple(extra["sites"]),
            percentiles=tensors["percentiles"],
            method=config,
            model=extra["model"],
            tokens_read=extra["tokens_read"],
        )


def quantiles(x: Float[Tensor, "n"], at: Float[Tensor, "q"]) -> Float[Tensor, "q"]:  # noqa: F821
    """`torch.quantile`, for any number of rows: it takes no more than 16 million."""
    ordered = x.sort().values
    place = at.to(x) * (len(x) - 1)
    low = place.floor().long()
    high = (low + 1).clamp(max=len(x) - 1)
    return ordered[low].lerp(ordered[high], place - low)


def _projections(
    model: "Model", axes: Mapping[str, Tensor], texts: Any, rule: Any, progress: bool
) -> dict[str, Tensor]:
    """{site: [token]} in float64 along the unit axis."""
    listed = [texts] if isinstance(texts, str) else texts
    where = f"{model.name}, texts of AxisCap"
    found: dict[str, list[Tensor]] = {site: [] for site in axes}
    with Progress("reading", total=len(listed), unit="texts", enabled=progress) as shown:
        for start in range(0, len(listed), _TEXTS):
            part = listed[start : start + _TEXTS]
            run = model.run(part, sites=list(axes), logits=False)
            chosen = chosen_tokens(model, run, rule)
            for site, axis in axes.items():
                unit = (axis / axis.norm()).double()
                found[site].append(run[site][chosen].cpu().double() @ unit)
            shown.update(len(part))
    along = {site: torch.cat(parts or [torch.empty(0)]) for site, parts in found.items()}
    if not all(map(len, along.values())):
        raise InputError(explain(where=where, expected="a token to read", got="none"))
    if not all(bool(torch.isfinite(x).all()) for x in along.values()):
        raise InputError(explain(where=where, expected="finite activations", got="NaN or Inf"))
    return along
