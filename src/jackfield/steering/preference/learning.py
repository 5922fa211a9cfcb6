"""How a steering is learned from preferences: the settings, and the descent.

    L(m) = − log σ( m β [Δ(y_w) − Δ(y_l)] ),   m drawn from {−1, +1} for each batch
    u ← AdamW(∇_u L),   learning rate  rate · ½ (1 + cos(π step / steps)),   v = scale · u

Pairs are shuffled each epoch. Some are held out: their loss, the mean of both signs, decides which
epoch's u is kept, and when to stop; so what is told of them afterwards flatters. Nothing but u is
trained, and no gradient goes below the site.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Method
from jackfield.core.progress import Progress
from jackfield.edits import Edit
from jackfield.steering.preference.objective import PreferenceObjective, preference_loss

Steer = Callable[[Tensor, float], list[Edit]]  # (u, m) → edits

_PAIRS = 8  # of those held out, in one forward


@config
class PreferenceMethod(Method):
    """The settings of a descent on preferences.

    Attributes:
        beta: β, how soon a margin is large enough.
        epochs: passes over the pairs, at most.
        batch: pairs in a step.
        rate: the largest step of a unit, as a share of the typical size of a unit.
        decay: weight decay, as AdamW's.
        held_out: the share of pairs that is not learned from but decides when to stop; 0 for none,
            and then the last epoch's result is kept.
        patience: epochs without a better held-out loss before it stops.
        where: which tokens are steered while it learns; no others are afterwards.
        seed: of the split, the order and the signs.
    """

    beta: float = setting(default=0.1, gt=0)
    epochs: int = setting(default=10, ge=1)
    batch: int = setting(default=4, ge=1)
    rate: float = setting(default=0.02, gt=0)
    decay: float = setting(default=0.05, ge=0)
    held_out: float = setting(default=0.2, ge=0, lt=1)
    patience: int = setting(default=3, ge=1)
    where: str | int | tuple[int, ...] = "~sinks"
    seed: int = 0


@dataclass(frozen=True)
class Learning:
    """What the descent found, and how it went.

    Attributes:
        u: [...] the result, in units of the scale.
        losses: the mean loss of each epoch while it learned.
        held: the held-out loss, before the first epoch and after each; () where none was held out.
        kept: after how many epochs u is from.
        agree: the share of pairs, of those held out if some were (they also chose the epoch), whose
            margin is positive at m = 1, and the share whose margin is negative at m = −1.
        pairs: how many were learned from, and held out.
    """

    u: Float[Tensor, "..."]
    losses: tuple[float, ...]
    held: tuple[float, ...]
    kept: int
    agree: tuple[float, float]
    pairs: tuple[int, int]


def learn(
    method: PreferenceMethod,
    objective: PreferenceObjective,
    steer: Steer,
    u: Float[Tensor, "..."],
    *,
    progress: bool = False,
) -> Learning:
    """Descends from `u`.

    Args:
        method: the settings.
        objective: the pairs and the model.
        steer: the edits of (u, m).
        u: where to begin; not changed.
        progress: show a live line.

    Raises:
        InputError: so few pairs that nothing would be left to learn from or to hold out, pairs
            whose answers are the same, or answers that do not depend on u.
    """
    descent = _Descent(method, objective, steer, u)
    with Progress("learning", total=method.epochs, unit="epochs", enabled=progress) as shown:
        for _ in range(method.epochs):
            descent.epoch()
            shown.update(1)
            if descent.stalled:
                break
    if not bool(descent.best.any()):
        where = f"{objective.model.name}, {objective.at}"
        expected, got = "answers that depend on what is learned", "no gradient at all"
        raise InputError(explain(where=where, expected=expected, got=got))
    return descent.learned()


class _Descent:
    """AdamW on u, with the best of it kept."""

    def __init__(
        self,
        method: PreferenceMethod,
        objective: PreferenceObjective,
        steer: Steer,
        u: Tensor,
    ) -> None:
        self.method, self.objective, self.steer = method, objective, steer
        self.draw = torch.Generator().manual_seed(method.seed)
        self.train, self.test = _split(objective, method, self.draw)
        self.u = u.detach().clone().requires_grad_()
        self.adam = torch.optim.AdamW([self.u], lr=method.rate, weight_decay=method.decay)
        self.steps = method.epochs * math.ceil(len(self.train) / method.batch)
        self.done = 0
        self.losses: list[float] = []
        self.held = [self._held_out()] if len(self.test) else []
        self.best = u.detach().clone()

    @property
    def kept(self) -> int:
        """The epoch of the best held-out loss, not counting the start; without one, the last."""
        after = self.held[1:]
        return 1 + after.index(min(after)) if after else len(self.losses)

    @property
    def stalled(self) -> bool:
        return bool(self.held) and len(self.losses) - self.kept >= self.method.patience

    def epoch(self) -> None:
        order = self.train[torch.randperm(len(self.train), generator=self.draw)]
        found = [self._step(part) for part in order.split(self.method.batch)]
        self.losses.append(sum(found) / len(found))
        if len(self.test):
            self.held.append(self._held_out())
        if self.kept == len(self.losses):
            self.best = self.u.detach().clone()

    def learned(self) -> Learning:
        judged = self.test if len(self.test) else self.train
        margins = [torch.cat(list(self._margins(self.best, m, judged))) for m in (1, -1)]
        agree = (float((margins[0] > 0).double().mean()), float((margins[1] < 0).double().mean()))
        return Learning(
            self.best, tuple(self.losses), tuple(self.held), self.kept, agree,
            (len(self.train), len(self.test)),
        )  # fmt: skip

    def _step(self, part: Int[Tensor, " some"]) -> float:
        sign = 1 if torch.rand((), generator=self.draw) < 0.5 else -1
        with torch.enable_grad():
            margins = self.objective.margins(self.steer(self.u, sign), part)
            loss = preference_loss(margins, sign, self.method.beta)
            (self.u.grad,) = torch.autograd.grad(loss, self.u)
        cosine = (1 + math.cos(math.pi * self.done / self.steps)) / 2
        self.adam.param_groups[0]["lr"] = self.method.rate * cosine
        self.adam.step()
        self.done += 1
        return float(loss.detach())

    def _held_out(self) -> float:
        """The loss of the pairs held out, the mean of both signs."""
        found = [
            preference_loss(
                torch.cat(list(self._margins(self.u, m, self.test))), m, self.method.beta
            )
            for m in (1, -1)
        ]
        return float(sum(found)) / 2

    @torch.no_grad()
    def _margins(self, u: Tensor, sign: int, chosen: Tensor) -> Iterator[Tensor]:
        edits = self.steer(u.detach(), sign)
        for part in chosen.split(_PAIRS):
            yield self.objective.margins(edits, part)


def _split(
    objective: PreferenceObjective, method: PreferenceMethod, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The pairs to learn from, and those held out."""
    pairs = objective.pairs
    where = f"{objective.model.name}, {type(method).__name__}"
    if torch.equal(pairs.tokens[0], pairs.tokens[1]):
        raise InputError(explain(where=where, expected="sides that differ", got="equal answers"))
    held = round(method.held_out * len(pairs))
    if method.held_out and not 0 < held < len(pairs):
        got = f"{len(pairs)} pairs, of which {held} would be held out"
        expected = "enough pairs to learn from some and hold out some"
        hint = "Give more pairs, or held_out=0."
        raise InputError(explain(where=where, expected=expected, got=got, hint=hint))
    order = torch.randperm(len(pairs), generator=draw)
    return order[held:], order[:held]
