"""k-means: each activation as the nearest of some points.

    x̂ = the nearest to x of the centroids c [latent, d], each the mean of the rows nearest to it

The sparsest dictionary there is: one latent a row, at a value that is its own. With
c_i = x̄ + z_i d_i the code is z_i = ‖c_i − x̄‖, and the direction d_i points from the mean to the
centroid.

Lloyd 1957 (published 1982); the first centroids by k-means++ (Arthur and Vassilvitskii 2007) on the
first rows. Each pass over the stream is one step of Lloyd's on all rows, not on a mini-batch: the
error never rises, and batches do not matter. A centroid that has lost all rows stays where it is.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.dictionaries.factor_method import FactorMethod, Found, check_latents, doubles
from jackfield.dictionaries.factors import nearest
from jackfield.streams import Batch, Moments, Sink, Stream


@config
class KMeans(FactorMethod):
    """Config of k-means; see `FactorMethod` for the other settings.

    Attributes:
        passes: at most so many steps.
        tolerance: stop when a step lowers the error by less than this share of it.

    >>> x = torch.tensor([[0.0, 1.0], [0.0, 3.0], [9.0, 1.0], [9.0, 3.0]])
    >>> KMeans(latents=2).fit(Stream.from_tensor(x)).reconstruct(x)
    tensor([[0., 2.], [0., 2.], [9., 2.], [9., 2.]])
    """

    passes: int = setting(default=50, ge=1)
    tolerance: float = setting(default=1e-4, ge=0)

    def factorise(self, stream: Stream, first: Float[Tensor, "row d"], progress: bool) -> Found:
        distinct = len(first.unique(dim=0))
        check_latents(self.latents, distinct, "the distinct rows at first", where="KMeans.fit")
        (site,) = stream.sites
        mean = stream.into(Moments(site, covariance=False), progress=progress).mean
        centroids = plus_plus(first, self.latents, seed=self.seed) - mean
        history: list[dict[str, float]] = []
        for step in range(1, self.passes + 1):
            seen = stream.into(_Clusters(site, mean, centroids), progress=progress)
            history.append({"pass": step, "error": seen.error / seen.rows})
            centroids = seen.means()
            if step > 1 and history[-2]["error"] - history[-1]["error"] <= (
                self.tolerance * history[-2]["error"]
            ):
                break
        return Found("nearest", centroids, _apart(centroids), mean, history=history)


class _Clusters(Sink["_Clusters"]):
    """Sums the rows nearest to each centroid; its own result."""

    def __init__(self, site: str, mean: Tensor, centroids: Float[Tensor, "latent d"]) -> None:
        self._site, self._mean, self._centroids = site, mean, centroids
        self._sums = torch.zeros_like(centroids)
        self._counts = centroids.new_zeros(len(centroids))
        self.error, self.rows = 0.0, 0

    @property
    def sites(self) -> tuple[str, ...]:
        return (self._site,)

    def update(self, batch: Batch) -> None:
        x = doubles(batch, self._site, where="KMeans") - self._mean
        chosen = nearest(x, self._centroids)
        self._sums.index_add_(0, chosen, x)
        self._counts += torch.bincount(chosen, minlength=len(self._counts))
        self.error += float((x - self._centroids[chosen]).square().sum())
        self.rows += len(x)

    def finish(self) -> "_Clusters":
        return self

    def means(self) -> Float[Tensor, "latent d"]:
        """Of each cluster the mean; of an empty one the old centroid."""
        means = self._sums / self._counts.clamp_min(1)[:, None]
        return torch.where(self._counts[:, None] > 0, means, self._centroids)


def plus_plus(x: Float[Tensor, "row d"], points: int, *, seed: int) -> Float[Tensor, "point d"]:
    """Rows drawn one by one, each with a chance in proportion to its squared distance to those
    before it (k-means++).
    """  # noqa: D205
    draw = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(x), (1,), generator=draw))]
    distance = (x - x[chosen[0]]).square().sum(dim=1)
    while len(chosen) < points:
        chosen.append(int(torch.multinomial(distance, 1, generator=draw)))
        distance = distance.minimum((x - x[chosen[-1]]).square().sum(dim=1))
    return x[chosen]


def _apart(centroids: Float[Tensor, "latent d"]) -> Float[Tensor, "latent d"]:
    """The centroids as directions; one at the very mean has none, and is given the first axis."""
    axis = torch.eye(1, centroids.shape[1], dtype=centroids.dtype)
    return torch.where(centroids.any(dim=1, keepdim=True), centroids, axis)
