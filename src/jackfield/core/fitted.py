"""The interface of every method: a config that fits, and the fitted object it returns."""

from abc import ABC, abstractmethod
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from jackfield.core.artifacts import Artifact, read_artifact, save_artifact
from jackfield.core.errors import ArtifactError, explain

if TYPE_CHECKING:
    from torch import Tensor


class Method(ABC):
    """A config with a `fit`. Its fields determine the result; `fit` does not change them."""

    @abstractmethod
    def fit(self, *args: Any, **kwargs: Any) -> "Fitted":
        """Learns from data and returns the fitted object; see each method for its arguments."""


class Fitted(ABC):
    """What a method learned: it edits, reports, and is saved as safetensors and JSON."""

    @abstractmethod
    def edits(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The edits that put what was learned into a forward."""

    @abstractmethod
    def report(self) -> Any:
        """A `Report` of what was learned and how well."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, "Tensor"], dict[str, Any]]:
        """(config, tensors, extra): all that `from_state` needs."""

    @classmethod
    @abstractmethod
    def from_state(
        cls, config: dict[str, Any], tensors: "dict[str, Tensor]", extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the object from `state`."""

    def save(self, path: str | Path) -> Path:
        """Writes a folder that `load` reads back to the same object."""
        config, tensors, extra = self.state()
        return save_artifact(
            path, kind=kind_of(type(self)), config=config, tensors=tensors, extra=extra
        )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            ArtifactError: the folder is damaged or holds something else.
        """
        artifact = read_artifact(path)
        found = cls if artifact.kind == kind_of(cls) else class_of(artifact, path)
        if not issubclass(found, cls):
            raise ArtifactError(
                explain(where=str(path), expected=f"a {cls.__name__}", got=f"a {found.__name__}")
            )
        return found.from_state(artifact.config, artifact.tensors, artifact.extra)


def kind_of(cls: type) -> str:
    """What an artifact calls a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def class_of(artifact: Artifact, path: str | Path) -> type:
    """The class that an artifact names; only our own fitted classes are looked up, never others.

    Raises:
        ArtifactError: it names something else; `path` says where it was read.
    """
    module, _, name = artifact.kind.partition(":")
    found = None
    if module.startswith("jackfield."):
        with suppress(ImportError):
            found = getattr(import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, Fitted)):
        raise ArtifactError(
            explain(where=str(path), expected="a fitted object of Jackfield", got=artifact.kind)
        )
    return found
