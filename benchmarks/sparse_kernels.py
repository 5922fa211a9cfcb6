"""Sparse codes: a training step of TopK, and its parts, by the kernels, by PyTorch, and dense."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.timing import paired, table
from jackfield.dictionaries.kernels import cpu, plain
from jackfield.dictionaries.sparse import combine, top_k

ROWS, WIDTH, LATENTS, K = 1024, 576, 4096, 32


def step(rounds: int = 15) -> str:
    """Loss and gradients of TopK (4096 latents of 576, k = 32, 1024 rows, fp32), no optimiser."""
    x, encoder, bias, decoder = _given()

    def gradients(x_hat: Tensor) -> object:
        return torch.autograd.grad((x - x_hat).square().sum(), (encoder, bias, decoder))

    def sparse() -> object:
        return gradients(combine(*top_k(x, encoder, bias, K), decoder))

    def without() -> object:
        with patch.object(cpu, "library", lambda: None):
            return sparse()

    def dense() -> object:
        p = torch.addmm(bias, x, encoder.T).relu()
        kept = torch.zeros_like(p).scatter(1, p.detach().topk(K, dim=1, sorted=False).indices, 1.0)
        return gradients((p * kept) @ decoder)

    def product() -> Tensor:
        with torch.no_grad():
            return torch.addmm(bias, x, encoder.T)

    candidates = {"dense codes": dense, "sparse, PyTorch": without, "sparse, kernels": sparse}
    candidates["the encoder's product alone"] = product
    return table(paired(candidates, rounds=rounds))


def parts(rounds: int = 15) -> str:
    """Each of the sparse products of the same step; the gradients of a step are one or two each."""
    if cpu.library() is None:
        return "No compiled kernels here."
    x, encoder, bias, decoder = _given()
    with torch.no_grad():
        p = torch.addmm(bias, x, encoder.T)
        values, latents = plain.top_k(p, K)
        calls: dict[str, Callable[[Any], Callable[[], object]]] = {
            "top_k": lambda home: lambda: home.top_k(p, K),
            "combine": lambda home: lambda: home.combine(values, latents, decoder),
            "dots": lambda home: lambda: home.dots(x, latents, decoder),
            "scatter": lambda home: lambda: home.scatter(values, latents, x, LATENTS),
        }
        tables = [
            table(paired({"PyTorch": call(plain), f"kernel, {name}": call(cpu)}, rounds=rounds))
            for name, call in calls.items()
        ]
    return "\n\n".join(tables)


def _given() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows and the weights that learn."""
    torch.manual_seed(0)
    x, decoder = torch.randn(ROWS, WIDTH), torch.randn(LATENTS, WIDTH) / WIDTH**0.5
    encoder, bias = decoder.clone(), torch.zeros(LATENTS)
    return x, *(each.requires_grad_() for each in (encoder, bias, decoder))
