"""Splice: a sparse autoencoder's reconstruction in the place of an activation, or its latents set.

    z = top_k(relu((x − b_dec) W_encᵀ + b_enc)),    x̂ = z W_dec + b_dec
    z' = z with some latents set to given values
    x ← x̂ + (z' − z) W_dec            what the dictionary says of x
    x ← x + (z' − z) W_dec            with `error`: what it misses is kept

The second is the first with the error x − x̂ added back, written so that nothing changes, not even
the last bit, where no latent is set. Computed in the weights' dtype; the graph is kept.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.dictionaries.sparse import combine, top_k
from jackfield.edits.base import Context, Edit, fit_last


@dataclass(frozen=True, eq=False, repr=False)
class Splice(Edit):
    """Takes the activation apart, sets latents, and puts it together again.

    Attributes:
        encoder: [latent, d], encoder_bias: [latent].
        decoder: [latent, d], decoder_bias: [d].
        k: how many latents are kept on a token.
        error: keep what the reconstruction misses.
        latents: which latents to set, and to which `values`, on every token.
        radius: tokens farther than this from decoder_bias pass unchanged (attention sinks, which
            no dictionary was fitted on); None for no bound.

    >>> eye, zero = torch.eye(2), torch.zeros(2)
    >>> edit = Splice(eye, zero, eye, zero, k=1, at="x")
    >>> edit.apply(torch.tensor([[3.0, 1.0]]), Context("x"))
    tensor([[3., 0.]])
    """

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    k: int
    error: bool = False
    latents: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    radius: float | None = None

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        if self.error and not self.latents:
            return x
        fit_last(self.decoder_bias, x, self, context)
        held = self.encoder.to(x.device), self.encoder_bias.to(x.device)
        decoder, bias = self.decoder.to(x.device), self.decoder_bias.to(x.device)
        rows = x.reshape(-1, x.shape[-1]).to(decoder.dtype)
        values, latents = top_k(rows - bias, *held, self.k)
        base = rows if self.error else combine(values, latents, decoder) + bias
        new = base + self._change(values, latents, decoder)
        if self.radius is not None:
            new = torch.where(inside(rows, bias, self.radius)[:, None], new, rows)
        return new.to(x.dtype).reshape(x.shape)

    def _change(self, values: Tensor, latents: Tensor, decoder: Tensor) -> Tensor:
        """(z' − z) W_dec: [row, d]."""
        chosen = torch.tensor(self.latents, device=values.device, dtype=torch.int64)
        now = (values[:, :, None] * (latents[:, :, None] == chosen)).sum(dim=1)
        wanted = torch.tensor(self.values, device=values.device, dtype=values.dtype)
        return (wanted - now) @ decoder[chosen]


def inside(rows: Float[Tensor, "row d"], centre: Float[Tensor, " d"], radius: float) -> Tensor:
    """[row] bool: which rows are at most `radius` from `centre`."""
    return (rows - centre).norm(dim=-1) <= radius
