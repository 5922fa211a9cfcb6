"""Rates of a guard, with their intervals."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.reports import Lines
from jackfield.reports.intervals import wilson

_Z = 1.959964  # 95 %
_PLACES = 41


@dataclass(frozen=True)
class Rate:
    """How many of some.

    Attributes:
        count: those that did.
        of: all.

    >>> print(Rate(0, 20))
    0/20 = 0.0% (0.0%–16.1%)
    """

    count: int
    of: int

    @property
    def share(self) -> float:
        """The count over all."""
        return self.count / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share (Wilson 1927)."""
        return wilson(self.count, self.of)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.count}/{self.of} = {self.share:.1%} ({low:.1%}–{high:.1%})"


@dataclass(frozen=True)
class Auroc:
    """The chance that a positive score is above a negative one; equal ones count half.

    Attributes:
        value: it.
        low, high: a 95 % interval: the chances under which it would lie 1.96 standard errors off,
            by Hanley and McNeil's error at each (Newcombe 2006). It has a width at 1 too.

    >>> print(Auroc.of(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.5])))
    0.75 (0.23–0.97)
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, positive: Float[Tensor, "n"], negative: Float[Tensor, "m"]) -> Self:  # noqa: F821
        """From the scores of both sides."""
        gaps = positive.double()[:, None] - negative.double()[None]
        a = float(((gaps > 0).double() + (gaps == 0) / 2).mean())
        low, high = (_bound(a, end, *gaps.shape) for end in (0.0, 1.0))
        return cls(a, low, high)

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}–{self.high:.2f})"


def share_above(harmful: Float[Tensor, "n"], benign: Float[Tensor, "m"]) -> Lines:  # noqa: F821
    """The share of both kinds that scores above a threshold, over thresholds."""
    both = torch.cat([harmful, benign]).double()
    bounds = torch.linspace(float(both.min()), float(both.max()), _PLACES, dtype=torch.float64)
    series = {
        name: (scores.double()[:, None] > bounds).double().mean(dim=0)
        for name, scores in (("harmful", harmful), ("benign", benign))
    }
    return Lines(bounds, series, x_title="threshold", y_title="share above")


def _bound(a: float, end: float, n: int, m: int) -> float:
    """Between `a` and `end`, where `a` lies 1.96 standard errors off."""
    near, far = a, end
    for _ in range(50):
        middle = (near + far) / 2
        inside = abs(a - middle) <= _Z * _error(middle, n, m)
        near, far = (middle, far) if inside else (near, middle)
    return near


def _error(a: float, n: int, m: int) -> float:
    """Hanley and McNeil's standard error of a chance `a`."""
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    spread = a * (1 - a) + (n - 1) * (q1 - a * a) + (m - 1) * (q2 - a * a)
    return float((max(spread, 0.0) / (n * m)) ** 0.5)
