"""Edits that move or stretch: Add, Scale, Affine."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import EditError, explain
from jackfield.edits.base import Context, Edit, fit_last


@dataclass(frozen=True, eq=False, repr=False)
class Add(Edit):
    """`x + strength · vector`.

    Attributes:
        vector: [d], or any shape that broadcasts to the site.
        strength: in units of the vector's own length.

    >>> import torch
    >>> Add(torch.ones(2), at="x", strength=3.0).apply(torch.zeros(1, 2), Context("x"))
    tensor([[3., 3.]])
    """

    vector: Tensor
    strength: float = 1.0

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        return x + self.strength * fit_last(self.vector, x, self, context)


@dataclass(frozen=True, eq=False, repr=False)
class Scale(Edit):
    """`factor · x`, with one number or one for each unit.

    Attributes:
        factor: a number, [d], or any shape that broadcasts to the site.
    """

    factor: float | Tensor

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        if isinstance(self.factor, Tensor):
            return x * fit_last(self.factor, x, self, context)
        return x * self.factor


@dataclass(frozen=True, eq=False, repr=False)
class Affine(Edit):
    """`matrix @ x + bias` on the last axis.

    Attributes:
        matrix: [d, d], applied to column vectors: `y_i = Σ_j matrix[i, j] x_j`.
        bias: [d].
    """

    matrix: Tensor
    bias: Tensor

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        width = x.shape[-1]
        if self.matrix.shape != (width, width):
            raise EditError(
                explain(
                    where=f"{context.site}, Affine",
                    expected=f"a matrix [{width}, {width}]",
                    got=str(list(self.matrix.shape)),
                )
            )
        return x @ self.matrix.to(x).T + fit_last(self.bias, x, self, context)
