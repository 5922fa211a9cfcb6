"""Edits along directions: Project (onto or out of a subspace) and Cap (bounds on one direction)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import EditError, explain
from jackfield.edits.base import Context, Edit, fit_last


@dataclass(frozen=True, eq=False, repr=False)
class Project(Edit):
    """Projects out of the span of directions (directional ablation), or onto it.

    `x − QQᵀx`, or `QQᵀx` with `onto=True`, where the columns of Q are an orthonormal basis.

    Attributes:
        directions: [d] or [direction, d]; need not be orthogonal or independent.
        onto: keep the span instead of removing it.

    >>> import torch
    >>> Project(torch.tensor([2.0, 0.0]), at="x").apply(torch.tensor([[3.0, 4.0]]), Context("x"))
    tensor([[0., 4.]])
    """

    directions: Tensor
    onto: bool = False

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        rows = self.directions.reshape(-1, self.directions.shape[-1])
        fit_last(rows[0], x, self, context)
        basis = orthonormal(rows.to(x.device)).to(x.dtype)
        along = (x @ basis) @ basis.T
        return along if self.onto else x - along


@dataclass(frozen=True, eq=False, repr=False)
class Cap(Edit):
    """Keeps the projection on a unit direction between `floor` and `cap`.

    `x + (clamp(x·r, floor, cap) − x·r) r`: tokens inside the bounds are left exactly as they were.

    Attributes:
        direction: [d]; its length does not matter.
        floor, cap: bounds of the projection, in units of the activation; None is open.
    """

    direction: Tensor
    floor: float | None = None
    cap: float | None = None

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        if self.floor is None and self.cap is None:
            raise EditError(explain(where="Cap", expected="a floor or a cap", got="neither"))
        length = self.direction.norm()
        if not bool(length > 0):
            raise EditError(explain(where="Cap.direction", expected="a non-zero vector", got="0"))
        unit = fit_last(self.direction / length, x, self, context)
        along = x @ unit
        moved = along.clamp(self.floor, self.cap) - along
        return x + moved[..., None] * unit


def orthonormal(rows: Float[Tensor, "direction d"]) -> Float[Tensor, "d rank"]:
    """An orthonormal basis of the span of the rows; dependent rows do not widen it."""
    left, sizes, _ = torch.linalg.svd(rows.T.to(torch.float64), full_matrices=False)
    if not bool(sizes[0] > 0):
        raise EditError(explain(where="directions", expected="a non-zero vector", got="zeros"))
    rank = int((sizes > sizes[0] * 1e-10).sum())
    return left[:, :rank].to(rows.dtype)
