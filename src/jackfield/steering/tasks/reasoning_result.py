"""The curves of a `ReasoningSweep`: accuracy, KL and entropy over c, beside random directions."""

import math
from dataclasses import dataclass
from statistics import NormalDist
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
        return float(self.accuracy[0, self._zero])

    def change(self, variant: int, place: int) -> tuple[float, tuple[float, float]]:
        """The change in accuracy at a coefficient, and its 95 % interval over the same items."""
        after, before = self.right[variant, place], self.right[0, self._zero]
        gain = float(after.double().mean() - before.double().mean())
        return gain, gain_interval(after, before, self.seed)

    @property
    def best(self) -> int:
        """The place of the coefficient at which the vector solves most, 0 itself left out."""
        return max(self._tried, key=lambda i: float(self.accuracy[0, i]))

    @property
    def best_interval(self) -> tuple[float, float]:
        """The interval of the change at the best c, as wide as the choice among them asks.

        One c of several is chosen on the very items: by Bonferroni each of n intervals is to hold
        with 1 − 0.05 / n, so that with 95 % all of them do, and so that of the best. So far out the
        bootstrap is too narrow where few items change; half an item is added to each of the four
        cells, before and after, and the normal interval taken (Agresti and Min 2005).
        """
        moved = self.right[0, self.best].double() - self.right[0, self._zero].double()
        count, up, down = len(moved) + 2, int((moved > 0).sum()), int((moved < 0).sum())
        z = NormalDist().inv_cdf(1 - 0.025 / len(self._tried))
        middle = (up - down) / count
        half = z * math.sqrt((up + down + 1) / count - middle**2) / math.sqrt(count)
        return middle - half, middle + half

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

    @property
    def _zero(self) -> int:
        return self.coefficients.index(0.0)

    @property
    def _tried(self) -> list[int]:
        return [i for i, c in enumerate(self.coefficients) if c]

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
        (gain, _), (low, high) = self.change(0, self.best), self.best_interval
        random = torch.stack([self.accuracy[v, self.best] for v in range(1, len(self.variants))])
        verdict = "solves more" if low > 0 else "solves fewer" if high < 0 else "changes nothing"
        shown = "shown" if low > 0 or high < 0 else "that could be shown"
        return (
            f"{self.model} solves {self.base:.2f} of {self.right.shape[-1]} items; at its best "
            f"c = {self.coefficients[self.best]:g} the vector at {', '.join(self.sites)} {verdict} "
            f"{shown}: {gain:+.3f} (interval {low:+.3f} to {high:+.3f}, 95 % over all "
            f"{len(self._tried)} c tried), random directions "
            f"{float(random.mean()) - self.base:+.3f}. "
            "The best of several c flatters; its interval is widened for that, the table's are not."
        )
