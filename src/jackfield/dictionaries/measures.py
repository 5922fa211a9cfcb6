"""How good a dictionary is: variance unexplained, sparsity, dead latents.

    FVU = Σ ‖x − x̂‖² / Σ ‖x − x̄‖²,    x̄ the mean over all rows

the fraction of variance unexplained: 0 for the identity, 1 for a dictionary that knows the mean
only, unchanged when the data is scaled or shifted. Both sums are streamed in float64, the lower one
from centred moments; dividing by Σ ‖x‖² in place of it flatters any model whose mean is large.

Beside it, as published and not centred (so a large mean does flatter them), the mean cosine of x
and x̂, and the relative bias Σ ‖x̂‖² / Σ ⟨x, x̂⟩, below 1 where x̂ is shrunk (Rajamanoharan et al.
2024, arXiv 2404.16014).
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.streams import Batch, Moments, Sink

if TYPE_CHECKING:
    from jackfield.dictionaries.dictionary import Dictionary

_AT_ONCE = 1024  # directions whose cosines with all others are in memory


def fvu(x: Float[Tensor, "row d"], x_hat: Float[Tensor, "row d"]) -> float:
    """The fraction of the variance of `x` that `x_hat` leaves unexplained.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    >>> fvu(x, x), fvu(x, x.mean(0).expand(2, 2))
    (0.0, 1.0)
    """
    x, x_hat = x.double(), x_hat.double()
    return float((x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum())


def coherence(directions: Float[Tensor, "latent d"]) -> Float[Tensor, " latent"]:
    """The largest |cosine| of each direction with another: 0 for an orthogonal dictionary.

    >>> coherence(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, -1.0]])).tolist()
    [0.0, 1.0, 1.0]
    """
    unit = torch.nn.functional.normalize(directions.float(), dim=1)
    found = []
    for start in range(0, len(unit), _AT_ONCE):
        cosines = (unit[start : start + _AT_ONCE] @ unit.T).abs()
        cosines[:, start:].fill_diagonal_(0)
        found.append(cosines.amax(dim=1))
    return torch.cat(found)


class Quality(Sink["Quality"]):
    """Measures a dictionary on a stream; its own result.

    Rows that are not of the kind the dictionary was fitted on (`dictionary.inside`: attention sinks
    that the stream let through) are counted in `outside` and otherwise left out: in SmolLM2 five of
    110 000 rows hold half of the total variance.

    Attributes:
        rows: rows measured.
        outside: rows left out.
    """

    def __init__(self, dictionary: "Dictionary") -> None:
        self.rows = self.outside = 0
        self._dictionary = dictionary
        self._moments = Moments(dictionary.site, covariance=False)
        self._error = self._cosine = self._inner = self._square = 0.0
        self._fired = torch.zeros(dictionary.latents, dtype=torch.int64)

    @property
    def sites(self) -> tuple[str, ...]:
        """The dictionary's sources and its site."""
        return tuple(dict.fromkeys((*self._dictionary.sources, self._dictionary.site)))

    def update(self, batch: Batch) -> None:
        """Takes in a batch.

        Raises:
            InputError: NaN or Inf, or rows of another width.
        """
        inside = self._dictionary.inside(self._dictionary.read(batch))
        self.outside += len(batch) - int(inside.sum())
        kept = batch.rows(inside)
        if len(kept):
            self._moments.update(kept)
            x, y = self._dictionary.read(kept), kept[self._dictionary.site]
            codes = self._dictionary.encode(x)
            rebuilt = self._dictionary.reconstruct(x, codes).double()
            self._compare(y.to(rebuilt), rebuilt)
            self._fired += (codes != 0).sum(dim=0).cpu()
            self.rows += len(kept)

    def _compare(self, y: Float[Tensor, "row d"], rebuilt: Float[Tensor, "row d"]) -> None:
        self._error += float((rebuilt - y).square().sum())
        self._cosine += float(torch.cosine_similarity(rebuilt, y, dim=1).sum())
        self._inner += float((rebuilt * y).sum())
        self._square += float(rebuilt.square().sum())

    def finish(self) -> "Quality":
        """Itself.

        Raises:
            InputError: no row was inside.
        """
        self._moments.finish()
        return self

    @property
    def fvu(self) -> float:
        """The fraction of variance unexplained."""
        total = self._moments.variance.sum() * self.rows
        return float(self._error / total)

    @property
    def cosine(self) -> float:
        """The mean cosine of an activation and its reconstruction, not centred."""
        return self._cosine / self.rows

    @property
    def relative_bias(self) -> float:
        """Σ ‖x̂‖² / Σ ⟨x, x̂⟩, not centred; NaN if every reconstruction is 0."""
        return self._square / self._inner if self._inner else float("nan")

    @property
    def density(self) -> Float[Tensor, " latent"]:
        """[latent] float64, the share of rows on which each latent fires."""
        return self._fired.double() / self.rows

    @property
    def l0(self) -> float:
        """How many latents fire on a row, on average."""
        return float(self.density.sum())

    @property
    def dead(self) -> float:
        """The share of latents that fired on no row."""
        return float((self._fired == 0).double().mean())

    def __repr__(self) -> str:
        return (
            f"Quality({self.rows:,} rows: FVU {self.fvu:.3f}, L0 {self.l0:.1f}, "
            f"dead {self.dead:.1%}, {self.outside:,} rows outside)"
        )
