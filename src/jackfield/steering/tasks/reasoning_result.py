"""The curves of a `ReasoningSweep`: accuracy, KL and entropy over c, beside random directions."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.core.study import Result
from jackfield.reports import Lines, Report, Table
from jackfield.reports.intervals import mean_interval
from jackfield.steering.tasks.last_token import gain_interval


@dataclass(frozen=True)
class ReasoningCurves(Result):
    """What was measured of each item.

    Attributes:
        model: its name.
        sites: where the vectors were added.
        variants: "vector", "random 0", …
        coefficients: c, rising; 0 is the model itself.
        right: [variant, coefficient, item] whether the item is solved.
        kl: [variant, coefficient, item] KL(steered ‖ base) in nats.
        entropy: [variant, coefficient, item] in nats.
        seed: of the intervals.
    """

    model: str
    sites: tuple[str, ...]
    variants: tuple[str, ...]
    coefficients: tuple[float, ...]
    right: Bool[Tensor, "variant coefficient item"]
    kl: Float[Tensor, "variant coefficient item"]
    entropy: Float[Tensor, "variant coefficient item"]
    seed: int

    @property
    def accuracy(self) -> Float[Tensor, "variant coefficient"]:
        """Share of items solved."""
        return self.right.double().mean(dim=-1)

    @property
    def base(self) -> float:
        """The accuracy of the model itself."""
        return float(self.accuracy[0, self.coefficients.index(0.0)])

    def change(self, variant: int, place: int) -> tuple[float, tuple[float, float]]:
        """The change in accuracy at a coefficient, and its 95 % interval over the same items."""
        after, before = self.right[variant, place], self.right[0, self.coefficients.index(0.0)]
        gain = float(after.double().mean() - before.double().mean())
        return gain, gain_interval(after, before, self.seed)

    @property
    def best(self) -> int:
        """The place of the coefficient at which the vector solves most, 0 itself left out."""
        places = [i for i, c in enumerate(self.coefficients) if c]
        return max(places, key=lambda i: float(self.accuracy[0, i]))

    def report(self) -> Report:
        """Three pictures, all figures, and whether anything was gained."""
        columns = ["direction", "c", "accuracy", "change", "low (95 %)", "high (95 %)", "KL, nats",
                   "entropy, nats"]  # fmt: skip
        rows = [
            [name, c, float(self.accuracy[v, i]), gain, low, high,
             float(self.kl[v, i].mean()), float(self.entropy[v, i].mean())]
            for v, name in enumerate(self.variants)
            for i, c in enumerate(self.coefficients)
            for gain, (low, high) in [self.change(v, i)]
        ]  # fmt: skip
        table = Table(columns, rows, formats=dict.fromkeys(columns[2:], ".3f"), limit=60)
        pictures = [
            self._lines(self.right.double(), "accuracy"),
            self._lines(self.kl.double(), "KL(steered ‖ base), nats"),
            self._lines(self.entropy.double(), "entropy of the answer, nats"),
        ]
        return Report("Reasoning sweep", [*pictures, table], summary=self._sentence())

    def _lines(self, values: Tensor, title: str) -> Lines:
        """The vector with its interval over items; of random directions the mean."""
        own = [mean_interval(each, self.seed) for each in values[0]]
        series: dict[str, Any] = {
            "vector": values[0].mean(dim=-1),
            "random": values[1:].mean(dim=(0, 2)),
        }
        bands = {"vector": ([low for low, _ in own], [high for _, high in own])}
        return Lines(self.coefficients, series, bands, x_title="c, lengths of v", y_title=title)

    def _sentence(self) -> str:
        gain, (low, high) = self.change(0, self.best)
        random = torch.stack([self.accuracy[v, self.best] for v in range(1, len(self.variants))])
        verdict = "solves more" if low > 0 else "solves fewer" if high < 0 else "changes nothing"
        shown = "shown" if low > 0 or high < 0 else "that could be shown"
        return (
            f"{self.model} solves {self.base:.2f} of {self.right.shape[-1]} items; at its best "
            f"c = {self.coefficients[self.best]:g} the vector at {', '.join(self.sites)} {verdict} "
            f"{shown}: {gain:+.3f} (95 % interval {low:+.3f} to {high:+.3f}), random directions "
            f"{float(random.mean()) - self.base:+.3f}. The best of several c flatters."
        )
