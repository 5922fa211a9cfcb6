"""The linear probe of the judgements: logistic regression on standardised columns.

    min_w,b  Σ log(1 + exp(−y (w·u + b))) + ½ ridge ‖w‖²,     u = (x − mean) / deviation,  y = ±1

Standardised, because else the penalty depends on the units of x: a code of 0.01 would be penalised
10⁴ times as much as one of 1, and the accuracy of a dictionary would change with its scaling.
Solved to the end by L-BFGS in float64, so the result has no seed. `ridge` is 1/C of scikit-learn.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

_STEPS = 200


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear rule: positive where x·weight + bias > 0.

    Attributes:
        weight: [d] in units of 1/x.
        bias: a number.
    """

    weight: Float[Tensor, " d"]
    bias: float

    def says(self, x: Float[Tensor, "row d"]) -> Bool[Tensor, " row"]:
        """Which rows are positive."""
        return x @ self.weight + self.bias > 0

    def accuracy(self, x: Float[Tensor, "row d"], truth: Bool[Tensor, " row"]) -> float:
        """The mean of the accuracies of both sides: 0.5 is chance, however many each has."""
        right = self.says(x) == truth
        return float((right[truth].double().mean() + right[~truth].double().mean()) / 2)

    def f1(self, x: Float[Tensor, "row d"], truth: Bool[Tensor, " row"]) -> float:
        """2·hits / (2·hits + misses + false alarms)."""
        said = self.says(x)
        hits = int((said & truth).sum())
        return 2 * hits / max(1, int(said.sum()) + int(truth.sum()))


def fit_probe(
    x: Float[Tensor, "row d"], truth: Bool[Tensor, " row"], *, ridge: float = 1.0
) -> Probe:
    """Fits the probe; a column that does not vary gets the weight 0."""
    x = x.double()
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    varies = deviation > 1e-12 * (1 + mean.abs())
    u = torch.where(varies, (x - mean) / deviation.where(varies, 1.0), 0.0)
    sign = torch.where(truth, 1.0, -1.0).double()
    weight = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def loss() -> Tensor:
        solver.zero_grad()
        margin = sign * (u @ weight[:-1] + weight[-1])
        value = softplus(-margin).sum() + ridge / 2 * weight[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    found = weight.detach()
    scaled = (found[:-1] / deviation.where(varies, 1.0)).where(varies, 0.0)
    return Probe(scaled, float(found[-1] - scaled @ mean))
