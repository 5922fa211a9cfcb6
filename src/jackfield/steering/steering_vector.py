"""A steering direction: its edits, what they cost, what it was read from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.edits import Add, Edit, Project
from jackfield.reports import Report, Table, Tokens
from jackfield.steering.direction_units import direction_units
from jackfield.steering.sentences import NEUTRAL
from jackfield.steering.steering import Steering
from jackfield.steering.sweep import Sweep, swept

if TYPE_CHECKING:
    from jackfield.model.model import Model

# Where a block writes into the residual stream, and what it starts from.
WRITERS = ("layers.*.resid_pre", "layers.*.attn_out", "layers.*.mlp_out")

_MEASURED = ("d_prime", "cosine", "pair_cosine", "sigma")  # of the texts, None of too few


@dataclass(frozen=True)
class TokensRead:
    """One text of the fit.

    Attributes:
        side: "positive" or "negative".
        tokens: its tokens.
        projections: [token] along the direction, from the middle between the two means, in units
            of the activation.
        read: [token] whether the token was read.
    """

    side: str
    tokens: tuple[str, ...]
    projections: tuple[float, ...]
    read: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class SteeringVector(Steering):
    """A direction at one site.

    Attributes:
        vector: [d] float32, from the negative mean to the positive one.
        at: the site it was read at, and is added at.
        method: the name and the settings of the method that fitted it.
        model: the name of the model.
        counts: texts on the positive and the negative side.
        tokens_read: how many tokens the means are over.
        sinks: the model's sink positions, if the method's `where` speaks of them.
        residual_norm: mean length of the activation on the tokens read.
        d_prime: class separation along the direction on held-out texts, in standard deviations;
            None with fewer than 4 texts a side.
        cosine: mean cosine between directions from random halves of the texts; None likewise.
        pair_cosine: mean cosine of each pair's difference with the mean difference.
        sigma: standard deviation of the texts along the direction, within a side.
        shown: a few of the texts, for the report.
    """

    vector: Float[Tensor, "d"]  # noqa: F821
    at: str
    method: Mapping[str, Any]
    model: str
    counts: tuple[int, int]
    tokens_read: int
    sinks: tuple[int, ...]
    residual_norm: float
    d_prime: float | None
    cosine: float | None
    pair_cosine: float | None = None
    sigma: float | None = None
    shown: tuple[TokensRead, ...] = ()

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Adds the direction: `x + factor · vector`."""
        return [Add(self.vector, at=self.at, where=where, strength=float(factor))]

    def units(self) -> Mapping[str, float]:
        """One "norm" is the mean length of the activation; one "sigma" its spread along it."""
        return direction_units(self.vector, self.residual_norm, self.sigma)

    def ablate(self, *, at: str | Sequence[str] = WRITERS, where: Any = "~sinks") -> list[Edit]:
        """Directional ablation: `x − r̂ r̂ᵀx`, wherever something is written to the residual stream.

        With the default `at` no block can write along the direction (arXiv 2406.11717, on all
        tokens there; here on all but the sinks, which the direction was not read from). Blocks
        that norm after the sum (post-norm) need their `resid_post` besides.
        """
        return [Project(self.vector, at=at, where=where)]

    def control(self, seed: int = 0) -> "SteeringVector":
        """A random direction of the same length, at the same site, to compare with."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(self.vector.shape, generator=generator)
        vector = drawn * (self.vector.norm() / drawn.norm())
        return replace(
            self, vector=vector, d_prime=None, cosine=None, pair_cosine=None, sigma=None, shown=()
        )

    def sweep(
        self,
        model: "Model",
        prompts: Any,
        strengths: Sequence[float | str] = (-2.0, -1.0, 1.0, 2.0),
        *,
        max_new_tokens: int = 40,
        where: Any = "~sinks",
        neutral: Any = NEUTRAL,
        seed: int = 0,
    ) -> Sweep:
        """Generates unsteered and at each strength, beside a random direction of the same length.

        Args:
            model: the model to steer.
            prompts: whatever `model.generate` takes.
            strengths: of the direction, in any unit.
            max_new_tokens: of each text; the likeliest token is taken.
            where: which tokens are steered.
            neutral: texts on whose tokens the KL is measured.
            seed: of the random direction.
        """
        factors = [self.dose(model, s, neutral, where=where).factor for s in strengths]
        variants = {
            (name, factor): each.scaled(factor, where)
            for name, each in (("steered", self), ("random", self.control(seed)))
            for factor in factors
        }
        shown, results = swept(model, prompts, variants, max_new_tokens, neutral)
        return Sweep(shown, results, report_of_direction=self.report(), unit="vector")

    def report(self) -> Report:
        """What the direction is, how well it separates, and which tokens it was read from."""
        length = float(self.vector.norm())
        rows = [
            ["site", self.at],
            ["texts, positive and negative", f"{self.counts[0]} and {self.counts[1]}"],
            ["tokens read", self.tokens_read],
            ["length of the vector", length],
            ["length ÷ mean residual norm", length / self.residual_norm],
            ["d′ on held-out texts", self.d_prime],
            ["cosine between halves", self.cosine],
            ["mean cosine of a pair with it", self.pair_cosine],
        ]
        blocks = [Table(["measure", "value"], rows), *([self._tokens()] if self.shown else [])]
        title = f"Steering direction ({self.method['name']})"
        return Report(title, blocks, summary=self._sentence())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the vector, and what was measured at the fit."""
        names = (
            "at",
            "model",
            "counts",
            "tokens_read",
            "sinks",
            "residual_norm",
            "sigma",
            "pair_cosine",
        )
        measured = {name: getattr(self, name) for name in (*names, "d_prime", "cosine")}
        shown = [asdict(each) for each in self.shown]
        return dict(self.method), {"vector": self.vector}, {**measured, "shown": shown}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the direction from `state`."""
        held = {name: _tupled(value) for name, value in extra.items() if name != "shown"}
        shown = tuple(
            TokensRead(**{name: _tupled(value) for name, value in each.items()})
            for each in extra["shown"]
        )
        return cls(vector=tensors["vector"], method=config, shown=shown, **held)

    def _sentence(self) -> str:
        if self.d_prime is None:
            trust = "Too few texts to say how well it separates (4 a side are needed)."
        else:
            trust = (
                f"On texts it was not fitted on it separates the sides by d′ = {self.d_prime:.2f}; "
                f"directions from two halves of the texts have a cosine of {self.cosine:.2f}."
            )
        listed = ", ".join(map(str, self.sinks))
        sinks = (
            f"The attention sink at position {listed} was not read, and is not steered."
            if self.sinks and self.method["where"] == "~sinks"
            else f"Tokens read: where={self.method['where']!r}."
        )
        return f"{self.method['name']} at {self.at} of {self.model}. {trust} {sinks}"

    def _tokens(self) -> Tokens:
        return Tokens(
            [each.tokens for each in self.shown],
            [
                [
                    p if read else math.nan
                    for p, read in zip(each.projections, each.read, strict=True)
                ]
                for each in self.shown
            ],
            [each.side for each in self.shown],
            scale="diverging",
            value_name="projection",
            caption="Some of the texts: the projection of each token read; grey was not read.",
        )


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
