"""A curve through points in their order: a cubic spline, closed if the points are a cycle.

    γ(u) = c₀ t³ + c₁ t² + c₂ t + c₃        on segment i, t = u − i;   γ(i) is point i

Twice continuously differentiable; at open ends the second derivative is 0. The nearest u to a
point is looked for on a grid, then with Newton's method between its neighbours.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.core.extras import need

_GRID = 24  # points a segment
_STEPS = 6  # of Newton's method
_ROWS = 2048  # looked for at once


@dataclass(frozen=True, eq=False)
class Curve:
    """A cubic spline in k dimensions.

    Attributes:
        coefficients: [4, segment, k], the highest power first.
        cyclic: whether it is closed: as many segments as points, and u runs round.

    >>> square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    >>> circle = Curve.through(square, cyclic=True)
    >>> circle.at(torch.tensor(0.5)).norm().round(decimals=1)
    tensor(1.)
    >>> circle.nearest(torch.tensor([[0.0, -3.0]]))
    tensor([3.])
    """

    coefficients: Float[Tensor, "4 segment k"]
    cyclic: bool

    @staticmethod
    def through(points: Float[Tensor, "point k"], *, cyclic: bool) -> "Curve":
        """The curve through points, the i-th of them at u = i.

        Raises:
            InputError: fewer than three points.
        """
        if len(points) < 3:
            expected = "at least three points for a curve"
            raise InputError(explain(where="Curve", expected=expected, got=str(len(points))))
        splines = need("scipy.interpolate", extra="sklearn", purpose="A spline")
        closed = torch.cat([points, points[:1]]) if cyclic else points
        kind = "periodic" if cyclic else "natural"
        found = splines.CubicSpline(range(len(closed)), closed.double().numpy(), bc_type=kind)
        return Curve(torch.from_numpy(found.c).to(points.dtype).contiguous(), cyclic)

    @property
    def length(self) -> int:
        """The largest u: the number of segments."""
        return self.coefficients.shape[1]

    def to(self, like: Tensor) -> "Curve":
        """The same curve in the dtype and on the device of `like`."""
        return Curve(self.coefficients.to(like), self.cyclic)

    def at(self, u: Float[Tensor, "*rows"], derivative: int = 0) -> Float[Tensor, "*rows k"]:
        """γ(u), or its first or second derivative; beyond the ends of an open curve, its end."""
        u = u % self.length if self.cyclic else u.clamp(0, self.length)
        segment = u.floor().clamp(max=self.length - 1)
        t = (u - segment)[..., None]
        a, b, c, d = self.coefficients[:, segment.long()]
        if derivative == 2:
            return 6 * a * t + 2 * b
        return (3 * a * t + 2 * b) * t + c if derivative else ((a * t + b) * t + c) * t + d

    @torch.no_grad()
    def nearest(self, z: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows"]:
        """argmin_u ‖z − γ(u)‖."""
        rows = z.reshape(-1, z.shape[-1])
        found = [self._nearest(part) for part in rows.split(_ROWS)]
        return torch.cat(found or [rows.new_zeros(0)]).reshape(z.shape[:-1])

    def distance(self, z: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows"]:
        """min_u ‖z − γ(u)‖."""
        return (z - self.at(self.nearest(z))).norm(dim=-1)

    def way(self, start: Float[Tensor, "*rows"], end: float | Tensor) -> Float[Tensor, "*rows"]:
        """How far u must go from `start` to `end`; round a closed curve, the shorter way."""
        gap = end - start
        if not self.cyclic:
            return gap
        return (gap + self.length / 2) % self.length - self.length / 2

    def arc(self, start: float, end: float, points: int = 64) -> float:
        """The length of the curve between two values of u, the shorter way round."""
        first = torch.tensor(start, dtype=self.coefficients.dtype)
        share = torch.linspace(0, 1, points, dtype=self.coefficients.dtype)
        places = self.at(first + share * self.way(first, end))
        return float(places.diff(dim=0).norm(dim=-1).sum())

    def _nearest(self, z: Float[Tensor, "row k"]) -> Float[Tensor, " row"]:
        grid = torch.linspace(0, self.length, self.length * _GRID + 1).to(z)
        first = grid[torch.cdist(z, self.at(grid)).argmin(dim=1)]
        u, best = first, first
        least = (self.at(best) - z).square().sum(dim=-1)
        for _ in range(_STEPS):
            gap, slope, bend = self.at(u) - z, self.at(u, 1), self.at(u, 2)
            down = (gap * slope).sum(dim=-1)
            curved = (slope * slope).sum(dim=-1) + (gap * bend).sum(dim=-1)
            u = u - down / curved.where(curved > 0, torch.ones_like(curved))
            u = torch.minimum(torch.maximum(u, first - 1 / _GRID), first + 1 / _GRID)
            u = u if self.cyclic else u.clamp(0, self.length)
            reached = (self.at(u) - z).square().sum(dim=-1)
            best, least = best.where(reached >= least, u), torch.minimum(least, reached)
        return best % self.length if self.cyclic else best
