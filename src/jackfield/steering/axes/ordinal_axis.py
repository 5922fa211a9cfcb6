"""Ordinal axis: a direction along which texts at ordered levels lie in their order.

    axis = mean(top level) − mean(bottom level)          [d]
    place(x) = (x − mean(bottom)) · axis / ‖axis‖²       0 at the bottom, 1 at the top

The two ends lie apart in any case, so nothing is judged on texts that the axis was made of: texts
are dealt into folds, each is placed by the axis of the other folds, and Spearman's ρ is between
the level and the place. Two permutation nulls, in each of which the axis is made anew:

    p_texts    texts change places between levels: is there anything to tell levels apart?
    p_order    whole levels change places: is this order better than other orders?

A cloud of distinct but unordered classes has a small p_texts and a large p_order. Of L levels
there are L!/2 orders up to reversal, all tried where they are few: p_order is at least 1/3 with
three levels, 1/60 with five.

The granularity axis (arXiv 2605.06196) is one, from the perspective of a person to that of the
world; there the cosine with PC1 of 75 role vectors is 0.97 in an 8B model. Departures: rows are
texts, not means over a role's answers; cross-validation and both nulls; PC1 and the variance along
the axis are of the half of the texts that the axis was not made of.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from math import factorial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.extras import need
from jackfield.core.fitted import Method
from jackfield.steering.axes.level_axis import LevelAxis
from jackfield.steering.axes.reading import Groups, read_groups
from jackfield.steering.contrast import Pooling, difference, held_out
from jackfield.steering.steering_vector import SteeringVector
from jackfield.steering.unsteered import sinks_in

if TYPE_CHECKING:
    from jackfield.model.model import Model

_LEVELS = 3  # fewer have no order to test


@config
class OrdinalAxis(Method):
    """The axis from the lowest to the highest of several levels, and whether it orders them.

    Attributes:
        folds: texts are placed by an axis from the other folds; every level has as many texts.
        permutations: of texts, and at most so many of levels.
        tokens: what stands for a text: the mean of its tokens ("all") or its last one ("last").
        where: which tokens may be read.
        seed: of folds and permutations.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> levels = {"low": world.tokens[:8], "middle": world.tokens[8:], "high": world.other}
    >>> method = OrdinalAxis(folds=4, permutations=10)
    >>> found = method.fit(world.model, levels=levels, at="layers.1.resid_post")
    >>> found.rho > 0.5, found.levels
    (True, ('low', 'middle', 'high'))
    """

    folds: int = setting(default=5, ge=2)
    permutations: int = setting(default=200, ge=1)
    tokens: Pooling = "all"
    where: str | int | tuple[int, ...] = "~sinks"
    seed: int = 0

    def fit(
        self, model: "Model", *, levels: Mapping[str, Any], at: str, progress: bool = False
    ) -> LevelAxis:
        """Fits the axis at one site.

        Args:
            model: the model to steer.
            levels: {level: texts, chats, or token ids [text, position]}, the lowest first.
            at: a site [batch, position, d] such as layers.15.resid_post.
            progress: show a live line.

        Raises:
            InputError: fewer than three levels, fewer texts at one than folds, or ends that do
                not differ.
            SiteError: several sites, or one of another shape.
        """
        where = f"{model.name}, OrdinalAxis"
        if len(levels) < _LEVELS:
            expected = f"at least {_LEVELS} levels"
            raise InputError(explain(where=where, expected=expected, got=str(len(levels))))
        fewest = min(levels, key=lambda name: len(levels[name]))
        if len(levels[fewest]) < self.folds:
            expected, got = f"{self.folds} texts a level or more", f"{len(levels[fewest])}"
            raise InputError(explain(where=f"{where}, {fewest}", expected=expected, got=got))
        read = read_groups(
            model, list(levels.values()), at, tokens=self.tokens, where=self.where,
            progress=progress,
        )  # fmt: skip
        if not bool(difference(read.rows[-1], read.rows[0]).norm() > 0):
            got = "equal means"
            raise InputError(explain(where=read.site, expected="ends that differ", got=got))
        return self._fitted(model, tuple(levels), read)

    def _fitted(self, model: "Model", names: tuple[str, ...], read: Groups) -> LevelAxis:
        cloud = Cloud.of(read.rows)
        generator = torch.Generator().manual_seed(self.seed)
        level = cloud.level
        places = placed(cloud, level, self.folds, generator)
        rho = spearman(level, places)
        order, complete = orders(len(names), self.permutations, generator)
        ranked = [self._rho(cloud, each[level], generator) for each in order]
        dealt = [
            self._rho(cloud, level[torch.randperm(len(level), generator=generator)], generator)
            for _ in range(self.permutations)
        ]
        cosine, share, first = geometry(cloud, generator)
        return LevelAxis(
            direction=self._direction(model, read),
            levels=names,
            level=level.float(),
            places=places.float(),
            rho=rho,
            p_texts=at_least(rho, dealt),
            p_order=at_least(rho, ranked),
            orders=len(ranked) + 1,
            complete=complete,
            cosine=cosine,
            share=share,
            first_share=first,
        )

    def _rho(self, cloud: "Cloud", level: Tensor, generator: torch.Generator) -> float:
        return spearman(level, placed(cloud, level, self.folds, generator))

    def _direction(self, model: "Model", read: Groups) -> SteeringVector:
        top, bottom = read.rows[-1], read.rows[0]
        axis = difference(top, bottom)
        d_prime, cosine = held_out(top, bottom, 20, self.seed)
        unit = axis / axis.norm()
        spread = ((top @ unit).var() + (bottom @ unit).var()) / 2
        return SteeringVector(
            vector=axis.float(),
            at=read.site,
            method={"name": "OrdinalAxis", **to_json(self)},
            model=model.name,
            counts=(len(top), len(bottom)),
            tokens_read=read.tokens_read,
            sinks=sinks_in(model, self.where),
            residual_norm=read.norm,
            d_prime=d_prime,
            cosine=cosine,
            sigma=float(spread.sqrt()),
        )


@dataclass(frozen=True)
class Cloud:
    """Rows [row, d] and the level of each, from 0."""

    rows: Float[Tensor, "row d"]
    level: Int[Tensor, " row"]

    @staticmethod
    def of(groups: tuple[Float[Tensor, "text d"], ...]) -> "Cloud":
        """The rows of all levels, the lowest first."""
        sizes = torch.tensor([len(each) for each in groups])
        return Cloud(torch.cat(groups), torch.arange(len(groups)).repeat_interleave(sizes))


def placed(
    cloud: Cloud, level: Int[Tensor, " row"], folds: int, generator: torch.Generator
) -> Float[Tensor, " row"]:
    """The place of each row on the axis that the other folds make, if the levels are `level`."""
    fold = dealt_out(level, folds, generator)
    places = torch.empty(len(level), dtype=torch.float64)
    for each in range(folds):
        bottom, axis = ends(cloud.rows, level, fold != each)
        held = fold == each
        places[held] = (cloud.rows[held] - bottom) @ axis / (axis @ axis)
    return places


def dealt_out(
    level: Int[Tensor, " row"], folds: int, generator: torch.Generator
) -> Int[Tensor, " row"]:
    """A fold for each row: every level is spread over the folds as evenly as it goes."""
    fold = torch.empty_like(level)
    for each in level.unique():
        inside = (level == each).nonzero()[:, 0]
        fold[inside[torch.randperm(len(inside), generator=generator)]] = (
            torch.arange(len(inside)) % folds
        )
    return fold


def ends(
    rows: Float[Tensor, "row d"], level: Int[Tensor, " row"], chosen: Tensor
) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """The mean of the lowest level, and the axis from it to that of the highest."""
    bottom = rows[chosen & (level == level.min())].mean(dim=0)
    return bottom, rows[chosen & (level == level.max())].mean(dim=0) - bottom


def spearman(level: Int[Tensor, " row"], places: Float[Tensor, " row"]) -> float:
    """Spearman's rank correlation; 0 where the places are all equal."""
    if bool((places == places[0]).all()):
        return 0.0
    stats = need("scipy.stats", extra="sklearn", purpose="A rank correlation")
    return float(stats.spearmanr(level.numpy(), places.numpy()).statistic)


def orders(
    levels: int, most: int, generator: torch.Generator
) -> tuple[list[Int[Tensor, " level"]], bool]:
    """Orders of the levels other than the true one and its reverse, and whether it is all of them.

    Of an order and its reverse, for which the axis turns round and ρ is the same, there is one.
    """
    if factorial(levels) // 2 - 1 <= most:
        return list(_every(levels)), True
    drawn: list[Tensor] = []
    while len(drawn) < most:
        order = torch.randperm(levels, generator=generator)
        if (order.diff().abs() != 1).any():
            drawn.append(order)
    return drawn, False


def geometry(cloud: Cloud, generator: torch.Generator) -> tuple[float, float, float]:
    """|cos(axis, PC1)|, the share of the variance along the axis, and that along PC1.

    The axis is of one half of the rows; PC1 and the variances are of the other. Means of both ways.
    """
    half = dealt_out(cloud.level, 2, generator)
    found = []
    for each in (0, 1):
        _, axis = ends(cloud.rows, cloud.level, half == each)
        rest = cloud.rows[half != each]
        rest = rest - rest.mean(dim=0)
        unit, total = axis / axis.norm(), rest.square().sum()
        _, sizes, components = torch.linalg.svd(rest, full_matrices=False)
        along = (rest @ unit).square().sum() / total
        found.append(torch.stack([(components[0] @ unit).abs(), along, sizes[0] ** 2 / total]))
    cosine, share, first = torch.stack(found).mean(dim=0).tolist()
    return cosine, share, first


def at_least(found: float, null: list[float]) -> float:
    """The share of values at least as large as the one found, itself among them."""
    return (1 + sum(each >= found - 1e-9 for each in null)) / (1 + len(null))


def _every(levels: int) -> Iterator[Int[Tensor, " level"]]:
    for order in permutations(range(levels)):
        if order[0] < order[-1] and order != tuple(range(levels)):
            yield torch.tensor(order)
