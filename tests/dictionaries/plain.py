"""Formulas written out densely in plain PyTorch, to compare the library's with; and small data."""

import torch
from torch import Tensor

from jackfield.dictionaries.objective import Objective, Outcome, Seen
from jackfield.streams import Stream
from jackfield.testing import PlantedDictionary, planted_dictionary

ROWS, D, LATENTS = 24, 10, 16


def weights_for(names: dict[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    """Random weights in float64 that want a gradient; the decoder's rows are not of length 1."""
    draw = torch.Generator().manual_seed(3)
    shapes = {"encoder": (LATENTS, D), "encoder_bias": (LATENTS,)}
    shapes |= {"decoder": (LATENTS, D), "decoder_bias": (D,), **(names or {})}
    return {
        name: (0.5 * torch.randn(*shape, generator=draw, dtype=torch.float64)).requires_grad_()
        for name, shape in shapes.items()
    }


def rows() -> Tensor:
    return torch.randn(ROWS, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def pre(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    return (x - weights["decoder_bias"]) @ weights["encoder"].T + weights["encoder_bias"]


def outcome(
    objective: Objective, x: Tensor, weights: dict[str, Tensor], dead: tuple[int, ...] = ()
) -> Outcome:
    """An autoencoder's outcome in the middle of a run; the variance is taken to be D."""
    centred = x - weights["decoder_bias"]
    variance = torch.tensor(float(D), dtype=x.dtype)
    chosen = torch.tensor(dead, dtype=torch.int64)
    return objective.loss(Seen(x, centred, centred, variance, chosen, 0.5), weights)


def aux_k(
    x: Tensor, x_hat: Tensor, weights: dict[str, Tensor], dead: tuple[int, ...], k: int
) -> Tensor:
    """The auxiliary loss of TopK, dense."""
    e, p = (x - x_hat).detach(), pre(x, weights).relu()
    is_dead = torch.zeros(LATENTS, dtype=torch.bool)
    is_dead[list(dead)] = True
    among = p.masked_fill(~is_dead, 0.0)
    kept = torch.zeros_like(p).scatter(1, among.topk(k).indices, 1.0)
    left = e - (among * kept) @ weights["decoder"]
    return left.square().sum() / (e - e.mean(dim=0)).square().sum()


def assert_same_gradients(
    loss: Tensor, mine: dict[str, Tensor], expected: Tensor, plain: dict[str, Tensor]
) -> None:
    """Loss and the gradient of every weight are equal; each gradient is there and not zero."""
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for name, value in plain.items():
        assert value.grad is not None, name
        assert value.grad.any(), name
        torch.testing.assert_close(mine[name].grad, value.grad, rtol=1e-9, atol=1e-12)


def planted() -> PlantedDictionary:
    """48 directions in 32 dimensions, three a row, about a mean far from 0."""
    truth = planted_dictionary(rows=8000, d=32, latents=48, active=3, noise=0.02)
    return PlantedDictionary(truth.x + 5, truth.codes, truth.directions)


class Stopping(Stream):
    """A stream that presses Ctrl-C (or raises) when its rows have been asked for so often."""

    def __init__(self, inner: Stream, after: int, error: type[BaseException]) -> None:
        self.inner, self.left, self.error = inner, after, error

    @property
    def sites(self):
        return self.inner.sites

    @property
    def rows(self):
        return self.inner.rows

    @property
    def provenance(self):
        return self.inner.provenance

    def batches(self, start=0):
        for batch in self.inner:
            self.left -= 1
            if self.left == 0:
                raise self.error("unplugged")
            yield batch
