"""Ablation of scored heads: does the model lose the repetition without them?

The heads that score highest are replaced by their mean, all at once, on repeated random tokens,
and the rise of the loss on the second half is set against that of as many random other heads:

    rise = loss(second half, heads ablated) − loss(second half)      in nats

Olsson et al. 2022 (arXiv 2209.11895) ablate heads to show that in-context learning is theirs.
Departure: the mean in place of zero, over all positions and sequences, so that what a head always
writes stays; the loss is that of the repeated half and no difference of two positions.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.circuits.decompositions.rows import refuse_infinite
from jackfield.circuits.heads.head_scores import INDUCTION, HeadScoreTable
from jackfield.circuits.heads.repeated import losses, repeated_tokens
from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.core.study import Result, Study
from jackfield.edits import MeanOut
from jackfield.reports import Report, Table
from jackfield.reports.intervals import mean_intervals

if TYPE_CHECKING:
    from jackfield.model.model import Model

Head = tuple[int, int]


@config
class HeadAblation(Study):
    """Ablates the heads that a score picks, and random ones beside them.

    Attributes:
        score: by which heads are picked.
        count: how many together.
        draws: random sets of as many other heads.
        length, sequences: of the repeated tokens; other ones than the scores were taken on.
        seed: of the tokens and of the random heads.

    >>> from jackfield.circuits.heads.head_scores import HeadScores
    >>> from jackfield.testing import tiny_llama
    >>> scores = HeadScores(length=8, sequences=3).run(tiny_llama())
    >>> found = HeadAblation(count=2, draws=3, length=8).run(tiny_llama(), scores)
    >>> found.chosen.shape, found.others.shape  # [sequence], [draw, sequence]
    (torch.Size([8]), torch.Size([3, 8]))
    """

    score: str = INDUCTION
    count: int = setting(default=5, ge=1)
    draws: int = setting(default=5, ge=1)
    length: int = setting(default=25, ge=3)
    sequences: int = setting(default=8, ge=1)
    seed: int = 1

    def run(self, model: "Model", scores: HeadScoreTable) -> "HeadAblationResult":
        """Ablates in a model whose heads were scored.

        Raises:
            InputError: no such score, or not as many heads besides.
        """
        layers, width = scores.mean(self.score).shape
        every = [(i, j) for i in range(layers) for j in range(width)]
        picked = scores.top(self.score, self.count)
        rest = [each for each in every if each not in picked]
        if len(rest) < self.count:
            expected = f"a count up to {len(every) // 2}"
            where = f"{model.name}, HeadAblation"
            raise InputError(explain(where=where, expected=expected, got=str(self.count)))
        given = repeated_tokens(model, self.length, self.sequences, self.seed)
        run = model.run(given.tokens, sites=["layers.*.z"], logits=False)
        means = torch.stack([run[name].mean(dim=(0, 1)) for name in run.sites])
        refuse_infinite({"z": means}, where=f"{model.name}, HeadAblation")

        def without(heads: Sequence[Head]) -> Tensor:
            edits = [MeanOut(means[i, j], at=f"layers.{i}.z[head={j}]") for i, j in heads]
            return losses(model, given, edits)[:, 1]

        draw = random.Random(self.seed)
        others = [without(draw.sample(rest, self.count)) for _ in range(self.draws)]
        intact = losses(model, given)
        return HeadAblationResult(
            heads=tuple(picked),
            intact=intact,
            chosen=without(picked) - intact[:, 1],
            others=torch.stack(others) - intact[:, 1],
            score=self.score,
            model=model.name,
        )


@dataclass(frozen=True)
class HeadAblationResult(Result):
    """How far the loss on the repeated half rises, in nats.

    Attributes:
        heads: (layer, head) of those that were picked.
        intact: [sequence, half] the loss with all heads.
        chosen: [sequence] its rise without the picked heads.
        others: [draw, sequence] its rise without random other ones.
        score: what picked them.
        model: its name.
    """

    heads: tuple[Head, ...]
    intact: Float[Tensor, "sequence half"]
    chosen: Float[Tensor, " sequence"]
    others: Float[Tensor, "draw sequence"]
    score: str
    model: str

    def sentence(self) -> str:
        """Both rises."""
        named = ", ".join(f"{i}.{j}" for i, j in self.heads)
        first, second = self.intact.mean(dim=0).tolist()
        return (
            f"Without {named} (highest in {self.score}) the loss of {self.model} on repeated "
            f"tokens rises by {float(self.chosen.mean()):.2f} nats (from {second:.2f}; "
            f"{first:.2f} the first time); without as many random heads by "
            f"{float(self.others.mean()):.2f} ({float(self.others.mean(dim=1).max()):.2f} at most)."
        )

    def report(self) -> Report:
        """The rises with their intervals over sequences."""
        names = ["picked heads", *(f"random heads {i + 1}" for i in range(len(self.others)))]
        columns = torch.cat([self.chosen[None], self.others]).T
        rows = [
            [name, float(values.mean()), *pair]
            for name, values, pair in zip(
                names, columns.T, mean_intervals(columns).tolist(), strict=True
            )
        ]
        table = Table(["without", "rise in nats", "low (95 %)", "high (95 %)"], rows)
        return Report("Ablation of scored heads", [table], summary=self.sentence())
