"""Training of a guided controller's decider: what it sees of the prompts, and its losses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import softplus

from jackfield.core.errors import InputError, explain
from jackfield.core.sites import layer_of
from jackfield.edits import Add
from jackfield.steering.behaviours import word_ids
from jackfield.steering.control.decider import Decider
from jackfield.steering.steering_vector import SteeringVector

if TYPE_CHECKING:
    from jackfield.model.model import Model
    from jackfield.steering.control.guided import GuidedController

_PROMPTS = 16  # in one forward
_LEARNED = ("inner", "inner_bias", "outer", "outer_bias")


def read_last(
    model: "Model", prompts: Any, sites: Sequence[str]
) -> tuple[dict[str, Tensor], Float[Tensor, "prompt input"]]:
    """Prompts as a call of the model, and what the sites are at their last tokens, side by side.

    Raises:
        InputError: activations that are not finite.
    """
    made = model.inputs(prompts, padding="left", answer=True)
    assert made.tokens is not None
    assert made.mask is not None
    call = {"input_ids": made.tokens, "attention_mask": made.mask.long()}
    found = []
    for start in range(0, len(made.tokens), _PROMPTS):
        part = {name: x[start : start + _PROMPTS] for name, x in call.items()}
        run = model.run(part, sites=list(sites), logits=False)
        found.append(torch.cat([run[site][:, -1].float().cpu() for site in sites], dim=-1))
    features = torch.cat(found)
    if not bool(torch.isfinite(features).all()):
        where = f"{model.name}, {', '.join(sites)}"
        raise InputError(explain(where=where, expected="finite activations", got="NaN or Inf"))
    return call, features


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts of both sides.

    Attributes:
        call: the module's arguments, rows padded on the left, one side after the other.
        features: [prompt, input] float32, their last tokens at the sites read, joined.
        steer: [prompt] which are to be steered.
    """

    call: dict[str, Tensor]
    features: Float[Tensor, "prompt input"]
    steer: Bool[Tensor, " prompt"]

    @staticmethod
    def read(model: "Model", steer: Any, leave: Any, sites: Sequence[str]) -> "Prompts":
        """Tokenises the prompts and reads their last tokens."""
        sides: list[Any] = [[x] if isinstance(x, str) else x for x in (steer, leave)]
        if not all(map(len, sides)):
            got, where = " and ".join(str(len(s)) for s in sides), f"{model.name}, prompts"
            raise InputError(explain(where=where, expected="prompts on both sides", got=got))
        both = torch.cat(sides) if isinstance(steer, Tensor) else [*sides[0], *sides[1]]
        call, features = read_last(model, both, sites)
        return Prompts(call, features, torch.arange(len(both)) < len(sides[0]))

    @property
    def counts(self) -> tuple[int, int]:
        """To steer, and to leave."""
        return int(self.steer.sum()), int((~self.steer).sum())

    def side(self, steer: bool) -> Float[Tensor, "prompt input"]:
        """The features of one side."""
        return self.features[self.steer == steer]

    def drawn(self, count: int, draw: torch.Generator) -> "Prompts":
        """At most `count` of each side, at random."""
        chosen = []
        for side in (True, False):
            rows = (self.steer == side).nonzero().flatten()
            chosen.append(rows[torch.randperm(len(rows), generator=draw)[:count]])
        index = torch.cat(chosen)
        call = {name: x[index.to(x.device)] for name, x in self.call.items()}
        return Prompts(call, self.features[index], self.steer[index])

    def accuracy(self, decider: Decider) -> float:
        """The share that is decided rightly."""
        return float(((decider.logits(self.features)[0] > 0) == self.steer).float().mean())

    def weights(self, decider: Decider) -> tuple[float, ...]:
        """Mean σ(w_l) over the prompts to steer."""
        return tuple(decider.logits(self.side(True))[1].sigmoid().mean(dim=0).tolist())


def trained(
    settings: "GuidedController",
    model: "Model",
    prompts: Prompts,
    start: Decider,
    base: Sequence[SteeringVector],
    words: Sequence[str | int],
    against: Sequence[str | int],
    done: Callable[[], None],
) -> tuple[Decider, tuple[float, ...]]:
    """Trains a decider by AdamW; the losses are those of the batches.

    Raises:
        InputError: no words of one token, with "task", or a loss that is not finite.
    """
    learned = {name: getattr(start, name).clone().requires_grad_() for name in _LEARNED}
    decider = Decider.of(start.tensors() | learned)
    search = torch.optim.AdamW(list(learned.values()), lr=settings.rate)
    draw = torch.Generator().manual_seed(settings.seed)
    task = _Task(settings, model, base, words, against) if settings.objective == "task" else None
    losses = []
    for _ in range(settings.steps):
        part = prompts.drawn(settings.batch, draw)
        loss = _loss(settings, decider, part, task)
        grads = torch.autograd.grad(loss, list(learned.values()))
        for leaf, grad in zip(learned.values(), grads, strict=True):
            leaf.grad = grad
        search.step()
        losses.append(float(loss.detach()))
        done()
    if not all(map(torch.isfinite, map(torch.tensor, losses))):
        where = f"{model.name}, GuidedController"
        raise InputError(explain(where=where, expected="a finite loss", got="NaN or Inf"))
    plain = {name: x.detach() for name, x in decider.tensors().items()}
    return Decider.of(plain), tuple(losses)


def _loss(
    settings: "GuidedController", decider: Decider, part: Prompts, task: "_Task | None"
) -> Tensor:
    scale, weights = decider.logits(part.features)
    shares = weights.sigmoid()
    decision = bce(scale, part.steer.float())
    if task is None:
        return decision + 0.1 * ((shares - 0.5).abs().mean() + 0.01 * shares.mean())
    return decision + task.loss(decider, part) + settings.sparse * shares.mean()


class _Task:
    """What steering does to the next token, as a graph over the decider's amounts."""

    def __init__(
        self,
        settings: "GuidedController",
        model: "Model",
        base: Sequence[SteeringVector],
        words: Sequence[str | int],
        against: Sequence[str | int],
    ) -> None:
        self.settings, self.model, self.base = settings, model, base
        self.words, self.against = (word_ids(model, each) for each in (words, against))
        first = min(layer_of(each.at) or 0 for each in base)
        self.start = f"layers.{first}.resid_pre"
        self.last = f"layers.{model.n_layers - 1}.resid_post"

    def loss(self, decider: Decider, part: Prompts) -> Tensor:
        """softplus(−odds) of those to steer, KL of those to leave."""
        run = self.model.run(part.call, sites=[self.start, self.last], logits=False)
        with torch.no_grad():
            plain = self._log_p(run[self.last])
        moved = self._log_p(self._steered(decider, part, run[self.start]))
        odds = moved[:, self.words].logsumexp(dim=-1) - moved[:, self.against].logsumexp(dim=-1)
        kl = (moved.exp() * (moved - plain)).sum(dim=-1)
        steer = part.steer.to(odds.device)
        return softplus(-odds[steer]).mean() + kl[~steer].mean()

    def _steered(self, decider: Decider, part: Prompts, x: Tensor) -> Tensor:
        amounts = self.settings.strength * decider.amounts(part.features)
        edits = [
            Add(amounts[:, place, None, None].to(x.device) * each.vector.to(x.device),
                at=each.at, where="~sinks")
            for place, each in enumerate(self.base)
        ]  # fmt: skip
        return self.model.run(
            part.call, sites=[self.last], edits=edits, start={self.start: x}, grad=True,
            logits=False,
        )[self.last]  # fmt: skip

    def _log_p(self, x: Tensor) -> Float[Tensor, "prompt vocab"]:
        return self.model.unembed(x[:, -1]).float().log_softmax(dim=-1)
