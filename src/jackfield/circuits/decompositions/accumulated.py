"""Accumulated residual: how the answer grows in the stream, block by block.

The target (a logit, or a difference of two) is read from the stream after the embedding, after
each attention and after each block, in two ways:

    lens     by the model's final norm and head, each stream scaled by itself: the logit lens
    frozen   with the scale of the last stream for all: linear, so its steps are what the
             sub-layers add, and each step is a sum of direct logit attributions

Both end at the model's own value. nostalgebraist 2020, the logit lens; `accumulated_resid` of
TransformerLens is the frozen reading. No departure.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.circuits.decompositions.frozen_norm import frozen_reader
from jackfield.circuits.decompositions.rows import read_at
from jackfield.circuits.decompositions.target import target_of
from jackfield.circuits.metrics import Answer
from jackfield.core.config import config
from jackfield.core.study import Result, Study
from jackfield.reports import Bars, Lines, Report, Table
from jackfield.reports.intervals import mean_intervals

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class AccumulatedResidual(Study):
    """Reads the target from the residual stream at every depth.

    Attributes:
        position: the token after which it is read, from the first one or negative from the last.

    >>> from jackfield.testing import tiny_llama
    >>> found = AccumulatedResidual().run(tiny_llama(), torch.tensor([[5, 6, 7]]), answer=3)
    >>> found.sites[:2], found.frozen.shape  # [prompt, site]
    (('embed', 'layers.0.resid_mid'), torch.Size([1, 7]))
    """

    position: int = -1

    def run(
        self, model: "Model", prompts: Any, *, answer: Answer, wrong: Answer | None = None
    ) -> "AccumulatedTarget":
        """Reads prompts of any lengths.

        Args:
            model: a language model of pre-norm blocks with a linear head.
            prompts: whatever `model.run` takes that has tokens.
            answer: one token for all prompts, or one a prompt.
            wrong: what to compare it with; None: the mean logit of the vocabulary.

        Raises:
            InputError: no prompts, a position outside one, or answers that are not one token.
            ModelError: the logit is not linear in the normed stream.
        """
        where = f"{model.name}, AccumulatedResidual"
        sites = _depths(model)
        rows = read_at(model, prompts, sites, position=self.position, where=where)
        target = target_of(model, answer, wrong, len(rows))
        reader = frozen_reader(model, rows[sites[-1]], target)
        frozen = [(rows[name] * reader.direction).sum(-1) + reader.constant for name in sites]
        with torch.no_grad():
            lens = [
                target.measure(model.unembed(rows[name].to(model.device, model.dtype)))
                for name in sites
            ]
        return AccumulatedTarget(
            lens=torch.stack(lens, dim=1).double().cpu(),
            frozen=torch.stack(frozen, dim=1),
            total=reader.total,
            sites=tuple(sites),
            target=target.name,
            model=model.name,
        )


@dataclass(frozen=True)
class AccumulatedTarget(Result):
    """The target at every depth, in logits.

    Attributes:
        lens: [prompt, site] each stream under its own scale.
        frozen: [prompt, site] each under the last one's scale.
        total: [prompt] the model's own value.
        sites: from the embedding to the last stream.
        target: what was read.
        model: its name.
    """

    lens: Float[Tensor, "prompt site"]
    frozen: Float[Tensor, "prompt site"]
    total: Float[Tensor, " prompt"]
    sites: tuple[str, ...]
    target: str
    model: str

    @property
    def steps(self) -> Float[Tensor, "prompt step"]:
        """What each sub-layer adds to `frozen`; step i leads to site i + 1."""
        return self.frozen.diff(dim=1)

    def sentence(self) -> str:
        """Where the largest step is, and what the end is."""
        means = self.steps.mean(dim=0)
        top = int(means.abs().argmax())
        return (
            f"The {self.target} of {self.model} ends at {float(self.total.mean()):.3g} "
            f"({len(self.total)} prompt{'s' * (len(self.total) > 1)}); the largest step, "
            f"{float(means[top]):+.3g}, leads to {self.sites[top + 1]}."
        )

    def report(self) -> Report:
        """Both curves over the depth, the steps, and the numbers with their intervals."""
        depth = torch.arange(len(self.sites)).tolist()
        curves = {"lens": self.lens.mean(dim=0), "frozen scale": self.frozen.mean(dim=0)}
        low, high = mean_intervals(self.frozen).T.tolist()
        columns = ["site", "lens", "frozen scale", "low (95 %)", "high (95 %)"]
        both = zip(self.sites, *(each.tolist() for each in curves.values()), low, high, strict=True)
        blocks = [
            Lines(depth, curves, x_title="sub-layer", y_title=self.target),
            Bars(
                self.sites[1:],
                self.steps.mean(dim=0),
                label_title="leads to",
                value_title=f"step of the {self.target}",
                limit=len(self.sites),
            ),
            Table(columns, [list(row) for row in both], limit=len(self.sites)),
        ]
        return Report("Accumulated residual", blocks, summary=self.sentence())


def _depths(model: "Model") -> list[str]:
    """The streams in the order of the forward; parallel blocks have none in their middle."""
    known = set(model.sites.names())
    names = [
        f"layers.{i}.{role}" for i in range(model.n_layers) for role in ("resid_mid", "resid_post")
    ]
    return ["embed", *(name for name in names if name in known)]
