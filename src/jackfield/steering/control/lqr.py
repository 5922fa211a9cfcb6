"""LQR: closed-loop steering, with gains that foresee what the layers will do to each push.

Layers are time: x_{t+1} = f_t(x_t) + u_t, with x_t the residual stream before block t, and u_t what
is added at its output. Around the model's own way an error follows e_{t+1} = A_t e_t − u_t, with
A_t the block's mean Jacobian, and the Riccati recursion gives the gains K_t that trade errors
against control. At run time

    e_t = (goal_t − v̂_tᵀ x_t) v̂_t           x_t as it is now, steering of earlier layers included
    u_t = K_t e_t

As e_t lies along v̂_t, K_t v̂_t [d] is all of K_t that is ever used, and all that is kept.

A-LQR: Skifstad, Yang, Chou 2026 (arXiv 2604.19018), with q = r = 10, q_T = 1 as there. Departures:
set-points are measured from the middle of the two sides ("middle"; theirs, from 0, is "zero");
every token but the sinks is controlled, where theirs is the last one at each step (`where=
"generated"`); a strength below 1 fades the feedback in.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.fitted import Method
from jackfield.steering.contrast import Pooling
from jackfield.steering.control.feedback import FeedbackControl, Loop
from jackfield.steering.control.jacobians import block_jacobians
from jackfield.steering.control.riccati import backwards
from jackfield.steering.control.setpoints import (
    Origin,
    SetPoint,
    controlled_layers,
    read_setpoints,
)

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class LQR(Method):
    """A linear-quadratic regulator over the layers.

    Attributes:
        state: q, the price of an error at each layer.
        control: r, the price of what is added; only the ratios of the three matter.
        final: q_T, the price of the error after the last layer.
        origin: what set-points are measured from: the "middle" of the two sides, or "zero".
        tokens: what stands for a text in the means: "all" of its tokens, or its "last" one.
        prompts: how many texts the Jacobians are averaged over, half of them from each side.
        context: tokens of a text that a Jacobian is taken after.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> found = LQR(prompts=2).fit(world.model, positive=world.tokens, negative=world.other)
    >>> list(found.loops)
    ['layers.1.resid_post', 'layers.2.resid_post']
    """

    state: float = setting(default=10.0, gt=0)
    control: float = setting(default=10.0, gt=0)
    final: float = setting(default=1.0, gt=0)
    origin: Origin = "middle"
    tokens: Pooling = "all"
    prompts: int = setting(default=4, ge=1)
    context: int = setting(default=24, ge=2)

    def fit(
        self,
        model: "Model",
        *,
        positive: Any,
        negative: Any,
        at: str | Sequence[str] | None = None,
        progress: bool = False,
    ) -> FeedbackControl:
        """Reads set-points and Jacobians, and solves for the gains.

        Args:
            model: the model to steer.
            positive: texts that have the property: strings, chats, or token ids [text, position].
            negative: texts that have not.
            at: consecutive sites where it acts, such as layers.6:27.resid_post; from a fifth to
                nine tenths of the depth if not given.
            progress: show a live line.

        Raises:
            InputError: no texts, sides that do not differ, or a Jacobian that is not finite.
            SiteError: sites other than consecutive outputs of blocks.
        """
        layers = controlled_layers(model, at, "LQR")
        points, read = read_setpoints(
            model, positive, negative, layers, tokens=self.tokens, origin=self.origin,
            progress=progress,
        )  # fmt: skip
        jacobians = block_jacobians(
            model, _some(positive, negative, self.prompts), layers,
            context=self.context, progress=progress,
        )  # fmt: skip
        return FeedbackControl(
            loops=self._loops(layers, points, [jacobians[layer] for layer in layers]),
            method={"name": "LQR", **to_json(self)},
            model=model.name,
            counts=read.counts,
            means={_out(layer): p.means for layer, p in zip(layers, points, strict=True)},
            growth={
                _out(layer): float((jacobians[layer].double() @ p.direction).norm())
                for layer, p in zip(layers, points, strict=True)
            },
        )

    def _loops(
        self, layers: list[int], points: list[SetPoint], dynamics: list[Float[Tensor, "d d"]]
    ) -> dict[str, Loop]:
        """The feedback of each layer, by the Riccati recursion."""
        responses: dict[int, Tensor] = {}

        def take(t: int, gain: Float[Tensor, "d d"]) -> None:
            responses[t] = (gain @ points[t].direction).float()

        backwards(dynamics, take, state=self.state, control=self.control, final=self.final)
        return {
            _out(layer): Loop(
                reads=(f"layers.{layer}.resid_pre",),
                directions=point.direction.float()[None],
                responses=responses[t][None],
                origins=(point.origin,),
                spans=(point.span,),
            )
            for t, (layer, point) in enumerate(zip(layers, points, strict=True))
        }


def _out(layer: int) -> str:
    return f"layers.{layer}.resid_post"


def _some(positive: Any, negative: Any, count: int) -> list[Any]:
    """The first texts of both sides, as many of each."""
    plus, minus = ([side] if isinstance(side, str) else side for side in (positive, negative))
    half = count // 2
    return [*plus[: count - half], *minus[:half]]
