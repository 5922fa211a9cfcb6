"""How well a model itself does on a task: what is read into a failing model is noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from jackfield.core.study import Result
from jackfield.reports import Report, Table
from jackfield.reports.intervals import mean_interval, share_interval

if TYPE_CHECKING:
    from jackfield.circuits.tasks.task import TaskExample


@dataclass(frozen=True)
class TaskAccuracy(Result):
    """The model's own performance on a task, one value an example.

    Attributes:
        task: name of the battery.
        model: its name.
        metric: what `differences` are: a logit difference, or a probability difference.
        smallest_gap: between clean and corrupted, in that unit; below it is noise.
        differences: answer minus wrong on the clean prompts.
        corrupted: the same answer minus the same wrong on the corrupted prompts.
        probabilities: of the answer (of all answers together) on the clean prompts.
        first: whether an answer is the likeliest token of all on the clean prompts.
        groups: the kind of each example, such as its relation; "all" where there is one kind.
    """

    task: str
    model: str
    metric: str
    smallest_gap: float
    differences: tuple[float, ...]
    corrupted: tuple[float, ...]
    probabilities: tuple[float, ...]
    first: tuple[bool, ...]
    groups: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """The share of examples in which the answer beats the wrong one."""
        return _share([each > 0 for each in self.differences])

    @property
    def gaps(self) -> tuple[float, ...]:
        """Clean minus corrupted, one an example: what patching divides by is their mean."""
        pairs = zip(self.differences, self.corrupted, strict=True)
        return tuple(clean - other for clean, other in pairs)

    @property
    def gap(self) -> float:
        """The mean of `gaps`."""
        return sum(self.gaps) / len(self.gaps)

    def report(self) -> Report:
        """Shares and means with their 95 % intervals, the groups apart, and one sentence."""
        blocks = [self._table()]
        if len(set(self.groups)) > 1:
            blocks.append(self._by_group())
        return Report(f"{self.task}: the model's own accuracy", blocks, summary=self.sentence())

    def sentence(self) -> str:
        """The share in which the answer is preferred, and whether there is a gap to divide by."""
        clear = abs(self.gap) >= self.smallest_gap
        gap = f"{self.metric}, clean minus corrupted: {self.gap:.3g}"
        return (
            f"{self.model} prefers the answer in {self.accuracy:.0%} of {len(self.first)} "
            f"({gap}{'' if clear else ', too small a gap to measure by'})."
        )

    def _table(self) -> Table:
        right = [each > 0 for each in self.differences]
        rows = [
            ["answer above the wrong one", *share_and_interval(right)],
            ["answer likeliest of all", *share_and_interval(self.first)],
            ["probability of the answer", *mean_and_interval(self.probabilities)],
            [self.metric, *mean_and_interval(self.differences)],
            [f"{self.metric}, corrupted", *mean_and_interval(self.corrupted)],
            ["clean minus corrupted", *mean_and_interval(self.gaps)],
        ]
        return Table(["measure", "value", "low (95 %)", "high (95 %)"], rows)

    def _by_group(self) -> Table:
        rows = []
        for group in dict.fromkeys(self.groups):
            chosen = [i for i, each in enumerate(self.groups) if each == group]
            right = [self.differences[i] > 0 for i in chosen]
            first = _share([self.first[i] for i in chosen])
            rows.append([group, len(chosen), *share_and_interval(right), first])
        columns = [
            "kind",
            "examples",
            "answer above wrong",
            "low (95 %)",
            "high (95 %)",
            "likeliest",
        ]
        return Table(columns, rows)


@dataclass(frozen=True)
class Known(Result):
    """The examples that a model answers rightly, and how many there were.

    Attributes:
        examples: those kept: an answer is likeliest of all, and both it minus the wrong one and
            clean minus corrupted are at least `margin`.
        tried: what all of them measured.
        margin: in the unit of the metric.
    """

    examples: tuple["TaskExample", ...]
    tried: TaskAccuracy
    margin: float

    @property
    def share(self) -> float:
        """How many of those tried were kept, 0 to 1."""
        return len(self.examples) / len(self.tried.first)

    def report(self) -> Report:
        """What was kept of what, and the accuracy on all."""
        tried = len(self.tried.first)
        kept = f"Kept {len(self.examples)} of {tried} ({self.share:.0%}) that it knows."
        shown = self.tried.report()
        title = f"{self.tried.task}: what the model knows"
        return Report(title, shown.blocks, summary=f"{kept} {shown.summary}")


def share_and_interval(hits: Sequence[bool]) -> tuple[float, float, float]:
    """A share and its 95 % interval (Wilson 1927)."""
    return _share(hits), *share_interval(hits)


def mean_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """A mean and its 95 % interval by bootstrap over the examples."""
    return fmean(values), *mean_interval(values)


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)
