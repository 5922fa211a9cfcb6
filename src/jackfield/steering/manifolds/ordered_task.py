"""Tasks whose answers have an order or a cycle: days, months, numbers.

A prompt goes on with one word of a list, and the word that is right is known. What a model can do
of it is measured (`ability`), and only what it can do should be fitted on (`known`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.edits import Edit
from jackfield.steering.behaviours import next_logits, word_ids

if TYPE_CHECKING:
    from jackfield.model.model import Model

_PROMPTS = 16  # in one forward


@dataclass(frozen=True, eq=False)
class OrderedTask:
    """Prompts, and which of some ordered words comes next.

    Attributes:
        name: one word.
        words: the answers in their order, with their leading space; or token ids.
        cyclic: whether the first follows the last.
        prompts: texts, or token ids [prompt, position].
        answers: for each prompt the index of the right word.
    """

    name: str
    words: tuple[str | int, ...]
    cyclic: bool
    prompts: Any = field(repr=False)
    answers: tuple[int, ...] = field(repr=False)

    @staticmethod
    def of(
        name: str, words: Sequence[str], templates: Sequence[str], *, cyclic: bool
    ) -> "OrderedTask":
        """A task of templates with "{x}", the word before the answer, "{p}" and "{pp}" before it.

        An open list has no prompts for its first three words.
        """
        size = len(words)
        first = 0 if cyclic else 3
        made = [
            (
                template.format(
                    x=words[(i - 1) % size], p=words[(i - 2) % size], pp=words[(i - 3) % size]
                ),
                i,
            )
            for template in templates
            for i in range(first, size)
        ]
        spaced = tuple(f" {word}" for word in words[first:])
        prompts, answers = zip(*made, strict=True)
        return OrderedTask(name, spaced, cyclic, prompts, tuple(i - first for i in answers))

    def __len__(self) -> int:
        return len(self.answers)

    def labels(self) -> tuple[str, ...]:
        """The words as text."""
        return tuple(str(word).strip() for word in self.words)

    def of_class(self, index: int) -> Any:
        """The prompts whose answer is the word of this index."""
        return self.take([i for i, answer in enumerate(self.answers) if answer == index]).prompts

    def take(self, chosen: Sequence[int]) -> "OrderedTask":
        """The same task with some of the prompts."""
        listed = list(chosen)
        tensor = isinstance(self.prompts, Tensor)
        prompts = self.prompts[listed] if tensor else tuple(self.prompts[i] for i in listed)
        answers = tuple(self.answers[i] for i in listed)
        return OrderedTask(self.name, self.words, self.cyclic, prompts, answers)

    def shares(self, model: "Model", edits: Sequence[Edit] = ()) -> Float[Tensor, "prompt answer"]:
        """The probability of each word after each prompt, and in the last column of all else.

        Raises:
            InputError: no prompts, words that are not one token each, numbers that are not finite.
        """
        if not len(self):
            where = f"{model.name}, {self.name}"
            raise InputError(explain(where=where, expected="at least one prompt", got="none"))
        parts = (self.prompts[first : first + _PROMPTS] for first in range(0, len(self), _PROMPTS))
        return torch.cat([self.shares_of(model, next_logits(model, each, edits)) for each in parts])

    def shares_of(
        self, model: "Model", logits: Float[Tensor, "row vocab"]
    ) -> Float[Tensor, "row answer"]:
        """The same of logits.

        Raises:
            InputError: as `shares`.
        """
        ids = torch.cat([word_ids(model, [word]) for word in self.words])
        p = logits.double().cpu().softmax(dim=-1)[:, ids]
        if not bool(torch.isfinite(p).all()):
            where, expected = f"{model.name}, {self.name}", "finite probabilities"
            raise InputError(explain(where=where, expected=expected, got="NaN or Inf"))
        return torch.cat([p, (1 - p.sum(dim=1, keepdim=True)).clamp(min=0)], dim=1)

    def right(self, model: "Model") -> list[bool]:
        """For each prompt whether, of the words, the right one is the likeliest."""
        best = self.shares(model)[:, :-1].argmax(dim=1).tolist()
        return [found == answer for found, answer in zip(best, self.answers, strict=True)]

    def ability(self, model: "Model") -> float:
        """The share of prompts that the model gets right, among the words."""
        right = self.right(model)
        return sum(right) / len(right)

    def known(self, model: "Model") -> "OrderedTask":
        """The prompts that the model gets right.

        Raises:
            InputError: a word for which it gets none right; says which.
        """
        kept = self.take([i for i, right in enumerate(self.right(model)) if right])
        missing = [word for i, word in enumerate(self.labels()) if i not in kept.answers]
        if missing:
            where, expected = f"{model.name}, {self.name}", "a prompt it gets right for each word"
            got = f"none for {', '.join(missing)}"
            raise InputError(explain(where=where, expected=expected, got=got))
        return kept


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_NUMBERS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen",
)  # fmt: skip

ORDERED_TASKS: dict[str, OrderedTask] = {
    each.name: each
    for each in (
        OrderedTask.of(
            "days",
            _DAYS,
            (
                "The days of the week in order: {pp}, {p}, {x},",
                "Yesterday was {p}. Today is {x}. Tomorrow will be",
                "We met on {p}. The next day was {x}. The day after that was",
                "It is {x} today, so tomorrow it will be",
                "Today is {x}. Tomorrow is",
            ),
            cyclic=True,
        ),
        OrderedTask.of(
            "months",
            _MONTHS,
            (
                "The months in order: {pp}, {p}, {x},",
                "Last month was {p}. This month is {x}. Next month will be",
                "It is {x} now, so next month it will be",
                "This month is {x}. Next month is",
                "If this month is {x}, then next month will be",
            ),
            cyclic=True,
        ),
        OrderedTask.of(
            "numbers",
            _NUMBERS,
            (
                "The numbers in order: {pp}, {p}, {x},",
                "Counting up: {p}, {x},",
                "Count with me: {pp}, {p}, {x},",
                "First we count {pp}, then {p}, then {x}, then",
                "{pp}, {p}, {x},",
            ),
            cyclic=False,
        ),
    )
}
