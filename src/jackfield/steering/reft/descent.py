"""Descent: how an edit's tensors are learned from what the model is to say.

    loss = mean over the answers' tokens of −log p(token) + what a method adds

The model up to the first site that is edited does the same at every step, so its activations are
kept and each forward begins there; what follows is computed anew. Logits are made of those tokens
only that predict something. AdamW without decay of the weights, its step falling to 0 in a line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.core.progress import Progress
from jackfield.edits import Edit
from jackfield.model.sites import Site
from jackfield.steering.reft.answers import Answers

if TYPE_CHECKING:
    from jackfield.model.model import Model

_TEXTS = 16  # in one forward without a graph

# What is learned, for the rows of a step and the share of the way that is done: edits, and what
# is added to the loss.
Attempt = Callable[[Tensor, float], tuple[list[Edit], Tensor | None]]


class Lessons:
    """Texts to say, with what the model up to the first edited site makes of them.

    Attributes:
        site: the first one.
        values: [text, position, d] the unedited activation at it.
    """

    def __init__(self, model: "Model", answers: Answers, sites: Sequence[str]) -> None:
        """Reads the activations once.

        Raises:
            InputError: they are not finite on a token.
        """
        self.model, self.answers, self.site = model, answers, sites[0]
        self._last = f"layers.{model.n_layers - 1}.resid_post"
        self._start = _start(model.sites[sites[0]])
        read = [
            self._read(rows, (self._start, sites[0]))
            for rows in torch.arange(len(answers)).split(_TEXTS)
        ]
        self._begun, self.values = (torch.cat(each) for each in zip(*read, strict=True))
        if not bool(torch.isfinite(self.values[answers.mask]).all()):
            where = f"{model.name}, {sites[0]}"
            raise InputError(explain(where=where, expected="finite activations", got="NaN or Inf"))

    def nll(self, rows: Tensor, edits: Sequence[Edit]) -> Float[Tensor, " token"]:
        """−log p in nats of each token to say in some rows, with edits; a graph if there is one."""
        answers, width = self.answers, int(self.answers.mask[rows].sum(dim=1).max())
        run = self.model.run(
            self._call(rows, width),
            sites=[self._last],
            edits=edits,
            grad=torch.is_grad_enabled(),
            logits=False,
            start={self._start: self._begun[rows, :width]},
            prompt_lengths=answers.lengths[rows],
        )
        said = answers.said[rows, 1:width]
        logits = self.model.unembed(run[self._last][:, :-1][said.to(self.model.device)]).float()
        target = answers.tokens[rows, 1:width][said].to(logits.device)
        return torch.nn.functional.cross_entropy(logits, target, reduction="none")

    @torch.no_grad()
    def mean(self, edits: Sequence[Edit]) -> float:
        """The mean of all texts' tokens, in nats."""
        parts = torch.arange(len(self.answers)).split(_TEXTS)
        return float(torch.cat([self.nll(rows, edits) for rows in parts]).mean())

    def _read(self, rows: Tensor, sites: tuple[str, str]) -> tuple[Tensor, Tensor]:
        call = self._call(rows, self.answers.tokens.shape[1])
        run = self.model.run(call, sites=list(dict.fromkeys(sites)), logits=False)
        return run[sites[0]], run[sites[1]]

    def _call(self, rows: Tensor, width: int) -> dict[str, Tensor]:
        tokens, mask = self.answers.tokens[rows, :width], self.answers.mask[rows, :width]
        return {"input_ids": tokens, "attention_mask": mask.long()}


@dataclass(frozen=True)
class Learned:
    """What a descent did.

    Attributes:
        losses: at each step, in nats, on that step's texts.
        said: mean −log p of the positive texts' tokens, before and after.
        unsaid: the same of the negative texts; None without them.
    """

    losses: tuple[float, ...]
    said: tuple[float, float]
    unsaid: tuple[float, float] | None


def descend(
    lessons: Lessons,
    parameters: Sequence[Tensor],
    attempt: Attempt,
    *,
    steps: int,
    rate: float,
    batch: int,
    seed: int,
    progress: bool = False,
) -> tuple[float, ...]:
    """Moves the parameters down the loss, in place; gives the loss at each step.

    Args:
        lessons: texts to say.
        parameters: leaves that need a gradient.
        attempt: the edits of now.
        steps: of the descent, `batch` texts each.
        rate: of the first step.
        batch: texts a step.
        seed: of their order.
        progress: show a live line.

    Raises:
        InputError: the loss is not finite.
    """
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    draw, losses = torch.Generator().manual_seed(seed), []
    left = torch.randperm(len(lessons.answers), generator=draw)
    with Progress("learning", total=steps, unit="steps", enabled=progress) as shown:
        for step in range(steps):
            while len(left) < min(batch, len(lessons.answers)):
                left = torch.cat([left, torch.randperm(len(lessons.answers), generator=draw)])
            rows, left = left[:batch], left[batch:]
            optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
            losses.append(_step(lessons, parameters, attempt, rows, step / steps))
            optimiser.step()
            shown.update(1)
    return tuple(losses)


def _step(
    lessons: Lessons, parameters: Sequence[Tensor], attempt: Attempt, rows: Tensor, done: float
) -> float:
    """Gives the parameters their gradient, and only them."""
    with torch.enable_grad():
        edits, added = attempt(rows, done)
        loss = lessons.nll(rows, edits).mean()
        loss = loss if added is None else loss + added
    if not bool(torch.isfinite(loss)):
        where = f"{lessons.model.name}, learning"
        raise InputError(explain(where=where, expected="a finite loss", got=f"{float(loss)}"))
    gradients = torch.autograd.grad(loss, list(parameters))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return float(loss.detach())


def _start(site: Site) -> str:
    """Where a forward can begin that passes the site."""
    if site.role in ("embed", "resid_pre", "resid_post"):
        return site.name
    return f"layers.{site.layer}.resid_pre"
