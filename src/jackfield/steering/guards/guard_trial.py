"""Guard trial: how often a guard fires where it should, and where it should not.

    detection = fired / harmful prompts          false alarms = fired / benign prompts

with Wilson's 95 % intervals, and the AUROC of the highest score of each generation, [prompt] on
each side, which does not depend on the threshold. The prompts must not be those that the scorer
was fitted or its threshold set on; then nothing here is optimistic. Wilson 1927; Hanley and McNeil
1982.
"""

from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from jackfield.core.config import config, setting
from jackfield.core.study import Result, Study
from jackfield.reports import Block, Report, Table
from jackfield.steering.guards.guard import Guard
from jackfield.steering.guards.guarded import Guarded
from jackfield.steering.guards.rates import Auroc, Rate, share_above
from jackfield.steering.guards.reading import checked_prompts

if TYPE_CHECKING:
    from jackfield.model.model import Model

_ROWS = 16  # in one generation


@config
class GuardTrial(Study):
    """Tries a guard on labelled prompts; it logs whatever its action is, so that all are alike.

    Attributes:
        new_tokens: generated from each prompt; 1 tries the prompts alone.

    >>> import torch
    >>> from jackfield.steering.guards import Guard, Projection
    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> guard = Guard(Projection(torch.ones(32), "layers.1.resid_post"), 1e9)
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> print(GuardTrial(new_tokens=1).run(world.model, guard, **sides).detection)
    0/24 = 0.0% (0.0%–13.8%)
    """

    new_tokens: int = setting(default=1, ge=1)

    def run(self, model: "Model", guard: Guard, *, positive: Any, negative: Any) -> "TrialFound":
        """Generates from all prompts, greedily, under the guard.

        Args:
            model: a language model.
            guard: what is tried.
            positive: prompts on which it should fire.
            negative: prompts on which it should not.

        Raises:
            InputError: no prompts.
            ModelError: activations that are not finite.
        """
        logging = replace(guard, action="log", steering=())
        sides = [
            self._tried(model, logging, checked_prompts(model, prompts, f"{name} prompts"))
            for name, prompts in (("positive", positive), ("negative", negative))
        ]
        return TrialFound(sides[0], sides[1], guard.threshold, self.new_tokens)

    def _tried(self, model: "Model", guard: Guard, prompts: Any) -> "Side":
        made: list[Guarded] = [
            guard.generate(model, prompts[start : start + _ROWS], max_new_tokens=self.new_tokens)
            for start in range(0, len(prompts), _ROWS)
        ]
        at = tuple(step for each in made for step in each.fired_at)
        return Side(at, tuple(float(score) for each in made for score in each.highest))


@dataclass(frozen=True)
class Side:
    """One side's prompts.

    Attributes:
        fired_at: the step at which the guard fired on each, None if it did not.
        highest: the highest score of each.
    """

    fired_at: tuple[int | None, ...]
    highest: tuple[float, ...]

    @property
    def rate(self) -> Rate:
        """How often it fired."""
        return Rate(sum(each is not None for each in self.fired_at), len(self.fired_at))


@dataclass(frozen=True)
class TrialFound(Result):
    """What a guard did.

    Attributes:
        positive, negative: the prompts of each side.
        threshold: the guard's.
        new_tokens: generated from each.
    """

    positive: Side
    negative: Side
    threshold: float
    new_tokens: int

    @property
    def detection(self) -> Rate:
        """How often it fired where it should."""
        return self.positive.rate

    @property
    def false_alarms(self) -> Rate:
        """How often it fired where it should not."""
        return self.negative.rate

    @property
    def auroc(self) -> Auroc:
        """How well the highest scores tell the sides apart; a row without a score is the lowest."""
        sides = [
            torch.tensor(each.highest).nan_to_num(nan=-1e30)
            for each in (self.positive, self.negative)
        ]
        return Auroc.of(*sides)

    def report(self) -> Report:
        """Both rates, the AUROC, and the scores."""
        at = [each for each in self.positive.fired_at if each is not None]
        rows = [
            ["detection", str(self.detection)],
            ["false alarms", str(self.false_alarms)],
            ["AUROC of the highest score", str(self.auroc)],
            ["median step of detection", f"{median(at):g}" if at else "none"],
        ]
        summary = (
            f"Detects {self.detection}, with {self.false_alarms} false alarms, "
            f"in prompts and {self.new_tokens} new tokens."
        )
        blocks: list[Block] = [Table(["", "95 %"], rows)]
        scores = [torch.tensor(side.highest) for side in (self.positive, self.negative)]
        if all(bool(torch.isfinite(each).all()) for each in scores):
            blocks.append(share_above(*scores))
        return Report("Guard trial", blocks, summary=summary)
