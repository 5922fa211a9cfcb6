"""Factual recall: topic heads, MLPs as activations, and the direction of the answer.

"The capital of France is": at the last token of each prompt of one relation, block by block,

1. topic heads: which heads look at the topic (France) and write it, by the direct contribution of
   each head to the topic's logit and to the answer's;
2. the MLP as an activation: what it adds, as multiples of what it read and a remainder,

       mlp_out = mean + w_0 · Δresid_pre + Σ_h w_h · Δ(z_h W_O) + rest

   where Δ is the distance from the mean over prompts, with one weight a head for all prompts, by
   least squares. w_h > 0: the MLP amplifies what that head says of the prompt, w_h < 0: it erases
   it. How much of the MLP the weights explain is told beside them: it may be little;
3. the direction of the answer: the logit that mean + rest, which is no multiple of anything read,
   adds to the answer (Paris).

Lv et al. 2024, Interpreting key mechanisms of factual recall (arXiv 2403.19521). Confirmed: these
three steps, and that an MLP's output is decomposed into a share of what the heads wrote and a
component of its own. Our reading: the equation above, the logits being those of direct
contributions (the mean over the vocabulary taken off), and prompts that need not be of one length.
The last layer's part is in `anti_overconfidence.py`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.circuits.decompositions.frozen_norm import FrozenReader, frozen_reader
from jackfield.circuits.decompositions.rows import BATCH, Rows, call_of, read_at
from jackfield.circuits.decompositions.target import target_of
from jackfield.circuits.decompositions.weights import output_weight
from jackfield.circuits.edges.graph import graph_of
from jackfield.circuits.metrics import Answer, answer_ids
from jackfield.circuits.pairs import last_site
from jackfield.core.config import config
from jackfield.core.errors import InputError, explain
from jackfield.core.study import Result, Study
from jackfield.reports import Bars, Columns, HeatMap, Lines, Report, Table
from jackfield.reports.intervals import mean_intervals

if TYPE_CHECKING:
    from jackfield.model.model import Model

_LISTED = 12
_SMALL = 0.1  # a weight below which an MLP neither amplifies nor erases


@config
class RecallAnalysis(Study):
    """The three steps of recall, on prompts of one relation.

    >>> from jackfield.testing import tiny_llama
    >>> prompts = torch.tensor([[5, 6, 7], [5, 8, 7]])
    >>> found = RecallAnalysis().run(tiny_llama(), prompts, topic=[6, 8], answer=[3, 4])
    >>> found.topic_heads.shape, found.weights.shape  # [prompt, layer, head]; w_0 comes first
    (torch.Size([2, 3, 4]), torch.Size([3, 5]))
    """

    def run(self, model: "Model", prompts: Any, *, topic: Answer, answer: Answer) -> "Recall":
        """Analyses at least two prompts.

        Args:
            model: a language model of pre-norm blocks with a linear head.
            prompts: whatever `model.run` takes that has tokens.
            topic: the token that names the subject, one a prompt; it stands in the prompt.
            answer: the token that should come, one a prompt.

        Raises:
            InputError: one prompt only, a topic that is not one token of its prompt, or an answer
                that is not one token.
            ModelError: the logit is no sum of the model's parts.
        """
        where = f"{model.name}, RecallAnalysis"
        graph_of(model)  # refuses a stream that is no plain sum
        layers = range(model.n_layers)
        sites = [f"layers.{i}.{role}" for i in layers for role in ("resid_pre", "z", "mlp_out")]
        rows = read_at(model, prompts, [*sites, last_site(model)], where=where)
        if len(rows) < 2:
            raise InputError(explain(where=where, expected="several prompts", got="one"))
        places = _topic_places(model, rows, topic, where)
        readers = [
            frozen_reader(model, rows[last_site(model)], target_of(model, each, None, len(rows)))
            for each in (topic, answer)
        ]
        fits = [_fit(model, rows, layer) for layer in layers]
        to_topic, to_answer = ([_heads(f, reader) for f in fits] for reader in readers)
        return Recall(
            topic_heads=torch.stack(to_topic, dim=1),
            answer_heads=torch.stack(to_answer, dim=1),
            attention=_attention(model, rows, places),
            weights=torch.stack([each.weights for each in fits]),
            explained=torch.tensor([each.explained for each in fits]),
            topic_mlps=_shares(rows, model, readers[0]),
            answer_mlps=_shares(rows, model, readers[1]),
            redirected=torch.stack(
                [(each.own * readers[1].direction).sum(-1) for each in fits], dim=1
            ),
            model=model.name,
        )


@dataclass(frozen=True)
class Recall(Result):
    """What heads and MLPs do at the last token; logits less the mean logit.

    Attributes:
        topic_heads, answer_heads: [prompt, layer, head] what each head adds to the logit of the
            topic, and of the answer.
        attention: [prompt, layer, head] from the last token to the topic.
        weights: [layer, 1 + head] by which the MLP multiplies the stream before the block, and
            the output of each head of its block: above 0 amplified, below 0 erased.
        explained: [layer] the share of the MLP's variance over prompts that the weights explain.
        topic_mlps, answer_mlps: [prompt, layer] what each MLP adds to either logit.
        redirected: [prompt, layer] what of `answer_mlps` is no multiple of what the MLP read.
        model: its name.
    """

    topic_heads: Float[Tensor, "prompt layer head"]
    answer_heads: Float[Tensor, "prompt layer head"]
    attention: Float[Tensor, "prompt layer head"]
    weights: Float[Tensor, "layer part"]
    explained: Float[Tensor, " layer"]
    topic_mlps: Float[Tensor, "prompt layer"]
    answer_mlps: Float[Tensor, "prompt layer"]
    redirected: Float[Tensor, "prompt layer"]
    model: str

    def topic_ranking(self, count: int = _LISTED) -> list[tuple[int, int]]:
        """(layer, head) of the heads that add most to the topic's logit."""
        order = self.topic_heads.mean(dim=0).flatten().argsort(descending=True, stable=True)
        return [divmod(int(cell), self.topic_heads.shape[2]) for cell in order[:count]]

    def sentence(self) -> str:
        """The strongest topic head, what its MLP does to it, and where the answer comes from."""
        layer, head = self.topic_ranking(1)[0]
        weight = float(self.weights[layer, 1 + head])
        redirected = self.redirected.mean(dim=0)
        top = int(redirected.argmax())
        done = (
            "leaves it be"
            if abs(weight) < _SMALL
            else "amplifies it"
            if weight > 0
            else "erases it"
        )
        return (
            f"Over {len(self.redirected)} prompts of {self.model}, head {layer}.{head} adds most "
            f"to the topic ({float(self.topic_heads[:, layer, head].mean()):+.3g}, attention to it "
            f"{float(self.attention[:, layer, head].mean()):.2f}); the MLP of its block {done} "
            f"(weight {weight:+.2f}; all weights explain "
            f"{float(self.explained[layer]):.0%} of that MLP). MLP {top} adds most of its own "
            f"to the answer ({float(redirected[top]):+.3g})."
        )

    def report(self) -> Report:
        """Maps of the heads, the weights of the MLPs, and the answer's logit by MLP."""
        maps = [
            _map(self.topic_heads.mean(dim=0), "head", "logit", "What heads add to the topic."),
            _map(self.answer_heads.mean(dim=0), "head", "logit", "What heads add to the answer."),
        ]
        weights = _map(
            self.weights[:, 1:], "head", "weight", "The MLP amplifies (+) or erases (−) a head."
        )
        layers = list(range(len(self.weights)))
        curves = {
            "MLP to the answer": self.answer_mlps.mean(dim=0),
            "of which its own": self.redirected.mean(dim=0),
            "MLP to the topic": self.topic_mlps.mean(dim=0),
        }
        blocks = [
            Columns(maps),
            self._table(),
            weights,
            Lines(layers, curves, x_title="layer", y_title="logit less the mean"),
            Bars(layers, self.explained, label_title="layer", value_title="share explained"),
        ]
        return Report("Factual recall", blocks, summary=self.sentence())

    def _table(self) -> Table:
        cells = self.topic_ranking()
        picked = torch.stack([self.topic_heads[:, i, j] for i, j in cells], dim=1)
        intervals = mean_intervals(picked).tolist()
        rows = [
            [
                f"{i}.{j}",
                float(self.topic_heads[:, i, j].mean()),
                *pair,
                float(self.answer_heads[:, i, j].mean()),
                float(self.attention[:, i, j].mean()),
                float(self.weights[i, 1 + j]),
            ]
            for (i, j), pair in zip(cells, intervals, strict=True)
        ]
        columns = ["head", "topic logit", "low (95 %)", "high (95 %)"]
        columns += ["answer logit", "attention to it", "MLP's weight"]
        return Table(columns, rows, caption="Topic heads.")


def _map(values: Tensor, columns: str, name: str, caption: str) -> HeatMap:
    return HeatMap(values, x_title=columns, y_title="layer", value_name=name, caption=caption)


@dataclass(frozen=True)
class _Fit:
    """One block: heads' outputs [row, head, d], weights, and the MLP's own part [row, d]."""

    heads: Tensor
    weights: Tensor
    explained: float
    own: Tensor


def _fit(model: "Model", rows: Rows, layer: int) -> _Fit:
    """Least squares of mlp_out on the stream and the heads, all as distances from their means."""
    z, out = rows[f"layers.{layer}.z"], rows[f"layers.{layer}.mlp_out"]
    heads = torch.einsum("rhe,hed->rhd", z, output_weight(model, layer)[0])
    read = torch.cat([rows[f"layers.{layer}.resid_pre"][:, None], heads], dim=1)
    varied, wanted = read - read.mean(dim=0), out - out.mean(dim=0)
    design = varied.movedim(1, -1).flatten(0, 1)
    solved = torch.linalg.lstsq(design, wanted.flatten()[:, None], driver="gelsd").solution[:, 0]
    rest = wanted - torch.einsum("rpd,p->rd", varied, solved)
    explained = 1 - float(rest.square().sum() / wanted.square().sum().clamp(min=1e-300))
    return _Fit(heads, solved, explained, out - torch.einsum("rpd,p->rd", varied, solved))


def _heads(fit: _Fit, reader: FrozenReader) -> Float[Tensor, "row head"]:
    return torch.einsum("rhd,rd->rh", fit.heads, reader.direction)


def _shares(rows: Rows, model: "Model", reader: FrozenReader) -> Float[Tensor, "row layer"]:
    outs = [rows[f"layers.{i}.mlp_out"] for i in range(model.n_layers)]
    return torch.stack([(each * reader.direction).sum(-1) for each in outs], dim=1)


def _topic_places(model: "Model", rows: Rows, topic: Answer, where: str) -> Tensor:
    """[row] the last place of each prompt's topic."""
    ids = answer_ids(model, topic, len(rows))
    found = (rows.tokens == ids[:, None]) & rows.mask
    if not bool(found.any(dim=1).all()):
        row = int((~found.any(dim=1)).nonzero()[0])
        expected = f"a topic that is a token of prompt {row}"
        got = f"{model.token_strings(ids[row : row + 1])[0]!r}"
        hint = f"Its tokens: {model.token_strings(rows.tokens[row][rows.mask[row]])}."
        raise InputError(explain(where=where, expected=expected, got=got, hint=hint))
    places = torch.arange(found.shape[1]).expand_as(found)
    return places.masked_fill(~found, -1).amax(dim=1)


def _attention(model: "Model", rows: Rows, places: Tensor) -> Float[Tensor, "row layer head"]:
    """From each prompt's last token to its topic."""
    found = []
    for first in range(0, len(rows), BATCH):
        part = slice(first, first + BATCH)
        call = call_of(rows.tokens[part], rows.mask[part])
        run = model.run(call, sites=["layers.*.pattern"], logits=False)
        batch = torch.arange(len(rows.tokens[part]))
        patterns = [run[name].cpu() for name in run.sites]
        picked = [each[batch, :, rows.at[part], places[part]] for each in patterns]
        found.append(torch.stack(picked, dim=1))
    return torch.cat(found).double()
