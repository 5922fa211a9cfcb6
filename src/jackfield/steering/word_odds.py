"""Word odds: does a direction move what it should, more than any direction of the same cost does?

For prompts that may go on either way, the log-odds of two sets of words as the next token:

    odds = log Σ_{w∈positive} p(w) − log Σ_{w∈negative} p(w)        in nats
    shift = odds steered − odds unsteered

The direction, its reverse and random directions are all steered at the strength at which their
mean KL on neutral text is the same, so that a shift is compared with what the same damage to the
predictions does anyhow. Tan et al. 2024 (arXiv 2407.12404) show why a single number is not enough:
shifts are kept for each prompt, and the interval is over prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.study import Result, Study
from jackfield.edits import Edit
from jackfield.reports import Bars, Report, Table
from jackfield.reports.intervals import mean_intervals
from jackfield.steering.behaviours import next_logits, word_ids
from jackfield.steering.sentences import GLAD_WORDS, NEUTRAL, OPENINGS, SAD_WORDS
from jackfield.steering.steering_vector import SteeringVector

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class WordOdds(Study):
    """The shift of word odds at equal KL, beside random directions.

    Attributes:
        kl: mean KL to the unsteered model on neutral text at which all are compared, in nats.
        randoms: how many random directions.
        seed: of them, and of the bootstrap.
    """

    kl: float = setting(default=0.3, gt=0)
    randoms: int = setting(default=2, ge=1)
    seed: int = 0

    def run(
        self,
        model: "Model",
        vector: SteeringVector,
        *,
        prompts: Any = OPENINGS,
        positive: Sequence[str | int] = GLAD_WORDS,
        negative: Sequence[str | int] = SAD_WORDS,
        neutral: Any = NEUTRAL,
    ) -> "WordOddsShift":
        """Measures the shift of a direction.

        Args:
            model: the model to steer.
            vector: the direction.
            prompts: texts that may go on either way.
            positive: words, with their leading space, or token ids; words of several tokens are
                left out.
            negative: the other side.
            neutral: texts on which the KL is measured.

        Raises:
            InputError: a side has no word of one token.
        """
        sides = [word_ids(model, words) for words in (positive, negative)]
        plain = _odds(model, prompts, sides, ())
        compared = [("direction", vector, 1), ("reversed", vector, -1)]
        compared += [(f"random {i}", vector.control(self.seed + i), 1) for i in range(self.randoms)]
        strengths, shifts = [], []
        for _, each, sign in compared:
            dose = each.dose(model, f"kl:{sign * self.kl}", neutral)
            strengths.append(dose.factor)
            shifts.append(_odds(model, prompts, sides, each.scaled(dose.factor)) - plain)
        return WordOddsShift(
            names=tuple(name for name, _, _ in compared),
            strengths=tuple(strengths),
            shifts=torch.stack(shifts),
            kl=self.kl,
            seed=self.seed,
        )


@dataclass(frozen=True)
class WordOddsShift(Result):
    """Shifts of the word odds in nats.

    Attributes:
        names: "direction", "reversed", "random 0", …
        strengths: of each, in lengths of its vector.
        shifts: [name, prompt].
        kl: the KL that all of them have.
        seed: of the bootstrap.
    """

    names: tuple[str, ...]
    strengths: tuple[float, ...]
    shifts: Float[Tensor, "name prompt"]
    kl: float
    seed: int

    @property
    def mean(self) -> Float[Tensor, "name"]:  # noqa: F821
        """[name] the mean shift over the prompts."""
        return self.shifts.mean(dim=1)

    def interval(self) -> Float[Tensor, "name bound"]:
        """[name, 2] the 95 % bootstrap interval of each mean, over the prompts."""
        return mean_intervals(self.shifts.T, seed=self.seed)

    def report(self) -> Report:
        """Bars with intervals, and one sentence."""
        bounds = [(float(low), float(high)) for low, high in self.interval()]
        rows = [
            [name, strength, float(mean), *bound]
            for name, strength, mean, bound in zip(
                self.names, self.strengths, self.mean, bounds, strict=True
            )
        ]
        random = max(abs(float(mean)) for mean in self.mean[2:])
        (low, high), count = bounds[0], self.shifts.shape[1]
        return Report(
            "What the direction moves",
            [
                Bars(self.names, self.mean, bounds, value_title="shift of the odds, nats"),
                Table(["direction", "strength", "shift", "low (95 %)", "high (95 %)"], rows),
            ],
            summary=(
                f"At a KL of {self.kl:g} nats the direction moves the word odds by "
                f"{float(self.mean[0]):+.2f} nats (95 % interval {low:.2f} to {high:.2f}, "
                f"{count} prompts), its reverse by {float(self.mean[1]):+.2f}, random "
                f"directions of the same cost by at most {random:.2f}."
            ),
        )


def _odds(
    model: "Model", prompts: Any, sides: Sequence[Tensor], edits: Sequence[Edit]
) -> Float[Tensor, "prompt"]:  # noqa: F821
    logits = next_logits(model, prompts, edits)
    glad, sad = (logits[:, ids].logsumexp(dim=-1) for ids in sides)
    return glad - sad
