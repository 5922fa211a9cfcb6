"""Features of attention: a dictionary of the heads' outputs, and which head and token each is from.

A dictionary at layers.ℓ.z reads all heads of a layer side by side (before the output projection):

    sae = TopK(latents=2048, k=32).fit(side_by_side(store.stream("layers.8.z")))

Its latents belong to heads by the length of their decoder's blocks, and what a latent is on a token
falls apart exactly, since z is a weighted sum of values of earlier tokens:

    share[i, h]      = |W_dec[i, h]| / Σ_h' |W_dec[i, h']|
    p_i(t)           = Σ_h Σ_s  A_h(t, s) · v_h(s) · W_enc[i, h]  −  centre · W_enc[i] + b_enc[i]
    source[t, h, s]  =          A_h(t, s) · v_h(s) · W_enc[i, h]

p is the pre-activation, before the rule (TopK, threshold); heads that share keys and values each
have their own A and the common v. Source: Kissane, Krzyzanowski et al. 2024, "Interpreting
attention layer outputs with sparse autoencoders", arXiv 2406.17759. No departure; the part of the
attention pattern in a latent (through q and k) is not attributed, there as here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, SiteError, explain
from jackfield.dictionaries.dictionary import Dictionary
from jackfield.dictionaries.sparse_dictionary import SparseDictionary
from jackfield.reports import Report, Tokens
from jackfield.streams import Batch, Stream
from jackfield.streams.views import Derived

if TYPE_CHECKING:
    from jackfield.model.model import Model


def side_by_side(stream: Stream) -> Stream:
    """A stream with the heads of each row side by side: [row, head, d_head] as [row, d].

    >>> stream = side_by_side(Stream.from_tensor(torch.zeros(5, 3, 4), site="layers.0.z"))
    >>> stream.collect()["layers.0.z"].shape
    torch.Size([5, 12])
    """

    def through(source: Stream, start: int) -> Iterator[Batch]:
        for batch in source.batches(start):
            rows = {site: batch[site].flatten(1) for site in batch.sites}
            yield replace(batch, activations=rows)

    return Derived(stream, through, note={"side_by_side": True})


def head_shares(dictionary: Dictionary, heads: int) -> Float[Tensor, "latent head"]:
    """How much of each latent's decoder lies in each head; rows add up to 1.

    Args:
        dictionary: of all heads of a layer, at layers.ℓ.z.
        heads: how many there are.

    Raises:
        InputError: the dictionary's rows are not so many heads.
    """
    lengths = _by_head(dictionary.directions, heads, dictionary.site).norm(dim=2)
    return lengths / lengths.sum(dim=1, keepdim=True).clamp_min(torch.finfo(lengths.dtype).tiny)


@dataclass(frozen=True, eq=False)
class SourceAttribution:
    """Where a latent's pre-activation on a text comes from.

    Attributes:
        latent: which.
        contributions: [target, head, source], in units of the code; 0 where source > target.
        rest: what no token brought: the biases.
        tokens: what each token says.
    """

    latent: int
    contributions: Float[Tensor, "target head source"]
    rest: float
    tokens: tuple[str, ...]

    @property
    def preactivations(self) -> Float[Tensor, " target"]:
        """[target], the pre-activation on each token: all contributions and the rest."""
        return self.contributions.sum(dim=(1, 2)) + self.rest

    @property
    def heads(self) -> Float[Tensor, "target head"]:
        """What each head brings."""
        return self.contributions.sum(dim=2)

    @property
    def sources(self) -> Float[Tensor, "target source"]:
        """What each token brings."""
        return self.contributions.sum(dim=1)

    def report(self, target: int = -1) -> Report:
        """The text with what each token brings to the latent on one of them.

        Args:
            target: which token, by default the last.
        """
        texts = Tokens(
            self.tokens,
            self.sources[target],
            scale="diverging",
            value_name="contribution",
            caption="What the attention to each token brings.",
        )
        head = int(self.heads[target].abs().argmax())
        value = float(self.preactivations[target])
        summary = (
            f"{value:.3g} before the rule, {self.rest:.3g} of it from biases; most by head {head}."
        )
        return Report(f"Sources of feature {self.latent}", [texts], summary=summary)


@torch.no_grad()
def attribution_by_source(
    dictionary: SparseDictionary, latent: int, model: "Model", text: Any
) -> SourceAttribution:
    """Takes a latent's pre-activation apart by head and source token.

    Args:
        dictionary: at layers.ℓ.z, fitted on heads side by side.
        latent: which.
        model: the one that it was fitted on.
        text: one text, or token ids [1, position].

    Raises:
        SiteError: the dictionary is not at a layer's z, or the layer shows no pattern or v.
        InputError: no such latent, other heads than the dictionary's, or several texts.
    """
    layer = _layer(dictionary)
    if not 0 <= latent < dictionary.latents:
        expected = f"a latent from 0 to {dictionary.latents - 1}"
        raise InputError(explain(where=dictionary.site, expected=expected, got=str(latent)))
    sites = [f"layers.{layer}.pattern", f"layers.{layer}.v"]
    run = model.run(text, sites=sites, logits=False)
    pattern, v = (run[site] for site in sites)
    if len(pattern) != 1:
        expected, got = "one text", str(len(pattern))
        raise InputError(explain(where="attribution_by_source", expected=expected, got=got))
    encoder = dictionary.encoder[latent].to(v)
    own = _by_head(encoder[None], pattern.shape[1], dictionary.site)[0]
    values = v[0].repeat_interleave(pattern.shape[1] // v.shape[2], dim=1)
    brought = torch.einsum("shd,hd->hs", values, own)
    contributions = (pattern[0] * brought[:, None]).transpose(0, 1)
    rest = dictionary.encoder_bias[latent] - dictionary.centre @ dictionary.encoder[latent]
    assert run.tokens is not None
    strings = tuple(model.token_strings(run.tokens[0].tolist()))
    return SourceAttribution(latent, contributions.cpu(), float(rest), strings)


def _layer(dictionary: Dictionary) -> str:
    parts = dictionary.site.split(".")
    if len(parts) != 3 or parts[0] != "layers" or parts[2] != "z":
        expected = "a dictionary at layers.ℓ.z, all heads side by side"
        raise SiteError(
            explain(where="attribution_by_source", expected=expected, got=dictionary.site)
        )
    return parts[1]


def _by_head(rows: Tensor, heads: int, site: str) -> Tensor:
    if heads < 1 or rows.shape[1] % heads:
        expected = f"rows of {rows.shape[1]} numbers in equal heads"
        raise InputError(explain(where=site, expected=expected, got=f"{heads} heads"))
    return rows.unflatten(1, (heads, -1))
