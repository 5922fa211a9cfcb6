"""Partway: another edit, followed part of the way."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from jackfield.edits.base import Context, Edit


@dataclass(frozen=True, eq=False, repr=False)
class Partway(Edit):
    """`x + share · (inner(x) − x)`: 0 changes nothing, 1 is the whole edit, 2 twice what it does.

    Attributes:
        inner: the edit; its own `at` and `where` are not asked.
        share: how much of its change is made.

    >>> import torch
    >>> from jackfield.edits import Scale
    >>> Partway(Scale(3.0, at="x"), share=0.5, at="x").apply(torch.ones(2), Context("x"))
    tensor([2., 2.])
    """

    inner: Edit
    share: float = 1.0

    def apply(self, x: Float[Tensor, "*shape"], context: Context) -> Float[Tensor, "*shape"]:
        return x + self.share * (self.inner.apply(x, context) - x)
