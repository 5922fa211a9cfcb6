"""Attention by source: which token does a head take its output from?

The output of head h at token t is a sum over the tokens it looks at,

    z W_O = Σ_s  pattern[t, s] · v_s W_O

so each source s has a vector of its own; its length says how much is moved, and its product with
the frozen reader (`frozen_norm.py`) what it adds to the logit difference directly. A large weight
of the pattern may carry a small value: sinks do. Kobayashi et al. 2020, Attention is not only a
weight (arXiv 2004.10102); Elhage et al. 2021. No departure.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.circuits.decompositions.frozen_norm import frozen_reader
from jackfield.circuits.decompositions.rows import Rows, call_of, read_at, refuse_infinite
from jackfield.circuits.decompositions.target import target_of
from jackfield.circuits.decompositions.weights import output_weight
from jackfield.circuits.metrics import Answer
from jackfield.circuits.pairs import last_site
from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.core.study import Result, Study
from jackfield.reports import Report, Table
from jackfield.reports.intervals import mean_intervals

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class AttentionSources(Study):
    """Takes one head's output at one token apart by source.

    Attributes:
        layer, head: which head.
        position: the destination, from the first token or negative from the last.

    >>> from jackfield.testing import tiny_llama
    >>> prompt = torch.tensor([[5, 6, 7]])
    >>> found = AttentionSources(layer=1, head=2).run(tiny_llama(), prompt, answer=3, wrong=4)
    >>> found.logits.shape, found.tokens  # [prompt, source]
    (torch.Size([1, 3]), ('5', '6', '7'))
    """

    layer: int = setting(ge=0)
    head: int = setting(ge=0)
    position: int = -1

    def run(
        self, model: "Model", prompts: Any, *, answer: Answer, wrong: Answer | None = None
    ) -> "SourceShares":
        """Takes the head apart on prompts that all have the same number of tokens.

        Args:
            model: a language model of pre-norm blocks with a linear head.
            prompts: a prompt, or aligned ones.
            answer: one token for all prompts, or one a prompt.
            wrong: what to compare it with; None: the mean logit of the vocabulary.

        Raises:
            InputError: there is no such head, or prompts of several lengths.
            ModelError: the logit is no sum of the model's parts.
        """
        where = f"{model.name}, AttentionSources"
        self._check(model, where)
        rows = read_at(model, prompts, [last_site(model)], position=self.position, where=where)
        if not bool(rows.mask.all()):
            lengths = sorted(set(rows.mask.sum(dim=1).tolist()))
            expected = "prompts that all have the same number of tokens"
            raise InputError(explain(where=where, expected=expected, got=str(lengths)))
        target = target_of(model, answer, wrong, len(rows))
        reader = frozen_reader(model, rows[last_site(model)], target)
        pattern, moved = self._moved(model, rows, where)
        return SourceShares(
            pattern=pattern,
            moved=moved,
            logits=torch.einsum("rsd,rd->rs", moved, reader.direction),
            tokens=tuple(_labels(model, rows.tokens)),
            layer=self.layer,
            head=self.head,
            target=target.name,
            model=model.name,
        )

    def _moved(self, model: "Model", rows: Rows, where: str) -> tuple[Tensor, Tensor]:
        """The pattern [row, source], and the vector of each source [row, source, d_model]."""
        sites = [f"layers.{self.layer}.{role}" for role in ("pattern", "v")]
        run = model.run(call_of(rows.tokens, rows.mask), sites=sites, logits=False)
        values = {name: run[name].double().cpu() for name in sites}
        refuse_infinite(values, where=where)
        pattern, v = values.values()
        seen = pattern[torch.arange(len(rows)), self.head, rows.at]
        group = pattern.shape[1] // v.shape[2]
        weight = output_weight(model, self.layer)[0][self.head]
        return seen, seen[:, :, None] * (v[:, :, self.head // group] @ weight)

    def _check(self, model: "Model", where: str) -> None:
        heads = model.n_heads or 0
        if self.layer >= model.n_layers or self.head >= heads:
            expected = f"a head of layers 0 to {model.n_layers - 1}, heads 0 to {heads - 1}"
            got = f"layer {self.layer}, head {self.head}"
            raise InputError(explain(where=where, expected=expected, got=got))


@dataclass(frozen=True)
class SourceShares(Result):
    """One head's output at one token, by source.

    Attributes:
        pattern: [prompt, source] the head's attention.
        moved: [prompt, source, d_model] pattern · v W_O; they add up to z W_O.
        logits: [prompt, source] what each adds to the target directly.
        tokens: [source] names; "…" where they differ between the prompts.
        layer, head: which head.
        target: what the logits are of.
        model: its name.
    """

    pattern: Float[Tensor, "prompt source"]
    moved: Float[Tensor, "prompt source d_model"]
    logits: Float[Tensor, "prompt source"]
    tokens: tuple[str, ...]
    layer: int
    head: int
    target: str
    model: str

    @property
    def norms(self) -> Float[Tensor, "prompt source"]:
        """The length of what is moved."""
        return self.moved.norm(dim=-1)

    def sentence(self) -> str:
        """The source that adds most."""
        means = self.logits.mean(dim=0)
        top = int(means.abs().argmax())
        return (
            f"Head {self.layer}.{self.head} of {self.model} adds {float(means.sum()):+.3g} to the "
            f"{self.target}, of which {float(means[top]):+.3g} from {self.tokens[top]!r} "
            f"(position {top}, attention {float(self.pattern[:, top].mean()):.2f})."
        )

    def report(self) -> Report:
        """A row a source: attention, length, logits with their interval."""
        means = [each.mean(dim=0).tolist() for each in (self.pattern, self.norms, self.logits)]
        intervals = mean_intervals(self.logits).tolist()
        rows = [
            [place, token, *numbers, *pair]
            for place, (token, *numbers, pair) in enumerate(
                zip(self.tokens, *means, intervals, strict=True)
            )
        ]
        columns = ["position", "token", "attention", "length moved", self.target]
        table = Table([*columns, "low (95 %)", "high (95 %)"], rows, limit=len(rows))
        title = f"Sources of head {self.layer}.{self.head}"
        return Report(title, [table], summary=self.sentence())


def _labels(model: "Model", tokens: Tensor) -> list[str]:
    """The token of each position, "…" where the prompts differ."""
    same = (tokens == tokens[:1]).all(dim=0).tolist()
    names = model.token_strings(tokens[0])
    return [name if each else "…" for name, each in zip(names, same, strict=True)]
