"""Edits that put something else in the place: Replace, ZeroOut, MeanOut, ResampleOut."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import EditError, explain
from jackfield.edits.base import Context, Edit, fit_last, generator_of


@dataclass(frozen=True, eq=False, repr=False)
class Replace(Edit):
    """Interchange: the activation of another run, or any other value, in this one's place.

    Attributes:
        value: the shape of the site, or one that broadcasts to it. When generating it must fit
            the calls on whose tokens the edit acts.
    """

    value: Tensor

    def apply(self, x: Float[Tensor, "*shape"], context: Context) -> Float[Tensor, "*shape"]:
        return fit_last(self.value, x, self, context).expand_as(x).clone()


@dataclass(frozen=True, eq=False, repr=False)
class ZeroOut(Edit):
    """Zero ablation."""

    def apply(self, x: Float[Tensor, "*shape"], context: Context) -> Float[Tensor, "*shape"]:
        return torch.zeros_like(x)


@dataclass(frozen=True, eq=False, repr=False)
class MeanOut(Edit):
    """Mean ablation.

    Attributes:
        mean: [d] or the shape of the site, for instance from the `Moments` sink of a stream.
    """

    mean: Tensor

    def apply(self, x: Float[Tensor, "*shape"], context: Context) -> Float[Tensor, "*shape"]:
        return fit_last(self.mean, x, self, context).expand_as(x).clone()


@dataclass(frozen=True, eq=False, repr=False)
class ResampleOut(Edit):
    """Resample ablation: each token's activation becomes one drawn from other data.

    Attributes:
        rows: [row, d] activations to draw from, uniformly, independently for each token.
        seed: the draws are the same for the same seed; they go on within a sequence.
    """

    stateful: ClassVar[bool] = True

    rows: Tensor
    seed: int = 0

    def apply(self, x: Float[Tensor, "*shape d"], context: Context) -> Float[Tensor, "*shape d"]:
        if self.rows.shape[1:] != x.shape[-1:] or not len(self.rows):
            raise EditError(
                explain(
                    where=f"{context.site}, ResampleOut",
                    expected=f"rows [row, {x.shape[-1]}], at least one",
                    got=str(list(self.rows.shape)),
                )
            )
        drawn = torch.randint(
            len(self.rows), x.shape[:-1], generator=generator_of(context, self.seed)
        )
        return self.rows[drawn.to(self.rows.device)].to(x)
