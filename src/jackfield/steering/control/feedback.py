"""Feedback: what is added to the stream depends on how far the stream is from a set-point.

    e_s = goal_s − v̂_sᵀ x_s          at each place that is watched, of the token itself
    y + gain · Σ_s e_s g_s            at the place where it acts

LQR watches one place, the input of the same block; a PID controller with an integral watches
several. As e is a number along v̂, a matrix K of feedback acts by the one vector g = K v̂.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.sites import layer_of
from jackfield.edits import Context, Edit
from jackfield.edits.base import fit_last
from jackfield.reports import Lines, Report, Table
from jackfield.steering.steering import Steering


@dataclass(frozen=True, eq=False, repr=False)
class Feedback(Edit):
    """Adds what a linear feedback law says, token by token.

    Attributes:
        directions: v̂ [place, d], one for each of `reads`, in their order; each 1 long.
        responses: g [place, d] what is added for an error of 1.
        goals: where each projection is to be, in units of the activation.
        gain: 0 changes nothing, 1 is the whole law.
    """

    directions: Tensor
    responses: Tensor
    goals: tuple[float, ...]
    gain: float = 1.0

    def apply(self, x: Float[Tensor, "*rows d"], context: Context) -> Float[Tensor, "*rows d"]:
        added = torch.zeros_like(x)
        for index, name in enumerate(self.reads):
            watched = context.read(name).to(x)
            unit = fit_last(self.directions[index], watched, self, context)
            error = self.goals[index] - watched @ unit
            added = added + error[..., None] * fit_last(self.responses[index], x, self, context)
        return x + self.gain * added


@dataclass(frozen=True, eq=False)
class Loop:
    """The feedback at the output of one block.

    Attributes:
        reads: the sites that are watched.
        directions, responses: [place, d] float32, as in `Feedback`.
        origins, spans: of the goals, `origin + λ span`; one a place.
    """

    reads: tuple[str, ...]
    directions: Float[Tensor, "place d"]
    responses: Float[Tensor, "place d"]
    origins: tuple[float, ...]
    spans: tuple[float, ...]

    def edit(self, factor: float, at: str, where: Any) -> Feedback:
        """The feedback at a factor; see `FeedbackControl`."""
        goal = factor if abs(factor) > 1 else (1.0 if factor >= 0 else -1.0)
        goals = tuple(o + goal * h for o, h in zip(self.origins, self.spans, strict=True))
        return Feedback(
            self.directions, self.responses, goals, min(abs(factor), 1.0),
            at=at, where=where, reads=self.reads,
        )  # fmt: skip

    @property
    def closes(self) -> float:
        """The share of an error at the latest place that goes, if the block passes it on whole."""
        return float(self.directions[-1] @ self.responses[-1])


@dataclass(frozen=True, eq=False)
class FeedbackControl(Steering):
    """A controller with a set-point at several layers.

    A raw strength of 1 or more is λ, the set-point in the units of the fit, under the whole law of
    feedback; below 1 the set-point stays where it is at 1 and the law is faded in, so that 0
    changes nothing. A negative strength has the set-point of the other side. Two concepts: the
    edits of two controllers, one after the other, add up.

    Attributes:
        loops: {site where it acts: its feedback}, in the order of the forward.
        method: the name and the settings of the method that fitted it.
        model: the name of the model.
        counts: texts on the positive and the negative side.
        means: {site where it acts: the projections of the two means at the block's input}.
        growth: {site: |A v̂| / |v̂|}, how a push along the direction grows in the block; {} where no
            Jacobian was made.
    """

    loops: Mapping[str, Loop]
    method: Mapping[str, Any]
    model: str
    counts: tuple[int, int]
    means: Mapping[str, tuple[float, float]]
    growth: Mapping[str, float] = field(default_factory=dict)

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """The feedback at a factor, at every site."""
        return [loop.edit(float(factor), at, where) for at, loop in self.loops.items()]

    def units(self) -> Mapping[str, float]:
        """None but the raw unit, λ."""
        return {}

    def report(self) -> Report:
        """The set-points and how much of an error each layer takes back."""
        columns = ["site", "negative mean", "positive mean", "goal at 1", "share closed"]
        rows = [
            [at, *reversed(self.means[at]), loop.origins[-1] + loop.spans[-1], loop.closes]
            for at, loop in self.loops.items()
        ]
        blocks: list[Any] = [Table(columns, rows, formats=dict.fromkeys(columns[1:], ".3g"))]
        if len(rows) > 2:
            x = [float(layer_of(at) or 0) for at in self.loops]
            curves = {
                name: [row[index] for row in rows] for index, name in enumerate(columns[1:4], 1)
            }
            blocks.insert(0, Lines(x, curves, x_title="layer", y_title="projection"))
        return Report(f"Feedback control ({self.method['name']})", blocks, summary=self._sentence())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the directions and responses, and the goals."""
        tensors = {f"{at}/directions": loop.directions for at, loop in self.loops.items()}
        tensors |= {f"{at}/responses": loop.responses for at, loop in self.loops.items()}
        loops = {
            at: {"reads": list(loop.reads), "origins": list(loop.origins),
                 "spans": list(loop.spans), "means": list(self.means[at])}
            for at, loop in self.loops.items()
        }  # fmt: skip
        extra = {
            "loops": loops, "model": self.model, "counts": list(self.counts),
            "growth": dict(self.growth),
        }  # fmt: skip
        return dict(self.method), tensors, extra

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the controller from `state`."""
        loops = {
            at: Loop(
                tuple(held["reads"]), tensors[f"{at}/directions"], tensors[f"{at}/responses"],
                tuple(held["origins"]), tuple(held["spans"]),
            )
            for at, held in extra["loops"].items()
        }  # fmt: skip
        means = {at: (held["means"][0], held["means"][1]) for at, held in extra["loops"].items()}
        counts = (extra["counts"][0], extra["counts"][1])
        return cls(loops, config, extra["model"], counts, means, extra["growth"])

    def _sentence(self) -> str:
        names = list(self.loops)
        shares = [loop.closes for loop in self.loops.values()]
        grown = self.growth.values()
        jacobians = (
            f" Left alone, a push along its direction leaves a block {min(grown):.2f} to "
            f"{max(grown):.2f} times as long."
            if grown
            else ""
        )
        return (
            f"{self.method['name']} from {names[0]} to {names[-1]} of {self.model}: a layer closes "
            f"{min(shares):.2g} to {max(shares):.2g} of the way to its set-point.{jacobians}"
        )
