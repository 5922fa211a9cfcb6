"""A steering direction: its edits, what they cost, what it was read from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, explain, warn
from jackfield.core.fitted import Fitted
from jackfield.edits import Add, Edit, Project
from jackfield.reports import Report, Table, Tokens
from jackfield.steering.cost import KLCost, kl_costs
from jackfield.steering.sentences import NEUTRAL
from jackfield.steering.sweep import Sweep, swept

if TYPE_CHECKING:
    from jackfield.model.model import Model

Unit = Literal["vector", "residual"]
# Where a block writes into the residual stream, and what it starts from.
WRITERS = ("layers.*.resid_pre", "layers.*.attn_out", "layers.*.mlp_out")
_CLOSE, _STEPS = 0.03, 8  # a strength search ends within 3 %, or after 8 measurements


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
class SteeringVector(Fitted):
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
    shown: tuple[TokensRead, ...] = ()

    def edits(
        self, strength: float = 1.0, *, where: Any = "~sinks", unit: Unit = "vector"
    ) -> list[Edit]:
        """Adds the direction: `x + strength · vector`.

        Args:
            strength: 0 changes nothing, negative values steer the other way.
            where: which tokens; all but the model's sinks if not given.
            unit: of the strength: the "vector"'s own length, from one mean to the other, or the
                mean length of the "residual" stream at the site.

        Raises:
            InputError: a strength that is not finite, or another unit.
        """
        if not math.isfinite(strength):
            got = str(strength)
            raise InputError(explain(where="strength", expected="a finite number", got=got))
        if unit not in ("vector", "residual"):
            raise InputError(
                explain(where="unit", expected="'vector' or 'residual'", got=repr(unit))
            )
        if unit == "residual":
            strength = strength * self.residual_norm / float(self.vector.norm())
        return [Add(self.vector, at=self.at, where=where, strength=float(strength))]

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
        return replace(self, vector=vector, d_prime=None, cosine=None, shown=())

    def kl(
        self,
        model: "Model",
        strength: float = 1.0,
        prompts: Any = NEUTRAL,
        *,
        where: Any = "~sinks",
        unit: Unit = "vector",
    ) -> KLCost:
        """KL(steered ‖ unsteered) in nats a token of `prompts`, plain prose if not given."""
        return kl_costs(model, [self.edits(strength, where=where, unit=unit)], prompts)[0]

    def strength_for(
        self,
        model: "Model",
        kl: float,
        prompts: Any = NEUTRAL,
        *,
        where: Any = "~sinks",
        sign: Literal[1, -1] = 1,
    ) -> float:
        """The strength (of unit "vector") whose mean KL is `kl` nats, found by measuring.

        KL grows about as the square of the strength; secant steps on logarithms do the rest.
        Warns if the KL is not met within 3 % after 8 measurements.

        Raises:
            InputError: a KL that is not positive.
        """
        if not 0 < kl < math.inf:
            raise InputError(explain(where="kl", expected="a positive number of nats", got=str(kl)))

        def measured(size: float) -> float:
            cost = self.kl(model, sign * size, prompts, where=where).mean
            return math.log(max(cost, 1e-12))

        goal, size, slope = math.log(kl), 1.0, 2.0
        found = measured(size)
        for _ in range(_STEPS - 1):
            if abs(found - goal) < _CLOSE:
                return sign * size
            step = max(-1.5, min(1.5, (goal - found) / slope))
            new = measured(size * math.exp(step))
            slope = max(0.3, (new - found) / step)
            size, found = size * math.exp(step), new
        warn(f"strength {sign * size:.3g} has a KL of {math.exp(found):.3g} nats, not {kl:g}.")
        return sign * size

    def sweep(
        self,
        model: "Model",
        prompts: Any,
        strengths: Sequence[float] = (-2.0, -1.0, 1.0, 2.0),
        *,
        max_new_tokens: int = 40,
        where: Any = "~sinks",
        unit: Unit = "vector",
        neutral: Any = NEUTRAL,
        seed: int = 0,
    ) -> Sweep:
        """Generates unsteered and at each strength, beside a random direction of the same length.

        Args:
            model: the model to steer.
            prompts: whatever `model.generate` takes.
            strengths: of the direction, in `unit`s.
            max_new_tokens: of each text; the likeliest token is taken.
            where: which tokens are steered.
            unit: see `edits`.
            neutral: texts on whose tokens the KL is measured.
            seed: of the random direction.
        """
        variants = {
            (name, float(strength)): each.edits(strength, where=where, unit=unit)
            for name, each in (("steered", self), ("random", self.control(seed)))
            for strength in strengths
        }
        shown, results = swept(model, prompts, variants, max_new_tokens, neutral)
        return Sweep(shown, results, report_of_direction=self.report(), unit=unit)

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
        ]
        blocks = [Table(["measure", "value"], rows), *([self._tokens()] if self.shown else [])]
        title = f"Steering direction ({self.method['name']})"
        return Report(title, blocks, summary=self._sentence())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the vector, and what was measured at the fit."""
        names = ("at", "model", "counts", "tokens_read", "sinks", "residual_norm")
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
        return f"Mean difference at {self.at} of {self.model}. {trust} {sinks}"

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
