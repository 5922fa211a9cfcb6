"""The result of a recall-against-reasoning scan: which unit hurts which task, and how surely."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from jackfield.circuits.statistics.resampling import difference_interval, family_wise
from jackfield.circuits.tasks.accuracy import TaskAccuracy, mean_and_interval
from jackfield.core.study import Result
from jackfield.reports import HeatMap, Report, Table

_LISTED = 10
_SURE = 0.05


@dataclass(frozen=True)
class Selectivity(Result):
    """Harm to each of two tasks from ablating each unit.

    Attributes:
        recall: [pair, unit] harm to recall, as a share of the clean/corrupted gap.
        reasoning: [pair, unit] harm to reasoning.
        units: their names, row by row.
        rows, columns: of the map; there are rows × columns units.
        chosen: the units most needed by recall, and by reasoning, that were ablated together on
            prompts that they were not chosen on.
        kept_recall: [set, pair] 1 where the answer is still preferred, with those for recall, those
            for reasoning, and random ones ablated (of random sets the mean).
        kept_reasoning: [set, pair] the same on reasoning.
        own: the model's own accuracy on recall and on reasoning.
        level: "layer", "head" or "neuron".
        model: its name.
        draws, seed: of the resampling.
    """

    recall: Float[Tensor, "pair unit"]
    reasoning: Float[Tensor, "other_pair unit"]
    units: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    chosen: tuple[tuple[str, ...], tuple[str, ...]]
    kept_recall: Float[Tensor, "set pair"]
    kept_reasoning: Float[Tensor, "set pair"]
    own: tuple[TaskAccuracy, TaskAccuracy]
    level: str
    model: str
    draws: int
    seed: int

    @property
    def values(self) -> Float[Tensor, "row column"]:
        """Mean harm to recall minus mean harm to reasoning."""
        difference = self.recall.mean(dim=0) - self.reasoning.mean(dim=0)
        return difference.reshape(len(self.rows), len(self.columns))

    def interval(self) -> Float[Tensor, "unit 2"]:
        """The 95 % bootstrap interval of each unit's selectivity, taken by itself."""
        return difference_interval(self.recall, self.reasoning, draws=self.draws, seed=self.seed)

    def p_values(self) -> Float[Tensor, "unit"]:  # noqa: F821
        """P values that hold for all units together; see `resampling.py`."""
        return family_wise(self.recall, self.reasoning, draws=self.draws, seed=self.seed)

    def report(self) -> Report:
        """Own accuracy first, the map, the most selective units, and what disabling sets does."""
        blocks = [self._own(), self._map(), self._strongest(), self._sets()]
        return Report(
            f"Recall against reasoning, by {self.level}", blocks, summary=self._sentence()
        )

    def _own(self) -> Table:
        rows = [[kind, each.task, each.accuracy, each.gap] for kind, each in self._sides()]
        columns = ["kind", "task", "accuracy", "clean minus corrupted"]
        return Table(columns, rows, caption="The model itself, before anything is ablated.")

    def _sides(self) -> list[tuple[str, TaskAccuracy]]:
        return list(zip(("recall", "reasoning"), self.own, strict=True))

    def _map(self) -> HeatMap:
        chosen = self.level == "neuron"
        return HeatMap(
            self.values,
            self.columns,
            self.rows,
            x_title={"layer": "part", "head": "head", "neuron": "rank by gradient"}[self.level],
            y_title="chosen for" if chosen else "layer",
            value_name="harm to recall minus harm to reasoning, share of the gap",
        )

    def _strongest(self) -> Table:
        values, interval, p = self.values.flatten(), self.interval(), self.p_values()
        means = self.recall.mean(dim=0), self.reasoning.mean(dim=0)
        order = values.abs().argsort(descending=True, stable=True)[:_LISTED].tolist()
        rows = [
            [self.units[i], *(float(mean[i]) for mean in means), float(values[i]),
             *interval[i].tolist(), float(p[i])]
            for i in order
        ]  # fmt: skip
        columns = ["unit", "harm to recall", "harm to reasoning", "selectivity"]
        columns += ["low (95 %)", "high (95 %)", "p, all units together"]
        chance = 0.05 * len(self.units)
        caption = (
            f"The intervals are each unit's own: of {len(self.units)} units about {chance:.0f} "
            "would exclude 0 by chance. The p values hold for all together."
        )
        return Table(columns, rows, caption=caption)

    def _sets(self) -> Table:
        rows = []
        for i, kind in enumerate(("recall", "reasoning", "random")):
            for task, kept in (("recall", self.kept_recall), ("reasoning", self.kept_reasoning)):
                rows.append([f"{kind} units", task, *mean_and_interval(kept[i].tolist())])
        columns = ["ablated together", "task", "accuracy", "low (95 %)", "high (95 %)"]
        return Table(columns, rows, caption="On prompts that the units were not chosen on.")

    def _sentence(self) -> str:
        sure = self.p_values() <= _SURE
        signs = self.values.flatten().sign()
        more = [int((sure & (signs == sign)).sum()) for sign in (1, -1)]
        own = " and ".join(f"{each.task} {each.accuracy:.0%}" for _, each in self._sides())
        return (
            f"{self.model} is right on {own}. Of {len(self.units)} units {more[0]} hurt recall "
            f"more and {more[1]} reasoning more (p ≤ {_SURE:g} for all together)."
        )
