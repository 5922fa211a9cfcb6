"""PID steering: feedback by the error now, its sum over layers and its change, with fixed gains.

    e_t = (goal_t − v̂_tᵀ x_t) v̂_t                         x_t: the input of block t, steered so far
    u_t = K_p e_t + K_i Σ_{s≤t} e_s + K_d (e_t − e_{t−1})    at the block's output

The sum begins anew every `reset` layers, or errors of far-away layers, whose directions differ,
would pile up. At the first layer there is no change yet.

Nguyen et al. 2025 (Activation steering with a feedback controller, arXiv 2510.04309), in the form
in which 2604.19018 has it as its baseline ("S-PID"), as we read it: set-points as those of `LQR`,
and the error measured on the token itself. With K_i = K_d = 0 it is proportional feedback.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from jackfield.core.config import config, setting, to_json
from jackfield.core.fitted import Method
from jackfield.steering.contrast import Pooling
from jackfield.steering.control.feedback import FeedbackControl, Loop
from jackfield.steering.control.setpoints import (
    Origin,
    SetPoint,
    controlled_layers,
    read_setpoints,
)

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class PIDSteering(Method):
    """A proportional, integral and derivative controller over the layers.

    Attributes:
        proportional: K_p.
        integral: K_i.
        derivative: K_d.
        reset: layers after which the sum begins anew.
        origin: what set-points are measured from: the "middle" of the two sides, or "zero".
        tokens: what stands for a text in the means: "all" of its tokens, or its "last" one.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> found = PIDSteering().fit(world.model, positive=world.tokens, negative=world.other)
    >>> found.loops["layers.2.resid_post"].reads
    ('layers.1.resid_pre', 'layers.2.resid_pre')
    """

    proportional: float = setting(default=0.5, ge=0)
    integral: float = setting(default=0.05, ge=0)
    derivative: float = setting(default=0.05, ge=0)
    reset: int = setting(default=10, ge=1)
    origin: Origin = "middle"
    tokens: Pooling = "all"

    def fit(
        self,
        model: "Model",
        *,
        positive: Any,
        negative: Any,
        at: str | Sequence[str] | None = None,
        progress: bool = False,
    ) -> FeedbackControl:
        """Reads the set-points.

        Args:
            model: the model to steer.
            positive: texts that have the property: strings, chats, or token ids [text, position].
            negative: texts that have not.
            at: consecutive sites where it acts, such as layers.6:27.resid_post; from a fifth to
                nine tenths of the depth if not given.
            progress: show a live line.

        Raises:
            InputError: no texts, or sides that do not differ.
            SiteError: sites other than consecutive outputs of blocks.
        """
        layers = controlled_layers(model, at, "PIDSteering")
        points, read = read_setpoints(
            model, positive, negative, layers, tokens=self.tokens, origin=self.origin,
            progress=progress,
        )  # fmt: skip
        out = [f"layers.{layer}.resid_post" for layer in layers]
        return FeedbackControl(
            loops={at: self._loop(layers, points, t) for t, at in enumerate(out)},
            method={"name": "PIDSteering", **to_json(self)},
            model=model.name,
            counts=read.counts,
            means={at: point.means for at, point in zip(out, points, strict=True)},
        )

    def _loop(self, layers: list[int], points: list[SetPoint], t: int) -> Loop:
        """The feedback of one layer: which errors it sums, and how much each counts."""
        shares = self._shares(t)
        watched = [points[s] for s in shares]
        directions = torch.stack([point.direction for point in watched]).float()
        weights = torch.tensor(list(shares.values()))
        return Loop(
            reads=tuple(f"layers.{layers[s]}.resid_pre" for s in shares),
            directions=directions,
            responses=directions * weights[:, None],
            origins=tuple(point.origin for point in watched),
            spans=tuple(point.span for point in watched),
        )

    def _shares(self, t: int) -> dict[int, float]:
        """{s: what the error of step s counts in the control of step t}, in order of the steps."""
        first = t - t % self.reset
        shares = dict.fromkeys(range(first, t + 1), self.integral)
        shares[t] += self.proportional
        if t:
            shares[t] += self.derivative
            shares[t - 1] = shares.get(t - 1, 0.0) - self.derivative
        return dict(sorted(shares.items()))
