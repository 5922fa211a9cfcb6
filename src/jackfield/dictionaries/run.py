"""Run: a learner on its way through a stream, and how it goes there.

A method gives a `Learner` (its tensors and what one step does) and a `Plan`; the loop gives it
batches. A place in a run is two numbers, the epoch and the batch in it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Rows = Mapping[str, Tensor]  # site → [row, d]

LOOKS = 200  # how often in a run the figures are read (on an accelerator each look waits for it)


class Learner(ABC):
    """What a method gives the loop. All that changes in a step is in `state`."""

    @abstractmethod
    def start(self, rows: Rows) -> None:
        """Sets the first state, having seen the first rows: site → [row, d]."""

    @abstractmethod
    def step(self, rows: Rows, done: float) -> None:
        """Learns from a batch; at its middle the share `done` of the run lies behind."""

    @abstractmethod
    def look(self) -> dict[str, float]:
        """Figures since the last look, "FVU" among them."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All tensors that the next step depends on."""

    @abstractmethod
    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state` gave, on the device that the rows are on."""


@dataclass(frozen=True)
class Plan:
    """How a run goes through its stream.

    Attributes:
        name: for the progress line and errors.
        sites: those that the learner is given.
        rows: rows to see in all; whole batches, at least one.
        batch: rows a step.
        seed: decides the order of rows.
        identity: what else determines the result, as JSON; a checkpoint of another is refused.
    """

    name: str
    sites: tuple[str, ...]
    rows: int
    batch: int
    seed: int
    identity: dict[str, Any]

    @property
    def steps(self) -> int:
        """How many batches there are."""
        return max(1, self.rows // self.batch)

    @property
    def between_looks(self) -> int:
        """Steps from one look to the next."""
        return math.ceil(self.steps / LOOKS)


@dataclass
class Run:
    """A learner and where it stands; the numbers change together with its state."""

    learner: Learner
    plan: Plan
    step: int = 0
    epoch: int = 0
    batch: int = 0  # the next one, within the epoch
    history: list[dict[str, float]] = field(default_factory=list)
    begun: bool = False  # whether the learner has its state

    @property
    def done(self) -> bool:
        """Whether there is no step left."""
        return self.step == self.plan.steps

    def place(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the learner's tensors."""
        return {name: getattr(self, name) for name in ("step", "epoch", "batch", "history")}
