"""The sparse products on CUDA, in Triton; sums are in float32, in the order of the codes.

Without Triton, or where a first try on the device fails or differs from PyTorch, `takes` is false
and PyTorch does the work. Arguments have been checked by the caller, but not the range of the
latents: to know it would mean to wait for the device.
"""

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.dictionaries.kernels import plain

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
tl: Any = import_module("triton.language") if find_spec("triton") else None
_jit: Callable[[Any], Any] = import_module("triton").jit if tl else lambda kernel: kernel
_WIDTH: Any = tl.constexpr(512) if tl else 512  # columns that a program sums at a time

top_k = plain.top_k


def takes(*tensors: Tensor) -> bool:
    """Whether Triton works on the device, and the tensors are all of one type that it takes."""
    device, dtype = tensors[0].device, tensors[0].dtype
    fit = all(each.device == device and each.dtype == dtype for each in tensors)
    return fit and dtype in _TYPES and tl is not None and _works(device)


def combine(
    values: Float[Tensor, "row k"], latents: Int[Tensor, "row k"], W: Float[Tensor, "latent d"]
) -> Float[Tensor, "row d"]:
    """Σ_j values[r, j] · W[latents[r, j]]."""
    (rows, k), d = latents.shape, W.shape[1]
    out = W.new_empty(rows, d)
    _run(_combine, (rows, _parts(d)), values, latents, W, out, k, d)
    return out


def dots(
    x: Float[Tensor, "row d"], latents: Int[Tensor, "row k"], W: Float[Tensor, "latent d"]
) -> Float[Tensor, "row k"]:
    """x[r] · W[latents[r, j]]."""
    (rows, k), d = latents.shape, W.shape[1]
    out = x.new_empty(rows, k)
    _run(_dots, (rows, k), x, latents, W, out, k, d)
    return out


def scatter(
    values: Float[Tensor, "row k"], latents: Int[Tensor, "row k"], x: Float[Tensor, "row d"], n: int
) -> Float[Tensor, "n d"]:
    """Σ of values[r, j] · x[r] over all r, j of each latent: sorted by latent, hence no atomics."""
    chosen, d = latents.flatten(), x.shape[1]
    chosen, order = chosen.sort(stable=True)
    ends = torch.searchsorted(chosen, torch.arange(n, device=x.device), right=True)
    out = x.new_empty(n, d)
    _run(_scatter, (n, _parts(d)), values, order, ends, x, out, latents.shape[1], d)
    return out


def _parts(d: int) -> int:
    return -(-d // int(_WIDTH))


def _run(kernel: Any, grid: tuple[int, int], *arguments: Tensor | int) -> None:
    """One program for each place of the grid. Outputs are new, hence contiguous."""
    given = [each.contiguous() if isinstance(each, Tensor) else each for each in arguments]
    first = given[0]
    assert isinstance(first, Tensor)
    if 0 not in grid:
        with torch.cuda.device_of(first):
            kernel[grid](*given)


@cache
def _works(device: torch.device) -> bool:
    """Whether the kernels run on the device and give what PyTorch gives; tried once, on little."""
    draw = torch.Generator().manual_seed(0)
    values, x, W = (torch.randn(5, n, generator=draw).to(device) for n in (3, 70, 70))
    latents = torch.randint(5, (5, 3), generator=draw).to(device)
    try:
        pairs = (
            (combine(values, latents, W), plain.combine(values, latents, W)),
            (dots(x, latents, W), plain.dots(x, latents, W)),
            (scatter(values, latents, x, 5), plain.scatter(values, latents, x, 5)),
        )
        return all(torch.allclose(mine, other, atol=1e-4) for mine, other in pairs)
    except Exception:  # whatever a compiler or driver may say: PyTorch works
        logging.getLogger(__name__).debug("no Triton kernels of sparse codes", exc_info=True)
        return False


# Annotations in quotes: Triton compiles what it reads, and knows no `Any`.


@_jit
def _combine(values: "Any", latents: "Any", W: "Any", out: "Any", k: "Any", d: "Any") -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * _WIDTH + tl.arange(0, _WIDTH)
    total = tl.zeros((_WIDTH,), tl.float32)
    for code in range(row * k, row * k + k):
        weights = tl.load(W + tl.load(latents + code) * d + column, mask=column < d, other=0.0)
        total += tl.load(values + code).to(tl.float32) * weights.to(tl.float32)
    tl.store(out + row * d + column, total, mask=column < d)


@_jit
def _dots(x: "Any", latents: "Any", W: "Any", out: "Any", k: "Any", d: "Any") -> None:
    row = tl.program_id(0).to(tl.int64)
    code = row * k + tl.program_id(1)
    latent = tl.load(latents + code)
    total = tl.zeros((_WIDTH,), tl.float32)
    for start in range(0, d, _WIDTH):
        column = start + tl.arange(0, _WIDTH)
        left = tl.load(x + row * d + column, mask=column < d, other=0.0)
        right = tl.load(W + latent * d + column, mask=column < d, other=0.0)
        total += left.to(tl.float32) * right.to(tl.float32)
    tl.store(out + code, tl.sum(total, axis=0))


@_jit
def _scatter(
    values: "Any", order: "Any", ends: "Any", x: "Any", out: "Any", k: "Any", d: "Any"
) -> None:
    latent = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * _WIDTH + tl.arange(0, _WIDTH)
    begin = tl.load(ends + latent - 1, mask=latent > 0, other=0)
    total = tl.zeros((_WIDTH,), tl.float32)
    for place in range(begin, tl.load(ends + latent)):
        code = tl.load(order + place)
        rows = tl.load(x + code // k * d + column, mask=column < d, other=0.0)
        total += tl.load(values + code).to(tl.float32) * rows.to(tl.float32)
    tl.store(out + latent * d + column, total, mask=column < d)
