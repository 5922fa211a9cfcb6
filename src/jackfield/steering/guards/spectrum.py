"""Spectra of a sliding window of activations, and what noise of the same kind would show.

    X [n, d]: the last n tokens, each unit in its own standard deviation, the window's mean taken
    away; λ_1 ≥ … ≥ λ_{n−1}: the eigenvalues of X Xᵀ / d      (those of the covariance, but for n/d)

With fewer tokens than units the n × n matrix of products has all of the spectrum: a new token
costs n products, and one small eigenvalue problem.

If the d units were independent noise, λ / mean λ would follow the Marchenko–Pastur law of ratio
γ = (n − 1) / d, inside (1 ± √γ)². Units of a network are not: so both γ and the edge are
*calibrated by permutation*. Each unit's values are shuffled in time on their own, which keeps what
each unit does and breaks what they do together; γ is then the mean squared deviation of λ / mean λ
(1 + γ is that law's second moment), and the edge is the 95th percentile of its largest value.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_BINS = 8  # of equal mass under Marchenko–Pastur
_EDGE = 0.95  # of the largest eigenvalue of permuted windows
_TINY = 1e-6  # of the mean eigenvalue: windows of equal tokens have eigenvalues of 0
_GRID = 2001


@dataclass(frozen=True, eq=False)
class NoiseSpectrum:
    """The spectrum of permuted windows.

    Attributes:
        ratio: γ of the Marchenko–Pastur law that has their second moment.
        edge: the 95th percentile of their largest eigenvalue, over the mean one.
    """

    ratio: float
    edge: float

    @property
    def bins(self) -> Float[Tensor, "bin"]:
        """The inner bounds of bins of equal mass under the law."""
        return marchenko_pastur_quantiles(self.ratio, torch.arange(1, _BINS) / _BINS)


def names_of(leading: int) -> tuple[str, ...]:
    """What `descriptors` gives, in order."""
    sizes = tuple(f"log λ{i + 1}" for i in range(leading))
    gaps = tuple(f"log λ{i + 1}/λ{i + 2}" for i in range(leading))
    return ("log energy", *sizes, *gaps, "entropy", "divergence", "outliers")


def descriptors(
    values: Float[Tensor, "*window rank"], noise: NoiseSpectrum, leading: int
) -> Float[Tensor, "*window feature"]:
    """What is told of each spectrum.

    Args:
        values: eigenvalues, the largest first.
        noise: what permuted windows show.
        leading: how many of the largest are told one by one.

    Returns:
        log of the mean eigenvalue; logs of the leading ones over it; logs of the ratios of
        neighbours; the entropy of their shares over that of equal ones, from 0 to 1;
        KL(spectrum ‖ Marchenko–Pastur) over bins of equal mass, in nats; the share of the sum that
        lies above the noise's edge.
    """
    mean = values.mean(dim=-1, keepdim=True).clamp(min=_TINY)
    sizes = (values / mean).clamp(min=_TINY)
    logs = sizes[..., : leading + 1].log()
    shares = sizes / sizes.sum(dim=-1, keepdim=True)
    entropy = -(shares * shares.log()).sum(dim=-1) / torch.tensor(float(values.shape[-1])).log()
    outliers = shares.where(sizes > noise.edge, 0.0).sum(dim=-1)
    rest = torch.stack([entropy, _divergence(sizes, noise), outliers], dim=-1)
    return torch.cat([mean.log(), logs[..., :-1], -logs.diff(dim=-1), rest], dim=-1).float()


def spectra(x: Float[Tensor, "token d"], size: int) -> Float[Tensor, "window rank"]:
    """The eigenvalues of every window of `size` tokens of a text, the largest first."""
    products = x.double() @ x.double().T
    starts = range(len(x) - size + 1)
    windows = [products[i : i + size, i : i + size] for i in starts]
    return eigenvalues(torch.stack(windows), x.shape[-1])


def eigenvalues(
    products: Float[Tensor, "*window size size"], width: int
) -> Float[Tensor, "*window rank"]:
    """Eigenvalues of centred products over the width, the largest first, without the zero."""
    rows = products.mean(dim=-1, keepdim=True)
    centred = products - rows - rows.transpose(-1, -2) + rows.mean(dim=-2, keepdim=True)
    return torch.linalg.eigvalsh(centred / width).flip(-1)[..., :-1].clamp(min=0)


def noise_spectrum(windows: Float[Tensor, "window size d"], seed: int = 0) -> NoiseSpectrum:
    """Calibrates the noise on windows of tokens, each unit shuffled in time on its own."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(windows.shape, generator=generator).argsort(dim=1)
    shuffled = windows.double().gather(1, order)
    values = eigenvalues(shuffled @ shuffled.transpose(1, 2), windows.shape[-1])
    sizes = values / values.mean(dim=1, keepdim=True).clamp(min=_TINY)
    ratio = float((sizes - 1).square().mean())
    return NoiseSpectrum(min(max(ratio, _TINY), 0.99), float(sizes[:, 0].quantile(_EDGE)))


def marchenko_pastur_edges(ratio: float) -> tuple[float, float]:
    """The ends (1 ∓ √γ)² of the law with mean 1, for γ below 1."""
    return (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2


def marchenko_pastur_quantiles(
    ratio: float,
    shares: Float[Tensor, "q"],  # noqa: F821
) -> Float[Tensor, "q"]:  # noqa: F821
    """Where the law has these shares below it; its density is √((b − x)(x − a)) / (2πγx)."""
    low, high = marchenko_pastur_edges(ratio)
    turn = torch.linspace(0, torch.pi, _GRID, dtype=torch.float64)
    x = (low + high) / 2 - (high - low) / 2 * turn.cos()  # fine where the density has its roots
    slope = (high - low) / 2 * turn.sin()
    density = slope * slope / x  # √((b − x)(x − a)) dx/dturn, but for a constant
    below = torch.cat([torch.zeros(1).double(), torch.cumulative_trapezoid(density, turn)])
    place = torch.searchsorted(below / below[-1], shares.double()).clamp(max=_GRID - 1)
    return x[place]


class Windows:
    """The last tokens of each row of a batch and their products, brought up to date by each token.

    A token takes the place of the oldest; their order does not change a spectrum.

    Args:
        batch: rows.
        size: tokens of a window.
        width: units.
    """

    def __init__(self, batch: int, size: int, width: int) -> None:
        self._x = torch.zeros(batch, size, width, dtype=torch.float64)
        self.products = torch.zeros(batch, size, size, dtype=torch.float64)
        self._seen = torch.zeros(batch, dtype=torch.long)

    @property
    def full(self) -> Bool[Tensor, "batch"]:  # noqa: F821
        """Rows that have a whole window."""
        return self._seen >= self._x.shape[1]

    def push(self, x: Float[Tensor, "batch d"], rows: Bool[Tensor, "batch"]) -> None:  # noqa: F821
        """Takes in one token of each of the rows that have one."""
        chosen = rows.nonzero().flatten()
        place = self._seen[chosen] % self._x.shape[1]
        new = x[chosen].double()
        self._x[chosen, place] = new
        products = torch.einsum("rnd,rd->rn", self._x[chosen], new)
        self.products[chosen, place] = products
        self.products[chosen, :, place] = products
        self._seen[chosen] += 1


def _divergence(sizes: Tensor, noise: NoiseSpectrum) -> Tensor:
    """KL(spectrum ‖ law): shares of bins, half a count added to each, against equal ones."""
    place = torch.bucketize(sizes, noise.bins.to(sizes))
    counts = torch.nn.functional.one_hot(place, _BINS).sum(dim=-2) + 0.5
    shares = counts / counts.sum(dim=-1, keepdim=True)
    return (shares * (shares * _BINS).log()).sum(dim=-1)
