"""Edits that bound or thin out: Clamp, KeepTopK, Threshold."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import EditError, explain
from jackfield.edits.base import Context, Edit, fit_last


@dataclass(frozen=True, eq=False, repr=False)
class Clamp(Edit):
    """Each unit clamped between `minimum` and `maximum`; None is open."""

    minimum: float | None = None
    maximum: float | None = None

    def apply(self, x: Float[Tensor, "*shape"], context: Context) -> Float[Tensor, "*shape"]:
        if self.minimum is None and self.maximum is None:
            raise EditError(explain(where="Clamp", expected="a minimum or maximum", got="neither"))
        return x.clamp(self.minimum, self.maximum)


@dataclass(frozen=True, eq=False, repr=False)
class KeepTopK(Edit):
    """Keeps the `k` units of each token with the largest score, zeroes the rest.

    The score is `|x|`, or `|x| · weights`. Ties go to the lower index.

    Attributes:
        k: units kept; all of them when k is at least the width.
        weights: [d] non-negative factors of the score, for instance column norms of the weight
            that reads the site (WINA).
        together: how many of the last axes share the k units; 2 at z ranks all heads together.
    """

    k: int
    weights: Tensor | None = None
    together: int = 1

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        if self.k < 0:
            raise EditError(explain(where="KeepTopK", expected="k >= 0", got=str(self.k)))
        if self.k >= math.prod(x.shape[-self.together :]):
            return x
        scores = score(self, x, context).flatten(-self.together)
        order = scores.argsort(dim=-1, descending=True, stable=True)
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order[..., : self.k], True)
        return torch.where(kept.view_as(x), x, torch.zeros_like(x))


@dataclass(frozen=True, eq=False, repr=False)
class Threshold(Edit):
    """Zeroes the units whose score does not exceed `threshold`; the score is as in `KeepTopK`."""

    threshold: float
    weights: Tensor | None = None

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        return torch.where(score(self, x, context) > self.threshold, x, torch.zeros_like(x))


def score(
    edit: KeepTopK | Threshold, x: Float[Tensor, "*rows d"], context: Context
) -> Float[Tensor, "*rows d"]:
    """`|x|`, times the edit's weights if it has any."""
    if edit.weights is None:
        return x.abs()
    return x.abs() * fit_last(edit.weights, x, edit, context)
