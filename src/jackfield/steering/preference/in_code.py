"""InCode: a vector added in the code of a sparse autoencoder.

z = rule((x − centre) W_encᵀ + b_enc)          the k largest of relu, or those above a threshold
z' = relu(z + m v)
x ← x + (z' − z) W_dec                         = dec(z') + (x − dec(z)): the error is kept
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.edits.base import Context, Edit, fit_last


@dataclass(frozen=True, eq=False, repr=False)
class InCode(Edit):
    """Adds `strength · vector` to the code, and cuts it at 0.

    Attributes:
        encoder: [latent, d], encoder_bias: [latent], centre: [d].
        decoder: [latent, d].
        vector: [latent], in units of the code.
        threshold: [latent]: a latent is on where it is above; for dictionaries without k.
        k: how many latents are kept on a token.
        strength: m; 0 changes nothing.

    >>> eye, zero = torch.eye(2), torch.zeros(2)
    >>> edit = InCode(eye, zero, zero, eye, torch.tensor([1.0, -5.0]), threshold=zero, at="x")
    >>> edit.apply(torch.tensor([[3.0, 2.0], [-1.0, -1.0]]), Context("x"))
    tensor([[ 4.,  0.],
            [ 0., -1.]])
    """

    encoder: Tensor
    encoder_bias: Tensor
    centre: Tensor
    decoder: Tensor
    vector: Tensor
    threshold: Tensor | None = None
    k: int | None = None
    strength: float = 1.0

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        fit_last(self.centre, x, self, context)
        decoder = self.decoder.to(x.device)
        rows = x.reshape(-1, x.shape[-1]).to(decoder.dtype)
        z = self._code(rows)
        moved = torch.relu(z + self.strength * self.vector.to(z)) - z
        return x + (moved @ decoder).to(x.dtype).reshape(x.shape)

    def _code(self, rows: Float[Tensor, "row d"]) -> Float[Tensor, "row latent"]:
        encoder, bias, centre = (
            each.to(rows) for each in (self.encoder, self.encoder_bias, self.centre)
        )
        p = torch.relu((rows - centre) @ encoder.T + bias)
        if self.k is None:
            return p if self.threshold is None else torch.where(p > self.threshold.to(p), p, 0.0)
        values, latents = p.topk(self.k, dim=-1)
        return torch.zeros_like(p).scatter(-1, latents, values)
