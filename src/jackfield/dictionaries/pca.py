"""PCA: the orthogonal directions along which activations vary most.

    C = E[(x − x̄)(x − x̄)ᵀ] = Σ_i λ_i v_i v_iᵀ,    λ_1 >= λ_2 >= …      rows x [row, d], C [d, d]
    z_i = (x − x̄) · v_i,    x̂ = x̄ + Σ_{i <= latents} z_i v_i

Of all linear dictionaries of so many latents it has the least FVU, Σ_{i > latents} λ_i / Σ_i λ_i:
what a sparse dictionary must be compared with. All its latents fire on every row, with either sign.

Pearson 1901; Hotelling 1933. Exact: the covariance is streamed in float64 (`Moments`). A direction
is turned so that its largest entry is positive, which is chance otherwise.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config
from jackfield.dictionaries.factor_method import FactorMethod, Found, check_latents
from jackfield.streams import Moments, Stream


@config
class PCA(FactorMethod):
    """Config of principal component analysis; `FactorMethod` has the settings. No seed matters.

    >>> x = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    >>> pca = PCA(latents=1).fit(Stream.from_tensor(x))
    >>> pca.directions.abs().tolist(), pca.encode(x).flatten().tolist()
    ([[1.0, 0.0]], [2.0, -2.0, 0.0, 0.0])
    """

    def factorise(self, stream: Stream, first: Float[Tensor, "row d"], progress: bool) -> Found:
        check_latents(self.latents, first.shape[1], "the width", where="PCA.fit")
        moments = stream.into(Moments(stream.sites[0]), progress=progress)
        values, vectors = torch.linalg.eigh(moments.covariance)
        directions = vectors.flip(1).T[: self.latents]
        directions = directions * signs_of(directions)
        values = values.flip(0).clamp_min(0)
        share = float(values[: self.latents].sum() / values.sum())
        return Found("linear", directions, directions, moments.mean, {"variance explained": share})


def signs_of(directions: Float[Tensor, "latent d"]) -> Float[Tensor, "latent 1"]:
    """1 or −1, which makes each direction's largest entry positive."""
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return torch.where(largest < 0, -1.0, 1.0).to(directions)
