"""LinEAS: affine maps of units at all sites together, fitted end to end by a 1-D Wasserstein loss.

    T_l(x) = ω_l ⊙ x + b_l
    loss = Σ_l mean_j W₂²(Z_l[:, j], V_l[:, j])        Z_l [text, d] read with all maps in place,
                                                       V_l [text, d] of the target texts, plain
    u_l = (ω_l − 1, b_l) ← prox(u_l − γ ∇)

The proximal step is that of a sparse group lasso, a group a site: units and whole sites that do
not pay are left exactly as they are,

    s = sign(u) max(|u| − γλ₁, 0);   u ← s max(1 − γλ₂ / ‖s‖, 0)

Rodriguez et al. 2025 (arXiv 2503.10679). Departures: the parameters are those of standardised
units, T(x) = x + σ (g (x − μ)/σ + h) with μ, σ of the source texts, so that the step and the
penalty mean the same for large and small units; the penalty shrinks towards doing nothing; plain
gradients of all texts at once, with the step halved whenever the loss has risen, in the place of
a stochastic optimiser.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Method
from jackfield.core.progress import Progress
from jackfield.edits import Edit
from jackfield.edits.transport import MoveUnits
from jackfield.steering.contrast import Pooling, read_contrast
from jackfield.steering.one_dimensional import w2_squared
from jackfield.steering.unit_maps import UnitMap, UnitMaps
from jackfield.steering.unsteered import chosen_tokens

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class LinEAS(Method):
    """Sparse affine maps, learned together.

    Attributes:
        steps: of the descent, each one forward and one backward over the negative texts.
        rate: step size γ, as a share of the way that one site alone would take at once.
        sparse: λ₁, on each parameter.
        grouped: λ₂, on all parameters of a site.
        tokens: what stands for a text: the mean of its tokens ("all") or its last one ("last").
        where: which tokens are read and, while it is fitted, moved.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> found = LinEAS(steps=3).fit(world.model, positive=world.tokens, negative=world.other)
    >>> found.losses[-1] < found.losses[0]
    True
    """

    steps: int = setting(default=40, ge=1)
    rate: float = setting(default=0.5, gt=0)
    sparse: float = setting(default=0.0, ge=0)
    grouped: float = setting(default=0.0, ge=0)
    tokens: Pooling = "all"
    where: str | int | tuple[int, ...] = "~sinks"

    def fit(
        self,
        model: "Model",
        *,
        positive: Any,
        negative: Any,
        at: str = "layers.*.resid_post",
        progress: bool = False,
    ) -> UnitMaps:
        """Fits maps at all sites together.

        Args:
            model: the model to steer; its weights stay as they are.
            positive: texts that have the property: strings, chats, or token ids [text, position].
            negative: texts that have not; at least two a side, in one batch.
            at: sites [batch, position, d], or a pattern of them.
            progress: show a live line.

        Raises:
            InputError: fewer than two texts a side, or sides that do not differ.
            SiteError: a site of another shape.
        """
        read = read_contrast(model, positive, negative, at, tokens=self.tokens, where=self.where)
        if min(read.counts) < 2:
            got = f"{read.counts[0]} and {read.counts[1]}"
            where = f"{model.name}, LinEAS"
            raise InputError(explain(where=where, expected="at least two texts a side", got=got))
        sites = {site: _Standard.of(*read.sides(site)) for site in read.sites}
        if all(each.gap == 0 for each in sites.values()):
            where = f"{model.name}, {read.sites[0]}"
            raise InputError(explain(where=where, expected="sides that differ", got="equal sides"))
        descent = _Descent(self, model, negative, sites)
        with Progress("fitting", total=self.steps, unit="steps", enabled=progress) as shown:
            for _ in range(self.steps):
                descent.step()
                shown.update(1)
        return descent.fitted(read.counts)


def prox(u: Float[Tensor, "*shape"], sparse: float, grouped: float) -> Float[Tensor, "*shape"]:
    """argmin_v ½‖v − u‖² + sparse ‖v‖₁ + grouped ‖v‖₂, of one group.

    >>> prox(torch.tensor([3.0, -0.5]), 1.0, 0.0)
    tensor([2., -0.])
    """
    shrunk = u.sign() * (u.abs() - sparse).clamp(min=0)
    length = shrunk.norm()
    return shrunk * (1 - grouped / length).clamp(min=0) if bool(length > 0) else shrunk


@dataclass(frozen=True)
class _Standard:
    """A site's source and target in standard units of the source."""

    mean: Tensor
    spread: Tensor
    target: Tensor
    gap: float

    @staticmethod
    def of(plus: Tensor, minus: Tensor) -> "_Standard":
        mean, spread = minus.mean(dim=0), minus.std(dim=0).clamp(min=1e-6)
        target = (plus - mean) / spread
        gap = float(w2_squared((minus - mean) / spread, target).mean())
        return _Standard(mean, spread, target, gap)

    def distance(self, read: Float[Tensor, "text d"]) -> Float[Tensor, " d"]:
        return w2_squared((read - self.mean) / self.spread, self.target)


class _Descent:
    """Proximal gradient descent on u [2, d] of each site: gain and shift, in standard units."""

    def __init__(
        self, method: LinEAS, model: "Model", texts: Any, sites: dict[str, _Standard]
    ) -> None:
        self.method, self.model, self.texts, self.sites = method, model, texts, sites
        self.u = {s: torch.zeros(2, len(at.mean), dtype=torch.float64) for s, at in sites.items()}
        self.rate = method.rate / 2  # a quadratic of curvature 2 is solved by 1/2
        self.loss, self.slopes, self.gaps = self._measured(self.u)
        self.losses = [self.loss]

    def step(self) -> None:
        """One step; taken back, and the rate halved, if the objective has risen."""
        tried = {
            site: prox(
                u - self.rate * self.slopes[site],
                self.rate * self.method.sparse,
                self.rate * self.method.grouped,
            )
            for site, u in self.u.items()
        }
        loss, slopes, gaps = self._measured(tried)
        if loss <= self.loss:
            self.u, self.loss, self.slopes, self.gaps = tried, loss, slopes, gaps
        else:
            self.rate /= 2
        self.losses.append(self.loss)

    def fitted(self, counts: tuple[int, int]) -> UnitMaps:
        maps = {}
        for site, at in self.sites.items():
            gain, bias = _folded(self.u[site], at)
            after = self.gaps[site]
            maps[site] = UnitMap(gain.float(), bias.float(), None, None, at.gap, after)
        method = {"name": type(self.method).__name__, **to_json(self.method)}
        return UnitMaps(maps, method, self.model.name, counts, tuple(self.losses))

    def _measured(
        self, given: dict[str, Tensor]
    ) -> tuple[float, dict[str, Tensor], dict[str, float]]:
        """The objective with its penalties, the slopes of the rest, the distance at each site."""
        leaves = {site: u.clone().requires_grad_() for site, u in given.items()}
        edits: list[Edit] = [
            MoveUnits(*_folded(leaves[site], at), at=site, where=self.method.where)
            for site, at in self.sites.items()
        ]
        read = self._read(edits)
        apart = {site: at.distance(read[site]) for site, at in self.sites.items()}
        loss = torch.stack([each.sum() for each in apart.values()]).sum() / len(apart)
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        penalty = sum(
            self.method.sparse * float(u.abs().sum()) + self.method.grouped * float(u.norm())
            for u in given.values()
        )
        gaps = {site: float(each.detach().mean()) for site, each in apart.items()}
        return float(loss.detach()) + penalty, dict(zip(leaves, slopes, strict=True)), gaps

    def _read(self, edits: list[Edit]) -> dict[str, Tensor]:
        """{site: [text, d]} of the source texts with the maps in place, as a graph."""
        run = self.model.run(
            self.texts, sites=list(self.sites), edits=edits, grad=True, logits=False
        )
        chosen = chosen_tokens(self.model, run, self.method.where)
        if self.method.tokens == "last":
            chosen = chosen & (chosen.long().flip(1).cumsum(dim=1).flip(1) == 1)
        weights = chosen.double()[..., None]
        count = weights.sum(dim=1)
        return {
            site: ((run[site].double() * weights).sum(dim=1) / count).cpu() for site in self.sites
        }


def _folded(u: Tensor, at: _Standard) -> tuple[Tensor, Tensor]:
    """Gain and bias of the plain units."""
    gain, shift = u
    return gain, at.spread * shift - gain * at.mean
