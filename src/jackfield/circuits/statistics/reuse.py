"""The result of comparing two tasks' heads and of repairing one by heads of the other."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.circuits.statistics.resampling import at_least
from jackfield.circuits.tasks.accuracy import TaskAccuracy, mean_and_interval
from jackfield.core.study import Result
from jackfield.reports import HeatMap, Report, Table

Head = tuple[int, int]


@dataclass(frozen=True)
class Reuse(Result):
    """Which heads two tasks use, and what steering some of them does.

    Attributes:
        effects: [task, half, layer, head] the share of the gap that a head brings back.
        heads: how many of each task count as its own.
        steered: (layer, head) of the heads of the first task that the second was repaired by.
        before: [pair] whether the model is right on the second half of the second task.
        after: [pair] the same with `steered` looking at the wrong answer.
        control: [draw, pair] with heads of neither task, chosen and steered likewise.
        own: the model's own accuracy on both tasks.
        model: its name.
    """

    effects: Float[Tensor, "task half layer head"]
    heads: int
    steered: tuple[Head, ...]
    before: Bool[Tensor, "pair"]  # noqa: F821
    after: Bool[Tensor, "pair"]  # noqa: F821
    control: Bool[Tensor, "draw pair"]
    own: tuple[TaskAccuracy, TaskAccuracy]
    model: str

    def strongest(self, task: int, half: int = 0) -> set[Head]:
        """The `heads` heads with the largest effect."""
        effect = self.effects[task, half]
        order = effect.abs().flatten().argsort(descending=True, stable=True)[: self.heads]
        return {divmod(each, effect.shape[1]) for each in order.tolist()}

    @property
    def overlap(self) -> int:
        """How many heads are among the strongest of both tasks."""
        return len(self.strongest(0) & self.strongest(1))

    @property
    def p_value(self) -> float:
        """The probability of such an overlap or a larger one, of two random sets of heads."""
        return at_least(self.overlap, self.heads, self.heads, self.effects[0, 0].numel())

    def report(self) -> Report:
        """Own accuracy first, the overlap, both maps, and the repair."""
        maps = [self._map(task) for task in (0, 1)]
        blocks = [self._own(), self._overlaps(), *maps, self._repair()]
        return Report("Circuit reuse", blocks, summary=self._sentence())

    def _own(self) -> Table:
        rows = [[each.task, each.accuracy, each.gap] for each in self.own]
        return Table(["task", "accuracy", "clean minus corrupted"], rows)

    def _overlaps(self) -> Table:
        total = self.effects[0, 0].numel()
        names = [each.task for each in self.own]
        pairs = [
            (f"{names[0]} and {names[1]}", self.strongest(0), self.strongest(1)),
            *(
                (f"{name}, two halves", self.strongest(task, 0), self.strongest(task, 1))
                for task, name in enumerate(names)
            ),
        ]
        rows = [
            [what, len(a & b), self.heads**2 / total, at_least(len(a & b), len(a), len(b), total)]
            for what, a, b in pairs
        ]
        columns = ["heads of", "in common", "by chance", "p (hypergeometric)"]
        caption = f"The {self.heads} strongest heads of {total}. Two halves of a task: the ceiling."
        return Table(columns, rows, caption=caption)

    def _map(self, task: int) -> HeatMap:
        return HeatMap(
            self.effects[task].mean(dim=0),
            x_title="head",
            y_title="layer",
            value_name=f"share of the gap brought back, {self.own[task].task}",
        )

    def _repair(self) -> Table:
        before = self.before.double()
        rows = []
        for what, hits in (
            ("as it is", before),
            ("heads of the first task steered", self.after.double()),
            ("heads of neither task steered", self.control.double().mean(dim=0)),
        ):
            gained = mean_and_interval((hits - before).tolist())
            rows.append([what, *mean_and_interval(hits.tolist()), *gained])
        columns = ["heads", "accuracy", "low (95 %)", "high (95 %)"]
        columns += ["gained", "gained, low", "gained, high"]
        named = ", ".join(f"{layer}.{head}" for layer, head in self.steered) or "none that helps"
        caption = f"Steered: {named}. On prompts that they were not chosen on."
        return Table(columns, rows, caption=caption)

    def _sentence(self) -> str:
        before, after, control = (
            float(each.double().mean()) for each in (self.before, self.after, self.control)
        )
        return (
            f"{self.model}: {self.overlap} of the {self.heads} strongest heads are the same in "
            f"{self.own[0].task} and {self.own[1].task} (p = {self.p_value:.2g}). Steering "
            f"{len(self.steered)} heads of the first moves accuracy on the second from "
            f"{before:.0%} to {after:.0%}, heads of neither to {control:.0%}."
        )
