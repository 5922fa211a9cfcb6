"""Head scores: which heads look at the previous token, at a repetition, behind it, or at a name?

On random tokens that are repeated once, s₁ … s_L s₁ … s_L, the mean attention of a head

    previous token   from each token to the one before it
    duplicate token  from each token of the second half to the same token in the first
    induction        from each token of the second half to the one after its first occurrence

each between 0 and 1. With prompts of the IOI battery also (see `name_movers.py`)

    name mover       attention from the last token to the name that is the answer, counted where
                     the head copies that name

Olsson et al. 2022, In-context learning and induction heads (arXiv 2209.11895); Wang et al. 2022
(2211.00593). Departures: the tokens of a sequence are all different, so that nothing repeats by
chance; only tokens that have a match are averaged over (TransformerLens' diagonals take in one
that has none); a pattern says where a head looks and not what it moves: `ablation.py` asks that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.circuits.decompositions.rows import refuse_infinite
from jackfield.circuits.heads.name_movers import name_movers
from jackfield.circuits.heads.repeated import Repeated, losses, repeated_tokens
from jackfield.circuits.tasks.task import TaskExample
from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, did_you_mean, explain
from jackfield.core.study import Result, Study
from jackfield.reports import Columns, HeatMap, Report, Table
from jackfield.reports.intervals import mean_intervals

if TYPE_CHECKING:
    from jackfield.model.model import Model

PREVIOUS, DUPLICATE, INDUCTION = "previous token", "duplicate token", "induction"
NAME_MOVER = "name mover"
_LISTED = 5  # heads of each score in a table


@config
class HeadScores(Study):
    """Scores every head by its attention.

    Attributes:
        length: random tokens that are repeated.
        sequences: how many.
        seed: of the tokens.

    >>> from jackfield.testing import tiny_llama
    >>> found = HeadScores(length=8, sequences=3).run(tiny_llama())
    >>> found.mean("induction").shape  # [layer, head]
    torch.Size([3, 4])
    """

    length: int = setting(default=25, ge=3)
    sequences: int = setting(default=8, ge=1)
    seed: int = 0

    def run(self, model: "Model", *, names: Sequence[TaskExample] = ()) -> "HeadScoreTable":
        """Scores a model.

        Args:
            model: a language model whose attention patterns can be read.
            names: examples of the IOI battery, for the score of name movers.

        Raises:
            InputError: the vocabulary or the context is too small for the sequences, an answer
                that does not stand in its prompt, or patterns that are not finite.
        """
        given = repeated_tokens(model, self.length, self.sequences, self.seed)
        run = model.run(given.tokens, sites=["layers.*.pattern"], logits=False)
        where = f"{model.name}, HeadScores"
        refuse_infinite({name: run[name] for name in run.sites}, where=where)
        patterns = torch.stack([run[name].cpu() for name in run.sites], dim=1)
        scores = {
            name: _along(patterns, given, name).double()
            for name in (PREVIOUS, DUPLICATE, INDUCTION)
        }
        if names:
            scores[NAME_MOVER] = name_movers(model, names)
        return HeadScoreTable(
            scores=scores, losses=losses(model, given), length=self.length, model=model.name
        )


@dataclass(frozen=True)
class HeadScoreTable(Result):
    """Scores of all heads.

    Attributes:
        scores: name → [sequence or prompt, layer, head], 0 to 1.
        losses: [sequence, half] in nats: how much the model itself gains by the repetition.
        length: tokens that were repeated.
        model: its name.
    """

    scores: dict[str, Float[Tensor, "row layer head"]]
    losses: Float[Tensor, "sequence half"]
    length: int
    model: str

    def mean(self, name: str) -> Float[Tensor, "layer head"]:
        """The score of each head over all sequences or prompts.

        Raises:
            InputError: there is no such score.
        """
        if name not in self.scores:
            hint = did_you_mean(name, self.scores)
            expected = f"one of {', '.join(self.scores)}"
            raise InputError(
                explain(where="HeadScoreTable", expected=expected, got=repr(name), hint=hint)
            )
        return self.scores[name].mean(dim=0)

    def top(self, name: str, count: int = _LISTED) -> list[tuple[int, int]]:
        """(layer, head) of the heads that score highest, best first."""
        values = self.mean(name)
        order = values.flatten().argsort(descending=True, stable=True)[:count]
        return [divmod(int(cell), values.shape[1]) for cell in order]

    def sentence(self) -> str:
        """The best head of each score, and the gain in loss."""
        named = []
        for name in self.scores:
            layer, head = self.top(name, 1)[0]
            named.append(f"{name} {layer}.{head} ({float(self.mean(name)[layer, head]):.2f})")
        first, second = self.losses.mean(dim=0).tolist()
        return (
            f"Highest in {self.model}: {', '.join(named)}. On {self.length} random tokens said "
            f"twice its loss is {first:.2f} nats the first time and {second:.2f} the second."
        )

    def report(self) -> Report:
        """A map a score, and the highest heads with their intervals."""
        maps = [
            HeatMap(
                self.mean(name),
                x_title="head",
                y_title="layer",
                scale="sequential",
                limits=(0.0, 1.0),
                value_name="attention",
                caption=f"{name[0].upper()}{name[1:]}.",
            )
            for name in self.scores
        ]
        rows = [row for name in self.scores for row in self._rows(name)]
        table = Table(["score", "head", "value", "low (95 %)", "high (95 %)"], rows)
        return Report("Head scores", [Columns(maps), table], summary=self.sentence())

    def _rows(self, name: str) -> list[list[str | float]]:
        cells = self.top(name)
        picked = torch.stack([self.scores[name][:, i, j] for i, j in cells], dim=1)
        intervals = mean_intervals(picked).tolist()
        return [
            [name, f"{i}.{j}", float(self.mean(name)[i, j]), *pair]
            for (i, j), pair in zip(cells, intervals, strict=True)
        ]


def _along(
    patterns: Float[Tensor, "sequence layer head query key"], given: Repeated, name: str
) -> Float[Tensor, "sequence layer head"]:
    """The mean attention from tokens that have a match to their match."""
    start = given.first + 1 if name == PREVIOUS else given.second
    back = {PREVIOUS: 1, DUPLICATE: given.length, INDUCTION: given.length - 1}[name]
    queries = torch.arange(start, patterns.shape[-1])
    return patterns[..., queries, queries - back].mean(dim=-1)
