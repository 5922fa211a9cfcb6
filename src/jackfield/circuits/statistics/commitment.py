"""The result of a search for the layer at which answers are decided."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jackfield.circuits.statistics.resampling import difference_interval, family_wise
from jackfield.circuits.tasks.accuracy import TaskAccuracy, mean_and_interval
from jackfield.core.study import Result
from jackfield.reports import Lines, Report, Table


@dataclass(frozen=True)
class Commitment(Result):
    """For each prompt the layer from which its answer is decided.

    A layer equal to `layers` means: never.

    Attributes:
        right: [example] whether what is said, of the candidates, is true.
        decoded: [example] the first layer from which it is decoded from the last token's stream.
        causal: [example] the first from which that stream alone brings it about in the twin's run.
        comparable: [example] whether the twin says something else, which `causal` needs.
        control: [example] as `decoded`, from the stream of another prompt.
        lead: [example, layer] what is said minus the truth (of a right one minus the best other
            candidate), in logits.
        layers: of the model.
        own: the model's own accuracy, answer against the task's wrong one.
        model: its name.
        draws, seed: of the resampling.
    """

    right: Bool[Tensor, "example"]  # noqa: F821
    decoded: Int[Tensor, "example"]  # noqa: F821
    causal: Int[Tensor, "example"]  # noqa: F821
    comparable: Bool[Tensor, "example"]  # noqa: F821
    control: Int[Tensor, "example"]  # noqa: F821
    lead: Float[Tensor, "example layer"]
    layers: int
    own: TaskAccuracy
    model: str
    draws: int
    seed: int

    def committed(self, which: Int[Tensor, "some"]) -> Float[Tensor, "layer"]:  # noqa: F821
        """The share of these that are decided at each layer."""
        return (which[:, None] <= torch.arange(self.layers)).double().mean(dim=0)

    def difference(self) -> tuple[float, float, float, float]:
        """Mean decoded layer, wrong minus right; its 95 % interval; and the p value of no one."""
        sides = [self.decoded[mask].double()[:, None] for mask in (~self.right, self.right)]
        low, high = difference_interval(*sides, draws=self.draws, seed=self.seed)[0].tolist()
        p = float(family_wise(*sides, draws=self.draws, seed=self.seed)[0])
        return float(sides[0].mean() - sides[1].mean()), low, high, p

    def report(self) -> Report:
        """The layers with intervals, what is decided by which, and the lead over the truth."""
        blocks = [self._table(), self._decided(), self._leads()]
        return Report("Commitment layer", blocks, summary=self._sentence())

    def _sides(self) -> list[tuple[str, Tensor]]:
        return [("right", self.right), ("wrong", ~self.right)]

    def _table(self) -> Table:
        rows: list[list[Any]] = []
        for name, mask in self._sides():
            for how, found, kept in (
                ("decoded", self.decoded, mask),
                ("causal", self.causal, mask & self.comparable),
                ("another prompt's stream", self.control, mask),
            ):
                layers = found[kept]
                row: list[Any] = [name, how, len(layers), None, None, None, None]
                if len(layers):
                    never = float((layers == self.layers).double().mean())
                    row[3:] = [*mean_and_interval(layers.double().tolist()), never]
                rows.append(row)
        columns = ["said", "layer", "prompts", "mean", "low (95 %)", "high (95 %)", "never"]
        caption = f"Never counts as layer {self.layers}."
        return Table(columns, rows, caption=caption)

    def _decided(self) -> Lines:
        curves = {
            **{f"{name}, decoded": self.committed(self.decoded[m]) for name, m in self._sides()},
            "another prompt's stream": self.committed(self.control),
        }
        return Lines(range(self.layers), curves, x_title="layer", y_title="share that is decided")

    def _leads(self) -> Lines:
        curves = {name: self.lead[mask].mean(dim=0) for name, mask in self._sides()}
        caption = "Wrong: over the truth. Right: over the best other candidate."
        return Lines(
            range(self.layers), curves, x_title="layer", y_title="lead in logits", caption=caption
        )

    def _sentence(self) -> str:
        means = [float(self.decoded[mask].double().mean()) for _, mask in self._sides()]
        found, low, high, p = self.difference()
        return (
            f"{self.model}: {int(self.right.sum())} right and {int((~self.right).sum())} wrong "
            f"answers, decided on average from layer {means[0]:.1f} and {means[1]:.1f} of "
            f"{self.layers} (difference {found:+.1f}, {low:+.1f} to {high:+.1f}, p = {p:.2g})."
        )
