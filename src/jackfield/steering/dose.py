"""Doses: how strongly to steer, in units that mean the same for every method and every model.

    1.5, "raw:1.5"   in the method's own unit, such as lengths of its vector
    "norm:0.3"       so that the change is 0.3 of the mean length of the activation
    "sigma:2"        two standard deviations of the activation along the direction
    "kl:0.3"         so that predictions on plain prose move by 0.3 nats a token

A KL is met by measuring. For small changes it grows as the square of the strength γ,

    KL ≈ ½ γ² E[Var_{y~p}((J s)_y)]        J s: how the logits move, by one finite difference

(p the model's own predictions), which gives the first guess; at most five secant steps on
log KL over log γ do the rest. A negative number steers the other way.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from torch import Tensor

from jackfield.core.errors import InputError, did_you_mean, explain, warn
from jackfield.edits import Edit
from jackfield.steering.cost import KLCost, kl_cost
from jackfield.steering.unsteered import Unsteered

if TYPE_CHECKING:
    from jackfield.model.model import Model

Unit = Literal["raw", "norm", "sigma", "kl"]
_PROBE = 0.01  # of the raw unit: the step of the finite difference
_COARSE = 0.1  # the same for models of 16 bits, in which a small step is lost to rounding
_CLOSE, _STEPS = 0.03, 5  # a search ends within 3 %, or after 5 steps
_FAR = 0.1  # from here on a missed KL is said


@dataclass(frozen=True)
class Strength:
    """A number and its unit.

    >>> Strength.of("kl:0.3"), Strength.of(2)
    (Strength(value=0.3, unit='kl'), Strength(value=2.0, unit='raw'))
    """

    value: float
    unit: Unit = "raw"

    @staticmethod
    def of(given: "float | str | Strength") -> "Strength":
        """Reads a number or "unit:number".

        Raises:
            InputError: neither, an unknown unit, or a number that is not finite.
        """
        if isinstance(given, Strength):
            return given
        unit, _, text = given.rpartition(":") if isinstance(given, str) else ("", "", given)
        unit = unit or "raw"
        hint = "" if unit in get_args(Unit) else did_you_mean(unit, get_args(Unit))
        try:
            value = float(text)
        except (TypeError, ValueError):
            value = math.nan
        if unit not in get_args(Unit) or not math.isfinite(value):
            expected = f"a finite number, or one with a unit such as {', '.join(_EXAMPLES)}"
            raise InputError(
                explain(where="strength", expected=expected, got=repr(given), hint=hint)
            )
        return Strength(value, cast(Unit, unit))


_EXAMPLES = ("'norm:0.3'", "'sigma:2'", "'kl:0.3'")


@dataclass(frozen=True)
class Dose:
    """A strength that was measured.

    Attributes:
        factor: in the method's raw unit; what `edits` takes.
        cost: the KL that it has on neutral text, mean and 95th percentile.
        first: the factor that the closed form gave.
        measured: (factor, mean KL) of every try.
    """

    factor: float
    cost: KLCost
    first: float
    measured: tuple[tuple[float, float], ...]


def dose_for(
    model: "Model",
    scaled: Callable[[float], list[Edit]],
    goal: float,
    prompts: Any,
    *,
    sign: int = 1,
    limit: float = math.inf,
    where: str = "steering",
) -> Dose:
    """The factor at which the mean KL on `prompts` is `goal` nats.

    Args:
        model: the model to steer.
        scaled: edits of a factor; those of 0 change nothing.
        goal: nats a token, more than 0.
        prompts: neutral texts.
        sign: of the factor.
        limit: the largest factor that the method knows.
        where: what steers, for messages.

    Raises:
        InputError: a goal that is not positive, or that even the largest factor does not reach.
    """
    if not 0 < goal < math.inf:
        raise InputError(explain(where=where, expected="a positive number of nats", got=f"{goal}"))
    tried: list[tuple[float, KLCost]] = []
    probe = _PROBE if model.dtype.itemsize > 2 else _COARSE
    probing = scaled(sign * probe)
    unsteered = Unsteered(model, prompts, probing)

    def measure(size: float) -> float:
        tried.append((size, kl_cost(unsteered, scaled(sign * size))))
        return math.log(max(tried[-1][1].mean, 1e-12))

    first = min(limit, _closed_form(unsteered, probing, probe, goal, where))
    size, slope = first, 2.0
    found = measure(size)
    for _ in range(_STEPS):
        if abs(found - math.log(goal)) < _CLOSE or (size == limit and found < math.log(goal)):
            break
        step = max(-1.5, min(1.5, (math.log(goal) - found) / slope))
        following = min(limit, size * math.exp(step))
        if following == size:
            break
        new = measure(following)
        slope = max(0.3, (new - found) / math.log(following / size))
        size, found = following, new
    return _best(tried, goal, sign * first, sign, limit, where)


def _best(
    tried: list[tuple[float, KLCost]],
    goal: float,
    first: float,
    sign: int,
    limit: float,
    where: str,
) -> Dose:
    """The try that is nearest to the goal; says when it is not near."""
    size, cost = min(tried, key=lambda each: abs(math.log(max(each[1].mean, 1e-12) / goal)))
    miss = abs(cost.mean / goal - 1)
    if miss > _FAR and size == limit:
        raise InputError(
            explain(
                where=where,
                expected=f"a KL of {goal:g} nats",
                got=f"at most {cost.mean:.3g}, at the largest strength {limit:g}",
                hint="Ask for less, or steer at other layers.",
            )
        )
    if miss > _FAR:
        warn(f"{where}: strength {sign * size:.3g} has a KL of {cost.mean:.3g} nats, not {goal:g}.")
    measured = tuple((sign * each, kl.mean) for each, kl in tried)
    return Dose(sign * size, cost, first, measured)


def _closed_form(
    unsteered: Unsteered, probing: list[Edit], probe: float, goal: float, where: str
) -> float:
    """√(2 · goal / E[Var_p(J s)]), J s from one finite difference."""
    total, count = 0.0, 0
    for p, q in unsteered.beside(probing):
        total += float(_variance(p.softmax(dim=-1), (q - p) / probe).sum())
        count += len(p)
    if not total > 0:
        raise InputError(
            explain(where=where, expected="edits that move the predictions", got="no change at all")
        )
    return math.sqrt(2 * goal * count / total)


def _variance(p: Tensor, x: Tensor) -> Tensor:
    mean = (p * x).sum(dim=-1, keepdim=True)
    return (p * (x - mean).square()).sum(dim=-1)
