"""Sides: what both learned methods are fitted on, read and checked once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jackfield.core.errors import InputError, explain
from jackfield.core.where import Where
from jackfield.edits import Edit
from jackfield.steering.contrast import vector_site
from jackfield.steering.reft.answers import answers
from jackfield.steering.reft.descent import Lessons

if TYPE_CHECKING:
    from jackfield.model.model import Model


@dataclass(frozen=True)
class Sides:
    """Texts to say, and perhaps texts of the other kind.

    Attributes:
        sites: that are edited, in the order of the forward.
        lessons: the texts to say.
        other: those of the other kind, of which nothing is learned.
    """

    sites: tuple[str, ...]
    lessons: Lessons
    other: Lessons | None

    @property
    def counts(self) -> tuple[int, int]:
        """Texts on the positive and on the negative side."""
        return len(self.lessons.answers), len(self.other.answers) if self.other else 0

    def before_and_after(
        self, edits: Sequence[Edit]
    ) -> tuple[tuple[float, float], tuple[float, float] | None]:
        """Mean −log p of a token of either side, without and with edits."""
        said = (self.lessons.mean(()), self.lessons.mean(edits))
        return said, (self.other.mean(()), self.other.mean(edits)) if self.other else None

    def norm(self, rule: Where) -> float:
        """The mean length of the activation on those tokens, at the first site."""
        chosen = self.lessons.answers.chosen(rule, self.lessons.model.sinks)
        return float(self.lessons.values[chosen].float().norm(dim=-1).mean())


def sides(
    model: "Model", positive: Any, negative: Any, prompts: Any, at: str | Sequence[str]
) -> Sides:
    """Reads both sides, each after the same prompts.

    Raises:
        InputError: as the methods say.
        SiteError: a site of another shape.
    """
    found = {vector_site(model, name) for name in model.sites.select(at)}
    sites = tuple(name for name in model.sites.names() if name in found)
    plus = answers(model, positive, prompts)
    minus = None if negative is None else answers(model, negative, prompts, side="negative")
    if minus is not None and plus.same_as(minus):
        where = f"{model.name}, {sites[0]}"
        raise InputError(explain(where=where, expected="sides that differ", got="equal sides"))
    other = None if minus is None else Lessons(model, minus, sites)
    return Sides(sites, Lessons(model, plus, sites), other)
