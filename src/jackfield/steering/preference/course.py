"""The course of a descent on preferences: what a fitted object keeps of it, and shows."""

from dataclasses import dataclass
from typing import Any, Self

from jackfield.reports import Lines
from jackfield.steering.preference.learning import Learning


@dataclass(frozen=True)
class Course:
    """How a descent went.

    Attributes:
        losses: the mean loss of each epoch while it learned.
        held: the held-out loss, before the first epoch and after each; () where none was held out.
            That of the epoch kept is the least of them, and so flatters.
        kept: after how many epochs the result is from.
        agree: the shares of pairs whose margin is positive at m = 1, and negative at m = −1; of
            those held out, which also chose the epoch, or of all if none were.
        pairs: how many were learned from, and held out.
    """

    losses: tuple[float, ...]
    held: tuple[float, ...]
    kept: int
    agree: tuple[float, float]
    pairs: tuple[int, int]

    @classmethod
    def of(cls, found: Learning) -> Self:
        """That of a descent."""
        return cls(found.losses, found.held, found.kept, found.agree, found.pairs)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuilds it from its fields as JSON."""
        held: dict[str, Any] = {k: tuple(v) if k != "kept" else v for k, v in data.items()}
        return cls(**held)

    def sentence(self) -> str:
        """How many pairs, and how many of them the result decides."""
        learned, held = self.pairs
        own = f"{held} pairs held out, which also chose the epoch,"
        judged = own if held else f"the {learned} pairs it was learned from"
        told = (
            f"Of {judged} it raises the preferred answer over the other in {self.agree[0]:.0%}, "
            f"and reversed the other in {self.agree[1]:.0%}."
        )
        worse = self.held and self.held[self.kept] >= self.held[0]
        return f"{told} The held-out loss never fell: do not trust it." if worse else told

    def rows(self) -> list[list[Any]]:
        """(measure, value) of the descent."""
        chose = ", of the pairs that chose the epoch" if self.held else ""
        return [
            ["pairs learned from", self.pairs[0]],
            ["pairs held out", self.pairs[1]],
            ["epochs", len(self.losses)],
            ["epoch kept", self.kept],
            ["held-out loss, before", self.held[0] if self.held else None],
            [
                "held-out loss, kept (it chose the epoch)",
                self.held[self.kept] if self.held else None,
            ],
            [f"decided at +1{chose}", self.agree[0]],
            [f"decided at −1{chose}", self.agree[1]],
        ]

    def curves(self) -> Lines:
        """The losses over the epochs."""
        epochs = [float(epoch) for epoch in range(1, len(self.losses) + 1)]
        curves = {"learning": list(self.losses)}
        if self.held:
            curves["held out"] = list(self.held[1:])
        return Lines(epochs, curves, x_title="epoch", y_title="loss, nats")
