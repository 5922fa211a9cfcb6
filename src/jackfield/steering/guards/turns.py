"""Activation velocity: how a conversation moves along a direction, turn by turn.

    h_t [d]: what stands for the conversation up to turn t      score_t = ⟨h_t, w⟩ + b
    velocity_t = ⟨h_t − h_{t−1}, w⟩                             t = 2 … T
    drift_t = Σ_{s ≤ t} velocity_s = ⟨h_t − h_1, w⟩             cumulative

A conversation that creeps towards harm in small steps has a drift that is large where no single
turn is. A turn ends at the last token of a run of one role's tokens, markers of the template
included. As a model reads from left to right, a turn's h is the same whatever follows.

NeuroFilter: Das and Fioretto 2026, arXiv 2601.14660, which also fits probes on the differences
themselves; here the filter's own direction is used. Which turns are counted is our reading.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.core.study import Result
from jackfield.reports import Lines, Report, Table
from jackfield.steering.guards.reading import prompt_scores
from jackfield.steering.guards.scorer import Scorer

if TYPE_CHECKING:
    from jackfield.model.model import Model


@dataclass(frozen=True, eq=False)
class Turns:
    """One conversation of T turns.

    Attributes:
        scores: [turn] along the direction.
        messages: [turn] which message ends each turn, from 0.
    """

    scores: Float[Tensor, "turn"]  # noqa: F821
    messages: tuple[int, ...]

    @property
    def velocity(self) -> Float[Tensor, "step"]:  # noqa: F821
        """The change from each turn to the next, one fewer than turns."""
        return self.scores.diff()

    @property
    def drift(self) -> Float[Tensor, "step"]:  # noqa: F821
        """The change since the first turn."""
        return self.velocity.cumsum(dim=0)


@dataclass(frozen=True)
class Conversations(Result):
    """Conversations along one direction.

    Attributes:
        chats: one a conversation.
        threshold: of a single turn's score.
    """

    chats: tuple[Turns, ...]
    threshold: float

    @property
    def flagged(self) -> tuple[int | None, ...]:
        """The first turn (from 0) of each chat that scores above the threshold."""
        above = [(each.scores > self.threshold).nonzero().flatten() for each in self.chats]
        return tuple(int(found[0]) if len(found) else None for found in above)

    def report(self) -> Report:
        """The score of each turn, and what the conversations drifted."""
        longest = max(len(each.scores) for each in self.chats)
        series = {
            f"chat {index}": [*each.scores.tolist(), *[float("nan")] * (longest - len(each.scores))]
            for index, each in enumerate(self.chats[:8])
        }
        series["threshold"] = [self.threshold] * longest
        lines = Lines(range(1, longest + 1), series, x_title="turn", y_title="score")
        rows = [
            [index, len(each.scores), _most(each.velocity), _most(each.drift), flagged]
            for index, (each, flagged) in enumerate(zip(self.chats, self.flagged, strict=True))
        ]
        columns = ["chat", "turns", "fastest", "farthest", "flagged at turn"]
        table = Table(columns, rows, formats={"fastest": ".3g", "farthest": ".3g"})
        count = sum(each is not None for each in self.flagged)
        summary = f"{count} of {len(self.chats)} conversations pass the threshold in some turn."
        return Report("Turns", [lines, table], summary=summary)


def conversations(
    model: "Model", chats: Any, scorer: Scorer, threshold: float, role: str
) -> Conversations:
    """Scores each turn of each chat.

    Args:
        model: a model with a chat template.
        chats: chats, each a list of messages.
        scorer: of prompts.
        threshold: of a single turn's score.
        role: whose turns are counted.

    Raises:
        InputError: no chats, something else, or a chat without a turn of that role.
    """
    where = f"{model.name}, turns"
    if not isinstance(chats, Sequence) or not len(chats):
        got = "none" if isinstance(chats, Sequence) else type(chats).__name__
        raise InputError(explain(where=where, expected="at least one chat", got=got))
    ends = [_ends(chat, role, where) for chat in chats]
    upto = [chat[: end + 1] for chat, each in zip(chats, ends, strict=True) for end in each]
    scores = prompt_scores(model, scorer, upto).split([len(each) for each in ends])
    return Conversations(tuple(map(Turns, scores, ends)), threshold)


def _ends(chat: Any, role: str, where: str) -> tuple[int, ...]:
    """The messages of a role that none of the same role follows."""
    if isinstance(chat, str) or not all(isinstance(each, Mapping) for each in chat):
        expected = "chats, each a list of messages"
        raise InputError(explain(where=where, expected=expected, got=type(chat).__name__))
    roles = [each["role"] for each in chat]
    found = [i for i, each in enumerate(roles) if each == role and roles[i + 1 : i + 2] != [role]]
    if not found:
        expected, got = f"a message of the role {role!r} in each chat", ", ".join(roles) or "none"
        raise InputError(explain(where=where, expected=expected, got=got))
    return tuple(found)


def _most(values: Tensor) -> float | None:
    return float(values.max()) if len(values) else None
