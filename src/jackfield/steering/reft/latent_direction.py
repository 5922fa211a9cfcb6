"""Latent direction: what ReFT-r1 learned, a unit vector that both detects and steers.

a(h) = max(h·w, 0)                  how strongly a token has the concept
h + strength · ā w                  ā: mean over the texts of the mean of their largest k a
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from jaxtyping import Float
from torch import Tensor

from jackfield.edits import Add, Edit
from jackfield.reports import Report, Table
from jackfield.steering.learned_tokens import narrowed
from jackfield.steering.reft.descent import Learned
from jackfield.steering.reft.low_rank_maps import learned_of, learning, losses, tupled
from jackfield.steering.steering import Steering
from jackfield.steering.unsteered import chosen_tokens

if TYPE_CHECKING:
    from jackfield.model.model import Model


@dataclass(frozen=True, eq=False)
class LatentDirection(Steering):
    """A learned direction at one site.

    Attributes:
        vector: w [d] float32, of length 1.
        size: ā, the length of one raw unit of strength.
        at: the site.
        method: the settings of `ReFTr1`.
        model: the name of the model.
        counts: texts on the positive and the negative side.
        norm: mean length of the activation on the tokens read.
        auroc: how well the largest a of the tokens to say tells the sides apart, on the texts it
            was learned from; the larger of more tokens is larger, so mind texts that are longer on
            one side. None without negative texts, and where a text has no such token that is read.
        learned: the losses, and what became of both sides.
    """

    vector: Float[Tensor, "d"]  # noqa: F821
    size: float
    at: str
    method: Mapping[str, Any]
    model: str
    counts: tuple[int, int]
    norm: float
    auroc: float | None
    learned: Learned

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Adds the direction: `x + factor · ā w`."""
        rule = narrowed(self.method["where"], where)
        return [Add(self.size * self.vector, at=self.at, where=rule, strength=float(factor))]

    def units(self) -> Mapping[str, float]:
        """One "norm" is the mean length of the activation."""
        return {"norm": self.norm / self.size}

    def detect(
        self, model: "Model", texts: Any, *, where: Any = "~sinks"
    ) -> Float[Tensor, "text position"]:
        """A of each token of some texts; 0 on padding and on tokens that `where` leaves out."""
        run = model.run(texts, sites=[self.at], logits=False)
        chosen = chosen_tokens(model, run, where)
        return (run[self.at].float() @ self.vector.to(run[self.at].device)).relu() * chosen

    def report(self) -> Report:
        """What became of the texts on both sides, how well it detects, and the losses."""
        rows = [
            ["site", self.at],
            ["one raw unit, ÷ mean length of the activation", self.size / self.norm],
            ["AUROC of the largest latent of a text, in the sample", self.auroc],
        ]
        blocks = [learning(self.learned), Table(["measure", "value"], rows), losses(self.learned)]
        return Report("Latent direction (ReFT-r1)", blocks, summary=self._sentence())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the vector, and what was measured."""
        names = ("size", "at", "model", "counts", "norm", "auroc")
        extra = {name: getattr(self, name) for name in names}
        learned = {"learned": asdict(self.learned)}
        return dict(self.method), {"vector": self.vector}, {**extra, **learned}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the direction from `state`."""
        held = {name: tupled(value) for name, value in extra.items() if name != "learned"}
        learned = learned_of(extra["learned"])
        return cls(vector=tensors["vector"], method=config, learned=learned, **held)

    def _sentence(self) -> str:
        before, after = self.learned.said
        told = "" if self.auroc is None else f" It tells the sides apart by AUROC {self.auroc:.2f}."
        return (
            f"ReFT-r1 at {self.at} of {self.model}: a token of the {self.counts[0]} texts it "
            f"learned from costs {after:.2f} nats instead of {before:.2f}, in the sample.{told}"
        )
