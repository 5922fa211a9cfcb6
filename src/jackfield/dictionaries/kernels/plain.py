"""The sparse products in PyTorch: what the kernels must give, and what runs where they cannot.

A product is an `embedding_bag`, whose sums have a fixed order: the same input gives the same bits.
In float32 on an x86 CPU `combine` and `scatter` are those of `sparse.cpp` to the bit; else the two
differ by the rounding of a sum in another order (`dots`) or without fused multiply-adds. Arguments
have been checked by the caller.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def combine(
    values: Float[Tensor, "row k"], latents: Int[Tensor, "row k"], W: Float[Tensor, "latent d"]
) -> Float[Tensor, "row d"]:
    """Σ_j values[r, j] · W[latents[r, j]]."""
    if not latents.numel():  # of which PyTorch makes no bags
        return W.new_zeros(len(latents), W.shape[1])
    return F.embedding_bag(latents, W, per_sample_weights=values, mode="sum")


def dots(
    x: Float[Tensor, "row d"], latents: Int[Tensor, "row k"], W: Float[Tensor, "latent d"]
) -> Float[Tensor, "row k"]:
    """x[r] · W[latents[r, j]]: what the gradient of a bag's weights is made of."""
    if not latents.numel():
        return x.new_zeros(latents.shape)
    with torch.enable_grad():
        weights = x.new_zeros(latents.shape, requires_grad=True)
        bags = combine(weights, latents, W.detach())
        return torch.autograd.grad(bags, weights, x.contiguous())[0]


def scatter(
    values: Float[Tensor, "row k"], latents: Int[Tensor, "row k"], x: Float[Tensor, "row d"], n: int
) -> Float[Tensor, "n d"]:
    """Σ of values[r, j] · x[r] over all r, j of each latent."""
    chosen = latents.flatten()
    order = chosen.argsort(stable=True)
    counts = torch.bincount(chosen, minlength=n)
    starts = counts.cumsum(0) - counts
    rows = order // latents.shape[1] if len(order) else order
    weights = values.flatten()[order]
    return F.embedding_bag(rows, x.contiguous(), starts, per_sample_weights=weights, mode="sum")


def top_k(
    p: Float[Tensor, "row latent"], k: int
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest of each row through relu, and where they are, in the order of the latents.

    Of equals at the edge it may keep others than `sparse.cpp`, which keeps the first.
    """
    values, latents = p.topk(k, dim=1, sorted=False)
    latents, order = latents.sort(dim=1)
    return values.gather(1, order).relu_(), latents
