"""Conditional steering: a behaviour, in those conversations whose prompt meets a condition.

    met = score(h̄, c) ≥ θ, or < θ          h̄: the prompt's activations at an early site, averaged

The condition direction c and the behaviour come from any other method. Site, threshold θ and side
are those with the best F1 on labelled prompts, over every threshold between two scores. Each row
of a batch is decided on its own, once, from its prompt; the answer keeps what was decided.

CAST: Lee et al. 2024, arXiv 2409.05907, score="tanh". Departures: "cosine" by default (tanh takes
away the sizes of the activation's units); the behaviour may be anything; the threshold lies in the
middle between two scores, where theirs is on a grid.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.core.config import config, to_json
from jackfield.core.errors import SiteError, explain
from jackfield.core.fitted import Method
from jackfield.edits import Edit, Gated
from jackfield.edits.gate import Score, score_of
from jackfield.reports import Report, Table
from jackfield.steering.contrast import Pooling, read_contrast
from jackfield.steering.nested import packed, unpacked
from jackfield.steering.steering import Steering
from jackfield.steering.steering_vector import SteeringVector

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class ConditionalSteering(Method):
    """A condition on the prompt, found by F1, and a behaviour for the rows that meet it.

    Attributes:
        score: "cosine" with the condition, or "tanh", that of CAST.
        tokens: of the prompt: the mean of "all", or the "last" one. Sinks are left out.

    >>> from jackfield.steering import MeanDifference
    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> condition = MeanDifference().fit(world.model, **sides, at="layers.0.resid_post")
    >>> calm = MeanDifference().fit(world.model, **sides, at="layers.1.resid_post")
    >>> gate = ConditionalSteering().fit(world.model, condition=condition, behaviour=calm, **sides)
    >>> gate.site, gate.f1 > 0.8
    ('layers.0.resid_post', True)
    """

    score: Score = "cosine"
    tokens: Pooling = "all"

    def fit(
        self,
        model: "Model",
        *,
        condition: SteeringVector | Iterable[SteeringVector],
        behaviour: Steering,
        positive: Any,
        negative: Any,
        progress: bool = False,
    ) -> "Conditional":
        """Finds site, threshold and side.

        Args:
            model: the model to steer.
            condition: directions to decide by, at one site or several; the best is taken.
            behaviour: what is done where the condition is met.
            positive: prompts that should meet it; better not those that `condition` was read from.
            negative: prompts that should not.
            progress: show a live line.

        Raises:
            InputError: no prompts, or numbers that are not finite.
            SiteError: no condition's site comes before all of the behaviour's.
        """
        given = [condition] if isinstance(condition, SteeringVector) else list(condition)
        axes = {each.at: each.vector for each in _early(model, given, behaviour)}
        read = read_contrast(
            model, positive, negative, list(axes), tokens=self.tokens, progress=progress
        )
        tried = []
        for site in read.sites:
            scores = [score_of(x.float(), axes[site], self.score) for x in read.sides(site)]
            tried.append((*best_threshold(*scores), site))
        f1, threshold, below, site = max(tried, key=lambda each: each[0])
        return Conditional(
            behaviour=behaviour,
            condition=axes[site],
            site=site,
            threshold=threshold,
            below=below,
            f1=f1,
            sinks=model.sinks,
            tried=tuple((name, found) for found, _, _, name in tried),
            counts=read.counts,
            method=to_json(self),
        )


@dataclass(frozen=True, eq=False)
class Conditional(Steering):
    """A behaviour behind a gate.

    Its strengths are the behaviour's. A KL is measured on `prompts`, of which only those that meet
    the condition move; give prompts that do, or dose the behaviour alone.

    Attributes:
        behaviour: what is done.
        condition: [d] the direction that is decided by.
        site: where it is read, on the prompt.
        threshold, below: a score from the threshold on meets the condition, or one below it.
        f1: of that decision on the labelled prompts.
        sinks: positions that are not read.
        tried: (site, best F1) of all sites.
        counts: labelled prompts that should, and should not meet it.
        method: the settings of `ConditionalSteering`.
    """

    behaviour: Steering
    condition: Float[Tensor, "d"]  # noqa: F821
    site: str
    threshold: float
    below: bool
    f1: float
    sinks: tuple[int, ...]
    tried: tuple[tuple[str, float], ...]
    counts: tuple[int, int]
    method: Mapping[str, Any]

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """The behaviour's edits at a factor, each behind the gate."""
        inner = self.behaviour.scaled(self.behaviour.factor(factor), where)
        return [
            Gated(
                edit,
                self.condition,
                self.threshold,
                below=self.below,
                score=self.method["score"],
                pooling=self.method["tokens"],
                without=self.sinks,
                at=edit.at,
                where=edit.where,
                reads=(self.site, *edit.reads),
            )
            for edit in inner
        ]

    def units(self) -> Mapping[str, float]:
        """The behaviour's."""
        return self.behaviour.units()

    def met(self, model: "Model", prompts: Any) -> Bool[Tensor, "prompt"]:  # noqa: F821
        """Which prompts meet the condition."""
        tokens: Pooling = self.method["tokens"]
        read = read_contrast(model, prompts, prompts, [self.site], tokens=tokens)
        scores = score_of(read.sides(self.site)[0].float(), self.condition, self.method["score"])
        return (scores < self.threshold) == self.below

    def report(self) -> Report:
        """The condition, how well it decides, and the behaviour."""
        table = Table(["site", "best F1"], [list(each) for each in self.tried])
        side = "below" if self.below else "at least"
        summary = (
            f"Where a prompt's {self.method['score']} with the condition at {self.site} is {side} "
            f"{self.threshold:.3f}: F1 {self.f1:.2f} on {sum(self.counts)} labelled prompts, on "
            "which site and threshold were chosen."
        )
        return Report("Conditional steering", [table, self.behaviour.report()], summary=summary)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the condition and the behaviour."""
        tensors, behaviour = packed(self.behaviour, "behaviour")
        names = ("site", "threshold", "below", "f1", "sinks", "tried", "counts")
        extra = {name: getattr(self, name) for name in names}
        return (
            dict(self.method),
            {"condition": self.condition, **tensors},
            {**extra, "behaviour": behaviour},
        )

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the gate and what is behind it from `state`."""
        return cls(
            behaviour=unpacked(tensors, extra["behaviour"], "behaviour", Steering),
            condition=tensors["condition"],
            site=extra["site"],
            threshold=extra["threshold"],
            below=extra["below"],
            f1=extra["f1"],
            sinks=tuple(extra["sinks"]),
            tried=tuple((site, f1) for site, f1 in extra["tried"]),
            counts=tuple(extra["counts"]),
            method=config,
        )


def best_threshold(
    positive: Float[Tensor, "n"],  # noqa: F821
    negative: Float[Tensor, "m"],  # noqa: F821
) -> tuple[float, float, bool]:
    """The best F1, and the threshold and side that have it.

    Every threshold in the middle between two scores is tried, on both sides; of equals that with
    the widest gap is taken. (F1, threshold, whether scores below it are the positive ones)
    """
    scores = torch.cat([positive, negative]).double()
    ordered = scores.unique()
    middles = (ordered[1:] + ordered[:-1]) / 2
    gaps = ordered[1:] - ordered[:-1]
    if not len(middles):  # all alike: nothing tells them apart
        middles, gaps = ordered, torch.zeros_like(ordered)
    f1 = torch.stack([f1_of(positive, negative, middles, below) for below in (False, True)])
    wide = torch.where(f1 == f1.max(), gaps + 1, 0.0)
    side, index = divmod(int(wide.argmax()), len(middles))
    return float(f1.max()), float(middles[index]), bool(side)


def f1_of(
    positive: Float[Tensor, "n"],  # noqa: F821
    negative: Float[Tensor, "m"],  # noqa: F821
    thresholds: Float[Tensor, "k"],  # noqa: F821
    below: bool,
) -> Float[Tensor, "k"]:  # noqa: F821
    """2 TP / (2 TP + FP + FN) of calling scores from each threshold on (or below it) positive."""
    true, false = (
        ((x.double()[None] < thresholds[:, None]) == below).sum(dim=1) for x in (positive, negative)
    )
    return 2 * true / (true + false + len(positive))


def _early(
    model: "Model", given: list[SteeringVector], behaviour: Steering
) -> list[SteeringVector]:
    """The conditions that are read before the behaviour acts."""
    order = [site.name for site in model.sites]
    acts = [s for edit in behaviour.scaled(0.0) for s in model.sites.select(list(edit.sites))]
    first = min((order.index(site) for site in acts if site in order), default=len(order))
    early = [each for each in given if each.at in order and order.index(each.at) < first]
    if not early:
        got = ", ".join(each.at for each in given) or "none"
        expected = f"a condition read before {order[first] if acts else 'the behaviour'}"
        raise SiteError(explain(where="ConditionalSteering.fit", expected=expected, got=got))
    return early
