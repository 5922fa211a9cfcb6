"""ICA: directions whose codes are independent, or as far from Gaussian as can be.

    x = x̄ + Σ_i s_i a_i,      s [row, latent] with mean 0, variance 1, independent of each other

Where sparse coding wants few of many latents, ICA wants at most d of them, whose values tell
nothing of each other. On Gaussian rows every rotation is as good and the answer means nothing.

FastICA (Hyvärinen 1999; Hyvärinen and Oja 2000, "Independent component analysis: algorithms and
applications"), symmetric, with g = tanh. Rows are whitened by the `latents` largest principal
components, x̃ = K (x − x̄); then, with rows of W orthonormal and y = W x̃,

    W ← E[g(y) x̃ᵀ] − diag(E[g'(y)]) W,      W ← (W Wᵀ)^(−1/2) W

Departure: each expectation is a pass over the stream, so no row need stay in memory; the numbers
are those of the whole-array algorithm. Signs are set as in `PCA`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.dictionaries.factor_method import FactorMethod, Found, check_latents, doubles
from jackfield.dictionaries.pca import signs_of
from jackfield.streams import Batch, Moments, Sink, Stream

_RANK = 1e-10  # of the largest eigenvalue: below it is nothing but rounding in float32


@config
class ICA(FactorMethod):
    """Config of independent component analysis; see `FactorMethod` for the other settings.

    Attributes:
        passes: at most so many steps, each a pass over the stream.
        tolerance: stop when no direction turns by more (1 − |cosine|, in whitened space).

    >>> from jackfield.testing import planted_dictionary
    >>> truth = planted_dictionary(rows=500, d=3, latents=3, active=1)
    >>> ica = ICA(latents=3).fit(Stream.from_tensor(truth.x))
    >>> ica.directions.shape, ica.signed
    (torch.Size([3, 3]), True)
    """

    passes: int = setting(default=200, ge=1)
    tolerance: float = setting(default=1e-5, gt=0)

    def factorise(self, stream: Stream, first: Float[Tensor, "row d"], progress: bool) -> Found:
        (site,) = stream.sites
        moments = stream.into(Moments(site), progress=progress)
        values, vectors = torch.linalg.eigh(moments.covariance)
        values, vectors = values.flip(0), vectors.flip(1).T
        rank = int((values > _RANK * values[0]).sum())
        check_latents(self.latents, rank, "the rank of the rows", where="ICA.fit")
        spread, axes = values[: self.latents, None].sqrt(), vectors[: self.latents]
        draw = torch.Generator().manual_seed(self.seed)
        start = torch.randn(self.latents, self.latents, generator=draw, dtype=torch.float64)
        W, history = self._rotated(stream, axes / spread, moments.mean, start, progress)
        mixing = W @ (spread * axes)
        signs, unmixing = signs_of(mixing), W @ (axes / spread)
        return Found("linear", signs * unmixing, signs * mixing, moments.mean, history=history)

    def _rotated(
        self, stream: Stream, whiten: Tensor, mean: Tensor, start: Tensor, progress: bool
    ) -> tuple[Float[Tensor, "latent latent"], list[dict[str, float]]]:
        """The rotation of whitened rows at which the steps stand still."""
        W, history = _orthonormal(start), list[dict[str, float]]()
        for step in range(1, self.passes + 1):
            seen = stream.into(_Step(stream.sites[0], mean, whiten, W), progress=progress)
            new = _orthonormal(seen.raised)
            turn = float((1 - (new * W).sum(dim=1).abs()).max())
            W = new
            history.append({"pass": step, "turn": turn})
            if turn < self.tolerance:
                break
        return W, history


class _Step(Sink["_Step"]):
    """Sums one step's expectations; its own result."""

    def __init__(self, site: str, mean: Tensor, whiten: Tensor, W: Tensor) -> None:
        self._site, self._mean, self._whiten, self._W = site, mean, whiten, W
        self._pull, self._slope, self._rows = torch.zeros_like(W), torch.zeros_like(W[0]), 0

    @property
    def sites(self) -> tuple[str, ...]:
        return (self._site,)

    def update(self, batch: Batch) -> None:
        x = (doubles(batch, self._site, where="ICA") - self._mean) @ self._whiten.T
        g = (x @ self._W.T).tanh()
        self._pull += g.T @ x
        self._slope += (1 - g.square()).sum(dim=0)
        self._rows += len(x)

    def finish(self) -> "_Step":
        return self

    @property
    def raised(self) -> Float[Tensor, "latent latent"]:
        return (self._pull - self._slope[:, None] * self._W) / self._rows


def _orthonormal(W: Float[Tensor, "latent latent"]) -> Float[Tensor, "latent latent"]:
    """(W Wᵀ)^(−1/2) W, the nearest matrix with orthonormal rows."""
    u, _, v = torch.linalg.svd(W)
    return u @ v
