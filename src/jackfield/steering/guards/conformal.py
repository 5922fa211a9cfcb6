"""Conformal threshold: a bound on false alarms that holds for any scores, from a few benign ones.

    τ = the k-th smallest of n calibration scores        k = ⌈(n + 1)(1 − α)⌉
    P(score of a new benign text > τ) ≤ α                 ≥ α − 1/(n + 1) if no two scores are equal

It asks nothing of the scorer or of the distribution but that the calibration texts and the new one
are exchangeable: drawn alike, and not used in the fit. The bound is on average over calibration
sets; a single set of n texts has its own rate, spread around α like a Beta(n + 1 − k, k).

Split conformal prediction: Papadopoulos et al. 2002; Vovk et al. 2005; Lei et al. 2018
(arXiv 1604.04173). No departure.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain


@config
class ConformalThreshold:
    """A threshold that at most a share `alpha` of new benign texts exceeds.

    Attributes:
        alpha: the share of false alarms that is allowed.

    >>> ConformalThreshold(alpha=0.2).of([0.1, 0.4, 0.2, 0.3])
    0.4
    """

    alpha: float = setting(default=0.1, gt=0, lt=1)

    def of(
        self,
        scores: Float[Tensor, "n"] | Sequence[float],  # noqa: F821
        where: str = "ConformalThreshold",
    ) -> float:
        """The threshold from the scores of benign texts; `where` is who asks, for errors.

        Raises:
            InputError: scores that are not finite, or too few for `alpha`: the threshold would be
                infinite.
        """
        given = torch.as_tensor(scores, dtype=torch.float64).flatten()
        if not bool(torch.isfinite(given).all()):
            got = f"{int((~torch.isfinite(given)).sum())} that are not"
            raise InputError(explain(where=where, expected="finite scores", got=got))
        rank = len(given) + 1 - math.floor((len(given) + 1) * Fraction(str(self.alpha)))
        if rank > len(given):
            raise InputError(
                explain(
                    where=where,
                    expected=f"at least {math.ceil(1 / Fraction(str(self.alpha))) - 1} benign "
                    f"scores for alpha={self.alpha:g}",
                    got=str(len(given)),
                    hint="With fewer, no finite threshold keeps that promise.",
                )
            )
        return float(given.sort().values[rank - 1])
