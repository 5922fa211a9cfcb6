"""CrosscoderDictionary: one code for several sites, as a dictionary for each of them.

    z = rule(Σ_s (x_s − b_s) W_enc,sᵀ + b_enc),      x̂_s = z W_dec,s + b_s        for each site s

Every site has the same encoder and its own decoder rows, which together have length 1. How a
latent's decoder is spread over the sites (`shares`) says where it lives.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import SiteError, did_you_mean, explain
from jackfield.core.fitted import Fitted
from jackfield.dictionaries.dictionary import Mode
from jackfield.dictionaries.measures import Quality
from jackfield.dictionaries.sparse_dictionary import SparseDictionary
from jackfield.edits import Edit, Replace
from jackfield.reports import Lines, Report
from jackfield.streams import Stream

_OWN = ("decoder", "decoder_bias")  # tensors that differ from site to site
_SPREAD = "Latents by the share of their decoder at each site: 1 is all of it."
_BINS = 20


class CrosscoderDictionary(Fitted):
    """A fitted crosscoder.

    Args:
        parts: a dictionary for each site, with the encoder of all.
        scales: of each site, what its rows were multiplied by in training.
    """

    def __init__(self, parts: list[SparseDictionary], scales: tuple[float, ...]) -> None:
        self._parts = {part.site: part for part in parts}
        self._scales = scales

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites, in the order in which `encode` takes them side by side."""
        return tuple(self._parts)

    @property
    def shares(self) -> Float[Tensor, "latent site"]:
        """Of each latent's decoder lengths, in units of each site's rows, the share of each site.

        0.5 and 0.5 is a latent that both of two sites have; 1 and 0 one that only the first has.
        """
        lengths = [part.decoder.norm(dim=1) * s for part, s in zip(self, self._scales, strict=True)]
        return torch.nn.functional.normalize(torch.stack(lengths, dim=1), p=1, dim=1)

    def __getitem__(self, site: str) -> SparseDictionary:
        """The dictionary of one site: all sites are encoded, this one is rebuilt and edited.

        Its edits read the other sites, which must come earlier in the forward.

        Raises:
            SiteError: it is none of the crosscoder's.
        """
        if site not in self._parts:
            expected, hint = f"one of {', '.join(self.sites)}", did_you_mean(site, self.sites)
            raise SiteError(explain(where="crosscoder", expected=expected, got=site, hint=hint))
        return self._parts[site]

    def __iter__(self) -> Iterator[SparseDictionary]:
        """The dictionaries of the sites."""
        return iter(self._parts.values())

    def edits(self, mode: Mode = "splice", *, where: Any = "~sinks") -> list[Edit]:
        """The edit at the last site, the only one where the whole code is known in one forward.

        Args:
            mode: as in `Dictionary.edits`.
            where: which tokens.
        """
        return self[self.sites[-1]].edits(mode, where=where)

    def rebuilding(self, activations: Mapping[str, Tensor], *, where: Any = "~sinks") -> list[Edit]:
        """Edits that put the reconstruction at every site, of a forward that was run before.

        Args:
            activations: site -> [batch, position, d], such as a `Run` of the same tokens.
            where: which tokens.
        """
        x = torch.cat([activations[site].flatten(0, -2) for site in self.sites], dim=-1)
        codes, near = self[self.sites[0]].encode(x), self[self.sites[0]].inside(x)
        edits: list[Edit] = []
        for part in self:
            plain = activations[part.site]
            rows = part.reconstruct(x, codes).to(plain).reshape(plain.shape)
            value = torch.where(near.reshape(plain.shape[:-1])[..., None], rows, plain)
            edits.append(Replace(value, at=part.site, where=where))
        return edits

    def measure(self, stream: Stream, *, progress: bool = False) -> dict[str, Quality]:
        """The measures of each site's reconstruction, in one pass over a stream of all sites."""
        found = stream.into(*(Quality(part) for part in self), progress=progress)
        return dict(zip(self.sites, found, strict=True))

    def report(self) -> Report:
        """The training curves, how often latents fire, and how they are spread over the sites."""
        first = self[self.sites[0]].report()
        edges = torch.linspace(0, 1, _BINS + 1)
        counts = [torch.histc(column, _BINS, 0, 1) for column in self.shares.T]
        curves = dict(zip(self.sites, counts, strict=True))
        middles, x_title = (edges[1:] + edges[:-1]) / 2, "share of the decoder"
        spread = Lines(middles, curves, x_title=x_title, y_title="latents", caption=_SPREAD)
        title = f"Crosscoder of {', '.join(self.sites)}"
        return Report(title, [*first.blocks, spread], summary=first.summary)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        settings, tensors, extra = self[self.sites[0]].state()
        shared = {name: value for name, value in tensors.items() if name not in _OWN}
        own = {f"{name}.{i}": getattr(p, name) for i, p in enumerate(self) for name in _OWN}
        return settings, shared | own, extra | {"scales": list(self._scales)}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        parts = []
        for index, site in enumerate(extra["sources"]):
            own = {name: tensors[f"{name}.{index}"] for name in _OWN}
            parts.append(SparseDictionary.from_state(config, tensors | own, extra | {"site": site}))
        return cls(parts, tuple(extra["scales"]))

    def __repr__(self) -> str:
        return f"CrosscoderDictionary({self[self.sites[0]].latents:,} of {', '.join(self.sites)})"
