"""Anti-overconfidence: does the last layer hold the answer back, and what if it did not?

Before the last block the answer may be likelier than at the end: the block then lowers the logit
of what the model was about to say, and moves the distribution towards what it says on average.

    measured   p(answer) by the logit lens before the last block, after its attention, at the end;
               what each of its heads and its MLP add to the answer's logit (direct, exact);
               KL(p ‖ average) before and after, average = mean of the final distributions
    undone     the parts are taken out at the last token, one kind at a time, and the model goes on
               from there: p(answer) again, by the model's own forward

Lv et al. 2024, Interpreting key mechanisms of factual recall (arXiv 2403.19521). Confirmed: that a
mechanism in the final layer suppresses correct predictions in all the models tried, and that it
can be mitigated. Our reading, as the text was not available to us: all the quantities above, and
the undoing by zero or mean ablation. A model need not do this; the sentence says what it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.circuits.decompositions.frozen_norm import frozen_reader
from jackfield.circuits.decompositions.rows import BATCH, Rows, call_of, read_at
from jackfield.circuits.decompositions.target import target_of
from jackfield.circuits.decompositions.weights import output_weight
from jackfield.circuits.edges.graph import graph_of
from jackfield.circuits.metrics import Answer, answer_ids
from jackfield.core.config import config
from jackfield.core.errors import InputError, explain
from jackfield.core.study import Result, Study
from jackfield.edits import Edit, MeanOut
from jackfield.reports import Bars, Report, Table
from jackfield.reports.intervals import mean_intervals

if TYPE_CHECKING:
    from jackfield.model.model import Model

_STAGES = ("before the last block", "after its attention", "at the end")


@config
class AntiOverconfidence(Study):
    """Measures and undoes what the last block does to the answer.

    Attributes:
        ablation: what stands in the place of a part: "zero", or the "mean" over the prompts, which
            keeps what the part writes whatever the prompt is.

    >>> from jackfield.testing import tiny_llama
    >>> prompts = torch.tensor([[5, 6, 7], [5, 8, 7]])
    >>> found = AntiOverconfidence().run(tiny_llama(), prompts)
    >>> found.stages.shape, list(found.undone)[:2]
    (torch.Size([2, 3]), ['attention', 'MLP'])
    """

    ablation: Literal["zero", "mean"] = "zero"

    def run(
        self, model: "Model", prompts: Any, *, answer: Answer | None = None
    ) -> "Overconfidence":
        """Measures at the last token of each prompt.

        Args:
            model: a language model of sequential pre-norm blocks with a linear head.
            prompts: whatever `model.run` takes that has tokens.
            answer: one token for all prompts or one a prompt; by default the likeliest at the end.

        Raises:
            InputError: no prompts, or an answer that is not one token.
            ModelError: the logit is no sum of the model's parts.
        """
        where = f"{model.name}, AntiOverconfidence"
        if graph_of(model).parallel:
            got = "attention and MLP side by side"
            expected = "blocks with attention first"
            raise InputError(explain(where=where, expected=expected, got=got))
        last = f"layers.{model.n_layers - 1}"
        streams = [f"{last}.{role}" for role in ("resid_pre", "resid_mid", "resid_post")]
        rows = read_at(model, prompts, [*streams, f"{last}.z", f"{last}.mlp_out"], where=where)
        chances = [_chances(model, rows[name]) for name in streams]
        likeliest = chances[-1].argmax(dim=-1)
        ids = likeliest if answer is None else answer_ids(model, answer, len(rows))
        heads, mlp = _shares(model, rows, ids.tolist())
        return Overconfidence(
            stages=torch.stack([_pick(each, ids) for each in chances], dim=1),
            heads=heads,
            mlp=mlp,
            undone=self._undone(model, rows, ids, heads),
            average_distance=torch.stack(
                [_kl(each, chances[-1].mean(dim=0)) for each in chances], dim=1
            ),
            ablation=self.ablation,
            model=model.name,
        )

    def _undone(
        self, model: "Model", rows: Rows, ids: Tensor, heads: Tensor
    ) -> dict[str, Float[Tensor, " prompt"]]:
        """p(answer) with parts of the last block taken out."""
        last = f"layers.{model.n_layers - 1}"
        z, out = rows[f"{last}.z"], rows[f"{last}.mlp_out"]
        suppressing = (heads.mean(dim=0) < 0).nonzero().flatten().tolist()
        mlp = [self._out(f"{last}.mlp_out", out)]
        every = [self._out(f"{last}.z", z)]
        some = [self._out(f"{last}.z[head={h}]", z[:, h]) for h in suppressing]
        cases = {
            "attention": every,
            "MLP": mlp,
            "attention and MLP": every + mlp,
            "heads that suppress": some,
        }
        return {name: _pick(_edited(model, rows, edits), ids) for name, edits in cases.items()}

    def _out(self, site: str, value: Tensor) -> Edit:
        mean = value.mean(dim=0) if self.ablation == "mean" else torch.zeros_like(value[0])
        return MeanOut(mean.float(), at=site, where="last")


@dataclass(frozen=True)
class Overconfidence(Result):
    """The answer through the last block.

    Attributes:
        stages: [prompt, stage] its probability before the block, after its attention, at the end.
        heads: [prompt, head] what each head of the block adds to its logit, less the mean logit.
        mlp: [prompt] what the block's MLP adds.
        undone: parts taken out → [prompt] its probability then.
        average_distance: [prompt, stage] KL(distribution ‖ mean final distribution) in nats.
        ablation: what stood in their place.
        model: its name.
    """

    stages: Float[Tensor, "prompt stage"]
    heads: Float[Tensor, "prompt head"]
    mlp: Float[Tensor, " prompt"]
    undone: dict[str, Float[Tensor, " prompt"]]
    average_distance: Float[Tensor, "prompt stage"]
    ablation: str
    model: str

    @property
    def suppressed(self) -> float:
        """How far the last block lowers the answer's probability, on average; below 0: raises."""
        return float((self.stages[:, 0] - self.stages[:, -1]).mean())

    def sentence(self) -> str:
        """Whether the answer is held back, and which undoing helps most."""
        before, after = (float(self.stages[:, i].mean()) for i in (0, -1))
        done = "lowers" if after < before else "raises"
        best = max(self.undone, key=lambda name: float(self.undone[name].mean()))
        away = "towards" if self._nearer() else "away from"
        return (
            f"The last block of {self.model} {done} the answer's probability from {before:.2f} to "
            f"{after:.2f} ({len(self.mlp)} prompts) and moves {away} the average distribution; "
            f"without its {best} ({self.ablation} ablation) it is "
            f"{float(self.undone[best].mean()):.2f}."
        )

    def report(self) -> Report:
        """Probabilities before and after, with and without; the parts' logits."""
        cases = dict(zip(_STAGES, self.stages.unbind(1), strict=True))
        cases |= {f"without {name}": value for name, value in self.undone.items()}
        far = dict(zip(_STAGES, self.average_distance.mean(dim=0).tolist(), strict=True))
        intervals = mean_intervals(torch.stack(list(cases.values()), dim=1)).tolist()
        rows = [
            [name, float(value.mean()), *pair, far.get(name)]
            for (name, value), pair in zip(cases.items(), intervals, strict=True)
        ]
        columns = ["distribution", "p(answer)", "low (95 %)", "high (95 %)", "KL to average"]
        parts = torch.cat([self.heads, self.mlp[:, None]], dim=1)
        names = [*(f"head {h}" for h in range(self.heads.shape[1])), "MLP"]
        pairs = mean_intervals(parts).tolist() if len(parts) > 1 else []
        bars = Bars(
            names,
            parts.mean(dim=0),
            [(low, high) for low, high in pairs],
            label_title="part",
            value_title="answer's logit less the mean",
            caption="What each part of the last block adds to the answer.",
        )
        return Report("Anti-overconfidence", [Table(columns, rows), bars], summary=self.sentence())

    def _nearer(self) -> bool:
        before, after = (float(self.average_distance[:, i].mean()) for i in (0, -1))
        return after < before


def _shares(model: "Model", rows: Rows, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What each head [row, head] and the MLP [row] of the last block add."""
    last = model.n_layers - 1
    target = target_of(model, ids, None, len(rows))
    reader = frozen_reader(model, rows[f"layers.{last}.resid_post"], target)
    seen = torch.einsum("hed,rd->rhe", output_weight(model, last)[0], reader.direction)
    heads = (rows[f"layers.{last}.z"] * seen).sum(-1)
    return heads, (rows[f"layers.{last}.mlp_out"] * reader.direction).sum(-1)


def _chances(model: "Model", stream: Tensor) -> Float[Tensor, "row vocab"]:
    """The logit lens: probabilities in float64, on the CPU."""
    with torch.no_grad():
        logits = model.unembed(stream.to(model.device, model.dtype))
    return logits.double().cpu().softmax(dim=-1)


def _edited(model: "Model", rows: Rows, edits: Sequence[Edit]) -> Float[Tensor, "row vocab"]:
    """Final probabilities under edits of the last block at the last token."""
    logits = []
    for first in range(0, len(rows), BATCH):
        part = slice(first, first + BATCH)
        call = call_of(rows.tokens[part], rows.mask[part])
        made = model.run(call, edits=edits).logits
        at = rows.at[part].to(made.device)
        logits.append(made[torch.arange(len(made)), at].detach().double().cpu())
    return torch.cat(logits).softmax(dim=-1)


def _pick(chances: Float[Tensor, "row vocab"], ids: Tensor) -> Float[Tensor, " row"]:
    return chances.gather(-1, ids[:, None])[:, 0]


def _kl(chances: Float[Tensor, "row vocab"], average: Float[Tensor, " vocab"]) -> Tensor:
    tiny = torch.finfo(torch.float64).tiny
    return (chances * (chances.clamp(min=tiny).log() - average.clamp(min=tiny).log())).sum(-1)
