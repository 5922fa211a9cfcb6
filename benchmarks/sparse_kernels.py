"""Sparse codes: a training step of TopK, and its parts, by the kernels, by PyTorch, and dense."""

from collections.abc import Callable
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

    def sparse() -> Tensor:
        return _backward(combine(*top_k(x, encoder, bias, K), decoder), x)

    def without() -> Tensor:
        with patch.object(cpu, "library", lambda: None):
            return sparse()

    def dense() -> Tensor:
        p = (torch.addmm(bias, x, encoder.T)).relu()
        kept = torch.zeros_like(p).scatter(1, p.detach().topk(K, dim=1, sorted=False).indices, 1.0)
        return _backward((p * kept) @ decoder, x)

    def product() -> Tensor:
        with torch.no_grad():
            return torch.addmm(bias, x, encoder.T)

    return table(
        paired(
            {
                "dense codes": dense,
                "sparse, PyTorch": without,
                "sparse, kernels": sparse,
                "the encoder's product alone": product,
            },
            rounds=rounds,
        )
    )


def parts(rounds: int = 15) -> str:
    """Each of the sparse products of the same step; the gradients of a step are one or two each."""
    if cpu.library() is None:
        return "No compiled kernels here."
    x, encoder, bias, decoder = _given()
    with torch.no_grad():
        p = torch.addmm(bias, x, encoder.T)
        values, latents = plain.top_k(p, K)
        calls: dict[str, Callable[[object], Callable[[], object]]] = {
            "top_k": lambda home: lambda: home.top_k(p, K),
            "combine": lambda home: lambda: home.combine(values, latents, decoder),
            "dots": lambda home: lambda: home.dots(x, latents, decoder),
            "scatter": lambda home: lambda: home.scatter(values, latents, x, LATENTS),
        }
        tables = [
            table(
                paired(
                    {f"{name}, PyTorch": call(plain), f"{name}, kernel": call(cpu)}, rounds=rounds
                )
            )
            for name, call in calls.items()
        ]
    return "\n\n".join(tables)


def _given() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows and the weights that learn."""
    torch.manual_seed(0)
    x, decoder = torch.randn(ROWS, WIDTH), torch.randn(LATENTS, WIDTH) / WIDTH**0.5
    encoder, bias = decoder.clone(), torch.zeros(LATENTS)
    return x, *(each.requires_grad_() for each in (encoder, bias, decoder))


def _backward(x_hat: Tensor, x: Tensor) -> Tensor:
    """The loss, after its gradients have been made anew in every leaf that has one."""
    loss = (x - x_hat).square().sum()
    loss.backward()
    return loss
