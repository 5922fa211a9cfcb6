"""Reason: the edit that sees propositions in a text, derives what follows, and steers by it."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.core.errors import EditError, explain
from jackfield.core.where import Coordinates
from jackfield.core.where import where as rule_of
from jackfield.edits import Context, Edit
from jackfield.steering.rules.program import Closure, program

Scope = Literal["local", "global"]


class Coder(Protocol):
    """What turns activations into latents, such as a sparse autoencoder."""

    @property
    def directions(self) -> Tensor:
        """[latent, d] what one unit of each latent adds to the activation."""

    def encode(self, x: Tensor) -> Tensor:
        """[row, latent] the codes of rows [row, d]."""


@dataclass(frozen=True, eq=False, repr=False)
class Reason(Edit):
    """`x + strength · ‖x‖ · s/‖s‖`, s the sum of the directions of what rules have derived.

    Each token is steered by what was seen up to it, row by row; what was seen once stays. What a
    rule denies is steered away from; what one derives and another denies steers nothing, nor does
    what is seen only. Tokens without anything to steer by keep their bits.

    Attributes:
        weights: [concept, width] on the activation, or on its codes.
        thresholds: [concept] a score from there on means that the concept is seen.
        directions: [concept, d] of length 1; 0 for a concept that is only read.
        names: of the concepts.
        rules: as text.
        scope: "local" sees a concept at a token, "global" in the mean of the tokens so far; the
            latter stays from the prompt's last token on.
        watch: which tokens are read; any `where`.
        without: positions that are not, such as sinks.
        strength: in lengths of the activation.
        coder: what makes codes; None reads the activation itself.
        kept: largest codes of a token that count.
    """

    stateful: ClassVar[bool] = True

    weights: Tensor
    thresholds: Tensor
    directions: Tensor
    names: tuple[str, ...]
    rules: tuple[str, ...]
    scope: Scope = "local"
    watch: str | int | tuple[int, ...] = "all"
    without: tuple[int, ...] = ()
    strength: float = 1.0
    coder: Any = None
    kept: int = 2

    def apply(
        self, x: Float[Tensor, "batch position d"], context: Context
    ) -> Float[Tensor, "batch position d"]:
        if x.shape[-1] != self.directions.shape[-1]:
            expected = f"activations of width {self.directions.shape[-1]}"
            where = f"{context.site}, Reason"
            raise EditError(explain(where=where, expected=expected, got=f"{x.shape[-1]}"))
        closure = self.closure(self.scores(x.detach()), context.at, context.state)
        signs = torch.stack([self._sign(closure, name) for name in self.names], dim=-1)
        total = signs.to(x) @ self.directions.to(x)
        unit = total / total.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        return x + self.strength * x.norm(dim=-1, keepdim=True) * unit

    def scores(
        self, x: Float[Tensor, "batch position d"]
    ) -> Float[Tensor, "batch position concept"]:
        """How strongly each token shows each concept."""
        return features(x, self.coder, self.kept) @ self.weights.to(x.device).T

    def margins(
        self, scores: Float[Tensor, "batch position concept"], at: Coordinates
    ) -> Float[Tensor, "batch position concept"]:
        """By how much each score that is decided on passes its threshold; NaN where none is.

        With the scope "global" the score of a place is the mean of the tokens so far.
        """
        watched, _ = self._places(scores, at, {})
        if self.scope == "global":
            counts = watched.long().cumsum(dim=1)
            scores, watched = (scores * watched).cumsum(dim=1) / counts, counts > 0
        return (scores - self.thresholds.to(scores)).masked_fill(~watched, float("nan"))

    def closure(
        self,
        scores: Float[Tensor, "batch position concept"],
        at: Coordinates | None,
        state: dict[str, Any],
    ) -> Closure:
        """What follows at each token from what was seen up to it."""
        seen = self._seen(scores, at, state)
        rules = program(self.rules)
        silent = torch.zeros_like(seen[..., 0])
        index = {name: i for i, name in enumerate(self.names)}
        facts = [seen[..., index[name]] if name in index else silent for name in rules.names]
        return rules.closure(torch.stack(facts, dim=-1))

    def _seen(
        self, scores: Tensor, at: Coordinates | None, state: dict[str, Any]
    ) -> Bool[Tensor, "batch position concept"]:
        state = {} if at is None else state  # without places nothing tells calls apart
        watched, answering = self._places(scores, at, state)
        thresholds = self.thresholds.to(scores)
        before = state.get("seen", torch.zeros_like(scores[:, 0], dtype=torch.bool))
        if self.scope == "local":
            hit = (scores >= thresholds) & watched
            seen = lasting(hit) | before[:, None]
            state["seen"] = seen[:, -1]
            return seen
        sums = (scores * watched).cumsum(dim=1) + state.get("sums", 0.0)
        counts = watched.long().cumsum(dim=1) + state.get("counts", 0)
        hit = (sums >= thresholds * counts) & (counts > 0)
        stays = lasting(hit & answering) | before[:, None]
        state.update(seen=stays[:, -1], sums=sums[:, -1:], counts=counts[:, -1:])
        return hit | stays

    def _places(
        self, scores: Tensor, at: Coordinates | None, state: dict[str, Any]
    ) -> tuple[Bool[Tensor, "batch position one"], Bool[Tensor, "batch position one"]]:
        """Which tokens are read, and which belong to the answer."""
        if at is None:
            every = torch.ones_like(scores[..., :1], dtype=torch.bool)
            return every, every
        if not state and not bool((at.positions == 0).any(dim=1).all()):
            expected = "the prompt in the same sequence, as propositions are seen in it"
            where = f"{', '.join(self.sites)}, Reason"
            raise EditError(explain(where=where, expected=expected, got="a cache of it"))
        without = torch.tensor(self.without, dtype=torch.long, device=at.positions.device)
        watched = rule_of(self.watch).mask(at) & ~torch.isin(at.positions, without)
        answering = rule_of("generated").mask(at)
        return watched[..., None].to(scores.device), answering[..., None].to(scores.device)

    def _sign(self, closure: Closure, name: str) -> Tensor:
        """1 where a rule derives a proposition, −1 where one denies it, 0 where both or none do."""
        derived, denied = (
            program(self.rules).applies(closure, atom).long() for atom in (name, f"not {name}")
        )
        return derived - denied


def features(
    x: Float[Tensor, "*rows d"], coder: Coder | None, kept: int
) -> Float[Tensor, "*rows width"]:
    """What concepts are read from: the activation in float32, or its largest codes."""
    if coder is None:
        return x.float()
    codes = coder.encode(x.reshape(-1, x.shape[-1])).to(x.device, torch.float32)
    top = codes.topk(min(kept, codes.shape[-1]), dim=-1)
    return torch.zeros_like(codes).scatter(-1, top.indices, top.values).reshape(*x.shape[:-1], -1)


def lasting(hit: Bool[Tensor, "batch position concept"]) -> Bool[Tensor, "batch position concept"]:
    """True from the first token on at which it was."""
    return hit.long().cumsum(dim=1) > 0
