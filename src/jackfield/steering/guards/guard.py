"""Guard: watches a generation token by token, and stops, steers or logs the rows that fire.

    step: the model reads tokens → the scorer scores each row → a row above the threshold fires

"stop" ends the row at once: the token that was just chosen is not said, so a row that fires on its
prompt says nothing. "steer" switches edits on in that row, for the tokens that come from then on;
the token just chosen is kept, and is the first to be steered. "log" only notes. Rows do not know
of one another, all that is remembered belongs to one call, and a guard that does not fire leaves
the text bit for bit as it is without a guard.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.core.where import Coordinates, Where
from jackfield.edits import Edit
from jackfield.model.generation import Cache, gathered, prompt_of, stream
from jackfield.model.generation_steps import Step, lean
from jackfield.steering.guards.guarded import Guarded
from jackfield.steering.guards.scorer import Scorer, Watcher

if TYPE_CHECKING:
    from jackfield.model.model import Model

Action = Literal["stop", "steer", "log"]


class Sampling(TypedDict, total=False):
    """The arguments of `model.generate` that a guard hands on."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    cache: Cache


@dataclass(frozen=True)
class Watched:
    """A step of a generation, and what the guard makes of it.

    Attributes:
        step: the step; of a row that was stopped, without its new token.
        scores: [batch] NaN in rows that have ended before, or have no score yet.
        fired: [batch] rows that fire with this step, for the first time.
    """

    step: Step
    scores: Float[Tensor, "batch"]  # noqa: F821
    fired: Bool[Tensor, "batch"]  # noqa: F821


@dataclass(frozen=True, eq=False)
class Guard:
    """A scorer, a threshold, and what is done with a row that passes it.

    Attributes:
        scorer: a `LinearFilter`'s or `EigenTrack`'s result, a `Projection`, or any `Scorer`.
        threshold: a row fires when its score is greater.
        action: "stop", "steer" or "log".
        steering: the edits that "steer" switches on.

    Raises:
        InputError: a threshold that is no number, or edits without, or not with, "steer".

    >>> from jackfield.steering.guards.scorer import Projection
    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> guard = Guard(Projection(torch.ones(32), "layers.1.resid_post"), 1e9)
    >>> guard.generate(world.model, world.tokens[:2], max_new_tokens=3).fired_at
    (None, None)
    """

    scorer: Scorer
    threshold: float
    action: Action = "stop"
    steering: Sequence[Edit] = ()

    def __post_init__(self) -> None:
        if math.isnan(self.threshold):
            raise InputError(explain(where="Guard, threshold", expected="a number", got="NaN"))
        if self.action not in ("stop", "steer", "log"):
            expected = "'stop', 'steer' or 'log'"
            raise InputError(explain(where="Guard, action", expected=expected, got=self.action))
        if (self.action == "steer") != bool(self.steering):
            expected = "edits with action='steer', and only with it"
            got = f"{len(self.steering)} edits with action={self.action!r}"
            raise InputError(explain(where="Guard, steering", expected=expected, got=got))

    def watch(
        self,
        model: "Model",
        prompts: Any,
        *,
        edits: Sequence[Edit] = (),
        **sampling: Unpack[Sampling],
    ) -> Iterator[Watched]:
        """Generates token by token, as `model.generate_stream` does, with the guard on.

        Args:
            model: a language model.
            prompts: as `model.generate` takes them.
            edits: act in every row, whether it fires or not.
            sampling: max_new_tokens, temperature, top_k, top_p, seed, cache.

        Raises:
            InputError: prompts that cannot be run, or activations of another width.
            ModelError: activations that are not finite.
        """
        made = prompt_of(model, prompts)
        assert made.tokens is not None
        rows = _Rows(self.scorer.begin(len(made.tokens)), self.threshold, len(made.tokens))
        switched = [replace(e, where=e.where & Since(rows.since)) for e in self.steering]
        steps = stream(
            model, prompts, **sampling, edits=[*edits, *switched], sites=self.scorer.sites,
            stop=lambda step: rows.note(step) & (self.action == "stop"),
        )  # fmt: skip
        for step in steps:
            yield Watched(step, rows.scores, rows.new)

    def generate(
        self,
        model: "Model",
        prompts: Any,
        *,
        edits: Sequence[Edit] = (),
        **sampling: Unpack[Sampling],
    ) -> Guarded:
        """Generates with the guard on; arguments and errors as in `watch`."""
        watched = [
            replace(each, step=lean(each.step))
            for each in self.watch(model, prompts, edits=edits, **sampling)
        ]
        made = gathered(model, prompt_of(model, prompts), [each.step for each in watched])
        fired = torch.stack([each.fired for each in watched], dim=1)
        return Guarded(
            prompts=tuple(made.prompts),
            texts=tuple(made.texts),
            tokens=made.tokens,
            scores=torch.stack([each.scores for each in watched], dim=1),
            fired_at=tuple(int(row.int().argmax()) if bool(row.any()) else None for row in fired),
            threshold=self.threshold,
            action=self.action,
        )


@dataclass(frozen=True, eq=False)
class Since(Where):
    """Tokens from a position on, one a row, which may be moved while a text is made."""

    positions: Int[Tensor, "batch"]  # noqa: F821

    def mask(self, at: Coordinates) -> Tensor:
        """[batch, position] True from there on."""
        return at.real & (at.positions >= self.positions.to(at.positions.device)[:, None])


class _Rows:
    """What is known of each row of one generation."""

    def __init__(self, watcher: Watcher, threshold: float, batch: int) -> None:
        self._watcher, self._threshold = watcher, threshold
        self.since = torch.full((batch,), torch.iinfo(torch.long).max)  # steered from there on
        self._read = torch.zeros(batch, dtype=torch.long)
        self._fired = torch.zeros(batch, dtype=torch.bool)
        self.scores, self.new = torch.zeros(batch), self._fired

    def note(self, step: Step) -> Bool[Tensor, "batch"]:  # noqa: F821
        """Scores what the step has read; the rows that fire now, and have not before."""
        scores = self._watcher.update(step.activations, step.mask)
        own = step.mask.cpu()
        self.scores = scores.masked_fill(~own[:, -1], float("nan"))  # the row has ended before
        self.new = (self.scores > self._threshold) & ~self._fired
        self._fired = self._fired | self.new
        self._read += own.sum(dim=1)
        self.since[self.new] = self._read[self.new]
        return self.new
