"""The sparse products on the CPU, by `sparse.cpp` through `ctypes`.

torch sees nothing of it: tensors go in as addresses, made contiguous first, and come out new and
without a graph. It runs on as many threads as torch does; their number changes no bit of the
result. Arguments have been checked by the caller: a latent out of range would read foreign memory.
"""

import ctypes
import logging
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.dictionaries.kernels import build

_TYPES = (torch.float32, torch.float64, torch.bfloat16)


def takes(*tensors: Tensor) -> bool:
    """Whether there is a library, and tensors on the CPU that are all of one type it knows."""
    dtype = tensors[0].dtype
    fit = all(each.device.type == "cpu" and each.dtype == dtype for each in tensors)
    return fit and dtype in _TYPES and library() is not None


def runs_v3() -> bool:
    """Whether this CPU runs the level v3, by what torch says of it."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


@cache
def library() -> ctypes.CDLL | None:
    """The best library that this CPU runs; None, said once at debug level, if none was built."""
    for level in build.LEVELS:
        path = build.library(level)
        if not path.exists() or (level == "v3" and not runs_v3()):
            continue
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # built for another system, or without what it needs
            continue
    logging.getLogger(__name__).debug("no compiled kernels of sparse codes: PyTorch does the work")
    return None


def combine(
    values: Float[Tensor, "row k"], latents: Int[Tensor, "row k"], W: Float[Tensor, "latent d"]
) -> Float[Tensor, "row d"]:
    """Σ_j values[r, j] · W[latents[r, j]]."""
    (rows, k), d = latents.shape, W.shape[1]
    out = W.new_empty(rows, d)
    _run("combine", values, latents, W, out, rows, k, d)
    return out


def dots(
    x: Float[Tensor, "row d"], latents: Int[Tensor, "row k"], W: Float[Tensor, "latent d"]
) -> Float[Tensor, "row k"]:
    """x[r] · W[latents[r, j]]."""
    (rows, k), d = latents.shape, W.shape[1]
    out = x.new_empty(rows, k)
    _run("dots", x, latents, W, out, rows, k, d)
    return out


def scatter(
    values: Float[Tensor, "row k"], latents: Int[Tensor, "row k"], x: Float[Tensor, "row d"], n: int
) -> Float[Tensor, "n d"]:
    """Σ of values[r, j] · x[r] over all r, j of each latent."""
    (rows, k), d = latents.shape, x.shape[1]
    out = x.new_empty(n, d)
    _run("scatter", values, latents, x, out, rows, k, d, n)
    return out


def top_k(
    p: Float[Tensor, "row latent"], k: int
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest of each row through relu, and where they are, in the order of the latents."""
    rows, n = p.shape
    values, latents = p.new_empty(rows, k), torch.empty(rows, k, dtype=torch.int64)
    if k:
        _run("top_k", p, values, latents, rows, k, n)
    return values, latents


def _run(kernel: str, *arguments: Tensor | int) -> None:
    """Runs a kernel, of the type of its first tensor. Outputs are new, hence contiguous."""
    given = [each.contiguous() if isinstance(each, Tensor) else each for each in arguments]
    first = given[0]
    assert isinstance(first, Tensor)
    name = f"{kernel}_{str(first.dtype).removeprefix('torch.')}"
    addresses = (
        ctypes.c_void_p(each.data_ptr()) if isinstance(each, Tensor) else ctypes.c_int64(each)
        for each in given
    )
    getattr(library(), name)(*addresses, torch.get_num_threads())
