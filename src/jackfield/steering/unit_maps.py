"""Unit maps: an affine map of each unit, at one or several sites, followed part of the way.

    T(x) = (1 + gain) ⊙ x + bias          x [..., d];   steered: x + strength · (T(x) − x)

What AcT and LinEAS fit: maps from the activations of texts without a property to those of texts
with it. A strength of 1 is the whole way, and there is nothing beyond.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from jaxtyping import Float
from torch import Tensor

from jackfield.core.sites import in_words, layer_of
from jackfield.edits import Edit
from jackfield.edits.transport import MoveUnits
from jackfield.reports import Lines, Report, Table
from jackfield.steering.steering import Steering

_FIELDS = ("gain", "bias", "low", "high")


@dataclass(frozen=True, eq=False)
class UnitMap:
    """The map of one site.

    Attributes:
        gain, bias: [d] float32.
        low, high: [d] a unit is moved only between them; None is open.
        before, after: mean squared 2-Wasserstein distance of the sides' units, in variances of
            the source, unmapped and mapped.
    """

    gain: Float[Tensor, " d"]
    bias: Float[Tensor, " d"]
    low: Float[Tensor, " d"] | None
    high: Float[Tensor, " d"] | None
    before: float
    after: float

    @property
    def moved(self) -> int:
        """How many units it moves."""
        return int(((self.gain != 0) | (self.bias != 0)).sum())


@dataclass(frozen=True, eq=False)
class UnitMaps(Steering):
    """Affine maps of units at some sites.

    Attributes:
        maps: {site: its map}, in the order of the forward.
        method: the name and the settings of the method that fitted them.
        model: the name of the model.
        counts: texts on the positive and the negative side.
        losses: of a fit in steps, the loss at each; () otherwise.
    """

    limit: ClassVar[float] = 1.0

    maps: Mapping[str, UnitMap]
    method: Mapping[str, Any]
    model: str
    counts: tuple[int, int]
    losses: tuple[float, ...] = ()

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Moves each unit `factor` of the way, at every site that moves any."""
        return [
            MoveUnits(
                each.gain, each.bias, each.low, each.high, float(factor), at=site, where=where
            )
            for site, each in self.maps.items()
        ]

    def units(self) -> Mapping[str, float]:
        """None but the raw unit: the whole way."""
        return {}

    def report(self) -> Report:
        """How far apart the sides' units were, and are."""
        columns = ["site", "units moved", "W₂² before", "W₂² after"]
        rows = [[site, m.moved, m.before, m.after] for site, m in self.maps.items()]
        blocks: list[Any] = [Table(columns, rows, formats=dict.fromkeys(columns[2:], ".3f"))]
        layers = [layer_of(site) for site in self.maps]
        if len(rows) > 2 and None not in layers:
            found = self.maps.values()
            curves = {"before": [m.before for m in found], "after": [m.after for m in found]}
            x = [float(layer or 0) for layer in layers]
            blocks.insert(0, Lines(x, curves, x_title="layer", y_title="W₂², source variances"))
        if len(self.losses) > 1:
            steps = list(range(len(self.losses)))
            blocks.append(Lines(steps, {"loss": list(self.losses)}, x_title="step", y_title="loss"))
        return Report(f"Unit maps ({self.method['name']})", blocks, summary=self._sentence())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the maps, and what was measured."""
        tensors = {
            f"{site}/{name}": getattr(each, name)
            for site, each in self.maps.items()
            for name in _FIELDS
            if getattr(each, name) is not None
        }
        measured = {site: [each.before, each.after] for site, each in self.maps.items()}
        extra = {
            "maps": measured, "model": self.model, "counts": list(self.counts),
            "losses": list(self.losses),
        }  # fmt: skip
        return dict(self.method), tensors, extra

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the maps from `state`."""
        maps = {
            site: UnitMap(
                tensors[f"{site}/gain"], tensors[f"{site}/bias"], tensors.get(f"{site}/low"),
                tensors.get(f"{site}/high"), *measured,
            )
            for site, measured in extra["maps"].items()
        }  # fmt: skip
        counts = (extra["counts"][0], extra["counts"][1])
        return cls(maps, config, extra["model"], counts, tuple(extra["losses"]))

    def _sentence(self) -> str:
        found = list(self.maps.values())
        before, after = (
            sum(getattr(m, x) for m in found) / len(found) for x in ("before", "after")
        )
        moved = sum(m.moved for m in found)
        width = sum(len(m.gain) for m in found)
        return (
            f"{self.method['name']} at {in_words(self.maps)} of {self.model} moves {moved} of "
            f"{width} units; the sides' units were {before:.3g} source variances apart (W₂²), and "
            f"are {after:.3g} on the texts it was fitted on."
        )
