"""TopKDictionary: what `TopK` learned. See `topk.py` for how.

    z = the k largest of relu((x − b_dec) W_encᵀ + b_enc), all others 0,      x̂ = z W_dec + b_dec

The rows of W_dec have length 1 and are the directions, so a code is a length in the activation.
"""

import math
from typing import Any, Self

from jaxtyping import Bool, Float, Int
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.dictionary import Dictionary
from jackfield.dictionaries.sparse import dense, top_k
from jackfield.dictionaries.splice import Splice, inside
from jackfield.edits import Edit
from jackfield.reports import Histogram, Lines, Report

_CURVE = "FVU: the fraction of variance unexplained. Dead: latents that have not fired for long."
_DENSITY = "On what share of tokens a latent fires (−2: one in a hundred); dead ones not counted."


class TopKDictionary(Dictionary):
    """A fitted TopK sparse autoencoder.

    Attributes:
        settings: those of the `TopK` that fitted it.
        k: how many latents are kept on a row.
        encoder: [latent, d], encoder_bias: [latent].
        decoder: [latent, d] with rows of length 1, decoder_bias: [d].
        radius: rows farther than this from decoder_bias were not learned from; None for no bound.
        density: [latent], the share of rows each latent fired on near the end of the training.
        history: figures during the training: rows seen, and since the figure before FVU and L0;
            dead is how many latents were dead then.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        site: str,
        weights: dict[str, Tensor],
        *,
        radius: float | None,
        history: list[dict[str, float]],
    ) -> None:
        self.settings, self.k = settings, settings["k"]
        self.radius, self.history = radius, history
        self.encoder, self.encoder_bias = weights["encoder"], weights["encoder_bias"]
        self.decoder, self.decoder_bias = weights["decoder"], weights["decoder_bias"]
        self.density = weights["density"]
        self._site = site

    @property
    def site(self) -> str:
        return self._site

    @property
    def directions(self) -> Float[Tensor, "latent d"]:
        return self.decoder

    def encode(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row latent"]:
        return dense(*self.chosen(x), len(self.encoder))

    def chosen(
        self, x: Float[Tensor, "row d"]
    ) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
        """The code as values and latents, k a row, in no order; a value may be 0.

        Raises:
            InputError: rows of another width.
        """
        self._check(x, self.decoder.shape[1], "rows [row, d]")
        centred = x.to(self.decoder) - self.decoder_bias
        return top_k(centred, self.encoder, self.encoder_bias, self.k)

    def decode(self, codes: Float[Tensor, "row latent"]) -> Float[Tensor, "row d"]:
        self._check(codes, len(self.decoder), "codes [row, latent]")
        return codes.to(self.decoder) @ self.decoder + self.decoder_bias

    def inside(self, x: Float[Tensor, "row d"]) -> Bool[Tensor, " row"]:
        self._check(x, self.decoder.shape[1], "rows [row, d]")
        radius = math.inf if self.radius is None else self.radius
        return inside(x.to(self.decoder), self.decoder_bias, radius).to(x.device)

    def splice(self, *, where: Any, error: bool, latents: Any = (), values: Any = ()) -> Edit:
        return Splice(
            self.encoder,
            self.encoder_bias,
            self.decoder,
            self.decoder_bias,
            self.k,
            error=error,
            latents=tuple(latents),
            values=tuple(values),
            radius=self.radius,
            at=self.site,
            where=where,
        )

    def report(self) -> Report:
        """The training curve and how often the latents fire."""
        rows, error, dead = (
            [point[name] for point in self.history] for name in ("rows", "FVU", "dead")
        )
        curve = {"FVU": error, "dead": [count / self.latents for count in dead]}
        alive = self.density[self.density > 0].log10()
        return Report(
            f"TopK dictionary at {self.site}",
            [
                Lines(rows, curve, x_title="rows seen", y_title="share", caption=_CURVE),
                Histogram.of(alive, x_title="log10 density", y_title="latents", caption=_DENSITY),
            ],
            summary=self._summary(),
        )

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        names = ("encoder", "encoder_bias", "decoder", "decoder_bias", "density")
        extra = {"site": self.site, "radius": self.radius, "history": self.history}
        return self.settings, {name: getattr(self, name) for name in names}, extra

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        return cls(config, extra["site"], tensors, radius=extra["radius"], history=extra["history"])

    def _check(self, x: Tensor, width: int, what: str) -> None:
        if x.dim() != 2 or x.shape[1] != width:
            where, got = f"TopK dictionary at {self.site}", str(list(x.shape))
            raise InputError(explain(where=where, expected=f"{what} with {width} columns", got=got))

    def _summary(self) -> str:
        last = self.history[-1]
        return (
            f"{self.latents:,} latents, {self.k} on each token, leave "
            f"{last['FVU']:.1%} of the variance unexplained after {last['rows']:,.0f} rows; "
            f"{last['dead']:,} of the latents are dead."
        )

    def __repr__(self) -> str:
        latents, d = self.decoder.shape
        return f"TopKDictionary({self.site}: {latents:,} latents of {d}, k={self.k})"
