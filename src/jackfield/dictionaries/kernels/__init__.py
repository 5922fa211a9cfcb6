"""Kernels of the sparse products (see `sparse.py` for the formulas): one meaning, three homes.

Lives here: `plain.py`, in PyTorch, which runs anywhere and says what is meant; `cpu.py` with
`sparse.cpp`, for CPUs; `cuda.py`, in Triton. All have the same functions, and `home` picks.
May use: torch, and Triton where it is. Look first: `plain.py`.

The C++ is compiled when the package is built, not at its first use: so a wheel works on a machine
without a compiler, nothing that runs starts one, and no two processes compile at once. That such a
wheel works on other machines, it holds the source compiled for each level of the CPU that
`build.py` lists, and `cpu.py` loads the best that the CPU runs. It is linked neither with torch nor
with Python: one wheel serves every version of both. A library is named after its source, so that a
stale one is never run: after a change of `sparse.cpp` an editable install uses PyTorch until
`build.py` is run. Without a compiler there is no library, and all works, slower.
"""

from typing import Protocol

from torch import Tensor

from jackfield.dictionaries.kernels import cpu, plain


class Kernels(Protocol):
    """What each home has; shapes as in `plain.py`."""

    def combine(self, values: Tensor, latents: Tensor, W: Tensor) -> Tensor:
        """Σ_j values[r, j] · W[latents[r, j]]."""
        ...

    def dots(self, x: Tensor, latents: Tensor, W: Tensor) -> Tensor:
        """x[r] · W[latents[r, j]]."""
        ...

    def scatter(self, values: Tensor, latents: Tensor, x: Tensor, n: int) -> Tensor:
        """Σ of values[r, j] · x[r] over all r, j of each latent."""
        ...

    def top_k(self, p: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest of each row through relu, and where they are."""
        ...


def home(*tensors: Tensor) -> Kernels:
    """The quickest home that takes these tensors, all that a kernel gets but the latents."""
    if cpu.takes(*tensors):
        return cpu
    if all(each.is_cuda for each in tensors):
        from jackfield.dictionaries.kernels import cuda  # imports Triton

        if cuda.takes(*tensors):
            return cuda
    return plain
