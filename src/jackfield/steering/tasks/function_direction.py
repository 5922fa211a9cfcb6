"""A function vector: a direction that is added at the last token of a prompt, and what made it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor

from jackfield.core.where import where as as_where
from jackfield.edits import Add, Edit
from jackfield.reports import HeatMap, Report, Table
from jackfield.steering.direction_units import direction_units
from jackfield.steering.steering import Steering


@dataclass(frozen=True)
class TaskHead:
    """An attention head of a function vector.

    Attributes:
        layer, head: which one.
        effect: mean p(answer | its output replaced) − p(answer), over prompts with wrong answers.
    """

    layer: int
    head: int
    effect: float


@dataclass(frozen=True, eq=False)
class FunctionDirection(Steering):
    """A direction at one site, added where the answer is made.

    Attributes:
        vector: [d] float32.
        at: the site it is added at.
        acts: on which tokens, but for the sinks. "last" is one token: a strength in KL, measured
            over all tokens of neutral texts, is thinned by those without it.
        method: the name and the settings of the method that fitted it.
        model: the name of the model.
        counts: prompts with the task, and without it.
        residual_norm: mean length of the activation at `at`, at the last token with the task.
        sigma: its standard deviation along the vector there; None of a single prompt.
        heads: those that the vector is the sum of, strongest first; none for a mean difference.
        effects: [layer, head] of every head, if they were measured.
    """

    vector: Float[Tensor, " d"]
    at: str
    acts: str
    method: Mapping[str, Any]
    model: str
    counts: tuple[int, int]
    residual_norm: float
    sigma: float | None = None
    heads: tuple[TaskHead, ...] = ()
    effects: Float[Tensor, "layer head"] | None = None

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Adds the vector, `factor` times; a `where` of one's own stands in place of `acts`."""
        tokens = as_where(where) & as_where(self.acts) if where == "~sinks" else where
        return [Add(self.vector, at=self.at, where=tokens, strength=float(factor))]

    def units(self) -> Mapping[str, float]:
        """One "norm" is the mean length of the activation; one "sigma" its spread along it."""
        return direction_units(self.vector, self.residual_norm, self.sigma)

    def report(self) -> Report:
        """What the vector is made of."""
        length = float(self.vector.norm())
        rows: list[Sequence[Any]] = [
            ["site", self.at],
            ["tokens it acts on", self.acts],
            ["prompts with and without the task", f"{self.counts[0]} and {self.counts[1]}"],
            ["length of the vector", length],
            ["length ÷ mean residual norm", length / self.residual_norm],
        ]
        blocks = [Table(["measure", "value"], rows), *self._of_heads()]
        title = f"Function vector ({self.method['name']})"
        return Report(title, blocks, summary=self._sentence())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the vector, the effects, and what was measured."""
        tensors = {"vector": self.vector}
        if self.effects is not None:
            tensors["effects"] = self.effects
        names = ("at", "acts", "model", "counts", "residual_norm", "sigma")
        heads = [[each.layer, each.head, each.effect] for each in self.heads]
        return dict(self.method), tensors, {**{n: getattr(self, n) for n in names}, "heads": heads}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the direction from `state`."""
        heads = tuple(TaskHead(*each) for each in extra["heads"])
        kept = {**extra, "counts": tuple(extra["counts"]), "heads": heads}
        effects = tensors.get("effects")
        return cls(vector=tensors["vector"], method=config, effects=effects, **kept)

    def _sentence(self) -> str:
        start = f"{self.method['name']} at {self.at} of {self.model}, "
        if not self.heads:
            return f"{start}the mean difference at the last token of {self.counts[0]} prompts."
        first = self.heads[0]
        return (
            f"{start}the sum of {len(self.heads)} heads; the strongest, head {first.head} of layer "
            f"{first.layer}, raises the answer's probability by {first.effect:.3f} on its own."
        )

    def _of_heads(self) -> list[Any]:
        if self.effects is None:
            return []
        rows = [[each.layer, each.head, each.effect] for each in self.heads]
        name = "mean indirect effect"
        heat = HeatMap(self.effects, x_title="head", y_title="layer", value_name=name)
        return [heat, Table(["layer", "head", name], rows)]
