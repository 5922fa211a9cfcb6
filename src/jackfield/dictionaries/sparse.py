"""Products with k-sparse codes, forward and backward, without ever making the codes dense.

A sparse code is two tensors [row, k]: `values`, and `latents`, which latent each value is of.
Three products are all that a top-k dictionary needs; W is [latent, d], x is [row, d]:

    combine(values, latents, W)[r]    = Σ_j values[r, j] · W[latents[r, j]]             [row, d]
    dots(x, latents, W)[r, j]         = x[r] · W[latents[r, j]]                         [row, k]
    scatter(values, latents, x, n)[i] = Σ_{r, j : latents[r, j] = i} values[r, j] · x[r]  [n, d]

The gradients of each are the other two, so a training step costs one dense product (the
pre-activations) and O(row · k · d) for all the rest, where a dense autograd spends five. Each is an
`embedding_bag`, summed in a fixed order: the same input gives the same bits.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


def top_k(
    x: Float[Tensor, "row d"],
    encoder: Float[Tensor, "latent d"],
    bias: Float[Tensor, " latent"],
    k: int,
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest of `relu(x @ encoder.T + bias)` in each row: values and latents, unordered.

    The gradient goes through the chosen latents that are above zero, and no others.
    """
    return _TopK.apply(x, encoder, bias, k)


def combine(
    values: Float[Tensor, "row k"], latents: Int[Tensor, "row k"], W: Float[Tensor, "latent d"]
) -> Float[Tensor, "row d"]:
    """The rows of W that a code chooses, weighted and summed: a decoder without its bias.

    >>> combine(torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 2]]), torch.eye(3))
    tensor([[2., 0., 1.]])
    """
    return _Combine.apply(values, latents, W)


def dots(
    x: Float[Tensor, "row d"], latents: Int[Tensor, "row k"], W: Float[Tensor, "latent d"]
) -> Float[Tensor, "row k"]:
    """Each row's products with the k rows of W that it chooses."""
    with torch.enable_grad():  # they are what the gradient of a bag's weights is made of
        weights = x.new_zeros(latents.shape, requires_grad=True)
        return torch.autograd.grad(_bags(latents, W.detach(), weights), weights, x.contiguous())[0]


def scatter(
    values: Float[Tensor, "row k"], latents: Int[Tensor, "row k"], x: Float[Tensor, "row d"], n: int
) -> Float[Tensor, "n d"]:
    """For each of n latents, the rows that chose it, weighted and summed."""
    chosen = latents.flatten()
    order = chosen.argsort(stable=True)
    counts = torch.bincount(chosen, minlength=n)
    starts = counts.cumsum(0) - counts
    rows = order // latents.shape[1]
    return F.embedding_bag(
        rows, x.contiguous(), starts, per_sample_weights=values.flatten()[order], mode="sum"
    )


def dense(values: Float[Tensor, "row k"], latents: Int[Tensor, "row k"], n: int) -> Tensor:
    """The code as [row, n], zero where nothing was chosen."""
    return values.new_zeros(len(values), n).scatter(1, latents, values)


def _bags(latents: Tensor, W: Tensor, values: Tensor) -> Tensor:
    return F.embedding_bag(latents, W, per_sample_weights=values, mode="sum")


class _TopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, encoder: Tensor, bias: Tensor, k: int) -> tuple[Any, Any]:
        values, latents = torch.addmm(bias, x, encoder.T).topk(k, dim=1, sorted=False)
        values = values.relu_()
        ctx.save_for_backward(x, encoder, values, latents)
        ctx.mark_non_differentiable(latents)
        return values, latents

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
        x, encoder, values, latents = ctx.saved_tensors
        grad, n = grad * (values > 0), len(encoder)
        wants_x, wants_encoder, wants_bias, _ = ctx.needs_input_grad
        return (
            _bags(latents, encoder, grad) if wants_x else None,
            scatter(grad, latents, x, n) if wants_encoder else None,
            scatter(grad, latents, x.new_ones(len(x), 1), n)[:, 0] if wants_bias else None,
            None,
        )


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, latents: Tensor, W: Tensor) -> Tensor:
        ctx.save_for_backward(values, latents, W)
        return _bags(latents, W, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        values, latents, W = ctx.saved_tensors
        wants_values, _, wants_w = ctx.needs_input_grad
        return (
            dots(grad, latents, W) if wants_values else None,
            None,
            scatter(values, latents, grad, len(W)) if wants_w else None,
        )
