"""A fitted object inside another: how its state travels in the other's."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from jackfield.core.artifacts import Artifact
from jackfield.core.errors import ArtifactError, explain
from jackfield.core.fitted import Fitted, class_of, kind_of


def packed(inner: Fitted, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a fitted object under "name.…", and the rest of its state."""
    config, tensors, extra = inner.state()
    named = {f"{name}.{key}": value for key, value in tensors.items()}
    return named, {"kind": kind_of(type(inner)), "config": config, "extra": extra}


def unpacked(tensors: Mapping[str, Tensor], rest: Mapping[str, Any], name: str, kind: type) -> Any:
    """Rebuilds what `packed` took apart, which is to be a `kind`.

    Raises:
        ArtifactError: it names no fitted object of Jackfield, or none of this kind.
    """
    start = f"{name}."
    own = {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
    artifact = Artifact(rest["kind"], rest["config"], own, rest["extra"])
    found: Any = class_of(artifact, name)
    if not issubclass(found, kind):
        raise ArtifactError(
            explain(where=name, expected=f"a {kind.__name__}", got=f"a {found.__name__}")
        )
    return found.from_state(artifact.config, artifact.tensors, artifact.extra)
