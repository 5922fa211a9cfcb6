"""BiPO: a direction learned so that adding it raises preferred answers, and taking it away others.

    π_{mv}: x ← x + m v at one site,     m ∈ {−1, +1}
    L = − log σ( m β [log π_{mv}(y_w)/π_0(y_w) − log π_{mv}(y_l)/π_0(y_l)] )

Where a mean difference asks what activations of two sides of texts look like, this asks what
makes the model write one of them. See `objective.py` and `learning.py`.

Cao et al. 2024, Personalized steering of large language models: versatile steering vectors through
bi-directional preference optimization, arXiv 2406.00045. Departures: the step is a share of the
activation's typical unit (the root of its mean square), where theirs is 5e-4 for any model; there
is no warm-up; the best epoch by held-out pairs is kept; sinks are not steered. m is drawn for each
batch, as in the code of YaPO (2601.08441), from which the dense case is taken.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, to_json
from jackfield.edits import Add, Edit
from jackfield.reports import Report, Table
from jackfield.steering.direction_units import direction_units
from jackfield.steering.learned_tokens import narrowed
from jackfield.steering.preference.course import Course
from jackfield.steering.preference.learning import PreferenceMethod, learn
from jackfield.steering.preference.objective import PreferenceObjective
from jackfield.steering.preference.pairs import preference_pairs
from jackfield.steering.steering import Steering

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class BiPO(PreferenceMethod):
    """A direction that raises preferred answers, learned by bi-directional preference optimisation.

    Attributes:
        beta, epochs, batch, rate, decay, held_out, patience, where, seed: of the descent; see
            `PreferenceMethod`. One unit is the root mean square of the activation's.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> found = BiPO(epochs=2).fit(world.model, **sides, at="layers.1.resid_post")
    >>> found.course.held[2] < found.course.held[0]
    True
    """

    def fit(
        self,
        model: "Model",
        *,
        positive: Any,
        negative: Any,
        at: str,
        prompts: Any = None,
        progress: bool = False,
    ) -> "PreferenceVector":
        """Learns the direction.

        Args:
            model: a language model; its weights stay as they are.
            positive: answers to prefer: strings, or rows of token ids.
            negative: as many to avoid; answer i of both sides is to prompt i.
            at: a site [batch, position, d] such as layers.15.resid_post.
            prompts: as many: strings, chats, or rows of token ids. Without them the answers are
                whole texts, each judged from its second token on, or chats, judged by their last
                message.
            progress: show a live line.

        Raises:
            InputError: no pairs, sides of different number, equal answers, too few to hold out, or
                a `where` that asks where prompts end, without prompts.
            SiteError: a site of another shape, or several.
        """
        pairs = preference_pairs(model, positive, negative, prompts)
        objective = PreferenceObjective(model, pairs, at, self.where)
        scale = objective.rows.double().square().mean().sqrt()
        exact = torch.float64 if model.dtype == torch.float64 else torch.float32

        def steer(u: Tensor, sign: float) -> list[Edit]:
            vector = u * scale.to(u)
            return [Add(vector, at=objective.at, where=self.where, strength=float(sign))]

        start = torch.zeros(objective.rows.shape[1], dtype=exact)
        found = learn(self, objective, steer, start, progress=progress)
        vector = (found.u.double() * scale).float()
        return PreferenceVector(
            vector=vector,
            at=objective.at,
            residual_norm=objective.norm,
            sigma=_spread(objective.means, vector),
            course=Course.of(found),
            method={"name": type(self).__name__, **to_json(self)},
            model=model.name,
        )


@dataclass(frozen=True, eq=False)
class PreferenceVector(Steering):
    """A direction learned from preferences.

    Attributes:
        vector: [d] float32; 1 and −1 are the strengths that it was learned at.
        at: the site it was learned at, and is added at.
        residual_norm: mean length of the activation on the tokens that were steered.
        sigma: standard deviation of the texts along the direction, within a side; None of too few.
        course: how the descent went.
        method: the name and the settings of the method that fitted it.
        model: the name of the model.
    """

    vector: Float[Tensor, " d"]
    at: str
    residual_norm: float
    sigma: float | None
    course: Course
    method: Mapping[str, Any]
    model: str

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Adds the direction, `x + factor · vector`, to those tokens that it was learned on."""
        rule = narrowed(self.method["where"], where)
        return [Add(self.vector, at=self.at, where=rule, strength=float(factor))]

    def units(self) -> Mapping[str, float]:
        """One "norm" is the mean length of the activation; one "sigma" its spread along it."""
        return direction_units(self.vector, self.residual_norm, self.sigma)

    def report(self) -> Report:
        """The curves, and how far the direction decides between the answers."""
        length = float(self.vector.norm())
        rows = [
            ["site", self.at],
            ["length of the vector", length],
            ["length ÷ mean residual norm", length / self.residual_norm],
            *self.course.rows(),
        ]
        name = self.method["name"]
        summary = f"{name} at {self.at} of {self.model}. {self.course.sentence()}"
        blocks = [self.course.curves(), Table(["measure", "value"], rows)]
        return Report(f"Preference direction ({name})", blocks, summary=summary)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the vector, and how the descent went."""
        extra = {name: getattr(self, name) for name in ("at", "residual_norm", "sigma", "model")}
        return (
            dict(self.method), {"vector": self.vector}, {**extra, "course": asdict(self.course)},
        )  # fmt: skip

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the direction from `state`."""
        held = {name: value for name, value in extra.items() if name != "course"}
        course = Course.from_json(extra["course"])
        return cls(vector=tensors["vector"], course=course, method=config, **held)


def _spread(means: Float[Tensor, "2 pair d"], vector: Float[Tensor, " d"]) -> float | None:
    """The standard deviation of the texts along a vector, within a side."""
    if means.shape[1] < 2:
        return None
    along = means @ (vector.double() / vector.double().norm())
    return float(along.var(dim=1).mean().sqrt())
