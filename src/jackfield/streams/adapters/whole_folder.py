"""A folder of files that is there whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jackfield.core.artifacts import sync_folder
from jackfield.core.errors import ArtifactError, explain


def new_folder(path: Path) -> Path:
    """The path, if a folder can be made there.

    Raises:
        ArtifactError: something is there.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        got = "a folder that holds something" if path.is_dir() else "a file"
        expected = "a new or empty folder"
        raise ArtifactError(explain(where=str(path), expected=expected, got=got))
    return path


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, which takes its place when all that is in it is on the disk.

    Raises:
        ArtifactError: the disk is full, or cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        sync_folder(temporary)
        temporary.replace(folder)
        sync_folder(folder.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            expected = "a disk that takes the rows"
            raise ArtifactError(
                explain(where=str(folder), expected=expected, got=str(error))
            ) from error
        raise


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
