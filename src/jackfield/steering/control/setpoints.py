"""Set-points: at the input of each block, the direction that is watched and where it is to be.

    E_t = mean⁺ − mean⁻ at layers.t.resid_pre;   v̂_t = E_t / |E_t|
    goal_t(λ) = o_t + λ h_t

    origin "zero":    o = 0,                       h = |E_t|         as in 2604.19018
    origin "middle":  o = v̂ᵀ(mean⁺ + mean⁻)/2,    h = |E_t| / 2     λ = ±1 are the two means

"zero" takes for granted that texts in the middle have no projection. In a residual stream with a
large mean they have one, and the goal may then lie on the wrong side of both means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, SiteError, explain
from jackfield.core.sites import layer_of
from jackfield.steering.contrast import Contrast, Pooling, read_contrast

if TYPE_CHECKING:
    from jackfield.model.model import Model

Origin = Literal["middle", "zero"]
_FIRST, _LAST = 0.2, 0.9  # of the depth: where a controller acts if nothing else is said


@dataclass(frozen=True, eq=False)
class SetPoint:
    """What is watched at one place.

    Attributes:
        direction: v̂ [d] float64, 1 long.
        origin: o, the projection that λ = 0 stands for.
        span: h, what one λ is.
        means: the projections of the two means, positive and negative.
    """

    direction: Float[Tensor, " d"]
    origin: float
    span: float
    means: tuple[float, float]


def controlled_layers(model: "Model", at: str | Sequence[str] | None, where: str) -> list[int]:
    """The blocks at whose outputs a controller acts: those of a pattern, or the middle ones.

    Raises:
        SiteError: sites other than resid_post, or layers with a gap between them.
    """
    if at is None:
        first = round(_FIRST * model.n_layers)
        return list(range(first, max(first + 1, round(_LAST * model.n_layers))))
    names = model.sites.select(at)
    layers = [layer for name in names if (layer := layer_of(name)) is not None]
    whole = all(name == f"layers.{layer_of(name)}.resid_post" for name in names)
    if not names or not whole or layers != list(range(layers[0], layers[0] + len(layers))):
        expected = "consecutive outputs of blocks, such as layers.6:27.resid_post"
        got = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
        raise SiteError(explain(where=f"{model.name}, {where}", expected=expected, got=got))
    return layers


def read_setpoints(
    model: "Model",
    positive: Any,
    negative: Any,
    layers: Sequence[int],
    *,
    tokens: Pooling,
    origin: Origin,
    progress: bool = False,
) -> tuple[list[SetPoint], Contrast]:
    """The set-points at the inputs of some blocks, and what they were read from.

    Raises:
        InputError: no texts, or sides that do not differ.
    """
    sites = [f"layers.{layer}.resid_pre" for layer in layers]
    read = read_contrast(model, positive, negative, sites, tokens=tokens, progress=progress)
    return [_setpoint(model, read, site, origin) for site in sites], read


def _setpoint(model: "Model", read: Contrast, site: str, origin: Origin) -> SetPoint:
    plus, minus = (side.mean(dim=0) for side in read.sides(site))
    gap = plus - minus
    length = float(gap.norm())
    if not length > 0:
        where = f"{model.name}, {site}"
        raise InputError(explain(where=where, expected="sides that differ", got="equal means"))
    unit = gap / length
    means = (float(plus @ unit), float(minus @ unit))
    if origin == "zero":
        return SetPoint(unit, 0.0, length, means)
    return SetPoint(unit, sum(means) / 2, length / 2, means)
