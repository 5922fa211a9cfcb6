"""LowRank: the edit of LoReFT, an affine map of a few coordinates of the activation."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import EditError, explain
from jackfield.edits import Context, Edit
from jackfield.edits.base import fit_last


@dataclass(frozen=True, eq=False, repr=False)
class LowRank(Edit):
    """`x + strength · Rᵀ (W x + b − R x)`: in the subspace of R, x becomes W x + b.

    Attributes:
        basis: R [rank, d], orthonormal rows.
        source: W [rank, d].
        bias: b [rank].
        strength: 0 changes nothing, 1 is the whole map.

    >>> import torch
    >>> first = torch.tensor([[1.0, 0.0]])
    >>> edit = LowRank(first, torch.zeros(1, 2), torch.tensor([5.0]), at="x")
    >>> edit.apply(torch.tensor([[3.0, 4.0]]), Context("x"))
    tensor([[5., 4.]])
    """

    basis: Tensor
    source: Tensor
    bias: Tensor
    strength: float = 1.0

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        rank = len(self.basis)
        if self.source.shape != self.basis.shape or self.bias.shape != (rank,):
            got = f"{list(self.source.shape)} and {list(self.bias.shape)}"
            expected = f"a source {list(self.basis.shape)} and a bias [{rank}], as the basis has"
            where = f"{context.site}, LowRank"
            raise EditError(explain(where=where, expected=expected, got=got))
        fit_last(self.basis[0], x, self, context)
        moved = x @ (self.source - self.basis).to(x).T + self.bias.to(x)
        return x + self.strength * (moved @ self.basis.to(x))
