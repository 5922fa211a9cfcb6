"""Artifacts: a folder with `jackfield.json` (kind, config) and `tensors.safetensors`. Never pickle.

Everything is written under a temporary name, flushed to the disk and renamed, so a folder is
either the old one or the new one, whole. (Power lost between the two renames that replace a
folder leaves the old one beside it, whole, as `.NAME-old-…/old`.)
"""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jackfield.core.errors import ArtifactError, explain

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
_HEADER = "jackfield.json"
_TENSORS = "tensors.safetensors"


@dataclass(frozen=True)
class Artifact:
    """What was read back: `kind` is "module:Class", `extra` is whatever JSON the writer added."""

    kind: str
    config: dict[str, Any]
    tensors: dict[str, "Tensor"]
    extra: dict[str, Any] = field(default_factory=dict)


def save_artifact(
    path: str | Path,
    *,
    kind: str,
    config: dict[str, Any],
    tensors: Mapping[str, "Tensor"],
    extra: dict[str, Any] | None = None,
) -> Path:
    """Writes the folder `path`, replacing an artifact that stands there.

    Raises:
        ArtifactError: `path` exists and is not an artifact (nothing is touched then).
    """
    from safetensors.torch import save

    path = Path(path)
    if path.exists() and not (path / _HEADER).is_file():
        raise ArtifactError(
            explain(
                where=str(path),
                expected="a new folder, or one that holds an artifact",
                got="a file" if path.is_file() else "a folder with other things in it",
            )
        )
    header = {"format": FORMAT, "kind": kind, "config": config, "extra": extra or {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        # Copies, because safetensors refuses views and tensors that share memory.
        copies = {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()
        }
        atomic_write(temporary / _TENSORS, save(copies))
        atomic_write(temporary / _HEADER, json.dumps(header, indent=2).encode())
        _swap_in(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return path


def read_artifact(path: str | Path) -> Artifact:
    """Reads a folder written by `save_artifact`.

    Raises:
        ArtifactError: it is missing, damaged, or of a newer format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    try:
        header = json.loads((path / _HEADER).read_text())
        if int(header["format"]) <= FORMAT:
            tensors = load_file(path / _TENSORS)
            return Artifact(header["kind"], header["config"], tensors, header.get("extra", {}))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ArtifactError(
            explain(where=str(path), expected="a folder that Jackfield saved", got=reason)
        ) from error
    raise ArtifactError(
        explain(
            where=str(path),
            expected=f"format {FORMAT} or older",
            got=f"format {header['format']}",
            hint="Update Jackfield.",
        )
    )


def atomic_write(path: Path, data: bytes) -> None:
    """Writes `data` so that `path` holds the old bytes or the new ones, also after a power cut."""
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries (a rename is lasting only then)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap_in(new: Path, path: Path) -> None:
    """Puts folder `new` in the place of `path`; an older one steps aside first."""
    if not path.exists():
        os.replace(new, path)
    else:
        aside = _beside(path, "-old")
        aside.mkdir()
        try:
            os.replace(path, aside / "old")
            os.replace(new, path)
        except BaseException:
            if not path.exists():
                os.replace(aside / "old", path)
            shutil.rmtree(aside, ignore_errors=True)
            raise
        shutil.rmtree(aside)
    sync_folder(path.parent)


def _beside(path: Path, what: str = "") -> Path:
    """A new name beside `path`."""
    # What `tempfile` makes is for the user's own eyes only; this follows the umask.
    return path.with_name(f".{path.name}{what}-{secrets.token_hex(4)}")
