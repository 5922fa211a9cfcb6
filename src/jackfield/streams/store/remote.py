"""Files on an object store or any other place that fsspec knows, such as s3:// or gs://.

An object appears whole when its upload ends, so nothing is renamed. `create` asks the store itself
to refuse a name that is taken; where the file system cannot ask (fsspec says so), it looks first,
and then only one writer at a time is safe.
"""

import io
from collections.abc import Iterable, Sequence
from typing import Any

from jackfield.core.extras import need
from jackfield.streams.store.files import Files, Piece, readers

_TOGETHER = 64  # pieces in one request to fsspec, which sends them side by side


class RemoteFiles(Files):
    """A prefix of an object store.

    Args:
        url: as fsspec takes it; credentials come from the environment, as fsspec's backends read
            them.
        options: of the backend (`endpoint_url`, `anon`, …).
    """

    def __init__(self, url: str, **options: Any) -> None:
        fsspec = need("fsspec", extra="remote", purpose=f"A store at {url}")
        self._url = url.rstrip("/")
        self._fs, self._root = fsspec.core.url_to_fs(self._url, **options)

    @property
    def url(self) -> str:
        """The URL."""
        return self._url

    @property
    def filesystem(self) -> Any:
        """The fsspec file system."""
        return self._fs

    def read(self, name: str) -> bytes:
        """Downloads the file."""
        data: bytes = self._fs.cat_file(self._path(name))
        return data

    def size(self, name: str) -> int:
        """Asks the store."""
        size = self._fs.size(self._path(name))
        if size is None:
            raise FileNotFoundError(name)
        return int(size)

    def names(self, folder: str) -> list[str]:
        """Lists the prefix anew."""
        self._fs.invalidate_cache()
        where = self._path(folder)
        try:
            found = self._fs.find(where)
        except FileNotFoundError:
            return []
        root = self._fs._strip_protocol(self._root).rstrip("/") + "/"
        return sorted(path.removeprefix(root) for path in found if path != where)

    def write(self, name: str, pieces: Iterable[Any]) -> None:
        """One upload; what is there before it ends is the old object or none."""
        path = self._path(name)
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        buffer = io.BytesIO()
        for piece in pieces:
            buffer.write(piece)
        self._fs.pipe_file(path, buffer.getvalue())

    def create(self, name: str, data: bytes) -> bool:
        """An upload that the store refuses if the name is taken."""
        path = self._path(name)
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            self._fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except TypeError:  # a backend that knows no mode
            if self._fs.exists(path):
                return False
            self._fs.pipe_file(path, data)
        return True

    def remove(self, name: str) -> None:
        """Removes the object."""
        self._fs.rm_file(self._path(name))

    def fetch(self, pieces: Sequence[Piece]) -> None:
        """Ranges of objects, many at once."""
        groups = [pieces[at : at + _TOGETHER] for at in range(0, len(pieces), _TOGETHER)]
        list(readers().map(self._fetch, groups))

    def _fetch(self, pieces: Sequence[Piece]) -> None:
        paths = [self._path(piece.name) for piece in pieces]
        starts = [piece.offset for piece in pieces]
        ends = [piece.offset + len(piece.view) for piece in pieces]
        found = self._fs.cat_ranges(paths, starts, ends, on_error="return")
        for piece, data in zip(pieces, found, strict=True):
            if isinstance(data, FileNotFoundError):
                raise FileNotFoundError(2, "no such object", piece.name)
            if isinstance(data, Exception):
                raise OSError(f"{piece.name}: {data}") from data
            if len(data) != len(piece.view):
                raise EOFError(piece.name)
            piece.view[:] = data

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root
