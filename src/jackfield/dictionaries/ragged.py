"""Codes of k latents a row on average: some rows have more, so they are a list, not a table.

A ragged code is three tensors [entry], sorted by row and latent: `values`, `rows` and `latents`.
The products are those of `sparse.py`, each an `embedding_bag` over the entries of a row or of a
latent, summed in a fixed order; a training step costs one dense product, as there. How many entries
there are is known beforehand, so nothing waits for a count.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from jackfield.dictionaries.code import Code


@dataclass(frozen=True, eq=False)
class Ragged(Code):
    """A list of entries.

    Attributes:
        values: [entry], some may be 0.
        rows: [entry], rising.
        latents: [entry].
        shape: how many rows and latents there are.
    """

    values: Float[Tensor, " entry"]
    rows: Int[Tensor, " entry"]
    latents: Int[Tensor, " entry"]
    shape: tuple[int, int]

    def combine(self, W: Float[Tensor, "latent d"]) -> Float[Tensor, "row d"]:
        values = self.values.to(W.dtype)
        found: Tensor = _Combine.apply(values, self.rows, self.latents, W, self.shape[0])
        return found.to(self.values.dtype)

    def of(self, latents: Int[Tensor, " some"]) -> Float[Tensor, "row some"]:
        return self.dense()[:, latents]

    def dense(self) -> Float[Tensor, "row latent"]:
        nothing = self.values.new_zeros(self.shape)
        return nothing.index_put((self.rows, self.latents), self.values)

    def fired(self) -> Int[Tensor, " latent"]:
        counts = torch.zeros(self.shape[1], dtype=torch.int64, device=self.values.device)
        return counts.scatter_add_(0, self.latents, (self.values > 0).long())

    def part(self, start: int, end: int) -> "Ragged":
        """The code of the latents from `start` to `end` only; the entries of others are 0."""
        own = (self.latents >= start) & (self.latents < end)
        return replace(self, values=self.values.where(own, 0.0))


def batch_top(
    x: Float[Tensor, "row d"],
    encoder: Float[Tensor, "latent d"],
    bias: Float[Tensor, " latent"],
    size: Float[Tensor, " latent"],
    entries: int,
) -> Ragged:
    """Of `p = relu(x @ encoder.T + bias)` the entries with the largest `p · size` in all rows.

    The gradient goes through the chosen entries that are above zero, and no others; none to `size`.
    The product is in the dtype of `encoder`.
    """
    given = x.to(encoder.dtype), encoder, bias.to(encoder.dtype)
    values, rows, latents = _BatchTop.apply(*given, size, entries)
    return Ragged(values.to(x.dtype), rows, latents, (len(x), len(encoder)))


class _BatchTop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, encoder: Tensor, bias: Tensor, size: Tensor, entries: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        p = torch.addmm(bias, x, encoder.T).relu_().flatten()
        rank = p.view(-1, len(encoder)) * size.to(p.dtype)
        chosen = rank.flatten().topk(entries, sorted=False).indices.sort().values
        values, rows, latents = p[chosen], chosen // len(encoder), chosen % len(encoder)
        ctx.save_for_backward(x, encoder, values, rows, latents)
        ctx.mark_non_differentiable(rows, latents)
        return values, rows, latents

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
        x, encoder, values, rows, latents = ctx.saved_tensors
        grad, n = grad * (values > 0), len(encoder)
        wants_x, wants_encoder, wants_bias, *_ = ctx.needs_input_grad
        ones = x.new_ones(len(x), 1)
        return (
            _sums(grad, latents, encoder, rows, len(x)) if wants_x else None,
            _scatter(grad, rows, latents, x, n) if wants_encoder else None,
            _scatter(grad, rows, latents, ones, n)[:, 0] if wants_bias else None,
            None,
            None,
        )


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, rows: Tensor, latents: Tensor, W: Tensor, n: int
    ) -> Tensor:
        ctx.save_for_backward(values, rows, latents, W)
        return _sums(values, latents, W, rows, n)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        values, rows, latents, W = ctx.saved_tensors
        wants_values, _, _, wants_w, _ = ctx.needs_input_grad
        return (
            _dots(grad.contiguous(), rows, latents, W) if wants_values else None,
            None,
            None,
            _scatter(values, rows, latents, grad, len(W)) if wants_w else None,
            None,
        )


def _sums(values: Tensor, index: Tensor, W: Tensor, bags: Tensor, n: int) -> Tensor:
    """Σ values · W[index] over the entries of each of n bags (`bags` rises): [bag, d]."""
    starts = torch.searchsorted(bags, torch.arange(n, device=bags.device))
    return F.embedding_bag(index, W.contiguous(), starts, per_sample_weights=values, mode="sum")


def _scatter(values: Tensor, rows: Tensor, latents: Tensor, x: Tensor, n: int) -> Tensor:
    """Σ values · x[rows] over the entries of each of n latents: [n, d]."""
    order = latents.argsort(stable=True)
    return _sums(values[order], rows[order], x, latents[order], n)


def _dots(grad: Tensor, rows: Tensor, latents: Tensor, W: Tensor) -> Tensor:
    """grad[row] · W[latent] of each entry."""
    with torch.enable_grad():  # they are what the gradient of a bag's weights is made of
        weights = grad.new_zeros(len(rows), requires_grad=True)
        sums = _sums(weights, latents, W.detach(), rows, len(grad))
        return torch.autograd.grad(sums, weights, grad)[0]
