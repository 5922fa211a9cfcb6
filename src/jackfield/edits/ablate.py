"""Edits that put something else in the place: Replace, ZeroOut, MeanOut, ResampleOut."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.edits.base import Context, Edit, fit_last


@dataclass(frozen=True, eq=False, repr=False)
class Replace(Edit):
    """Interchange: the activation of another run, or any other value, in this one's place.

    Attributes:
        value: the shape of the site, or one that broadcasts to it.
    """

    value: Tensor

    def apply(self, x: Float[Tensor, "*shape"], context: Context) -> Float[Tensor, "*shape"]:
        return fit_last(self.value, x, self, context).expand_as(x)


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
        return fit_last(self.mean, x, self, context).expand_as(x)


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
        fit_last(self.rows[0], x, self, context)
        if "generator" not in context.state:
            context.state["generator"] = torch.Generator().manual_seed(self.seed)
        drawn = torch.randint(len(self.rows), x.shape[:-1], generator=context.state["generator"])
        return self.rows[drawn.to(self.rows.device)].to(x)
