"""Logit lens: what would the model say if it stopped after this layer?

The residual stream after each block goes through the model's own final norm and head:

    logits_ℓ = unembed(x_ℓ),      x_ℓ [batch, position, d_model]  →  [batch, position, vocab]

Read off for each layer and position: the likeliest tokens, the probability and rank of the token
that the model ends up with, and KL(final ‖ lens) in nats. The last layer is the model itself.

nostalgebraist 2020, "interpreting GPT: the logit lens"; in the notation of the tuned lens
(Belrose et al. 2023, arXiv 2303.08112) it is the one with A = b = 0, and so is their KL. It is a
view: later layers read other directions too, so what it does not show may still be there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, SiteError, explain
from jackfield.core.progress import Progress
from jackfield.core.sites import layer_of
from jackfield.core.study import Result, Study
from jackfield.reports import Columns, HeatMap, Lines, Report, Tokens

if TYPE_CHECKING:
    from jackfield.model.model import Model

_ROWS = 256  # tokens unembedded at once: their logits fill about 100 MB
_SETTLED = 1.0  # nats from the final distribution below which a layer has settled


@config
class LogitLens(Study):
    """The logit lens on every layer and position.

    Attributes:
        sites: a pattern of sites of width d_model; each is a layer of the result.
        k: how many of the likeliest tokens are kept.

    >>> from jackfield.testing import tiny_llama
    >>> grid = LogitLens(k=2).run(tiny_llama(), torch.tensor([[5, 6, 7]]))
    >>> grid.top_ids.shape, grid.rank[-1].tolist()
    (torch.Size([3, 1, 3, 2]), [[1, 1, 1]])
    """

    sites: str = "layers.*.resid_post"
    k: int = setting(default=5, ge=1)

    def run(self, model: "Model", prompts: Any, *, progress: bool = False) -> "LensGrid":
        """Looks at prompts through the lens.

        Args:
            model: a language model with a head and known blocks.
            prompts: whatever `model.run` takes that has tokens.
            progress: show a live line.

        Raises:
            InputError: the input has no tokens, or the model's logits are not finite.
            SiteError: a site has another width than the residual stream, or there is no head.
        """
        names = _sites(model, self.sites)
        run = model.run(prompts, sites=names)
        if run.tokens is None or run.mask is None:
            got = type(prompts).__name__
            raise InputError(
                explain(where=f"{model.name}, lens", expected="tokens to read", got=got)
            )
        final = run.logits[run.mask]
        if not bool(torch.isfinite(final).all()):
            where = f"{model.name}, lens"
            raise InputError(explain(where=where, expected="finite logits", got="NaN or Inf"))
        with Progress("lens", total=len(names), unit="layers", enabled=progress) as shown:
            found = []
            for name in names:
                found.append(_look(model, run[name][run.mask], final, self.k))
                shown.update(1)
        top_ids, top, answer, rank, kl = (
            torch.stack([_placed(each, run.mask) for each in column])
            for column in zip(*found, strict=True)
        )
        return LensGrid(
            top_ids=top_ids,
            top_probabilities=top,
            probability=answer,
            rank=rank,
            kl=kl,
            sites=tuple(names),
            tokens=_strings(model, run.tokens, run.mask),
            answers=_strings(model, run.logits.argmax(dim=-1), run.mask),
            top_tokens=tuple(_strings(model, each[..., 0], run.mask) for each in top_ids),
            mask=run.mask.cpu(),
            model=model.name,
        )


@dataclass(frozen=True)
class LensGrid(Result):
    """What the lens shows; NaN, or −1 in the integers, on padding.

    Attributes:
        top_ids: [layer, batch, position, k] the likeliest tokens, best first.
        top_probabilities: theirs.
        probability: [layer, batch, position] of the token that the model ends up with there.
        rank: its place among all tokens, 1 for the likeliest.
        kl: [layer, batch, position] KL(final ‖ lens) in nats.
        sites: [layer] names.
        tokens, answers: [batch] of [position] strings: the input, and the final likeliest token.
        top_tokens: [layer] of [batch] of [position] strings: the lens's likeliest token.
        mask: [batch, position] True on real tokens.
        model: its name.
    """

    top_ids: Int[Tensor, "layer batch position k"]
    top_probabilities: Float[Tensor, "layer batch position k"]
    probability: Float[Tensor, "layer batch position"]
    rank: Int[Tensor, "layer batch position"]
    kl: Float[Tensor, "layer batch position"]
    sites: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    answers: tuple[tuple[str, ...], ...]
    top_tokens: tuple[tuple[tuple[str, ...], ...], ...]
    mask: Bool[Tensor, "batch position"]
    model: str

    @property
    def layers(self) -> list[int]:
        """The block of each site."""
        return [layer_of(site) or 0 for site in self.sites]

    def sentence(self, row: int = 0) -> str:
        """From which layer on the lens shows the final token after the last one of a prompt."""
        ranks, kl = self._at_end(self.rank, row), self._at_end(self.kl, row)
        answer = self.answers[row][-1]
        final = float(self._at_end(self.probability, row)[-1])
        first = _from_where(ranks == 1, self.layers)
        settled = _from_where(kl < _SETTLED, self.layers)
        return (
            f"After {self.tokens[row][-1]!r} {self.model} says {answer!r} (probability "
            f"{final:.2f}). Through the lens it is the likeliest token {first}; "
            f"the whole distribution is within {_SETTLED:g} nat of the final one {settled}."
        )

    def report(self, row: int = 0) -> Report:
        """The likeliest token of each layer and position of one prompt, and the curves at its end.

        Raises:
            InputError: there is no such row.
        """
        if not -len(self.tokens) <= row < len(self.tokens):
            expected = f"a row of {len(self.tokens)}"
            raise InputError(explain(where="LensGrid.report", expected=expected, got=str(row)))
        real = self.mask[row]
        answer = self.answers[row][-1]
        curves = (
            (f"probability of {answer!r}", self.probability, "probability"),
            (f"rank of {answer!r}", self.rank, "rank"),
            ("KL(final ‖ lens)", self.kl, "nats"),
        )
        shown = [
            Tokens(
                [layer[row] for layer in self.top_tokens],
                self.top_probabilities[:, row, real, 0],
                [str(layer) for layer in self.layers],
                value_name="probability",
                caption="The likeliest next token after each token, layer by layer.",
            ),
            Columns([self._curve(*curve, row) for curve in curves]),
            HeatMap(
                self.kl[:, row, real],
                self.tokens[row],
                self.layers,
                x_title="token",
                y_title="layer",
                scale="sequential",
                value_name="KL(final ‖ lens), nats",
            ),
        ]
        return Report("Logit lens", shown, summary=self.sentence(row))

    def _curve(self, name: str, values: Tensor, unit: str, row: int) -> Lines:
        """One quantity after the last token, over the layers."""
        return Lines(
            self.layers,
            {name: self._at_end(values, row)},
            x_title="layer",
            y_title=unit,
            log_y=unit == "rank",
            caption=f"After {self.tokens[row][-1]!r}: {name}.",
        )

    def _at_end(self, values: Tensor, row: int) -> Tensor:
        """[layer] the values at the last real token of a row."""
        return values[:, row, self.mask[row]][:, -1]


def _look(
    model: "Model", x: Float[Tensor, "row d_model"], final: Float[Tensor, "row vocab"], k: int
) -> tuple[Tensor, ...]:
    """For each row: top ids, their probabilities; probability, rank and KL of the final token."""
    chunks = []
    for part, end in zip(x.split(_ROWS), final.split(_ROWS), strict=True):
        lens = model.unembed(part).float().log_softmax(dim=-1)
        wanted = end.to(lens).log_softmax(dim=-1)
        top = lens.topk(min(k, lens.shape[-1]), dim=-1)
        said = lens.gather(-1, wanted.argmax(dim=-1, keepdim=True))
        kl = (wanted.exp() * (wanted - lens)).sum(dim=-1)
        found = top.indices, top.values.exp(), said[:, 0].exp(), (lens > said).sum(-1) + 1, kl
        chunks.append([each.cpu() for each in found])
    return tuple(torch.cat(column) for column in zip(*chunks, strict=True))


def _placed(values: Tensor, mask: Tensor) -> Tensor:
    """[row, ...] of the real tokens as [batch, position, ...]."""
    empty = torch.nan if values.is_floating_point() else -1
    out = torch.full((*mask.shape, *values.shape[1:]), empty, dtype=values.dtype)
    out[mask.cpu()] = values
    return out


def _strings(model: "Model", ids: Tensor, mask: Tensor) -> tuple[tuple[str, ...], ...]:
    """[batch] of [position] the tokens' texts, padding left out."""
    rows = zip(ids.cpu(), mask.cpu(), strict=True)
    return tuple(tuple(model.token_strings(row[real])) for row, real in rows)


def _sites(model: "Model", pattern: str) -> list[str]:
    names = model.sites.select(pattern)
    for name in names:
        if model.sites[name].axes[-1:] != ("d_model",):
            raise SiteError(
                explain(
                    where=f"{model.name}, lens",
                    expected="sites of the residual stream, such as layers.*.resid_post",
                    got=f"{name} [{' '.join(model.sites[name].axes)}]",
                )
            )
    return names


def _from_where(holds: Tensor, layers: Sequence[int]) -> str:
    """In words: from which layer on it holds to the end."""
    kept = int(holds.flip(0).long().cumprod(0).sum())
    if kept < 2:
        return f"only in layer {layers[-1]}, the last" if kept else "in no layer to the end"
    return f"from layer {layers[-kept]} on"
