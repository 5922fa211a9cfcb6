"""Direct logit attribution: which part of the model says the answer?

The last stream is a sum of what every part wrote, and with the final norm's scale frozen at the
run (see `frozen_norm.py`) the logit difference is linear in it. So it is an exact sum:

    target = Σ_parts  part · u  + c       embed, heads z_h W_O, their biases, MLPs; c: norm and head

An MLP is the sum of its neurons, mlp_post_i times a row of the down projection, and its bias. A
dictionary takes one site's share apart further: code_i times direction_i, its bias and its error.

Elhage et al. 2021, A mathematical framework for transformer circuits; Wang et al. 2022
(arXiv 2211.00593); as in TransformerLens' `logit_attrs`. It counts what goes straight to the
logits and nothing that goes by way of later blocks; patching counts both. No departure.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.circuits.decompositions.features import (
    Directions,
    FeatureShares,
    feature_shares,
    stream_site,
)
from jackfield.circuits.decompositions.frozen_norm import FrozenReader, frozen_reader, tolerance
from jackfield.circuits.decompositions.rows import Rows, read_at
from jackfield.circuits.decompositions.target import target_of
from jackfield.circuits.decompositions.weights import output_weight
from jackfield.circuits.edges.graph import graph_of
from jackfield.circuits.edges.wiring import affine
from jackfield.circuits.metrics import Answer
from jackfield.circuits.pairs import last_site
from jackfield.core.config import config
from jackfield.core.errors import ModelError, explain
from jackfield.core.study import Result, Study
from jackfield.model.readers import linear_readers
from jackfield.reports import Bars, HeatMap, Report, Table
from jackfield.reports.intervals import mean_intervals

if TYPE_CHECKING:
    from jackfield.model.model import Model

_LISTED = 15  # of the strongest parts


@config
class DirectLogitAttribution(Study):
    """Takes a logit, or a difference of two, apart by head, MLP, neuron and feature.

    Attributes:
        position: the token after which it is read, from the first one or negative from the last.
        neurons: take the MLPs apart into neurons.

    >>> from jackfield.testing import tiny_llama
    >>> prompts = torch.tensor([[5, 6, 7], [8, 6, 7]])
    >>> found = DirectLogitAttribution().run(tiny_llama(), prompts, answer=3, wrong=4)
    >>> found.heads.shape, bool(found.gap < 1e-4)  # [prompt, layer, head]
    (torch.Size([2, 3, 4]), True)
    """

    position: int = -1
    neurons: bool = False

    def run(
        self,
        model: "Model",
        prompts: Any,
        *,
        answer: Answer,
        wrong: Answer | None = None,
        dictionary: Directions | None = None,
    ) -> "DirectAttribution":
        """Attributes on prompts of any lengths.

        Args:
            model: a language model of pre-norm blocks with a linear head.
            prompts: whatever `model.run` takes that has tokens.
            answer: one token for all prompts, or one a prompt.
            wrong: what to compare it with; None: the mean logit of the vocabulary.
            dictionary: takes the share of its own site apart by feature.

        Raises:
            InputError: no prompts, a position outside one, or answers that are not one token.
            ModelError: the logit is no sum of the model's parts.
            SiteError: the dictionary's site is not in the stream.
        """
        where = f"{model.name}, DirectLogitAttribution"
        sites = self._sites(model) + ([stream_site(model, dictionary)] if dictionary else [])
        rows = read_at(model, prompts, sites, position=self.position, where=where)
        target = target_of(model, answer, wrong, len(rows))
        reader = frozen_reader(model, rows[last_site(model)], target)
        heads, biases = _heads(model, rows, reader)
        neurons, mlp_biases = _neurons(model, rows, reader) if self.neurons else (None, None)
        features = feature_shares(dictionary, rows, reader) if dictionary else None
        found = DirectAttribution(
            heads=heads,
            biases=biases,
            mlps=_along(rows, "mlp_out", model.n_layers, reader),
            embed=(rows["embed"] * reader.direction).sum(-1),
            constant=reader.constant,
            total=reader.total,
            neurons=neurons,
            mlp_biases=mlp_biases,
            features=features,
            target=target.name,
            model=model.name,
        )
        _refuse_other_sum(model, found)
        return found

    def _sites(self, model: "Model") -> list[str]:
        graph_of(model)  # refuses a stream that is no plain sum
        roles = ["z", "mlp_out", *(["mlp_post"] if self.neurons else [])]
        names = [f"layers.{i}.{role}" for i in range(model.n_layers) for role in roles]
        return ["embed", *names, last_site(model)]


@dataclass(frozen=True)
class DirectAttribution(Result):
    """What each part adds to the target, in logits.

    Attributes:
        heads: [prompt, layer, head].
        biases: [prompt, layer] of attention's output projections.
        mlps: [prompt, layer] with their biases.
        embed: [prompt] the token, and its position where that is embedded.
        constant: [prompt] the biases of the final norm and the head.
        total: [prompt] the target, by the model's own forward.
        neurons, mlp_biases: [prompt, layer, neuron] and [prompt, layer], if asked for.
        features: of the dictionary, if one was given.
        target: what was taken apart.
        model: its name.
    """

    heads: Float[Tensor, "prompt layer head"]
    biases: Float[Tensor, "prompt layer"]
    mlps: Float[Tensor, "prompt layer"]
    embed: Float[Tensor, " prompt"]
    constant: Float[Tensor, " prompt"]
    total: Float[Tensor, " prompt"]
    neurons: Float[Tensor, "prompt layer neuron"] | None
    mlp_biases: Float[Tensor, "prompt layer"] | None
    features: FeatureShares | None
    target: str
    model: str

    @property
    def parts(self) -> dict[str, Float[Tensor, " prompt"]]:
        """Every part by name; their sum is `total`."""
        found = {"embed": self.embed}
        for layer in range(self.mlps.shape[1]):
            for head in range(self.heads.shape[2]):
                found[f"layers.{layer}.z[head={head}]"] = self.heads[:, layer, head]
            found[f"layers.{layer}.mlp_out"] = self.mlps[:, layer]
        found["attention biases"] = self.biases.sum(dim=1)
        found["biases of norm and head"] = self.constant
        return found

    @property
    def gap(self) -> float:
        """The largest distance between the sum of the parts and the total: rounding."""
        return float((sum(self.parts.values()) - self.total).abs().max())

    def strongest(self, count: int = _LISTED) -> list[str]:
        """Names of the parts with the largest mean, by size."""
        means = {name: abs(float(value.mean())) for name, value in self.parts.items()}
        return sorted(means, key=lambda name: -means[name])[:count]

    def sentence(self) -> str:
        """The total, and the parts that make most of it."""
        total, prompts = float(self.total.mean()), len(self.total)
        named = [f"{n} ({float(self.parts[n].mean()):+.3g})" for n in self.strongest(3)]
        return (
            f"Of {total:.3g} ({self.target}, {prompts} prompt{'s' * (prompts > 1)}, {self.model}) "
            f"the largest parts are {', '.join(named)}."
        )

    def report(self) -> Report:
        """Heads as a map, MLPs as bars, the strongest parts with their intervals."""
        blocks = [
            HeatMap(
                self.heads.mean(dim=0),
                x_title="head",
                y_title="layer",
                value_name=self.target,
                caption="What each head adds.",
            ),
            Bars(
                [str(i) for i in range(self.mlps.shape[1])],
                self.mlps.mean(dim=0),
                label_title="layer",
                value_title=self.target,
                caption="What each MLP adds.",
            ),
            _table(self.parts, self.strongest(len(self.parts)), "part", self.target),
        ]
        if self.neurons is not None:
            blocks.append(self._neuron_table(self.neurons))
        if self.features is not None:
            blocks.append(self._feature_table(self.features))
        frozen = "The final norm's scale is frozen at the run; later blocks are not counted."
        return Report("Direct logit attribution", blocks, summary=f"{self.sentence()} {frozen}")

    def _neuron_table(self, neurons: Tensor) -> Table:
        order = neurons.mean(dim=0).abs().flatten().argsort(descending=True)[:_LISTED]
        chosen = [divmod(int(i), neurons.shape[2]) for i in order]
        shown = {f"layers.{i}.mlp_post[unit={j}]": neurons[:, i, j] for i, j in chosen}
        return _table(shown, list(shown), "neuron", self.target)

    def _feature_table(self, features: FeatureShares) -> Table:
        order = features.codes.mean(dim=0).abs().argsort(descending=True)[:_LISTED]
        shown = {f"feature {int(i)}": features.codes[:, i] for i in order}
        shown |= {"bias": features.bias, "error": features.error}
        return _table(shown, list(shown), f"of {features.site}", self.target)


def _table(parts: dict[str, Tensor], names: list[str], title: str, target: str) -> Table:
    intervals = mean_intervals(torch.stack([parts[name] for name in names], dim=1)).tolist()
    rows = [
        [name, float(parts[name].mean()), *pair]
        for name, pair in zip(names, intervals, strict=True)
    ]
    columns = [title, target, "low (95 %)", "high (95 %)"]
    return Table(columns, rows, caption="Means over the prompts.", limit=_LISTED)


def _heads(model: "Model", rows: Rows, reader: FrozenReader) -> tuple[Tensor, Tensor]:
    """[row, layer, head], and the biases [row, layer]."""
    shares, biases = [], []
    for layer in range(model.n_layers):
        weight, bias = output_weight(model, layer)
        seen = torch.einsum("hed,rd->rhe", weight, reader.direction)
        shares.append((rows[f"layers.{layer}.z"] * seen).sum(-1))
        biases.append(reader.direction @ bias)
    return torch.stack(shares, dim=1), torch.stack(biases, dim=1)


def _along(rows: Rows, role: str, layers: int, reader: FrozenReader) -> Tensor:
    """[row, layer] what each layer's site adds."""
    shares = [(rows[f"layers.{i}.{role}"] * reader.direction).sum(-1) for i in range(layers)]
    return torch.stack(shares, dim=1)


def _neurons(model: "Model", rows: Rows, reader: FrozenReader) -> tuple[Tensor, Tensor]:
    """[row, layer, neuron], and the biases [row, layer]."""
    shares, biases = [], []
    for layer in range(model.n_layers):
        post = rows[f"layers.{layer}.mlp_post"]
        (module,) = linear_readers(model, f"layers.{layer}.mlp_post").values()
        weight, bias = (each.double().cpu() for each in affine(module, post.shape[1]))
        made, wanted = post @ weight + bias, rows[f"layers.{layer}.mlp_out"]
        if not (made - wanted).abs().max() <= tolerance(model) * wanted.abs().max():
            expected = "mlp_out to be the down projection of mlp_post"
            got = "something after it (a norm, experts)"
            raise ModelError(
                explain(where=f"{model.name}, layers.{layer}", expected=expected, got=got)
            )
        shares.append(post * (reader.direction @ weight.T))
        biases.append(reader.direction @ bias)
    return torch.stack(shares, dim=1), torch.stack(biases, dim=1)


def _refuse_other_sum(model: "Model", found: DirectAttribution) -> None:
    size = sum(value.abs().max() for value in found.parts.values())
    if not found.gap <= tolerance(model) * float(size):
        raise ModelError(
            explain(
                where=f"{model.name}, direct logit attribution",
                expected="a last stream that is the sum of embedding, heads and MLPs",
                got=f"a difference of {found.gap:.2e} in the {found.target}",
            )
        )
