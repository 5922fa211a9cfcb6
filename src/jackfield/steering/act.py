"""AcT (activation transport): each unit is carried from its values on some texts to others'.

    s, t: the unit's sorted values on the source and on the target texts, matched in order
    ω = cov(s, t) / var(s),   b = mean(t) − ω mean(s),   T(x) = ω x + b

which is the affine map nearest to optimal transport in one dimension. Sites are fitted one after
another, each with the maps before it in place ("sequential"), so that a later one does not repeat
what an earlier one has done. The negative texts are the source, the positive ones the target, one
vector [d] a text. By default a unit is moved only within the range that its source had.

Rodriguez et al. 2024 (arXiv 2410.23054; apple/ml-act). Departures: unequal sides are matched by
their quantiles; the variants that match means or variances only are not here (a mean-only map is
the mean difference at all sites).
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Method
from jackfield.edits import Edit
from jackfield.edits.transport import MoveUnits
from jackfield.steering.contrast import Contrast, Pooling, read_contrast
from jackfield.steering.one_dimensional import matched, w2_squared
from jackfield.steering.unit_maps import UnitMap, UnitMaps
from jackfield.steering.unsteered import sinks_in

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class AcT(Method):
    """Affine transport of units, site by site.

    Attributes:
        tokens: what stands for a text: the mean of its tokens ("all") or its last one ("last").
        where: which tokens are read.
        within: move a unit only between the least and the largest value of its source.
        sequential: fit each site with the maps before it in place; else all from the plain model.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> found = AcT().fit(world.model, positive=world.tokens, negative=world.other)
    >>> list(found.maps)
    ['layers.0.resid_post', 'layers.1.resid_post', 'layers.2.resid_post']
    """

    tokens: Pooling = "all"
    where: str | int | tuple[int, ...] = "~sinks"
    within: bool = True
    sequential: bool = True

    def fit(
        self,
        model: "Model",
        *,
        positive: Any,
        negative: Any,
        at: str = "layers.*.resid_post",
        progress: bool = False,
    ) -> UnitMaps:
        """Fits a map at each site.

        Args:
            model: the model to steer.
            positive: texts that have the property: strings, chats, or token ids [text, position].
            negative: texts that have not; at least two a side.
            at: sites [batch, position, d], or a pattern of them.
            progress: show a live line.

        Raises:
            InputError: fewer than two texts a side, or sides that do not differ.
            SiteError: a site of another shape.
        """
        sinks_in(model, self.where)  # they are found on the plain model
        first = self._read(model, positive, negative, at, (), progress)
        one = negative[:1]  # what was read of the target stays; a side cannot be empty
        maps: dict[str, UnitMap] = {}
        edits: list[Edit] = []
        for site in first.sites:
            target, source = first.sides(site)
            before = source
            if self.sequential and edits:
                source = self._read(model, one, negative, site, edits, progress).sides(site)[1]
            maps[site] = _fitted(source, target, before, self.within, f"{model.name}, {site}")
            edits.append(_edit(maps[site], site, self.where))
        method = {"name": type(self).__name__, **to_json(self)}
        return UnitMaps(maps, method, model.name, first.counts)

    def _read(
        self, model: "Model", positive: Any, negative: Any, at: str, edits: Any, progress: bool
    ) -> Contrast:
        with model.editing(edits):
            return read_contrast(
                model, positive, negative, at, tokens=self.tokens, where=self.where,
                progress=progress,
            )  # fmt: skip


def transport(
    source: Float[Tensor, "source d"], target: Float[Tensor, "target d"]
) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """ω and b of each unit; a unit that does not vary is shifted only."""
    s, t = matched(source, target)
    mean_s, mean_t = s.mean(dim=0), t.mean(dim=0)
    variance = (s - mean_s).square().mean(dim=0)
    covariance = ((s - mean_s) * (t - mean_t)).mean(dim=0)
    omega = torch.where(variance > 0, covariance / variance, torch.ones_like(variance))
    return omega, mean_t - omega * mean_s


def _fitted(source: Tensor, target: Tensor, before: Tensor, within: bool, where: str) -> UnitMap:
    if min(len(source), len(target)) < 2:
        got = f"{len(target)} and {len(source)}"
        raise InputError(explain(where=where, expected="at least two texts a side", got=got))
    variance = before.var(dim=0).clamp(min=1e-12)
    gap = float((w2_squared(before, target) / variance).mean())
    if not gap > 0:
        raise InputError(explain(where=where, expected="sides that differ", got="equal sides"))
    omega, bias = transport(source, target)
    after = float((w2_squared(omega * source + bias, target) / variance).mean())
    low, high = (source.amin(dim=0).float(), source.amax(dim=0).float()) if within else (None, None)
    return UnitMap((omega - 1).float(), bias.float(), low, high, gap, after)


def _edit(held: UnitMap, site: str, where: Any) -> Edit:
    return MoveUnits(held.gain, held.bias, held.low, held.high, at=site, where=where)
