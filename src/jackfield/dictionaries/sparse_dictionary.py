"""SparseDictionary: what every method of the sparse-autoencoder family learned.

    z = rule((r − centre) W_encᵀ + b_enc),      x̂ = z W_dec + b_dec (+ r W_skip)

The rule is data (`code.py`): the k largest, or a threshold for each latent, which is what ReLU
(θ = 0), JumpReLU, BatchTopK and Gated come to once they are trained. r is the activation that is
read, x the one that is rebuilt: the same for an autoencoder, two sites for a transcoder, several
sites side by side and one of them for a crosscoder. All scales of the training are folded in, so
codes are in units of x.
"""

from typing import Any, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.code import Code, Whole, encode
from jackfield.dictionaries.dictionary import Dictionary
from jackfield.dictionaries.splice import Splice, inside
from jackfield.edits import Edit
from jackfield.reports import Block, Histogram, Lines, Report

_CURVE = "FVU: the fraction of variance unexplained. Dead: latents that have not fired for long."
_SPARSITY = "Latents that fire on a token, on average."
_DENSITY = "On what share of tokens a latent fires (−2: one in a hundred); dead ones not counted."
_WEIGHTS = ("encoder", "encoder_bias", "centre", "decoder", "decoder_bias", "threshold", "skip")


class SparseDictionary(Dictionary):
    """A fitted sparse autoencoder, transcoder, or one site of a crosscoder.

    Attributes:
        name: the method that fitted it, such as "TopK".
        settings: those of the method.
        widths: of the sources.
        k: how many latents are kept on a row; None where `threshold` decides.
        encoder: [latent, d_in], encoder_bias: [latent], centre: [d_in].
        decoder: [latent, d], decoder_bias: [d].
        threshold: [latent] or None.
        skip: [d_in, d] or None.
        radius: for each source, rows farther than this from its centre were not learned from;
            empty for no bound.
        density: [latent], the share of rows each latent fired on near the end of the training.
        history: figures during the training: rows seen, and since the figure before FVU and L0;
            dead is how many latents were dead then.
    """

    def __init__(
        self,
        name: str,
        settings: dict[str, Any],
        weights: dict[str, Tensor],
        *,
        site: str,
        sources: tuple[str, ...] = (),
        widths: tuple[int, ...] = (),
        k: int | None = None,
        radius: tuple[float, ...] = (),
        history: list[dict[str, float]],
    ) -> None:
        self.name, self.settings, self.k = name, settings, k
        self.encoder, self.encoder_bias = weights["encoder"], weights["encoder_bias"]
        self.centre, self.density = weights["centre"], weights["density"]
        self.decoder, self.decoder_bias = weights["decoder"], weights["decoder_bias"]
        self.threshold, self.skip = weights.get("threshold"), weights.get("skip")
        self.radius, self.history = radius, history
        self.widths = widths or (len(self.centre),)
        self._site, self._sources = site, sources or (site,)

    @property
    def site(self) -> str:
        return self._site

    @property
    def sources(self) -> tuple[str, ...]:
        return self._sources

    @property
    def signed(self) -> bool:
        return False

    @property
    def directions(self) -> Float[Tensor, "latent d"]:
        return self.decoder

    def encode(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row latent"]:
        return self._code(x).dense()

    def decode(self, codes: Float[Tensor, "row latent"]) -> Float[Tensor, "row d"]:
        self._check(codes, len(self.decoder), "codes [row, latent]")
        return codes.to(self.decoder) @ self.decoder + self.decoder_bias

    def reconstruct(
        self, x: Float[Tensor, "row d_in"], codes: Float[Tensor, "row latent"] | None = None
    ) -> Float[Tensor, "row d"]:
        code = self._code(x) if codes is None else Whole(codes.to(self.decoder))
        rebuilt = code.combine(self.decoder) + self.decoder_bias
        return rebuilt if self.skip is None else rebuilt + x.to(self.skip) @ self.skip

    def inside(self, x: Float[Tensor, "row d"]) -> Bool[Tensor, " row"]:
        self._check(x, len(self.centre), "rows [row, d]")
        if not self.radius:
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        parts = list(x.to(self.centre).split(self.widths, dim=1))
        return inside(parts, self.centre, self.radius).to(x.device)

    def splice(self, *, where: Any, error: bool, latents: Any = (), values: Any = ()) -> Edit:
        alone = self._sources == (self._site,)
        return Splice(
            **{name: getattr(self, name) for name in _WEIGHTS},
            k=self.k,
            error=error,
            latents=tuple(latents),
            values=tuple(values),
            sources=() if alone else self._sources,
            radius=self.radius,
            at=self.site,
            where=where,
            reads=tuple(each for each in self._sources if each != self._site),
        )

    def report(self) -> Report:
        """The training curves and how often the latents fire, as far as they are known."""
        shown: list[Block] = self._curves() if self.history else []
        alive = self.density[self.density > 0].log10()
        if len(alive):
            told = Histogram.of(alive, x_title="log10 density", y_title="latents", caption=_DENSITY)
            shown.append(told)
        title = f"{self.name} dictionary at {self.site}"
        return Report(title, shown, summary=self._summary())

    def _curves(self) -> list[Block]:
        rows, error, dead, active = (
            [point[name] for point in self.history] for name in ("rows", "FVU", "dead", "L0")
        )
        curve = {"FVU": error, "dead": [count / self.latents for count in dead]}
        errors = Lines(rows, curve, x_title="rows seen", y_title="share", caption=_CURVE)
        if self.k:  # then L0 is k
            return [errors]
        sparsity = Lines(rows, {"L0": active}, x_title="rows seen", y_title="L0", caption=_SPARSITY)
        return [errors, sparsity]

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        named = {name: getattr(self, name) for name in (*_WEIGHTS, "density")}
        tensors = {name: value for name, value in named.items() if value is not None}
        plain = {key: getattr(self, key) for key in ("name", "site", "k", "history")}
        listed = {key: list(getattr(self, key)) for key in ("sources", "widths", "radius")}
        return self.settings, tensors, plain | listed

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        listed = {key: tuple(extra[key]) for key in ("sources", "widths", "radius")}
        kept: dict[str, Any] = listed | {key: extra[key] for key in ("site", "k", "history")}
        return cls(extra["name"], config, tensors, **kept)

    def _code(self, x: Tensor) -> Code:
        self._check(x, len(self.centre), "rows [row, d]")
        centred = x.to(self.centre) - self.centre
        return encode(centred, self.encoder, self.encoder_bias, self.k, self.threshold)

    def _check(self, x: Tensor, width: int, what: str) -> None:
        if x.dim() != 2 or x.shape[1] != width:
            where, got = f"{self.name} dictionary at {self.site}", str(list(x.shape))
            raise InputError(explain(where=where, expected=f"{what} with {width} columns", got=got))

    def _summary(self) -> str:
        if not self.history:
            rule = f"{self.k} on each token" if self.k else "those above their threshold"
            return f"{self.latents:,} latents, {rule}; how it was trained is not known."
        last = self.history[-1]
        kept = f"{self.k}" if self.k else f"{last['L0']:.1f}"
        return (
            f"{self.latents:,} latents, {kept} on each token{'' if self.k else ' on average'}, "
            f"leave {last['FVU']:.1%} of the variance unexplained after {last['rows']:,.0f} rows; "
            f"{last['dead']:,} of the latents are dead."
        )

    def __repr__(self) -> str:
        latents, d = self.decoder.shape
        rule = f"k={self.k}" if self.k else "threshold"
        return f"SparseDictionary({self.name} at {self.site}: {latents:,} latents of {d}, {rule})"
