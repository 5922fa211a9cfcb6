"""The interface of every battery: a config that makes examples to test a model or a method on."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from jackfield.core.study import Result


class Battery(ABC):
    """A config that makes data: tasks, or matched pairs with their controls.

    What an example holds is the battery's own; examples are frozen dataclasses.
    """

    @abstractmethod
    def examples(self, model: Any, n: int, seed: int = 0) -> Sequence[Any]:
        """`n` examples that suit the model's tokenizer; the same seed gives the same ones."""

    @abstractmethod
    def measure(self, model: Any, examples: Sequence[Any]) -> Result:
        """How well the model itself does on them: what is read into a failing model is noise."""
