"""Batches for several runs from one pass an epoch, each as it would have them alone.

Batch b of epoch e is decided by the stream, the seed and the batch size: epoch e is shuffled with
`seed + e` and cut into whole batches; what is left at its end is dropped. Runs of the same seed and
batch size share their batches. Others mix the same pass for themselves; whoever has taken the
fewest rows goes next, so that what is read ahead for the others stays small.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, islice, tee
from typing import Any

from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.run import Run
from jackfield.streams import Batch, Stream
from jackfield.streams.protocol import without_first

_FIRST_ROWS = 8192  # shown to a learner before its first step

Indexed = tuple[int, Batch]  # a batch and its place in the epoch
Begin = Callable[[Run, list[Batch]], None]


def shared_batches(
    runs: Sequence[Run], stream: Stream, begin: Begin
) -> Iterator[tuple[list[Run], int, int, Batch]]:
    """The runs that take a batch, the epoch, its place in the epoch, and the batch; until all end.

    Args:
        runs: where they stand decides where they go on; advanced by the caller.
        stream: gone through once an epoch.
        begin: called for a run that has not begun, with its first batches.

    Raises:
        InputError: an epoch without a whole batch.
    """
    for epoch in count(min((run.epoch for run in runs if not run.done), default=0)):
        if all(run.done for run in runs):
            return
        passes = _passes([r for r in runs if not r.done and r.epoch <= epoch], stream, epoch)
        while passes:
            turn = min(passes, key=lambda each: each.taken)
            found = turn.next(begin)
            if found is None:
                passes.remove(turn)
                continue
            yield turn.members, epoch, *found
            turn.members = [run for run in turn.members if not run.done]
            if not turn.members:
                passes.remove(turn)
        del turn  # and what was read ahead for it


class _Pass:
    """One epoch of the runs that share seed and batch size, from where they stand."""

    def __init__(self, members: list[Run], stream: Stream, epoch: int) -> None:
        first = members[0]
        self.members, self.plan = members, first.plan
        self.skip = first.batch if first.epoch == epoch else 0
        self.taken = self.skip * self.plan.batch
        mixed = stream.shuffle(seed=self.plan.seed + epoch).rebatch(self.plan.batch)
        self.batches = self._whole(mixed)

    def next(self, begin: Begin) -> Indexed | None:
        """The next batch; before the first, those runs begin that have not."""
        new = [run for run in self.members if not run.begun]
        if new:
            ahead = list(islice(self.batches, math.ceil(_FIRST_ROWS / self.plan.batch)))
            for run in new if ahead else ():
                begin(run, [batch for _, batch in ahead])
            self.batches = chain(ahead, self.batches)
        self.taken += self.plan.batch
        return next(self.batches, None)

    def _whole(self, mixed: Stream) -> Iterator[Indexed]:
        """All whole batches but the first `skip`, which are read over."""
        index, rows = -1, 0
        for index, batch in enumerate(mixed):
            rows += len(batch)
            if index >= self.skip and len(batch) == self.plan.batch:
                yield index, batch
        if rows < self.plan.batch:
            expected = f"a stream of at least {self.plan.batch:,} rows (one batch)"
            hint = "Give more rows, or a smaller batch." if rows else None
            raise InputError(
                explain(where=self.plan.name, expected=expected, got=f"{rows:,}", hint=hint)
            )


class _Branch(Stream):
    """One of several readers of one pass; can be gone through once."""

    def __init__(self, stream: Stream, batches: Iterator[Batch]) -> None:
        self._stream, self._batches = stream, batches

    @property
    def sites(self) -> tuple[str, ...]:
        return self._stream.sites

    @property
    def rows(self) -> int | None:
        return self._stream.rows

    @property
    def provenance(self) -> dict[str, Any]:
        return self._stream.provenance

    def batches(self, start: int = 0) -> Iterator[Batch]:
        return without_first(self._batches, start)


def _passes(runs: list[Run], stream: Stream, epoch: int) -> list[_Pass]:
    groups: dict[tuple[int, int, int], list[Run]] = {}
    for run in runs:
        skip = run.batch if run.epoch == epoch else 0
        groups.setdefault((run.plan.seed, run.plan.batch, skip), []).append(run)
    members = list(groups.values())
    if len(members) == 1:
        return [_Pass(members[0], stream, epoch)]
    branches = tee(iter(stream), len(members))
    return [
        _Pass(each, _Branch(stream, batches), epoch)
        for each, batches in zip(members, branches, strict=True)
    ]
