"""Directions: one a site, fitted from the same texts in one pass, and how good each is.

A layer is picked from what it costs to be sure: d′ on held-out texts, the cosine of the pairs and
of the halves say whether a direction is there; what it does when added is measured by a sweep at
equal KL (`WordOdds`, `ReportCard`).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from torch import Tensor

from jackfield.core.config import to_json
from jackfield.core.errors import InputError, SiteError, did_you_mean, explain
from jackfield.core.fitted import Fitted
from jackfield.core.sites import layer_of
from jackfield.edits import Edit
from jackfield.reports import Lines, Report, Table
from jackfield.steering.contrast import Contrast, held_out, pair_cosine
from jackfield.steering.steering_vector import SteeringVector, TokensRead
from jackfield.steering.unsteered import sinks_in

if TYPE_CHECKING:
    from jackfield.model.model import Model


class _Fitting(Protocol):
    """The settings that a method which fits directions has."""

    @property
    def where(self) -> Any: ...
    @property
    def splits(self) -> int: ...
    @property
    def seed(self) -> int: ...


def direction_of(
    method: _Fitting,
    model: "Model",
    read: Contrast,
    site: str,
    direction: Callable[[Tensor, Tensor], Tensor],
) -> SteeringVector:
    """The direction at one site, and how far it can be trusted.

    Args:
        method: its settings are noted, and `splits`, `seed` and `where` used.
        model: the model that was read.
        read: both sides.
        site: one of the sites read.
        direction: makes [d] of two sides [text, d]; its length is one raw unit of strength.

    Raises:
        InputError: the direction is nothing: the sides do not differ.
    """
    plus, minus = read.sides(site)
    vector = direction(plus, minus)
    if not bool(vector.norm() > 0):
        raise InputError(
            explain(where=site, expected="sides whose means differ", got="equal means")
        )
    d_prime, cosine = held_out(plus, minus, method.splits, method.seed, direction)
    unit = vector / vector.norm()
    middle = float((plus.mean(0) + minus.mean(0)) @ unit / 2)
    return SteeringVector(
        vector=vector.float(),
        at=site,
        method={"name": type(method).__name__, **to_json(method)},
        model=model.name,
        counts=read.counts,
        tokens_read=read.tokens_read,
        sinks=sinks_in(model, method.where),
        residual_norm=read.norm(site),
        d_prime=d_prime,
        cosine=cosine,
        pair_cosine=pair_cosine(plus, minus),
        sigma=_spread(plus @ unit, minus @ unit),
        shown=tuple(
            TokensRead(
                side, strings, tuple((x[site] @ unit - middle).tolist()), tuple(read_.tolist())
            )
            for side, held in (("positive", read.positive), ("negative", read.negative))
            for strings, x, read_ in held.shown
        ),
    )


def _spread(plus: Tensor, minus: Tensor) -> float | None:
    """The standard deviation within a side; None of single texts."""
    if min(len(plus), len(minus)) < 2:
        return None
    return math.sqrt(float((plus.var() + minus.var()) / 2))


@dataclass(frozen=True, eq=False)
class Directions(Fitted):
    """A direction at each of several sites: `directions["layers.15.resid_post"]`.

    Attributes:
        all: the directions, in the order of the forward.
    """

    all: tuple[SteeringVector, ...]

    def __getitem__(self, site: str) -> SteeringVector:
        found = {each.at: each for each in self.all}
        if site not in found:
            hint = did_you_mean(site, found)
            raise SiteError(
                explain(where="Directions", expected="a site that was fitted", got=site, hint=hint)
            )
        return found[site]

    def __iter__(self) -> Iterator[SteeringVector]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def best(self) -> SteeringVector:
        """The direction with the largest d′ on held-out texts.

        A direction that separates need not steer: compare a few at equal KL before it is used.

        Raises:
            InputError: too few texts to know a d′.
        """
        known = [each for each in self.all if each.d_prime is not None]
        if not known:
            got = f"{min(self.all[0].counts)}"
            raise InputError(explain(where="Directions.best", expected="4 texts a side", got=got))
        return max(known, key=lambda each: each.d_prime or -math.inf)

    def edits(self, strength: float | str = 1.0, **options: Any) -> list[Edit]:
        """The edits of all directions together; see `Steering.edits`."""
        return [edit for each in self.all for edit in each.edits(strength, **options)]

    def report(self) -> Report:
        """How well each separates, over the layers."""
        columns = ["site", "d′ on held-out texts", "pair cosine", "cosine between halves",
                   "length ÷ residual norm"]  # fmt: skip
        rows = [
            [v.at, v.d_prime, v.pair_cosine, v.cosine, float(v.vector.norm()) / v.residual_norm]
            for v in self.all
        ]
        blocks: list[Any] = [Table(columns, rows, formats=dict.fromkeys(columns[1:], ".2f"))]
        layers = [layer_of(each.at) for each in self.all]
        if len(self.all) > 2 and None not in layers and self.all[0].d_prime is not None:
            curve = {"d′": [float(each.d_prime or math.nan) for each in self.all]}
            blocks.insert(
                0, Lines([float(x or 0) for x in layers], curve, x_title="layer", y_title="d′")
            )
        return Report("Directions", blocks, summary=self._sentence())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, a vector a site, and what was measured."""
        states = [each.state() for each in self.all]
        tensors = {each.at: each.vector for each in self.all}
        return states[0][0], tensors, {"extra": [extra for _, _, extra in states]}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the directions from `state`."""
        return cls(
            tuple(
                SteeringVector.from_state(config, {"vector": tensors[each["at"]]}, each)
                for each in extra["extra"]
            )
        )

    def _sentence(self) -> str:
        first = self.all[0]
        if first.d_prime is None:
            return f"{len(self.all)} directions of {first.model}; too few texts to compare them."
        best = self.best()
        return (
            f"{len(self.all)} directions of {first.model} by {first.method['name']}; on held-out "
            f"texts {best.at} separates best, by d′ = {best.d_prime:.2f}."
        )
