"""The result of silencing relation-specific neurons: three tables, each beside random neurons."""

from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jackfield.circuits.statistics.resampling import at_least
from jackfield.circuits.tasks.accuracy import TaskAccuracy, mean_and_interval
from jackfield.core.study import Result
from jackfield.reports import HeatMap, Lines, Report, Table


@dataclass(frozen=True)
class RelationTables(Result):
    """The neurons of each relation, and what silencing them does to all relations.

    Attributes:
        relations: their names.
        counts: how many neurons were silenced.
        order: [relation, neuron] the best ones, as layer · d_mlp + unit, the best first.
        precision: [relation, neuron] their average precision on the half that they were found on.
        shape: (layers, d_mlp).
        before: [example] whether an answer is the likeliest token, on the other half.
        silenced: [relation, count, example] the same with the relation's best `count` silenced.
        control: [relation, count, example] with random neurons of the same layers; mean of draws.
        asked: [example] the relation of each.
        own: the model's own accuracy on all prompts.
        model: its name.
    """

    relations: tuple[str, ...]
    counts: tuple[int, ...]
    order: Int[Tensor, "relation neuron"]
    precision: Float[Tensor, "relation neuron"]
    shape: tuple[int, int]
    before: Bool[Tensor, "example"]  # noqa: F821
    silenced: Bool[Tensor, "relation count example"]
    control: Float[Tensor, "relation count example"]
    asked: tuple[str, ...]
    own: TaskAccuracy
    model: str

    def neurons(self, relation: str, count: int | None = None) -> list[tuple[int, int]]:
        """(layer, unit) of a relation's neurons, the best first."""
        row = self.order[self.relations.index(relation)][:count]
        return [divmod(int(each), self.shape[1]) for each in row]

    def change(self, *, control: bool = False) -> Float[Tensor, "relation count asked"]:
        """Accuracy on each relation minus that before, with one relation's neurons silenced."""
        after = self.control if control else self.silenced.double()
        moved = after - self.before.double()
        return torch.stack([moved[:, :, self._of(each)].mean(dim=2) for each in self.relations], 2)

    def shared(self) -> Int[Tensor, "relation relation"]:
        """How many of the `counts[-1]` best neurons two relations have in common."""
        sets = [set(row.tolist()) for row in self.order]
        return torch.tensor([[len(left & right) for right in sets] for left in sets])

    def report(self) -> Report:
        """Cumulativity, versatility, interference, and where the neurons are."""
        blocks = [
            *self._cumulativity(),
            *self._versatility(),
            *self._interference(),
            self._where(),
        ]
        return Report("Relation-specific neurons", blocks, summary=self._sentence())

    def _of(self, relation: str) -> Bool[Tensor, "example"]:  # noqa: F821
        return torch.tensor([each == relation for each in self.asked])

    def _cumulativity(self) -> list[Table | Lines]:
        rows, curves = [], {}
        for i, relation in enumerate(self.relations):
            own = self._of(relation)
            before = float(self.before[own].double().mean())
            for j, count in enumerate(self.counts):
                right = mean_and_interval(self.silenced[i, j, own].double().tolist())
                beside = mean_and_interval(self.control[i, j, own].tolist())
                rows.append([relation, count, before, *right, *beside])
            after = self.silenced[i][:, own].double().mean(dim=1).tolist()
            curves[relation] = [before, *after]
        columns = ["relation", "silenced", "accuracy before", "after", "low (95 %)", "high (95 %)"]
        columns += ["random", "random, low", "random, high"]
        table = Table(columns, rows, caption="Cumulativity: more neurons, lower accuracy?")
        lines = Lines(
            [0, *self.counts], curves, x_title="neurons silenced", y_title="accuracy on their own"
        )
        return [table, lines]

    def _versatility(self) -> list[Table | HeatMap]:
        size, total = self.counts[-1], self.shape[0] * self.shape[1]
        shared = self.shared()
        rows = [
            [f"{self.relations[i]}, {self.relations[j]}", int(shared[i, j]), size * size / total,
             at_least(int(shared[i, j]), size, size, total)]
            for i, j in combinations(range(len(self.relations)), 2)
        ]  # fmt: skip
        columns = ["relations", "neurons in common", "by chance", "p (hypergeometric)"]
        caption = f"Versatility: of the {size} best neurons of each, {total} neurons in all."
        named = HeatMap(
            shared.double() / size,
            self.relations,
            self.relations,
            x_title="relation",
            y_title="relation",
            scale="sequential",
            limits=(0.0, 1.0),
            value_name="share of neurons in common",
        )
        return [Table(columns, rows, caption=caption), named]

    def _interference(self) -> list[Table | HeatMap]:
        difference = self.silenced.double() - self.control
        rows = []
        for i, relation in enumerate(self.relations):
            for other in self.relations:
                moved = difference[i, -1, self._of(other)].tolist()
                if other != relation:
                    rows.append([relation, other, *mean_and_interval(moved)])
        caption = (
            f"Interference: {self.counts[-1]} neurons silenced, accuracy minus that with random "
            "ones; above 0 silencing helps. The intervals are each row's own."
        )
        columns = ["silenced", "asked", "change", "low (95 %)", "high (95 %)"]
        named = HeatMap(
            (self.change() - self.change(control=True))[:, -1],
            self.relations,
            self.relations,
            x_title="asked",
            y_title="silenced",
            value_name="change of accuracy, minus that with random neurons",
        )
        return [Table(columns, rows, caption=caption), named]

    def _where(self) -> HeatMap:
        layers = self.order // self.shape[1]
        counts = [torch.bincount(row, minlength=self.shape[0]).tolist() for row in layers]
        return HeatMap(
            counts,
            y_labels=self.relations,
            x_title="layer",
            y_title="relation",
            scale="sequential",
            value_name="neurons",
        )

    def _sentence(self) -> str:
        own = torch.eye(len(self.relations), dtype=torch.bool)
        last, random = (self.change(control=c)[:, -1] for c in (False, True))
        shared = self.shared()[~own].double().mean()
        before = float(self.before.double().mean())
        return (
            f"{self.model} says the answer in {before:.0%}. With {self.counts[-1]} neurons of a "
            f"relation silenced accuracy on it changes by {float(last[own].mean()):+.2f} "
            f"(random neurons {float(random[own].mean()):+.2f}), on the others by "
            f"{float(last[~own].mean()):+.2f} ({float(random[~own].mean()):+.2f}); two relations "
            f"have {float(shared):.1f} neurons in common."
        )
