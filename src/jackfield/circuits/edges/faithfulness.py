"""Faithfulness: how much of the effect a circuit keeps when everything else is really patched.

    f = (m(C) − m(∅)) / (m(N) − m(∅))           1: as the whole model, 0: as with every edge patched

and, over circuits of several sizes, the areas of MIB: CPR under f, CMD under |1 − f|, both by the
trapezoid rule over the share of edges. Wang et al. 2022 (2211.00593); MIB, Mueller et al. 2025
(2504.13151). Means over pairs are taken before the division; intervals redraw the pairs.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.core.study import Result
from jackfield.reports import Report, Table
from jackfield.reports.intervals import bootstrap_weights, tails


@dataclass(frozen=True)
class Faithfulness(Result):
    """One circuit, judged.

    Attributes:
        circuit: [pair] the metric with all other edges patched.
        whole: [pair] with none patched.
        nothing: [pair] with all patched.
    """

    circuit: Float[Tensor, " pair"]
    whole: Float[Tensor, " pair"]
    nothing: Float[Tensor, " pair"]

    @property
    def value(self) -> float:
        """The faithfulness."""
        return float(share(self.circuit[None], self.whole, self.nothing)[0])

    def interval(self, level: float = 0.95, *, seed: int = 0) -> tuple[float, float]:
        """A bootstrap interval of f over the pairs."""
        low, high = spread(drawn(self.circuit[None], self.whole, self.nothing, seed), level)
        return float(low[0]), float(high[0])

    def report(self) -> Report:
        """f, its interval, and what it is made of."""
        means = [float(each.mean()) for each in (self.circuit, self.whole, self.nothing)]
        named = zip(["the circuit", "the whole model", "nothing"], means, strict=True)
        several = len(self.circuit) > 1
        ends = "{:.2f} to {:.2f}".format(*self.interval()) if several else "one pair"
        return Report(
            "Faithfulness",
            [Table(["kept", "metric"], [list(each) for each in named])],
            summary=f"The circuit keeps {self.value:.2f} of the effect ({ends}).",
        )


def share(
    circuits: Float[Tensor, "*rows pair"], whole: Tensor, nothing: Tensor
) -> Float[Tensor, "*rows"]:
    """Faithfulness by the means over pairs.

    Raises:
        InputError: patching every edge leaves the metric where it is.
    """
    gap = whole.mean() - nothing.mean()
    if not gap.abs() > 1e-9:
        expected = "a metric that changes when every edge is patched"
        raise InputError(explain(where="faithfulness", expected=expected, got=f"{float(gap):.2g}"))
    return (circuits.mean(dim=-1) - nothing.mean()) / gap


def drawn(
    circuits: Float[Tensor, "*rows pair"], whole: Tensor, nothing: Tensor, seed: int = 0
) -> Float[Tensor, "sample ..."]:
    """Faithfulness on samples of pairs, drawn with replacement, the same for every circuit.

    Raises:
        InputError: there is only one pair.
    """
    pairs = len(whole)
    if pairs < 2:
        raise InputError(explain(where="faithfulness", expected="several pairs", got="one"))
    weights = bootstrap_weights(pairs, seed=seed).T
    base, full, made = (x.double() @ weights for x in (nothing, whole, circuits))
    return ((made - base) / (full - base)).movedim(-1, 0)


def spread(samples: Float[Tensor, "sample ..."], level: float) -> tuple[Tensor, Tensor]:
    """The low and the high end of an interval."""
    low, high = tails(samples, level)
    return low, high


def cpr(f: Float[Tensor, "*rows size"], fractions: Float[Tensor, " size"]) -> Tensor:
    """The area under f over the share of edges; larger is better.

    >>> round(float(cpr(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))), 3)
    0.5
    """
    return torch.trapezoid(f, fractions.to(f), dim=-1)


def cmd(f: Float[Tensor, "*rows size"], fractions: Float[Tensor, " size"]) -> Tensor:
    """The area between f and 1; smaller is better, and above 1 counts as well as below.

    >>> round(float(cmd(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]))), 3)
    0.0
    """
    return torch.trapezoid((1 - f).abs(), fractions.to(f), dim=-1)
