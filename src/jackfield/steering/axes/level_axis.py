"""A fitted ordinal axis: how levels lie on it, and what of that could be chance."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor

from jackfield.edits import Edit
from jackfield.reports import Lines, Report, Table
from jackfield.reports.intervals import mean_interval
from jackfield.steering.nested import packed, unpacked
from jackfield.steering.steering import Steering
from jackfield.steering.steering_vector import SteeringVector

_MEASURES = (
    "rho", "p_texts", "p_order", "orders", "complete", "cosine", "share", "first_share",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class LevelAxis(Steering):
    """An axis from the lowest to the highest level.

    Attributes:
        direction: the axis as a direction that steers; positive is upwards.
        levels: their names, the lowest first.
        level: [text] the level of each text, from 0.
        places: [text] held-out: 0 where the lowest level lies, 1 where the highest does.
        rho: Spearman's ρ of level and place.
        p_texts: the share of permutations of texts with as large a ρ.
        p_order: the share of orders of the levels with as large a ρ.
        orders: how many orders were compared, the true one among them.
        complete: whether these are all orders there are, up to reversal.
        cosine: |cos| of the axis with PC1 of texts that it was not made of.
        share: of the variance of such texts, how much lies along the axis.
        first_share: how much lies along their PC1, the most that a direction can have.
    """

    direction: SteeringVector
    levels: tuple[str, ...]
    level: Float[Tensor, " text"]
    places: Float[Tensor, " text"]
    rho: float
    p_texts: float
    p_order: float
    orders: int
    complete: bool
    cosine: float
    share: float
    first_share: float

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Adds the axis; 1 is the whole way from the lowest to the highest level."""
        return self.direction.scaled(factor, where)

    def units(self) -> Mapping[str, float]:
        """As its direction: "norm" and "sigma", the spread of texts at the two ends."""
        return self.direction.units()

    @property
    def means(self) -> tuple[float, ...]:
        """The mean place of the texts of each level, held out."""
        return tuple(float(self._at(index).mean()) for index in range(len(self.levels)))

    @property
    def rising(self) -> int:
        """How many of the steps from a level to the next go up; all of them is monotone."""
        return sum(b > a for a, b in pairwise(self.means))

    def report(self) -> Report:
        """The places of the levels with intervals, and the measures."""
        means = self.means
        bounds = [mean_interval(self._at(i).double()) for i in range(len(means))]
        steps = list(range(len(means)))
        band = ([low for low, _ in bounds], [high for _, high in bounds])
        curve = Lines(
            steps, {"mean place": list(means)}, {"mean place": band},
            x_title="level", y_title="place on the axis, held out",
        )  # fmt: skip
        rows = [
            [name, len(self._at(i)), mean, *bounds[i]]
            for i, (name, mean) in enumerate(zip(self.levels, means, strict=True))
        ]
        columns = ["level", "texts", "mean place", "low (95 %)", "high (95 %)"]
        places = Table(columns, rows, formats=dict.fromkeys(columns[2:], ".2f"))
        return Report("Ordinal axis", [curve, places, self._measures()], summary=self._sentence())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the direction, the places and the measures."""
        tensors, inner = packed(self.direction, "direction")
        tensors |= {"level": self.level, "places": self.places}
        measured = {name: getattr(self, name) for name in _MEASURES}
        extra = {"direction": inner, "levels": list(self.levels), **measured}
        return dict(self.direction.method), tensors, extra

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the axis from `state`."""
        direction = unpacked(tensors, extra["direction"], "direction", SteeringVector)
        measured = {name: extra[name] for name in _MEASURES}
        held = (tensors["level"], tensors["places"])
        return cls(direction, tuple(extra["levels"]), *held, **measured)

    def _at(self, level: int) -> Float[Tensor, " text"]:
        return self.places[self.level == level]

    def _measures(self) -> Table:
        kind = "all" if self.complete else "drawn"
        rows = [
            ["Spearman's ρ of level and place", self.rho],
            ["p, texts permuted", self.p_texts],
            [f"p, levels permuted ({self.orders} orders, {kind})", self.p_order],
            ["steps that rise", f"{self.rising} of {len(self.levels) - 1}"],
            ["cosine of PC1 with the axis", self.cosine],
            ["share of the variance along the axis", self.share],
            ["share of the variance along PC1", self.first_share],
        ]
        return Table(["held out", "value"], rows)

    def _sentence(self) -> str:
        steps = len(self.levels) - 1
        return (
            f"{len(self.levels)} levels, {len(self.places)} texts, at {self.direction.at} of "
            f"{self.direction.model}. On texts that the axis was not made of, Spearman's ρ of "
            f"level and place is {self.rho:.2f}; p = {self.p_texts:.3g} if texts are permuted, "
            f"{self.p_order:.3g} if levels are. {self.rising} of {steps} steps rise. The axis has "
            f"{self.share:.0%} of the variance, PC1 {self.first_share:.0%}, their cosine is "
            f"{self.cosine:.2f}."
        )
