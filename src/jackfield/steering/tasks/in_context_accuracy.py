"""In-context accuracy: which tasks can the model do when they are shown, and only then?

    accuracy = share of questions whose answer is the likeliest token of the whole vocabulary

with demonstrations, with the same demonstrations wrongly answered, and without any, as in Todd et
al. 2023 (arXiv 2310.15213). What a model cannot do in context has no function vector to find; what
it does without demonstrations needs none. "Able": at least `enough` in the best template (the
threshold is ours).

The tasks of `in_context_words.py` are those that SmolLM2 is able to do. Its accuracy with 8 "arrow"
demonstrations on 24 questions each:

    capitalise 1.00, lower-case 1.00, plural 1.00, upper-case-letter 1.00, country-language 0.96,
    gerund 0.96, antonym 0.92, capital-country 0.92, first-letter 0.92, singular 0.92,
    comparative 0.88, past-tense 0.88, superlative 0.88, country-capital 0.83, present-tense 0.83,
    next-in-order 0.71, adverb 0.50, next-letter 0.50

English to French (0.27 of 11 words of one token) and feminine forms (0.12) were tried and dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.core.progress import Progress
from jackfield.core.study import Result, Study
from jackfield.reports import Report, Table
from jackfield.reports.intervals import share_interval
from jackfield.steering.tasks.in_context import InContextTask
from jackfield.steering.tasks.last_token import answered

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class InContextAccuracy(Study):
    """The accuracy of each task in each template, from the logits [question, vocab].

    Attributes:
        templates: by name.
        shots: demonstrations a prompt.
        questions: at most so many a task and template.
        enough: accuracy from which the model is able.
        seed: of the demonstrations.

    >>> InContextAccuracy(shots=8).shots
    8
    """

    templates: tuple[str, ...] = ("arrow",)
    shots: int = setting(default=8, ge=2)
    questions: int = setting(default=24, ge=1)
    enough: float = setting(default=0.5, ge=0, le=1)
    seed: int = 0

    def run(
        self, model: "Model", tasks: Sequence[InContextTask], *, progress: bool = False
    ) -> "AccuracyFound":
        """Asks each task's questions.

        Raises:
            InputError: no tasks, an unknown template, or activations that are not finite.
        """
        where = f"{model.name}, InContextAccuracy"
        if not tasks or not self.templates:
            expected = "at least one task and one template"
            raise InputError(explain(where=where, expected=expected, got="none"))
        cells = [(task, template) for task in tasks for template in self.templates]
        found = []
        with Progress("asking", total=len(cells), unit="cells", enabled=progress) as shown:
            for task, template in cells:
                found.append(self._cell(model, task, template))
                shown.update(1)
        return AccuracyFound(model.name, self.shots, self.enough, tuple(found))

    def _cell(self, model: "Model", task: InContextTask, template: str) -> "TaskAccuracy":
        pool = task.usable(model)
        prompts = task.prompts(
            model, template, shots=self.shots, seed=self.seed, asked=pool[: self.questions],
            shown=pool,
        )  # fmt: skip
        shown, shuffled, bare = (
            answered(model, texts, prompts.answers)
            for texts in (prompts.shown, prompts.shuffled, prompts.bare)
        )
        shares = [float(each.double().mean()) for each in (shown, shuffled, bare)]
        return TaskAccuracy(
            task.name,
            template,
            len(shown),
            shares[0],
            share_interval(shown.tolist()),
            shares[1],
            shares[2],
        )


@dataclass(frozen=True)
class TaskAccuracy:
    """One task in one template.

    Attributes:
        task, template: their names.
        questions: how many were asked.
        shown: accuracy with demonstrations.
        interval: of it, 95 % (Wilson).
        shuffled: with the demonstrations' answers in other places.
        bare: without demonstrations.
    """

    task: str
    template: str
    questions: int
    shown: float
    interval: tuple[float, float]
    shuffled: float
    bare: float


@dataclass(frozen=True)
class AccuracyFound(Result):
    """Accuracies, in the order of the tasks; `able` names the tasks that the model can do."""

    model: str
    shots: int
    enough: float
    cells: tuple[TaskAccuracy, ...]

    @property
    def able(self) -> tuple[str, ...]:
        """Tasks with enough accuracy in one template."""
        names = [each.task for each in self.cells if each.shown >= self.enough]
        return tuple(dict.fromkeys(names))

    def report(self) -> Report:
        """A row a task and template."""
        columns = ["task", "template", "questions", "shown", "low (95 %)", "high (95 %)",
                   "shown wrongly", "not shown"]  # fmt: skip
        rows = [
            [c.task, c.template, c.questions, c.shown, *c.interval, c.shuffled, c.bare]
            for c in self.cells
        ]
        tasks = len({each.task for each in self.cells})
        summary = (
            f"With {self.shots} demonstrations {self.model} can do {len(self.able)} of {tasks} "
            f"tasks (at least {self.enough:.0%} right)."
        )
        table = Table(columns, rows, formats=dict.fromkeys(columns[3:], ".2f"), limit=100)
        return Report("Accuracy in context", [table], summary=summary)
