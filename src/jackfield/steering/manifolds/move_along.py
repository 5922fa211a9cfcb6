"""MoveAlong: an edit that carries an activation along a curve, or straight to a point of it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.edits.base import Context, Edit, fit_last
from jackfield.steering.manifolds.curve import Curve


@dataclass(frozen=True, eq=False, repr=False)
class MoveAlong(Edit):
    """`x + Pᵀ(γ(u′) − γ(u))`, with u the place on the curve nearest to z = P(x − centre).

    What is not on the curve, in the subspace and outside of it, stays as it is.

    Attributes:
        basis: P [k, d], orthonormal rows.
        centre: [d] where z is 0.
        coefficients: [4, segment, k] of the curve.
        cyclic: whether the curve is closed.
        target: where to; None moves on by `strength` from where the activation is.
        strength: the share of the way to the target, or how far to move on; 0 changes nothing.
        straight: go along the chord from γ(u) to γ(target) instead; both end at the same point.
    """

    basis: Tensor
    centre: Tensor
    coefficients: Tensor
    cyclic: bool
    target: float | None = None
    strength: float = 1.0
    straight: bool = False

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        fit_last(self.centre, x, self, context)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        basis, curve = self.basis.to(wide), Curve(self.coefficients, self.cyclic).to(wide)
        u = curve.nearest((wide - self.centre.to(wide)).detach() @ basis.T)
        return x + (self._step(curve, u) @ basis).to(x.dtype)

    def _step(self, curve: Curve, u: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows k"]:
        start = curve.at(u)
        if self.target is None:
            return curve.at(u + self.strength) - start
        way = curve.way(u, self.target)
        if self.straight:
            return self.strength * (curve.at(u + way) - start)
        return curve.at(u + self.strength * way) - start
