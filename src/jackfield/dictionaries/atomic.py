"""Atomic scores: is a sparse code over a dictionary's directions the only one? (2509.20784).

    ⟨u, v⟩_S = u S vᵀ,    S = (E[xᵀx])⁻¹ [d, d]        rows x [row, d], not centred
    μ_i = max_{j ≠ i} |cos_S(d_i, d_j)|                 the coherence of direction i

With coherence μ a code of K directions is the only one so sparse if μ < 1 / (2K − 1). Of a trained
dictionary the largest coherence and the largest K say little, so the theory takes quantiles:

    stability      q* = sup {q : μ_q < 1 / (2 K_q − 1)},    μ_q over directions, K_q over rows
    uniqueness     share of directions with μ_i < 1 / (2 K − 1), K the mean L0 of a row
    faithfulness   R² = 1 − FVU

Hu et al. 2025, "Towards atoms of large language models", arXiv 2509.20784. Departures: K and R² are
taken from other rows than the fit and S (the paper does not say that they are); which K its
uniqueness has it does not say, the mean is ours. In this inner product the rows are white, so
directions drawn at random come out nearly orthogonal where d is large: compare with
`random_coherence`, the mean μ_i of as many random directions.
"""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.dictionary import Dictionary
from jackfield.dictionaries.measures import Quality
from jackfield.streams import Batch, Moments, Sink, Stream

_RANK = 1e-10  # of the largest eigenvalue: below it is nothing but rounding in float32
_AT_ONCE = 1024  # directions whose cosines with all others are held at a time
_STEPS = 1000  # q is found to 1 / this


@dataclass(frozen=True, eq=False)
class AtomicScores:
    """What `atomic_scores` found.

    Attributes:
        coherence: [latent] float64, μ_i.
        active: [row count by L0], how many held-out rows have 0, 1, 2, … directions.
        faithfulness, stability, uniqueness: as above, the last two between 0 and 1.
        random_coherence: the mean μ_i of as many random directions.
    """

    coherence: Float[Tensor, " latent"]
    active: Int[Tensor, " size"]
    faithfulness: float
    stability: float
    uniqueness: float
    random_coherence: float

    def __repr__(self) -> str:
        return (
            f"AtomicScores(R² {self.faithfulness:.3f}, stability {self.stability:.1%}, "
            f"uniqueness {self.uniqueness:.1%}, mean coherence {float(self.coherence.mean()):.3f}, "
            f"{self.random_coherence:.3f} at random)"
        )


def atomic_scores(
    dictionary: Dictionary,
    reference: Stream,
    held_out: Stream,
    *,
    seed: int = 0,
    progress: bool = False,
) -> AtomicScores:
    """The scores of any dictionary.

    Args:
        dictionary: whose directions.
        reference: rows of its site that S is taken from, such as those it was fitted on.
        held_out: other rows, for K and R².
        seed: of the random directions.
        progress: show a line for each pass.

    Raises:
        InputError: the reference has fewer independent rows than dimensions; the two streams are
            the same; a dictionary of one latent.

    >>> from jackfield.dictionaries import PCA
    >>> x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    >>> fit, other = Stream.from_tensor(x[:200]), Stream.from_tensor(x[200:])
    >>> atomic_scores(PCA(latents=4).fit(fit), fit, other).faithfulness > 0.999
    True
    """
    if dictionary.latents < 2:
        where = "atomic_scores"
        raise InputError(explain(where=where, expected="at least two latents", got="1"))
    if reference.provenance == held_out.provenance:
        expected, got = "held-out rows that are not the reference", "the same stream twice"
        raise InputError(explain(where="atomic_scores", expected=expected, got=got))
    root = whitener(reference, dictionary.site, progress=progress)
    mu = coherence(dictionary.directions.to(root) @ root)
    draw = torch.Generator().manual_seed(seed)
    strangers = torch.randn(len(mu), len(root), generator=draw, dtype=torch.float64).to(root)
    quality, actives = held_out.into(Quality(dictionary), _Actives(dictionary), progress=progress)
    limit = 1 / max(2 * quality.l0 - 1, torch.finfo(torch.float64).tiny)
    return AtomicScores(
        coherence=mu,
        active=actives.counts,
        faithfulness=1 - quality.fvu,
        stability=stability(mu, actives.counts),
        uniqueness=float((mu < limit).double().mean()),
        random_coherence=float(coherence(strangers).mean()),
    )


def whitener(stream: Stream, site: str, *, progress: bool = False) -> Float[Tensor, "d d"]:
    """A symmetric A with A² = S, float64: cosines after `@ A` are those of the atomic product.

    Raises:
        InputError: the rows do not span all dimensions, so that S does not exist.
    """
    moments = stream.into(Moments(site), progress=progress)
    second = moments.covariance + torch.outer(moments.mean, moments.mean)
    values, vectors = torch.linalg.eigh(second)
    rank = int((values > _RANK * values[-1]).sum())
    if rank < len(values):
        expected = f"rows that span all {len(values)} dimensions"
        raise InputError(explain(where=f"whitener at {site}", expected=expected, got=str(rank)))
    return vectors @ (vectors / values.sqrt()).T


def coherence(directions: Float[Tensor, "latent d"]) -> Float[Tensor, " latent"]:
    """Of each direction the largest |cosine| with another.

    >>> coherence(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]))
    tensor([0.6000, 0.8000, 0.8000])
    """
    unit = torch.nn.functional.normalize(directions, dim=1)
    found = []
    for part in torch.arange(len(unit), device=unit.device).split(_AT_ONCE):
        cosines = (unit[part] @ unit.T).abs()
        cosines[torch.arange(len(part), device=unit.device), part] = 0
        found.append(cosines.amax(dim=1))
    return torch.cat(found)


def stability(coherences: Float[Tensor, " latent"], active: Int[Tensor, " size"]) -> float:
    """The largest q whose quantiles satisfy μ_q < 1 / (2 K_q − 1), to 0.001; 0 if none does.

    Quantiles are the smallest value that a share q of all does not exceed.

    >>> stability(torch.tensor([0.1, 0.1, 0.1, 0.9]), torch.tensor([0, 0, 8, 2]))
    0.75
    """
    ordered = coherences.double().sort().values
    share = active.double().cumsum(0) / active.sum()
    q = torch.arange(1, _STEPS + 1, dtype=torch.float64) / _STEPS
    slack = 1e-9  # so that a share of 0.8 counts as 0.8
    mu = ordered[((q * len(ordered) - slack).ceil().long() - 1).clamp_min(0)]
    K = torch.searchsorted(share, q - slack)
    holds = (mu * (2 * K - 1) < 1).tolist()
    return len(list(itertools.takewhile(bool, holds))) / _STEPS


class _Actives(Sink["_Actives"]):
    """Counts rows by how many latents fire; its own result."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self.counts = torch.zeros(dictionary.latents + 1, dtype=torch.int64)

    @property
    def sites(self) -> tuple[str, ...]:
        return self._dictionary.sources

    def update(self, batch: Batch) -> None:
        x = self._dictionary.read(batch)
        active = (self._dictionary.encode(x) != 0).sum(dim=1)[self._dictionary.inside(x)]
        self.counts += torch.bincount(active.cpu(), minlength=len(self.counts))

    def finish(self) -> "_Actives":
        return self
