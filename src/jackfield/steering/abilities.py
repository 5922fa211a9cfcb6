"""Abilities: can the model do at all what it is to be steered to?

For each behaviour the odds [prompt] as the model is; with an instruction that asks for it, and with
one that asks for its contrary; and the share of the next-token probability that the behaviour's
words have. A model is taken to know a behaviour if asking for it moves the odds: the 95 % interval
over prompts of

    gap = odds asked − odds asked for the contrary

lies above 0. What is read into a behaviour that the model does not know is noise. Own measure; the
paired prompts are those of persona instructions (Chen et al. 2025, Persona vectors, 2507.21509).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from jackfield.core.config import config
from jackfield.core.errors import InputError, explain
from jackfield.core.study import Result, Study
from jackfield.reports import Report, Table
from jackfield.reports.intervals import mean_interval
from jackfield.steering.behaviours import BEHAVIOURS, Behaviour

if TYPE_CHECKING:
    from jackfield.model.model import Model

_LEAST_MASS = 0.01  # of the probability that a behaviour's words must have


@config
class Abilities(Study):
    """Baseline odds of behaviours, and whether asking moves them.

    Attributes:
        seed: of the bootstrap over prompts.

    >>> Abilities(seed=1)
    Abilities(seed=1)
    """

    seed: int = 0

    def run(
        self, model: "Model", behaviours: Sequence[Behaviour] = tuple(BEHAVIOURS.values())
    ) -> "AbilitiesFound":
        """Measures each behaviour.

        Args:
            model: a language model.
            behaviours: those to measure; a gap is known only of those with instructions.

        Raises:
            InputError: none, or one whose odds cannot be measured.
        """
        if not behaviours:
            where = f"{model.name}, Abilities"
            raise InputError(explain(where=where, expected="at least one behaviour", got="none"))
        return AbilitiesFound(
            model.name, tuple(_ability(model, each, self.seed) for each in behaviours)
        )


@dataclass(frozen=True)
class Ability:
    """What the model does about one behaviour.

    Attributes:
        name: of the behaviour.
        odds: mean log-odds over the prompts, in nats.
        mass: mean share of the probability that its words have.
        gap: mean odds asked − asked for the contrary; None without instructions.
        interval: of the gap, 95 %.
    """

    name: str
    odds: float
    mass: float
    gap: float | None
    interval: tuple[float, float] | None

    @property
    def known(self) -> bool:
        """Whether the words have enough probability, and asking, if that was tried, moves them."""
        moved = self.interval is None or self.interval[0] > 0
        return moved and self.mass > _LEAST_MASS


@dataclass(frozen=True)
class AbilitiesFound(Result):
    """The abilities of a model, in the order of the behaviours."""

    model: str
    found: tuple[Ability, ...]

    def report(self) -> Report:
        """A row a behaviour."""
        columns = ["behaviour", "odds, nats", "mass of the words", "gap when asked", "low (95 %)",
                   "high (95 %)", "known"]  # fmt: skip
        rows = [
            [a.name, a.odds, a.mass, a.gap, *(a.interval or (None, None)), a.known]
            for a in self.found
        ]
        known = [a.name for a in self.found if a.known]
        rest = [a.name for a in self.found if not a.known]
        summary = f"{self.model} knows {', '.join(known) or 'none of the behaviours'}"
        summary += f"; not shown to know: {', '.join(rest)}." if rest else "."
        table = Table(columns, rows, formats=dict.fromkeys(columns[1:6], ".3f"))
        return Report("Abilities", [table], summary=summary)


def _ability(model: "Model", behaviour: Behaviour, seed: int) -> Ability:
    gap: Tensor | None = None
    if behaviour.asked and behaviour.asked_not:
        asked, contrary = (
            behaviour.odds(model, prompts=behaviour.told(text))
            for text in (behaviour.asked, behaviour.asked_not)
        )
        gap = asked - contrary
    return Ability(
        behaviour.name,
        float(behaviour.odds(model).mean()),
        float(behaviour.mass(model).mean()),
        None if gap is None else float(gap.mean()),
        None if gap is None else mean_interval(gap, seed),
    )
