"""Files: reading foreign JSON and tensors with every key, type and shape checked.

An error says which file and key, what was expected and what is there. Numbers narrower than float32
become float32, so that lengths can be folded in without a loss; float64 stays.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jackfield.core.errors import ArtifactError, explain

_MISSING = object()


def bad(where: object, expected: str, got: object, hint: str | None = None) -> ArtifactError:
    """The error of a file that is not what it should be."""
    reason = f"{type(got).__name__}: {got}" if isinstance(got, Exception) else str(got)
    reason = " ".join(reason.split())
    return ArtifactError(explain(where=str(where), expected=expected, got=reason, hint=hint))


class Settings:
    """The settings in a JSON file.

    Args:
        values: the object in it.
        where: the file, and the place in it, for errors.
    """

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values, self.where = values, where

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Reads a file that holds one object.

        Raises:
            ArtifactError: it is missing, or not JSON, or not an object.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise bad(path, "a JSON object", error) from error
        if not isinstance(values, dict):
            raise bad(path, "a JSON object", type(values).__name__)
        return cls(values, str(path))

    def part(self, key: str) -> "Settings":
        """The object under a key.

        Raises:
            ArtifactError: there is none.
        """
        return Settings(self.get(key, dict), f"{self.where}, {key}")

    def get(self, key: str, kind: type, default: Any = _MISSING) -> Any:
        """A setting of one type.

        Raises:
            ArtifactError: it is missing and has no default, or is of another type.
        """
        value = self.values.get(key, default)
        if value is _MISSING:
            raise bad(f"{self.where}, {key}", f"a value of type {kind.__name__}", "no such key")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise bad(f"{self.where}, {key}", f"a value of type {kind.__name__}", repr(value))
        return value

    def count(self, key: str, default: Any = _MISSING, *, most: int | None = None) -> int:
        """A whole number from 1 to `most`.

        Raises:
            ArtifactError: it is none.
        """
        value: int = self.get(key, int, default)
        if value < 1 or (most is not None and value > most):
            limits = "1 or more" if most is None else f"1 to {most}"
            raise bad(f"{self.where}, {key}", limits, value)
        return value

    def only(self, key: str, *allowed: Any, default: Any = None, hint: str | None = None) -> Any:
        """A setting that has one of the values that we have an equal for.

        Raises:
            ArtifactError: it has another.
        """
        value = self.values.get(key, default)
        if value not in allowed:
            expected = " or ".join(map(repr, allowed))
            raise bad(f"{self.where}, {key}", expected, repr(value), hint)
        return value


class Tensors:
    """The tensors in a file.

    Args:
        tensors: by their keys.
        where: the file, for errors.
    """

    def __init__(self, tensors: dict[str, Tensor], where: Path) -> None:
        self.tensors, self.where = tensors, where

    @classmethod
    def read(cls, path: Path) -> "Tensors":
        """Reads a safetensors file.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return cls(load_file(path), path)
        except (OSError, SafetensorError) as error:
            raise bad(path, "a safetensors file", error) from error

    def keys_are(self, *keys: str, optional: tuple[str, ...] = ()) -> None:
        """Checks that these keys are there and no others, which might change what comes out.

        Raises:
            ArtifactError: a key is missing or unknown.
        """
        missing, unknown = {*keys} - {*self.tensors}, {*self.tensors} - {*keys, *optional}
        if missing or unknown:
            got = ", ".join(sorted(self.tensors)) or "none"
            wrong = ", ".join(sorted(missing or unknown))
            what = "missing" if missing else "unknown"
            raise bad(f"{self.where}, {wrong} ({what})", f"the keys {', '.join(keys)}", got)

    def take(self, key: str, *shape: int) -> Tensor:
        """A tensor of floats, contiguous, at least float32.

        Raises:
            ArtifactError: it has another shape or type, or NaN or infinity in it.
        """
        tensor = self.tensors[key]
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            got = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            raise bad(f"{self.where}, {key}", f"floats of shape {list(shape)}", got)
        if not tensor.isfinite().all():
            raise bad(f"{self.where}, {key}", "finite numbers", "NaN or infinity")
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).contiguous()

    def shape(self, key: str) -> tuple[int, int]:
        """The shape of a matrix.

        Raises:
            ArtifactError: it has not two dimensions.
        """
        tensor = self.tensors[key]
        if tensor.dim() != 2:
            raise bad(f"{self.where}, {key}", "a matrix", f"shape {list(tensor.shape)}")
        return tensor.shape[0], tensor.shape[1]


def tensor_bytes(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file."""
    from safetensors.torch import save

    copies = {name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()}
    return save(copies)


def json_bytes(values: dict[str, Any]) -> bytes:
    """A JSON file."""
    return json.dumps(values, indent=2).encode()
