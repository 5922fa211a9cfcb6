"""NumPy: a .npy file, a folder of them (one an array, the file's name is the array's), an .npz.

The header is parsed and the rows are read as plain bytes, so nothing can be unpickled and an .npz
is as good as a folder: what is stored in it compressed is unpacked as the pass goes on.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

import numpy as np
import torch
from torch import Tensor

from jackfield.streams.adapters.table import Columns, Listing, Piece, Table, damaged, torch_dtype
from jackfield.streams.files import fingerprint
from jackfield.streams.store.codecs import Kind

_BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class _Array:
    """Where an array lies: how to open its file, and what the header said."""

    where: str
    opened: Callable[[], IO[bytes]]
    dtype: "np.dtype[Any]"
    shape: tuple[int, ...]
    offset: int

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    def read(self, file: IO[bytes], first: int, stop: int) -> Tensor:
        """Rows first..stop - 1 of the opened file."""
        size = (stop - first) * self.row_bytes
        try:
            file.seek(self.offset + first * self.row_bytes)
            data = file.read(size)
        except _BROKEN as error:
            raise damaged(self.where, "a whole array", error) from error
        if len(data) != size:
            raise damaged(self.where, f"{self.shape[0]:,} rows", f"a file that ends in row {stop}")
        rows = np.frombuffer(data, self.dtype).astype(self.dtype.newbyteorder("="))
        return torch.from_numpy(rows).reshape(stop - first, *self.shape[1:])


class NumpyTable(Table):
    """Arrays of .npy and .npz files.

    Args:
        name: where they are.
        paths: the files.

    Raises:
        InputError: a file is damaged, or two arrays have one name.
    """

    format = "numpy"

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name, self._paths = name, paths
        self.listing = Listing()
        self._arrays: dict[str, _Array] = {}
        for path in paths:
            for array, opened in _members(path).items():
                if array in self._arrays or array in self.listing.unusable:
                    raise damaged(name, "arrays of different names", f"{array!r} twice")
                self._note(array, f"{path}, {array}", opened)

    def pieces(self, names: Sequence[str], start: int, most: int) -> Iterator[Piece]:
        with ExitStack() as held:
            files = {name: held.enter_context(self._arrays[name].opened()) for name in names}
            rows = self.listing.rows[names[0]]
            for first in range(start, rows, most):
                stop = min(first + most, rows)
                yield {n: self._arrays[n].read(file, first, stop) for n, file in files.items()}

    def fingerprint(self) -> dict[str, Any]:
        return {"files": {path.name: fingerprint(path) for path in self._paths}}

    def _note(self, name: str, where: str, opened: Callable[[], IO[bytes]]) -> None:
        shape, fortran, dtype, offset = _header(where, opened)
        kind: Kind | str
        known = torch_dtype(dtype)
        if isinstance(known, str):
            kind = known
        elif not shape:
            kind = "it is a single number"
        elif fortran and len(shape) > 1:
            kind = "it is in Fortran order; save np.ascontiguousarray(x)"
        else:
            kind = Kind(shape[1:], known)
            self._arrays[name] = _Array(where, opened, dtype, shape, offset)
        self.listing.add(name, kind, shape[0] if shape else 0)


def write(folder: Path, columns: Columns) -> None:
    """Writes one .npy a column; the headers, padded for this, get the row count at the end."""
    with ExitStack() as held:
        files = {
            name: held.enter_context((folder / f"{quote(name, safe='')}.npy").open("wb"))
            for name in columns.kinds
        }
        rows = 0
        for name, file in files.items():
            _write_header(file, columns.kinds[name], 0)
        for piece in columns.pieces:
            for name, file in files.items():
                file.write(piece[name].contiguous().numpy().data)
            rows += len(piece[name])
        for name, file in files.items():
            file.seek(0)
            _write_header(file, columns.kinds[name], rows)


def _write_header(file: IO[bytes], kind: Kind, rows: int) -> None:
    descr = np.lib.format.dtype_to_descr(torch.empty(0, dtype=kind.dtype).numpy().dtype)
    told = {"descr": descr, "fortran_order": False, "shape": (rows, *kind.shape)}
    np.lib.format.write_array_header_1_0(file, told)


def _members(path: Path) -> dict[str, Callable[[], IO[bytes]]]:
    """The arrays of a file by name, each with what opens it."""
    if path.suffix == ".npy":
        return {unquote(path.stem): lambda: path.open("rb")}
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _BROKEN as error:
        raise damaged(path, "an .npz file", error) from error
    return {name.removesuffix(".npy"): partial(_member, path, name) for name in names}


def _member(path: Path, name: str) -> IO[bytes]:
    archive = zipfile.ZipFile(path)  # lives as long as the member is open
    with archive:
        return archive.open(name)


def _header(
    where: str, opened: Callable[[], IO[bytes]]
) -> tuple[tuple[int, ...], bool, "np.dtype[Any]", int]:
    """Shape, whether in Fortran order, dtype, and where the rows begin."""
    try:
        with opened() as file:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"version {version} of the .npy format")
            return (*read(file), file.tell())
    except _BROKEN as error:
        raise damaged(where, "a .npy array", error) from error
