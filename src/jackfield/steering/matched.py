"""Matched effects: what a steering does at a given KL, beside random directions of the same KL.

    effect [prompt] = odds steered − odds unsteered        nats, at the strength that costs the KL

Any fitted `Steering` is measured alike, at whatever sites it acts. Its controls are random
directions at the same sites, each as long as the activation there is on average, with the strength
at which they cost what it costs. A method that goes only part of the way to somewhere (`limit`)
may not reach the KL; then it is measured at its limit, and so are its controls at that lower cost.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.edits import Add, Edit
from jackfield.reports import Report, Table
from jackfield.reports.intervals import mean_interval
from jackfield.steering.behaviours import Behaviour
from jackfield.steering.dose import Dose
from jackfield.steering.steering import Steering
from jackfield.steering.unsteered import chosen_tokens

if TYPE_CHECKING:
    from jackfield.model.model import Model

_MEASURED_ON = 4  # neutral texts for the length of the activation
_SAME = 0.1  # how far a KL may be from the one asked for, as a share of it


@dataclass(frozen=True, eq=False)
class RandomDirections(Steering):
    """A random direction at each of some sites: the control of a steering that acts there.

    Attributes:
        vectors: {site: [...]} float32, as long as the activation at the site is on average.
    """

    vectors: Mapping[str, Tensor]

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Adds the directions, each `factor` times."""
        return [
            Add(vector, at=site, where=where, strength=float(factor))
            for site, vector in self.vectors.items()
        ]

    def units(self) -> Mapping[str, float]:
        """One "norm" is the mean length of the activation, which is the raw unit."""
        return {"norm": 1.0}

    def report(self) -> Report:
        """The sites and the lengths."""
        rows = [[site, float(vector.norm())] for site, vector in self.vectors.items()]
        summary = f"Random directions at {len(rows)} sites."
        return Report("Random directions", [Table(["site", "length"], rows)], summary=summary)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The vectors, by site."""
        return {}, dict(self.vectors), {}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the directions from `state`."""
        return cls(tensors)


@dataclass(frozen=True)
class Effect:
    """What one steering does to one behaviour.

    Attributes:
        name: of the steering.
        site: where it acts.
        factor: the strength, in the method's own unit.
        kl, kl_p95: its cost on neutral text, in nats a token.
        shifts: [prompt] of the odds, in nats.
        random: [control, prompt] the same for random directions of the same KL.
        seed: of the bootstrap.
    """

    name: str
    site: str
    factor: float
    kl: float
    kl_p95: float
    shifts: tuple[float, ...]
    random: tuple[tuple[float, ...], ...]
    seed: int

    @property
    def mean(self) -> float:
        """The mean shift over the prompts."""
        return fmean(self.shifts)

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % bootstrap interval, over prompts."""
        return mean_interval(torch.tensor(self.shifts, dtype=torch.float64), self.seed)

    @property
    def random_size(self) -> float:
        """The largest |mean shift| of a random direction; NaN without one."""
        return max((abs(fmean(each)) for each in self.random), default=math.nan)

    @property
    def beyond_random(self) -> float:
        """The mean shift in units of `random_size`."""
        return self.mean / self.random_size if self.random_size else math.inf

    @property
    def per_cost(self) -> float:
        """Mean shift ÷ √KL: the shift grows as the strength, the KL as its square."""
        return self.mean / math.sqrt(self.kl)

    @property
    def against(self) -> float:
        """The share of prompts that move the wrong way."""
        return fmean(shift < 0 for shift in self.shifts)


class Comparison:
    """Measures steerings on one behaviour, all alike.

    Attributes:
        plain: [prompt] the odds unsteered, in nats.
    """

    def __init__(
        self,
        model: "Model",
        behaviour: Behaviour,
        *,
        kl: float,
        randoms: int,
        seed: int,
        neutral: Any,
        where: Any = "~sinks",
    ) -> None:
        """Measures the unsteered odds.

        Args:
            model: the model to steer.
            behaviour: what is to change.
            kl: nats a token on `neutral`.
            randoms: how many random directions a steering is compared with.
            seed: of them, and of the bootstrap.
            neutral: texts on which the KL is measured.
            where: which tokens are steered.

        Raises:
            InputError: a behaviour that cannot be measured.
        """
        self.model, self.behaviour, self.kl = model, behaviour, kl
        self.randoms, self.seed, self.neutral, self.where = randoms, seed, neutral, where
        self.plain = behaviour.odds(model)
        self._controls: dict[tuple[tuple[str, ...], float], Tensor] = {}

    def effect(self, steering: Steering, name: str = "") -> Effect:
        """The effect of a steering at the KL, or at its limit.

        Raises:
            InputError: a steering that moves nothing.
        """
        dose = reached(self.model, steering, self.kl, self.neutral, self.where)
        sites = sites_of(self.model, steering, self.where)
        cost = dose.cost.mean
        return Effect(
            name or type(steering).__name__,
            sites[0] if len(sites) == 1 else f"{sites[0]} … {sites[-1]}",
            dose.factor,
            cost,
            dose.cost.p95,
            tuple(self.shifts(steering.scaled(dose.factor, self.where)).tolist()),
            tuple(map(tuple, self._random(sites, self._rounded(cost)).tolist())),
            self.seed,
        )

    def shifts(self, edits: Sequence[Edit]) -> Float[Tensor, " prompt"]:
        """The shifts of the odds by some edits."""
        return self.behaviour.odds(self.model, edits) - self.plain

    def _rounded(self, cost: float) -> float:
        """The KL asked for, if a steering came near it."""
        return self.kl if abs(cost / self.kl - 1) < _SAME else cost

    def _random(self, sites: tuple[str, ...], kl: float) -> Tensor:
        """[control, prompt] the shifts by random directions; measured once for the same sites."""
        if (sites, kl) not in self._controls:
            found = [torch.zeros(0, len(self.plain), dtype=self.plain.dtype)]
            for seed in range(self.seed, self.seed + self.randoms):
                control = random_directions(
                    self.model, sites, seed=seed, texts=self.neutral, where=self.where
                )
                dose = control.dose(self.model, f"kl:{kl}", self.neutral, where=self.where)
                found.append(self.shifts(control.scaled(dose.factor, self.where))[None])
            self._controls[sites, kl] = torch.cat(found)
        return self._controls[sites, kl]


def reached(
    model: "Model", steering: Steering, kl: float, neutral: Any, where: Any = "~sinks"
) -> Dose:
    """The dose of a KL, or of the largest one that the steering reaches."""
    if steering.limit < math.inf:
        most = steering.dose(model, steering.limit, neutral, where=where)
        if most.cost.mean <= kl:
            if not most.cost.mean > 0:
                expected, got = "edits that move the predictions", "no change at all"
                label = f"{model.name}, {type(steering).__name__}"
                raise InputError(explain(where=label, expected=expected, got=got))
            return most
    return steering.dose(model, f"kl:{kl}", neutral, where=where)


def sites_of(model: "Model", steering: Steering, where: Any = "~sinks") -> tuple[str, ...]:
    """The sites at which a steering acts."""
    patterns = [site for edit in steering.scaled(1.0, where) for site in edit.sites]
    return tuple(dict.fromkeys(name for each in patterns for name in model.sites.select(each)))


def random_directions(
    model: "Model", sites: Sequence[str], *, seed: int, texts: Any, where: Any = "~sinks"
) -> RandomDirections:
    """Random directions at sites, as long as the activation is there on average."""
    draw = torch.Generator().manual_seed(seed)
    run = model.run(texts[:_MEASURED_ON], sites=list(sites), logits=False)
    chosen = chosen_tokens(model, run, where).to(run.mask.device if run.mask is not None else "cpu")
    vectors = {}
    for site in sites:
        x = run[site][chosen].float().flatten(1)
        drawn = torch.randn(run[site].shape[2:], generator=draw)
        vectors[site] = drawn * (float(x.norm(dim=1).mean()) / drawn.norm())
    return RandomDirections(vectors)
