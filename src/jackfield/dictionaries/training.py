"""The loop that trains dictionaries on a stream: progress, checkpoints, exact resumption.

What a learner is and how batches come about: `run.py`, `shared_pass.py`. A run that stopped goes on
to the same bits as one that did not.
"""

import math
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jackfield.core.errors import ConfigError, InputError, explain
from jackfield.core.progress import Progress
from jackfield.dictionaries.checkpoints import Checkpoint
from jackfield.dictionaries.run import Learner, Plan, Run
from jackfield.dictionaries.shared_pass import shared_batches
from jackfield.streams import Batch, Stream
from jackfield.streams.units import nonfinite_rows, raise_nonfinite

Device = str | torch.device | None


def train(
    learner: Learner,
    stream: Stream,
    plan: Plan,
    *,
    progress: bool,
    checkpoint: str | Path | None,
    resume: bool,
    device: Device = None,
) -> list[dict[str, float]]:
    """Trains one learner; `train_many` says the rest."""
    return train_many(
        [(learner, plan)], stream,
        progress=progress, checkpoint=checkpoint, resume=resume, device=device,
    )[0]  # fmt: skip


def train_many(
    tasks: Sequence[tuple[Learner, Plan]],
    stream: Stream,
    *,
    progress: bool,
    checkpoint: str | Path | None,
    resume: bool,
    device: Device = None,
) -> list[list[dict[str, float]]]:
    """Trains learners on one pass of the stream an epoch.

    Args:
        tasks: learners, trained in place, and their plans.
        stream: rows [row, d] of all their sites.
        progress: show a line.
        checkpoint: a folder to write to every minute, at the end and on Ctrl-C.
        resume: go on from `checkpoint` if it is there.
        device: where the learners are given their rows; where the rows are if not said.

    Returns:
        For each learner the figures of each look, with the rows seen until then.

    Raises:
        InputError: rows that are not finite or of the wrong shape, or fewer than one batch.
        ArtifactError: the checkpoint is damaged, or of another run.
        ConfigError: a loss is no longer finite.
        KeyboardInterrupt: after the checkpoint was written.
    """
    runs = [Run(learner, plan) for learner, plan in tasks]
    kept = None if checkpoint is None else Checkpoint(Path(checkpoint), runs, stream)
    if kept is not None and resume:
        kept.read()
    try:
        _go(runs, stream, device, kept, progress=progress)
    except KeyboardInterrupt:
        if kept is not None and any(run.step for run in runs):
            with _uninterrupted():
                kept.write()
            sys.stderr.write(_stopped(runs, kept.path))
        raise
    if kept is not None:
        kept.write()
    return [run.history for run in runs]


def _go(
    runs: list[Run], stream: Stream, device: Device, kept: Checkpoint | None, *, progress: bool
) -> None:
    states = {} if kept is None else kept.states

    def begin(run: Run, first: list[Batch]) -> None:
        rows = [_checked(batch, [run], device) for batch in first]
        if run.step:
            _restore(run, states, rows[0][run.plan.sites[0]].device)
        else:
            run.learner.start({s: torch.cat([each[s] for each in rows]) for s in run.plan.sites})
            run.begun = True

    for run in runs:
        if run.done:
            _restore(run, states, torch.device(device or "cpu"))
    left = sum((run.plan.steps - run.step) * run.plan.batch for run in runs)
    with Progress(_label(runs), total=left, unit="rows", enabled=progress) as shown:
        for members, epoch, index, batch in shared_batches(runs, stream, begin):
            rows = _checked(batch, members, device)
            with _uninterrupted():
                figures = [_step(run, epoch, index, rows) for run in members]
            shown.update(len(batch) * len(members), **_worst(figures))
            if kept is not None:
                kept.write_in_time()


def _step(run: Run, epoch: int, index: int, rows: dict[str, Tensor]) -> dict[str, float]:
    """One step of a run; the figures, if this was a time to look."""
    plan = run.plan
    run.learner.step(rows, (run.step + 0.5) / plan.steps)
    run.step, run.epoch, run.batch = run.step + 1, epoch, index + 1
    if run.step % plan.between_looks and not run.done:
        return {}
    figures, seen = run.learner.look(), run.step * plan.batch
    if not math.isfinite(figures["FVU"]):
        got = f"{figures['FVU']} after {seen:,} rows (step {run.step:,})"
        hint = "Lower learning_rate."
        raise ConfigError(explain(where=plan.name, expected="a finite loss", got=got, hint=hint))
    run.history.append({"rows": float(seen), **figures})
    return figures


def _restore(run: Run, states: dict[int, dict[str, Tensor]], device: torch.device) -> None:
    state = states.pop(id(run))
    run.learner.restore({name: value.to(device) for name, value in state.items()})
    run.begun = True


def _checked(batch: Batch, runs: list[Run], device: Device) -> dict[str, Tensor]:
    """The rows of the runs' sites on the device.

    On an accelerator NaN is not looked for, which would wait for it; the loss tells.
    """
    name = runs[0].plan.name
    rows = {site: batch[site] for run in runs for site in run.plan.sites}
    for x in rows.values():
        if x.dim() != 2:
            got = f"rows of shape {list(x.shape[1:])}"
            raise InputError(explain(where=name, expected="rows [row, d]", got=got))
        if x.device.type == "cpu" and (bad := nonfinite_rows(x)).any():
            raise_nonfinite(batch, bad, where=name)
    return {site: x.to(device or x.device) for site, x in rows.items()}


def _worst(figures: list[dict[str, float]]) -> dict[str, Any]:
    """Of several runs the largest of each figure."""
    names = dict.fromkeys(name for each in figures for name in each)
    return {name: max(each[name] for each in figures if name in each) for name in names}


def _label(runs: list[Run]) -> str:
    first, plan = runs[0], runs[0].plan
    if len(runs) > 1:
        return f"{len(runs)} dictionaries at {', '.join(plan.sites)}"
    return plan.name if not first.step else f"{plan.name}, from row {first.step * plan.batch:,}"


def _stopped(runs: list[Run], path: Path) -> str:
    lines = [
        f"{run.plan.name}: stopped after {run.step * run.plan.batch:,} of "
        f"{run.plan.steps * run.plan.batch:,} rows; all of it is in {path}.\n"
        for run in runs
    ]
    return "".join(lines) + f"To go on, fit again with checkpoint='{path}'.\n"


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
