"""Products with k-sparse codes, forward and backward, without ever making the codes dense.

A sparse code is two tensors [row, k]: `values`, and `latents`, which latent each value is of.
Three products are all that a top-k dictionary needs; W is [latent, d], x is [row, d]:

    combine(values, latents, W)[r]    = Σ_j values[r, j] · W[latents[r, j]]             [row, d]
    dots(x, latents, W)[r, j]         = x[r] · W[latents[r, j]]                         [row, k]
    scatter(values, latents, x, n)[i] = Σ_{r, j : latents[r, j] = i} values[r, j] · x[r]  [n, d]

The gradients of each are the other two, so a training step costs one dense product (the
pre-activations) and O(row · k · d) for all the rest, where a dense autograd spends five. They are
computed by a kernel for the device where there is one, else in PyTorch (`kernels/`); each sums in a
fixed order, so that the same input gives the same bits, whatever the number of threads. A latent
may be chosen twice in a row, and a value may be 0: both are summed as they are.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.kernels import home

_AT_ONCE = 2**24  # pre-activations that lie in memory at a time, where the rows are many
_ROWS = 256  # and the fewest rows of them, below which a product of matrices is slow


def top_k(
    x: Float[Tensor, "row d"],
    encoder: Float[Tensor, "latent d"],
    bias: Float[Tensor, " latent"],
    k: int,
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest of `relu(x @ encoder.T + bias)` in each row: values and latents, by latent.

    The gradient goes through the chosen latents that are above zero, and no others.

    Raises:
        InputError: k below 0 or above the number of latents.
    """
    if not 0 <= k <= len(encoder):
        expected = f"k from 0 to the {len(encoder):,} latents"
        raise InputError(explain(where="top_k", expected=expected, got=str(k)))
    return _TopK.apply(x, encoder, bias, k)


def combine(
    values: Float[Tensor, "row k"], latents: Int[Tensor, "row k"], W: Float[Tensor, "latent d"]
) -> Float[Tensor, "row d"]:
    """The rows of W that a code chooses, weighted and summed: a decoder without its bias.

    Raises:
        InputError: shapes that do not fit, or (on the CPU) a latent that W does not have.

    >>> combine(torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 2]]), torch.eye(3))
    tensor([[2., 0., 1.]])
    """
    latents = _checked("combine", latents, len(W), values=values, W=W)
    return _Combine.apply(values, latents, W)


@torch.no_grad()
def dots(
    x: Float[Tensor, "row d"], latents: Int[Tensor, "row k"], W: Float[Tensor, "latent d"]
) -> Float[Tensor, "row k"]:
    """Each row's products with the k rows of W that it chooses; without a graph.

    Raises:
        InputError: shapes that do not fit, or (on the CPU) a latent that W does not have.
    """
    latents = _checked("dots", latents, len(W), x=x, W=W)
    if x.shape[1] != W.shape[1]:
        expected, got = f"{W.shape[1]} columns as in W", str(x.shape[1])
        raise InputError(explain(where="dots, x", expected=expected, got=got))
    return home(x, W).dots(x, latents, W)


@torch.no_grad()
def scatter(
    values: Float[Tensor, "row k"], latents: Int[Tensor, "row k"], x: Float[Tensor, "row d"], n: int
) -> Float[Tensor, "n d"]:
    """For each of n latents, the rows that chose it, weighted and summed; without a graph.

    Raises:
        InputError: shapes that do not fit, or (on the CPU) a latent from n on.
    """
    latents = _checked("scatter", latents, n, values=values, x=x)
    return home(values, x).scatter(values, latents, x, n)


def dense(values: Float[Tensor, "row k"], latents: Int[Tensor, "row k"], n: int) -> Tensor:
    """The code as [row, n], zero where nothing was chosen."""
    return values.new_zeros(len(values), n).scatter(1, latents, values)


def _checked(where: str, latents: Tensor, n: int, **others: Tensor) -> Tensor:
    """The latents as int64, if they are of n and all shapes fit: a kernel trusts its addresses."""
    for name, given in {"latents": latents, **others}.items():
        fits = given.dim() == 2 and (name == "W" or len(given) == len(latents))
        if not fits or (name == "values" and given.shape != latents.shape):
            expected = f"two dimensions that go with latents {list(latents.shape)}"
            message = explain(
                where=f"{where}, {name}", expected=expected, got=str(list(given.shape))
            )
            raise InputError(message)
    if latents.device.type == "cpu" and latents.numel():  # elsewhere it would mean to wait
        low, high = (int(each) for each in latents.aminmax())
        if low < 0 or high >= n:
            expected, got = f"from 0 to {n - 1}", str(low if low < 0 else high)
            raise InputError(explain(where=f"{where}, latents", expected=expected, got=got))
    return latents.long()


class _TopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, encoder: Tensor, bias: Tensor, k: int) -> tuple[Any, Any]:
        rows = max(_ROWS, _AT_ONCE // max(1, len(encoder)))
        parts = [_select(part, encoder, bias, k) for part in x.split(rows)]
        values, latents = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        ctx.save_for_backward(x, encoder, values, latents)
        ctx.mark_non_differentiable(latents)
        return values, latents

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
        x, encoder, values, latents = ctx.saved_tensors
        grad, n = grad * (values > 0), len(encoder)
        wants_x, wants_encoder, wants_bias, _ = ctx.needs_input_grad
        kernels = home(grad, encoder, x)
        return (
            kernels.combine(grad, latents, encoder) if wants_x else None,
            kernels.scatter(grad, latents, x, n) if wants_encoder else None,
            kernels.scatter(grad, latents, x.new_ones(len(x), 1), n)[:, 0] if wants_bias else None,
            None,
        )


def _select(x: Tensor, encoder: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    pre = torch.addmm(bias, x, encoder.T)
    return home(pre).top_k(pre, k)


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, latents: Tensor, W: Tensor) -> Tensor:
        ctx.save_for_backward(values, latents, W)
        return home(values, W).combine(values, latents, W)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        values, latents, W = ctx.saved_tensors
        wants_values, _, wants_w = ctx.needs_input_grad
        kernels = home(grad, values, W)
        return (
            kernels.dots(grad, latents, W) if wants_values else None,
            None,
            kernels.scatter(values, latents, grad, len(W)) if wants_w else None,
        )
