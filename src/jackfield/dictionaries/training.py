"""The loop that trains a dictionary on a stream: epochs, progress, checkpoints, exact resumption.

A method gives a `Learner` (its tensors and what one step does); the loop gives it batches. Batch b
of epoch e is decided by the stream, the seed and the batch size alone: each epoch is shuffled with
the seed `seed + e` and cut into whole batches, and what is left of an epoch at its end is dropped.
So a place in the run is two numbers, and a run that stopped goes on to the same bits as one that
did not.
"""

import json
import math
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from jackfield.core.artifacts import read_artifact, save_artifact
from jackfield.core.errors import ArtifactError, ConfigError, InputError, explain
from jackfield.core.progress import Progress
from jackfield.streams import Batch, Stream
from jackfield.streams.units import nonfinite_rows, raise_nonfinite

LOOKS = 200  # how often in a run the figures are read (on an accelerator each look waits for it)
_FIRST_ROWS = 8192  # shown to a learner before its first step
_SAVE_EVERY = 60.0  # seconds between checkpoints
_KIND = "training"

Rows = tuple[int, int, Tensor]  # epoch, batch within it, rows [row, d]


class Learner(ABC):
    """What a method gives the loop. All that changes in a step is in `state`."""

    @abstractmethod
    def start(self, x: Tensor) -> None:
        """Sets the first state, having seen the first rows [row, d]."""

    @abstractmethod
    def step(self, x: Tensor, done: float) -> None:
        """Learns from a batch [row, d]; at its middle the share `done` of the run lies behind."""

    @abstractmethod
    def look(self) -> dict[str, float]:
        """Figures since the last look, "FVU" among them."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All tensors that the next step depends on."""

    @abstractmethod
    def restore(self, state: dict[str, Tensor], like: Tensor) -> None:
        """Takes back what `state` gave; `like` is on the device that the rows are on."""


@dataclass(frozen=True)
class Plan:
    """How a run goes through its stream.

    Attributes:
        name: for the progress line and errors.
        site: the stream's one site.
        rows: rows to see in all; whole batches, at least one.
        batch: rows a step.
        seed: decides the order of rows.
        identity: what else determines the result, as JSON; a checkpoint of another is refused.
    """

    name: str
    site: str
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
class _Run:
    """Where a run stands; changes together with the learner's state."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # the next one, within the epoch
    history: list[dict[str, float]] = field(default_factory=list)


def train(
    learner: Learner,
    stream: Stream,
    plan: Plan,
    *,
    progress: bool,
    checkpoint: str | Path | None,
    resume: bool,
) -> list[dict[str, float]]:
    """Trains `learner`; returns the figures of each look, with the rows seen until then.

    Args:
        learner: trained in place.
        stream: one site of rows [row, d].
        plan: how.
        progress: show a line.
        checkpoint: a folder to write to every minute, at the end and on Ctrl-C.
        resume: go on from `checkpoint` if it is there.

    Raises:
        InputError: rows that are not finite or of the wrong shape, or fewer than one batch.
        ArtifactError: the checkpoint is damaged, or of another run.
        ConfigError: the loss is no longer finite.
        KeyboardInterrupt: after the checkpoint was written.
    """
    run, state = _Run(), dict[str, Tensor]()
    if checkpoint is not None:
        checkpoint, plan = Path(checkpoint), _with_provenance(plan, stream)
        if resume and checkpoint.exists():
            run, state = _restored(plan, checkpoint)
    begun = run.step
    try:
        batches = _started(learner, stream, plan, run, state)
        _go(learner, batches, plan, run, progress=progress, checkpoint=checkpoint)
    except KeyboardInterrupt:
        if checkpoint is not None and run.step:
            if run.step > begun:
                _save(learner, plan, run, checkpoint)
            sys.stderr.write(_stopped(plan, run, checkpoint))
        raise
    if checkpoint is not None and run.step > begun:
        _save(learner, plan, run, checkpoint)
    return run.history


def _started(
    learner: Learner, stream: Stream, plan: Plan, run: _Run, state: dict[str, Tensor]
) -> Iterator[Rows]:
    """Gives the learner its first state, and the batches from where the run stands."""
    if run.step == plan.steps:
        learner.restore(state, torch.zeros(0))
        return iter(())
    epoch = _epoch(stream, plan, run.epoch, run.batch)
    rest = chain(epoch, _epochs(stream, plan, run.epoch + 1))
    if run.step:
        first = list(islice(rest, 1))
        learner.restore(state, first[0][2])
    else:
        first = list(islice(epoch, math.ceil(_FIRST_ROWS / plan.batch)))
        learner.start(torch.cat([x for _, _, x in first]))
    return chain(first, rest)


def _go(
    learner: Learner,
    batches: Iterator[Rows],
    plan: Plan,
    run: _Run,
    *,
    progress: bool,
    checkpoint: Path | None,
) -> None:
    left = (plan.steps - run.step) * plan.batch
    label = plan.name if not run.step else f"{plan.name}, from row {run.step * plan.batch:,}"
    with Progress(label, total=left, unit="rows", enabled=progress) as shown:
        saved = monotonic()
        while run.step < plan.steps:
            epoch, batch, x = next(batches)
            with _uninterrupted():
                learner.step(x, (run.step + 0.5) / plan.steps)
                run.step, run.epoch, run.batch = run.step + 1, epoch, batch + 1
                figures = _look(learner, plan, run)
            shown.update(len(x), **figures)
            if checkpoint is not None and monotonic() - saved > _SAVE_EVERY:
                _save(learner, plan, run, checkpoint)
                saved = monotonic()


def _look(learner: Learner, plan: Plan, run: _Run) -> dict[str, float]:
    if run.step % plan.between_looks and run.step != plan.steps:
        return {}
    figures = learner.look()
    rows = run.step * plan.batch
    if not math.isfinite(figures["FVU"]):
        got = f"{figures['FVU']} after {rows:,} rows"
        hint = "Lower learning_rate."
        raise ConfigError(explain(where=plan.name, expected="a finite loss", got=got, hint=hint))
    run.history.append({"rows": float(rows), **figures})
    return figures


def _epochs(stream: Stream, plan: Plan, number: int) -> Iterator[Rows]:
    """Endless batches, from this epoch on."""
    return chain.from_iterable(_epoch(stream, plan, each) for each in count(number))


def _epoch(stream: Stream, plan: Plan, number: int, skip: int = 0) -> Iterator[Rows]:
    """The batches of one epoch; the first `skip` are read over."""
    batch = None
    mixed = stream.shuffle(seed=plan.seed + number).rebatch(plan.batch)
    for index, batch in enumerate(mixed):
        if index >= skip and len(batch) == plan.batch:
            yield number, index, _checked(batch, plan)
    if batch is None or (index == 0 and len(batch) < plan.batch):
        rows = 0 if batch is None else len(batch)
        expected = f"a stream of at least {plan.batch:,} rows (one batch)"
        hint = "Give more rows, or a smaller batch." if rows else None
        raise InputError(explain(where=plan.name, expected=expected, got=f"{rows:,}", hint=hint))


def _checked(batch: Batch, plan: Plan) -> Tensor:
    x = batch[plan.site]
    if x.dim() != 2:
        expected, got = "rows [row, d]", f"rows of shape {list(x.shape[1:])}"
        raise InputError(explain(where=f"{plan.name}", expected=expected, got=got))
    bad = nonfinite_rows(x)
    if bad.any():
        raise_nonfinite(batch, bad, where=plan.name)
    return x


def _with_provenance(plan: Plan, stream: Stream) -> Plan:
    """The plan, its identity that of the stream too, as JSON gives it back."""
    identity = {**plan.identity, "stream": stream.provenance}
    identity = json.loads(json.dumps(identity))
    return Plan(plan.name, plan.site, plan.rows, plan.batch, plan.seed, identity)


def _save(learner: Learner, plan: Plan, run: _Run, path: Path) -> None:
    with _uninterrupted():
        save_artifact(
            path, kind=_KIND, config=plan.identity, tensors=learner.state(), extra=vars(run)
        )


def _restored(plan: Plan, path: Path) -> tuple[_Run, dict[str, Tensor]]:
    artifact = read_artifact(path)
    wrong = [key for key in plan.identity if artifact.config.get(key) != plan.identity[key]]
    if artifact.kind != _KIND or wrong:
        got = f"one with another {' and '.join(wrong)}" if artifact.kind == _KIND else artifact.kind
        hint = "Name another folder, or begin anew with resume=False."
        expected = f"a checkpoint of this run of {plan.name}"
        raise ArtifactError(explain(where=str(path), expected=expected, got=got, hint=hint))
    return _Run(**artifact.extra), artifact.tensors


def _stopped(plan: Plan, run: _Run, path: Path) -> str:
    seen, rows = run.step * plan.batch, plan.steps * plan.batch
    return (
        f"{plan.name}: stopped after {seen:,} of {rows:,} rows; all of it is in {path}.\n"
        f"To go on, fit again with checkpoint='{path}'.\n"
    )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C inside the block is raised at its end, so that what the block changes is whole."""
    if threading.current_thread() is not threading.main_thread():  # Ctrl-C goes elsewhere
        yield
        return
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt
