"""Decoders: is an answer in an activation? Three readers, from none to much of their own.

    logit lens     W_U norm(h)                          no parameters (nostalgebraist 2020)
    tuned lens     W_U norm(g ⊙ h + b)                  2 d, fitted to the model's own output
    probe          W_U norm(h + A gelu(B h))            two layers, fitted to a task's answers

The diagonal tuned lens minimises KL(model's output ‖ lens), as Belrose et al. 2023 (arXiv
2303.08112) do with a full matrix. Our start is the regression of h_final on h, unit by unit.

The probe says how much a decoder can know by itself: trained in the same way on labels that are
drawn at random, one for each *word* (a control task, Hewitt and Liang 2019, 1909.03368), it has

    selectivity = accuracy(real labels) − accuracy(random labels)

It chooses among answers of its task, the same with both labels, or chance would not be the same.
Only their rows of W_U are used; its last layer begins at
0, so that it begins as the lens.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jackfield.model.readers import linear_readers, matrix

if TYPE_CHECKING:
    from jackfield.model.model import Model

_RATE = 1e-2  # of Adam, on units of the activation's own scale
_ROWS = 128  # unembedded at once


def in_top(
    logits: Float[Tensor, "row vocab"], answers: Int[Tensor, " row"], k: int
) -> Bool[Tensor, " row"]:
    """Whether the answer is among the k likeliest.

    >>> in_top(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([2]), 2)
    tensor([True])
    """
    own = logits.gather(1, answers[:, None])
    return (logits > own).sum(dim=1) < k


def lens_hits(
    model: "Model", h: Float[Tensor, "row d"], answers: Int[Tensor, " row"], k: int
) -> Bool[Tensor, " row"]:
    """Whether the answer is among the k likeliest of the model's own head at h."""
    parts = zip(h.split(_ROWS), answers.split(_ROWS), strict=True)
    with torch.no_grad():
        return torch.cat([in_top(_logits(model, x), y, k) for x, y in parts])


def diagonal_lens(
    model: "Model", h: Float[Tensor, "row d"], final: Float[Tensor, "row d"], *, steps: int
) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """G and b of the tuned lens of one layer.

    Args:
        model: its norm and head are used, and not changed.
        h: activations of the layer.
        final: those after the last block, at the same tokens.
        steps: of Adam; 0 leaves the regression.
    """
    gain, bias = _regression(h, final)
    scale = final.std(dim=0).clamp(min=1e-6)
    g, b = torch.zeros_like(gain).requires_grad_(), torch.zeros_like(bias).requires_grad_()
    target = _logits(model, final).detach().log_softmax(dim=-1)

    def loss() -> Tensor:
        said = _logits(model, h * (gain + gain * g) + bias + scale * b).log_softmax(dim=-1)
        return (target.exp() * (target - said)).sum(dim=-1).mean()

    _descended([g, b], loss, steps)
    return (gain + gain * g).detach(), (bias + scale * b).detach()


class Probe:
    """A two-layer reader of one layer's activations, for the answers of one task.

    It is asked to choose among given answers: those of the words at hand, so that an answer which
    it was never fitted on is not ruled out by that.

    Args:
        model: its norm and head are used, and not changed.
        hidden: width between its layers.
        seed: of its first layer.
    """

    def __init__(self, model: "Model", *, hidden: int, seed: int) -> None:
        self.model, d = model, model.d_model
        (head,) = linear_readers(model, "final_norm").values()
        self.head = matrix(head)
        draw = torch.Generator().manual_seed(seed)
        first = torch.randn(hidden, d, generator=draw) / d**0.5
        self.weights = [first, torch.zeros(hidden), torch.zeros(d, hidden)]
        self.centre, self.spread = torch.zeros(d), torch.ones(d)

    def fit(
        self,
        h: Float[Tensor, "row d"],
        answers: Int[Tensor, " row"],
        choices: Int[Tensor, " answer"],
        *,
        steps: int,
        decay: float,
    ) -> "Probe":
        """Trains it to choose each row's answer, a token id, among `choices`."""
        self.centre, self.spread = h.mean(dim=0), h.std(dim=0).clamp(min=1e-6)
        self.weights = [each.detach().requires_grad_() for each in self.weights]
        labels = _places(answers, choices)

        def loss() -> Tensor:
            penalty = torch.stack([each.square().sum() for each in self.weights[::2]]).sum()
            scores = self.scores(h, choices)
            return torch.nn.functional.cross_entropy(scores, labels) + decay * penalty

        _descended(self.weights, loss, steps)
        self.weights = [each.detach() for each in self.weights]
        return self

    def scores(
        self, h: Float[Tensor, "row d"], choices: Int[Tensor, " answer"]
    ) -> Float[Tensor, "row answer"]:
        """The log-odds of the choices, up to a constant."""
        first, bias, second = self.weights
        inner = torch.nn.functional.gelu(((h - self.centre) / self.spread) @ first.T + bias)
        moved = h + self.spread * (inner @ second.T)
        return _normed(self.model, moved) @ self.head[choices.to(self.head.device)].float().cpu().T

    def right(
        self,
        h: Float[Tensor, "row d"],
        answers: Int[Tensor, " row"],
        choices: Int[Tensor, " answer"],
    ) -> Bool[Tensor, " row"]:
        """Whether each row's answer is the likeliest of `choices`."""
        with torch.no_grad():
            return self.scores(h, choices).argmax(dim=1) == _places(answers, choices)


def _places(answers: Int[Tensor, " row"], choices: Int[Tensor, " answer"]) -> Tensor:
    """[row] which of the choices each answer is."""
    return (answers[:, None] == choices).long().argmax(dim=1)


def _logits(model: "Model", x: Tensor) -> Tensor:
    """In float32 on the CPU, with a graph where x has one."""
    return model.unembed(x.to(device=model.device, dtype=model.dtype)).float().cpu()


def _normed(model: "Model", x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
    """The final norm of rows, in float32 on the CPU, with a graph where x has one."""
    last = f"layers.{model.n_layers - 1}.resid_post"
    norm = model.segment(last, "final_norm", torch.zeros(len(x), 1, dtype=torch.long))
    rows: Tensor = norm(x[:, None].to(device=model.device, dtype=model.dtype))
    return rows[:, 0].float().cpu()


def _regression(h: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares of each unit of `final` on the same unit of `h`."""
    centred = h - h.mean(dim=0)
    above = (centred * (final - final.mean(dim=0))).mean(dim=0)
    gain = above / centred.square().mean(dim=0).clamp(min=1e-12)
    return gain, final.mean(dim=0) - gain * h.mean(dim=0)


def _descended(weights: list[Tensor], loss: Callable[[], Tensor], steps: int) -> None:
    adam = torch.optim.Adam(weights, lr=_RATE)
    with torch.enable_grad():
        for _ in range(steps):
            grads = torch.autograd.grad(loss(), weights)
            for weight, grad in zip(weights, grads, strict=True):
                weight.grad = grad
            adam.step()
