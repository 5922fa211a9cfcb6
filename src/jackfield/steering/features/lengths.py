"""How long an activation is, and how far texts spread along a vector: the units of a strength."""

import math
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from jackfield.steering.contrast import Pooling, read_contrast

if TYPE_CHECKING:
    from jackfield.model.model import Model


def lengths(
    model: "Model",
    positive: Any,
    negative: Any,
    at: str,
    vector: Float[Tensor, " d"],
    tokens: Pooling = "all",
    where: Any = "~sinks",
) -> tuple[float, float | None]:
    """The mean length of the activation, and the standard deviation within a side along `vector`.

    The second is None with fewer than two texts a side.

    Raises:
        InputError: texts that cannot be read.
        SiteError: a site that is not [batch, position, d].
    """
    read = read_contrast(model, positive, negative, at, tokens=tokens, where=where)
    site = read.sites[0]
    if min(read.counts) < 2:
        return read.norm(site), None
    unit = vector.double() / vector.norm()
    plus, minus = (side @ unit for side in read.sides(site))
    return read.norm(site), math.sqrt(float((plus.var() + minus.var()) / 2))
