"""What paths along a manifold and straight ones did to the answers; see `manifold_paths.py`."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.study import Result
from jackfield.reports import Lines, Report, Table
from jackfield.reports.intervals import mean_interval

MEASURES = ("energy", "order", "arrived", "length")


@dataclass(frozen=True)
class PathsFound(Result):
    """What was measured on each path, along the curve and straight.

    Attributes:
        task: its name.
        site: where the activation was moved.
        model: its name.
        start: [path] the index of the prompt.
        classes: [path] the class of its answer.
        places: [path] u, where on the curve the path starts; mostly near to its class.
        targets: [path] the class to which it goes.
        along, straight: [path, measure] energy, order, arrived, length.
        along_energy, straight_energy: [path, step] distance to the behaviour curve.
        natural: the mean distance of unsteered prompts to the behaviour curve that they made.
        seed: of the intervals.
    """

    task: str
    site: str
    model: str
    start: Int[Tensor, " path"]
    classes: Int[Tensor, " path"]
    places: Float[Tensor, " path"]
    targets: Int[Tensor, " path"]
    along: Float[Tensor, "path measure"]
    straight: Float[Tensor, "path measure"]
    along_energy: Float[Tensor, "path step"]
    straight_energy: Float[Tensor, "path step"]
    natural: float
    seed: int

    def interval(self, values: Float[Tensor, " path"]) -> tuple[float, float]:
        """The 95 % bootstrap interval of a mean over prompts, each the mean of its paths."""
        return mean_interval(self._by_prompt(values), self.seed)

    def difference(self, measure: str) -> tuple[float, float, float]:
        """Along minus straight: mean over prompts, and its 95 % interval."""
        column = MEASURES.index(measure)
        gap = self.along[:, column] - self.straight[:, column]
        return float(self._by_prompt(gap).mean()), *self.interval(gap)

    def report(self) -> Report:
        """The distance to natural behaviour on the way, and the measures of both ways."""
        rows = [
            [
                name,
                float(self._by_prompt(self.along[:, i]).mean()),
                float(self._by_prompt(self.straight[:, i]).mean()),
                *self.difference(name),
            ]
            for i, name in enumerate(MEASURES)
        ]
        columns = ["measure", "along", "straight", "difference", "low (95 %)", "high (95 %)"]
        table = Table(columns, rows, formats=dict.fromkeys(columns[1:], ".2f"))
        return Report("Manifold paths", [self._curves(), table], summary=self._sentence())

    def _by_prompt(self, values: Float[Tensor, " path"]) -> Float[Tensor, " prompt"]:
        return torch.stack([values[self.start == each].mean() for each in self.start.unique()])

    def _curves(self) -> Lines:
        found = {"along": self.along_energy, "straight": self.straight_energy}
        bands = {}
        for name, energy in found.items():
            bounds = [self.interval(step) for step in energy.unbind(dim=1)]
            bands[name] = ([low for low, _ in bounds], [high for _, high in bounds])
        shares = torch.linspace(0, 1, self.along_energy.shape[1]).tolist()
        series = {
            name: [float(self._by_prompt(step).mean()) for step in energy.unbind(dim=1)]
            for name, energy in found.items()
        }
        return Lines(
            shares, series, bands, x_title="share of the way",
            y_title="Hellinger distance to natural answers",
        )  # fmt: skip

    def _sentence(self) -> str:
        energy, order = self.difference("energy"), self.difference("order")
        arrived = MEASURES.index("arrived")
        ends = [float(self._by_prompt(x[:, arrived]).mean()) for x in (self.along, self.straight)]
        return (
            f"{len(self.start)} paths of {len(self.start.unique())} prompts ({self.task}) at "
            f"{self.site} of {self.model}. Along the curve the answers are {energy[0]:+.3f} "
            f"(95 % interval {energy[1]:+.3f} to {energy[2]:+.3f}) Hellinger farther from natural "
            f"ones than straight (unsteered, in the sample: {self.natural:.3f}), and "
            f"{order[0]:+.2f} ({order[1]:+.2f} to {order[2]:+.2f}) more of the classes between are "
            f"passed in order. The target is reached by {ends[0]:.0%} along, "
            f"{ends[1]:.0%} straight."
        )
