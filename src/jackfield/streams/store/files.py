"""Files: where a store's bytes are. Four promises, for a folder and for an object store alike.

write   a file is there whole or not at all, and stays after a power cut
create  the same, and only if nobody else has made it: how writers take turns
fetch   many pieces of many files at once, straight into memory
names   what is there
"""

import contextlib
import errno
import functools
import hashlib
import os
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, final

from jackfield.core.artifacts import sync_folder

THREADS = 32  # pieces asked for at once: a disk answers many sooner than one after another
_FEW = 16  # pieces read by one thread before it is asked whether …
_WARM = 1e9  # … so many bytes a second come: then they are in memory, and threads only wait in line


class Piece(NamedTuple):
    """Bytes of a file from `offset` on, to be read into `view` until it is full."""

    name: str
    offset: int
    view: memoryview


class Files(ABC):
    """A tree of files; names are relative, with slashes."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where they are, for people."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A whole file; FileNotFoundError if there is none."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of a file; FileNotFoundError if there is none."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """The files below a folder, sorted, those that were never finished left out."""

    @abstractmethod
    def write(self, name: str, pieces: Iterable[Any]) -> None:
        """Writes bytes-like pieces one after another as one file, whole or not at all."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """As `write`, but False, and nothing done, if the file is there already."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Removes a file."""

    @abstractmethod
    def fetch(self, pieces: Sequence[Piece]) -> None:
        """Fills every piece's view.

        Raises:
            OSError: a file cannot be read.
            EOFError: a file ends before a piece does; its argument is the file's name.
        """

    @final
    def write_hashed(self, name: str, pieces: Iterable[Any]) -> dict[str, Any]:
        """Writes a file, and gives what a manifest says of it: file, bytes, sha256."""
        digest, count = hashlib.sha256(), 0

        def counted() -> Iterable[Any]:
            nonlocal count
            for piece in pieces:
                digest.update(piece)
                count += len(piece)
                yield piece

        self.write(name, counted())
        return {"file": name, "bytes": count, "sha256": digest.hexdigest()}


class LocalFiles(Files):
    """A folder on a disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._handles = _Handles()

    @property
    def url(self) -> str:
        """The folder."""
        return str(self.root)

    def read(self, name: str) -> bytes:
        """Reads the file."""
        return (self.root / name).read_bytes()

    def size(self, name: str) -> int:
        """Asks the file system."""
        return (self.root / name).stat().st_size

    def names(self, folder: str) -> list[str]:
        """Names that begin with a dot are temporary."""
        found = (self.root / folder).rglob("*")
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in found
            if path.is_file() and not path.name.startswith(".")
        )

    def unfinished(self) -> list[Path]:
        """What a killed writer left: temporary files."""
        return [p for p in self.root.rglob(".*-tmp-*") if p.is_file()]

    def write(self, name: str, pieces: Iterable[Any]) -> None:
        """A temporary file, flushed to the disk, then renamed."""
        path = self._path(name)
        with _temporary(path, pieces) as temporary:
            os.replace(temporary, path)
            sync_folder(path.parent)

    def create(self, name: str, data: bytes) -> bool:
        """A second name for the temporary file, which fails if the name is taken."""
        path = self._path(name)
        with _temporary(path, [data]) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
                # A file system without second names: writers of one process at a time.
                if path.exists():
                    return False
                os.replace(temporary, path)
            sync_folder(path.parent)
        return True

    def remove(self, name: str) -> None:
        """Removes it; one that is not there is removed."""
        (self.root / name).unlink(missing_ok=True)

    def fetch(self, pieces: Sequence[Piece]) -> None:
        """Plain positioned reads in a few threads: many times faster than a memory map, cold."""
        names = {piece.name for piece in pieces}
        opened = {name: self._handles.get(self.root / name) for name in names}

        def read(some: Sequence[Piece]) -> None:
            for name, offset, view in some:
                if os.preadv(opened[name].number, [view], offset) != len(view):
                    _read_on(opened[name].number, offset, view, name)

        for first in range(0, len(pieces), _FEW):
            some = pieces[first : first + _FEW]
            begun = perf_counter()
            read(some)
            if sum(len(piece.view) for piece in some) < _WARM * (perf_counter() - begun):
                left = pieces[first + _FEW :]
                list(readers().map(read, [left[part::THREADS] for part in range(THREADS)]))
                return

    def _path(self, name: str) -> Path:
        path = self.root / name
        _lasting(path.parent)
        return path


@functools.cache
def _reading_threads(process: int) -> ThreadPoolExecutor:
    """The reading threads of a process; a forked one has none of its parent's."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix=f"jackfield-read-{process}")


def readers() -> ThreadPoolExecutor:
    """The reading threads of this process."""
    return _reading_threads(os.getpid())


class _Handle:
    """An open file, closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "number"):
            close(self.number)  # as an argument: at the interpreter's end `os` may be gone


class _Handles:
    """Open files, kept because opening one costs as much as reading ten pieces."""

    most = 128

    def __init__(self) -> None:
        self._open: dict[Path, tuple[tuple[int, int, int], _Handle]] = {}
        self._lock = threading.Lock()

    def get(self, path: Path) -> _Handle:
        """The file as it now is under this name."""
        status = path.stat()
        identity = (status.st_dev, status.st_ino, status.st_size)
        with self._lock:
            known = self._open.pop(path, None)
            if known is None or known[0] != identity:
                known = (identity, _Handle(path))
            self._open[path] = known
            if len(self._open) > self.most:
                self._open.pop(next(iter(self._open)))
        return known[1]


def _read_on(number: int, offset: int, view: memoryview, name: str) -> None:
    """A read may give less than was asked for; none at all is the file's end."""
    while view:
        count = os.preadv(number, [view], offset)
        if not count:
            raise EOFError(name)
        view, offset = view[count:], offset + count


@contextlib.contextmanager
def _temporary(path: Path, pieces: Iterable[Any]) -> Any:
    """A flushed file beside `path`, gone at the end unless it was renamed."""
    temporary = path.with_name(f".{path.name}-tmp-{secrets.token_hex(6)}")
    try:
        with temporary.open("xb", buffering=0) as file:
            for piece in pieces:
                _write_all(file, memoryview(piece))
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _write_all(file: Any, view: memoryview) -> None:
    while view:
        view = view[file.write(view) :]


def _lasting(folder: Path) -> None:
    """Makes a folder, lasting before anything speaks of what is in it."""
    if not folder.exists():
        _lasting(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        sync_folder(folder.parent)
