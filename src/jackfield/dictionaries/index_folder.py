"""The folder of a feature index: made empty, and its note of what is not a tensor (index.json)."""

import json
import tempfile
from pathlib import Path
from typing import Any

from jackfield.core.artifacts import atomic_write
from jackfield.core.errors import ArtifactError, explain

FORMAT = 1


def empty_folder(folder: str | Path | None) -> Path:
    """The folder, made if it is not there; a new temporary one for None.

    Raises:
        ArtifactError: there is something in it.
    """
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="jackfield-index-"))
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        expected, got = "a new or empty folder", "one with something in it"
        raise ArtifactError(explain(where=str(path), expected=expected, got=got))
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_note(folder: Path, note: dict[str, Any]) -> None:
    """Writes what is not a tensor."""
    atomic_write(folder / "index.json", json.dumps({"format": FORMAT, **note}).encode())


def read_note(folder: Path) -> dict[str, Any]:
    """What `write_note` wrote.

    Raises:
        ArtifactError: there is no note, or it is damaged, or of a newer format.
    """
    try:
        note: dict[str, Any] = json.loads((folder / "index.json").read_text())
        if note.pop("format") > FORMAT:
            raise ValueError("a newer format")
        return note
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        expected = "a feature index that Jackfield saved"
        raise ArtifactError(explain(where=str(folder), expected=expected, got=reason)) from error
