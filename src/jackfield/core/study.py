"""The interface of every study: a config that runs, and the result it returns."""

from abc import ABC, abstractmethod
from typing import Any


class Study(ABC):
    """A config with a `run`: a small laboratory. Its fields determine the result."""

    @abstractmethod
    def run(self, *args: Any, **kwargs: Any) -> "Result":
        """Measures and returns what was found; see each study for its arguments."""


class Result(ABC):
    """What a study found: plain data that can show itself."""

    @abstractmethod
    def report(self) -> Any:
        """A `Report` of what was found."""
