"""The decider: a small network that reads a prompt and says how much to steer, and at which layers.

    z = (h − mean) / spread                    h: the last prompt token at the sites read, joined
    s, w_1 … w_L = W₂ relu(W₁ z + b₁) + b₂
    amount_l = σ(s) σ(w_l)                     from 0 to 1

It is decided once a sequence, for each row on its own, and the answer keeps what was decided.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import EditError, explain
from jackfield.edits import Context, Edit
from jackfield.edits.base import fit_last


@dataclass(frozen=True, eq=False)
class Decider:
    """The network.

    Attributes:
        mean, spread: [input] of each input over the prompts it was trained on.
        inner, inner_bias: W₁ [hidden, input] and b₁.
        outer, outer_bias: W₂ [1 + place, hidden] and b₂; the first row is the scale's.
    """

    mean: Float[Tensor, " input"]
    spread: Float[Tensor, " input"]
    inner: Float[Tensor, "hidden input"]
    inner_bias: Float[Tensor, " hidden"]
    outer: Float[Tensor, "rows hidden"]
    outer_bias: Float[Tensor, " rows"]

    @staticmethod
    def drawn(x: Float[Tensor, "prompt input"], hidden: int, places: int, seed: int) -> "Decider":
        """A new one for inputs like x: it decides ½ and ½ for all, from random features."""
        draw = torch.Generator().manual_seed(seed)
        inner = torch.randn(hidden, x.shape[1], generator=draw) / x.shape[1] ** 0.5
        spread = x.std(dim=0).clamp(min=1e-6)
        outer = torch.zeros(1 + places, hidden)
        return Decider(
            x.mean(dim=0), spread, inner, torch.zeros(hidden), outer, torch.zeros(1 + places)
        )

    def logits(
        self, h: Float[Tensor, "prompt input"]
    ) -> tuple[Float[Tensor, " prompt"], Float[Tensor, "prompt place"]]:
        """S and w, before their sigmoids."""
        z = (h - self.mean) / self.spread
        out = (z @ self.inner.T + self.inner_bias).relu() @ self.outer.T + self.outer_bias
        return out[:, 0], out[:, 1:]

    def amounts(self, h: Float[Tensor, "prompt input"]) -> Float[Tensor, "prompt place"]:
        """How much of each place's direction is added."""
        scale, weights = self.logits(h)
        return scale.sigmoid()[:, None] * weights.sigmoid()

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> "Decider":
        """Rebuilds it from `tensors()`."""
        return Decider(**{each.name: tensors[each.name] for each in fields(Decider)})


@dataclass(frozen=True, eq=False, repr=False)
class Guided(Edit):
    """Adds a direction in each row as much as a decider says.

    Attributes:
        vector: [d] what is added.
        place: which of the decider's amounts counts here.
        mean, spread, inner, inner_bias, outer, outer_bias: the decider; see `Decider`.
        strength: 0 changes nothing; 1 adds the amount as decided.

    The sites that are read are `reads`, in the order of the decider's inputs.
    """

    stateful: ClassVar[bool] = True

    vector: Tensor
    place: int
    mean: Tensor
    spread: Tensor
    inner: Tensor
    inner_bias: Tensor
    outer: Tensor
    outer_bias: Tensor
    strength: float = 1.0

    def apply(self, x: Float[Tensor, "batch *rest d"], context: Context) -> Tensor:
        vector = fit_last(self.vector, x, self, context)
        if "amount" not in context.state:
            context.state["amount"] = self._decide(context)
        amount = context.state["amount"].to(x).reshape(-1, *[1] * (x.dim() - 1))
        return x + self.strength * amount * vector

    def _decide(self, context: Context) -> Float[Tensor, " batch"]:
        h = torch.cat([_last_of_prompt(context.read(name), context) for name in self.reads], dim=-1)
        decider = Decider.of({name: x.to(h.device) for name, x in self.tensors().items()})
        if h.shape[-1] != len(decider.mean):
            expected, got = f"{len(decider.mean)} numbers at {', '.join(self.reads)}", h.shape[-1]
            raise EditError(
                explain(where=f"{context.site}, Guided", expected=expected, got=f"{got}")
            )
        return decider.amounts(h.float())[:, self.place]


def _last_of_prompt(
    h: Float[Tensor, "batch position d"], context: Context
) -> Float[Tensor, "batch d"]:
    if context.at is None:
        return h[:, -1]
    at = context.at
    if not bool((at.positions == 0).any(dim=1).all()):
        expected = "the prompt in the same sequence, as it is decided on it"
        raise EditError(explain(where=context.site, expected=expected, got="a cache of it"))
    last = (at.positions == at.lengths[:, None] - 1).long().argmax(dim=1)
    return h[torch.arange(len(h)), last.to(h.device)]
