"""Low-rank maps: what LoReFT learned, followed part of the way.

x + strength · Rᵀ (W x + b − R x)           a strength of 1 is what was learned
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor

from jackfield.edits import Edit
from jackfield.reports import Lines, Report, Table
from jackfield.steering.learned_tokens import narrowed
from jackfield.steering.reft.descent import Learned
from jackfield.steering.reft.low_rank import LowRank
from jackfield.steering.steering import Steering


@dataclass(frozen=True, eq=False)
class LowRankMap:
    """The map of one site.

    Attributes:
        basis: R [rank, d] float32, orthonormal rows.
        source: W [rank, d].
        bias: b [rank].
    """

    basis: Float[Tensor, "rank d"]
    source: Float[Tensor, "rank d"]
    bias: Float[Tensor, " rank"]


@dataclass(frozen=True, eq=False)
class LowRankMaps(Steering):
    """Low-rank maps at some sites.

    They act on the tokens that were edited while they were learned (`method["where"]`), of those
    that `edits(where=…)` leaves.

    Attributes:
        maps: {site: its map}, in the order of the forward.
        method: the settings of `LoReFT`.
        model: the name of the model.
        counts: texts on the positive and the negative side.
        learned: the losses, and what became of both sides.
    """

    maps: Mapping[str, LowRankMap]
    method: Mapping[str, Any]
    model: str
    counts: tuple[int, int]
    learned: Learned

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Each map `factor` of the way."""
        rule = narrowed(self.method["where"], where)
        return [
            LowRank(m.basis, m.source, m.bias, float(factor), at=site, where=rule)
            for site, m in self.maps.items()
        ]

    def units(self) -> Mapping[str, float]:
        """None but the raw unit, as learned: how far it moves depends on the activation."""
        return {}

    def report(self) -> Report:
        """What became of the texts on both sides, and the losses on the way."""
        rows = [
            [site, len(m.bias), float((m.source - m.basis).norm()), float(m.bias.norm())]
            for site, m in self.maps.items()
        ]
        columns = ["site", "rank", "‖W − R‖", "‖b‖"]
        blocks = [learning(self.learned), Table(columns, rows), losses(self.learned)]
        return Report("Low-rank maps (LoReFT)", blocks, summary=self._sentence())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the maps, and what was measured."""
        tensors = {
            f"{site}/{name}": value
            for site, each in self.maps.items()
            for name, value in vars(each).items()
        }
        extra = {
            "sites": list(self.maps), "model": self.model, "counts": list(self.counts),
            "learned": asdict(self.learned),
        }  # fmt: skip
        return dict(self.method), tensors, extra

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the maps from `state`."""
        maps = {
            site: LowRankMap(*(tensors[f"{site}/{name}"] for name in ("basis", "source", "bias")))
            for site in extra["sites"]
        }
        counts = (extra["counts"][0], extra["counts"][1])
        return cls(maps, config, extra["model"], counts, learned_of(extra["learned"]))

    def _sentence(self) -> str:
        before, after = self.learned.said
        return (
            f"LoReFT of rank {self.method['rank']} at {', '.join(self.maps)} of {self.model}: a "
            f"token of the {self.counts[0]} texts it learned from costs {after:.2f} nats instead "
            f"of {before:.2f}, in the sample."
        )


def learning(learned: Learned) -> Table:
    """What a token of either side costs, before and after."""
    kinds = [("positive", learned.said), ("negative", learned.unsaid)]
    rows = [[name, *pair, pair[1] - pair[0]] for name, pair in kinds if pair]
    columns = ["texts", "nats a token before", "after", "change"]
    return Table(columns, rows, formats=dict.fromkeys(columns[1:], ".3f"))


def losses(learned: Learned) -> Lines:
    """The loss at each step."""
    steps = list(range(len(learned.losses)))
    return Lines(steps, {"loss": list(learned.losses)}, x_title="step", y_title="loss, nats")


def learned_of(data: Mapping[str, Any]) -> Learned:
    """Reads `Learned` back from JSON."""
    return Learned(**{name: tupled(value) for name, value in data.items()})


def tupled(value: Any) -> Any:
    """A list of JSON as the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value
