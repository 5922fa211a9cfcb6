"""OT map: Gaussian optimal transport between the sides, in a few principal directions.

    P [d, k]: principal directions of all texts, centred on their mean μ;   z = Pᵀ(x − μ)
    A = Σs^{-½} (Σs^{½} Σt Σs^{½})^{½} Σs^{-½}
    T(x) = x + P [(m_t + A (z − m_s)) − z]

A is the symmetric matrix that carries a Gaussian with covariance Σs to one with Σt (A Σs Aᵀ = Σt)
at the least mean squared distance. What is orthogonal to P stays. The negative texts are the
source, the positive ones the target, one vector [d] a text; each site is fitted by itself.

Refusal ablation by optimal transport, 2026 (arXiv 2603.04355), which finds one or two sites at
40 to 60 % of the depth better than all. No departure that we know of but the ridge, which is a
share of the mean variance in the subspace.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Method
from jackfield.core.sites import in_words
from jackfield.edits import Edit
from jackfield.edits.transport import MoveSubspace
from jackfield.reports import Report, Table
from jackfield.steering.contrast import Pooling, read_contrast
from jackfield.steering.steering import Steering

if TYPE_CHECKING:
    from jackfield.model.model import Model


_TENSORS = ("basis", "matrix", "shift", "centre")


@config
class OTMap(Method):
    """Gaussian transport in the principal subspace.

    Attributes:
        rank: k, principal directions.
        ridge: added to both covariances, as a share of their mean variance.
        tokens: what stands for a text: the mean of its tokens ("all") or its last one ("last").
        where: which tokens are read.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> found = OTMap(rank=3).fit(world.model, **sides, at="layers.1.resid_post")
    >>> found.maps["layers.1.resid_post"].basis.shape
    torch.Size([3, 32])
    """

    rank: int = setting(default=2, ge=1)
    ridge: float = setting(default=1e-3, gt=0)
    tokens: Pooling = "all"
    where: str | int | tuple[int, ...] = "~sinks"

    def fit(
        self, model: "Model", *, positive: Any, negative: Any, at: str, progress: bool = False
    ) -> "SubspaceMaps":
        """Fits a map at each site.

        Args:
            model: the model to steer.
            positive: texts that have the property: strings, chats, or token ids [text, position].
            negative: texts that have not; at least two a side.
            at: sites [batch, position, d], or a pattern of them.
            progress: show a live line.

        Raises:
            InputError: fewer than two texts a side, a rank that they do not span, or sides that
                do not differ in the subspace.
            SiteError: a site of another shape.
        """
        read = read_contrast(
            model, positive, negative, at, tokens=self.tokens, where=self.where, progress=progress
        )
        maps = {site: self._map(*read.sides(site), f"{model.name}, {site}") for site in read.sites}
        method = {"name": type(self).__name__, **to_json(self)}
        return SubspaceMaps(maps, method, model.name, read.counts)

    def _map(self, target: Tensor, source: Tensor, where: str) -> "SubspaceMap":
        if min(len(source), len(target)) < 2 or self.rank >= len(source) + len(target):
            expected = f"two texts a side that span {self.rank} directions"
            got = f"{len(target)} and {len(source)} texts"
            raise InputError(explain(where=where, expected=expected, got=got))
        pooled = torch.cat([source, target])
        centre = pooled.mean(dim=0)
        _, sizes, rows = torch.linalg.svd(pooled - centre, full_matrices=False)
        if self.rank > len(rows) or not bool(sizes[self.rank - 1] > 1e-9 * sizes[0]):
            got = f"{int((sizes > 1e-9 * sizes[0]).sum())}"
            expected = f"texts that span {self.rank} directions"
            raise InputError(explain(where=where, expected=expected, got=got))
        basis = rows[: self.rank]
        z_s, z_t = (source - centre) @ basis.T, (target - centre) @ basis.T
        if torch.equal(z_s, z_t):
            raise InputError(explain(where=where, expected="sides that differ", got="equal sides"))
        matrix, shift = gaussian_map(z_s, z_t, self.ridge)
        gap = target.mean(dim=0) - source.mean(dim=0)
        held = float((basis @ gap).square().sum() / gap.square().sum())
        variance = float(sizes[: self.rank].square().sum() / sizes.square().sum())
        basis, matrix, shift, centre = (  # in one order in memory, as they are read from a file
            each.float().contiguous() for each in (basis, matrix, shift, centre)
        )
        return SubspaceMap(basis, matrix, shift, centre, variance, held)


@dataclass(frozen=True, eq=False)
class SubspaceMap:
    """The map of one site.

    Attributes:
        basis: [k, d] principal directions, float32.
        matrix: A [k, k].
        shift: [k] m_t − A m_s.
        centre: [d] μ.
        variance: the share of the variance of all texts that lies in the subspace.
        held: the share of the squared mean difference that lies in it: the rest is not steered.
    """

    basis: Float[Tensor, "k d"]
    matrix: Float[Tensor, "k k"]
    shift: Float[Tensor, " k"]
    centre: Float[Tensor, " d"]
    variance: float
    held: float


@dataclass(frozen=True, eq=False)
class SubspaceMaps(Steering):
    """Affine maps in a subspace at some sites; a strength of 1 is the whole way.

    Attributes:
        maps: {site: its map}, in the order of the forward.
        method: the settings of the fit.
        model: the name of the model.
        counts: texts on the positive and the negative side.
    """

    limit: ClassVar[float] = 1.0

    maps: Mapping[str, SubspaceMap]
    method: Mapping[str, Any]
    model: str
    counts: tuple[int, int]

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Goes `factor` of the way, at every site."""
        return [
            MoveSubspace(m.basis, m.matrix, m.shift, m.centre, float(factor), at=site, where=where)
            for site, m in self.maps.items()
        ]

    def units(self) -> Mapping[str, float]:
        """None but the raw unit: the whole way."""
        return {}

    def report(self) -> Report:
        """What the subspace holds of the texts' variance and of the difference of the sides."""
        columns = ["site", "variance", "mean difference", "length of the shift"]
        rows = [[site, m.variance, m.held, float(m.shift.norm())] for site, m in self.maps.items()]
        held = sum(m.held for m in self.maps.values()) / len(rows)
        summary = (
            f"OTMap at {in_words(self.maps)} of {self.model}, {self.method['rank']} principal "
            f"directions, which hold {held:.0%} of the squared mean difference."
        )
        table = Table(columns, rows, formats=dict.fromkeys(columns[1:], ".3f"))
        return Report("Optimal-transport map", [table], summary=summary)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the maps, and what was measured."""
        tensors = {
            f"{site}/{name}": getattr(m, name) for site, m in self.maps.items() for name in _TENSORS
        }
        measured = {site: [m.variance, m.held] for site, m in self.maps.items()}
        extra = {"maps": measured, "model": self.model, "counts": list(self.counts)}
        return dict(self.method), tensors, extra

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the maps from `state`."""
        maps = {
            site: SubspaceMap(
                **{name: tensors[f"{site}/{name}"] for name in _TENSORS},
                variance=variance,
                held=held,
            )
            for site, (variance, held) in extra["maps"].items()
        }
        return cls(maps, config, extra["model"], (extra["counts"][0], extra["counts"][1]))


def gaussian_map(
    source: Float[Tensor, "source k"], target: Float[Tensor, "target k"], ridge: float = 0.0
) -> tuple[Float[Tensor, "k k"], Float[Tensor, " k"]]:
    """A and m_t − A m_s of optimal transport between Gaussians of the samples' moments.

    Args:
        source: samples.
        target: samples.
        ridge: added to both covariances, as a share of their mean variance.
    """
    mean_s, mean_t = source.mean(dim=0), target.mean(dim=0)
    cov_s, cov_t = (torch.atleast_2d(each.T.cov()) for each in (source, target))
    eye = torch.eye(len(mean_s), dtype=source.dtype)
    added = ridge * (cov_s.trace() + cov_t.trace()) / (2 * len(eye)) * eye
    root, back = _powers(cov_s + added)
    middle, _ = _powers(root @ (cov_t + added) @ root)
    matrix = back @ middle @ back
    return matrix, mean_t - matrix @ mean_s


def _powers(matrix: Float[Tensor, "k k"]) -> tuple[Tensor, Tensor]:
    """M^{½} and M^{-½} of a positive matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root = values.clamp(min=1e-30).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T
