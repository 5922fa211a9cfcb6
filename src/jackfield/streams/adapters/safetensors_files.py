"""Safetensors: files of tensors [row, ...]; the tensors' names are the arrays'.

A name that is in several files is one array, its rows in the order of the files' names. So a folder
may be cut by rows, every file with every name, or by arrays, or both.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jackfield.streams.adapters.table import Columns, Listing, Piece, Table, damaged
from jackfield.streams.files import fingerprint
from jackfield.streams.store.codecs import Kind
from jackfield.streams.store.shards import safetensors_pieces

_FILE_BYTES = 128 << 20  # of a file that is written; a file is made in memory


class SafetensorsTable(Table):
    """Tensors of one or several files.

    Args:
        name: where they are.
        paths: the files, in order.

    Raises:
        InputError: a file is damaged, or a tensor has other row shapes or dtypes in another file.
    """

    format = "safetensors"

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name, self._paths = name, paths
        self.listing = Listing()
        self._parts: dict[str, list[tuple[Path, int, int]]] = {}  # file, its first row, its end
        for path in paths:
            for tensor, shape, dtype in _headers(path):
                self._note(path, tensor, shape, dtype)

    def pieces(self, names: Sequence[str], start: int, most: int) -> Iterator[Piece]:
        rows = self.listing.rows[names[0]]
        for first in range(start, rows, most):
            stop = min(first + most, rows)
            yield {name: self._read(name, first, stop) for name in names}

    def fingerprint(self) -> dict[str, Any]:
        return {"files": {path.name: fingerprint(path) for path in self._paths}}

    def _note(self, path: Path, name: str, shape: list[int], dtype: torch.dtype) -> None:
        if not shape:
            self.listing.add(name, "it is a single number", 0)
            return
        kind = Kind(tuple(shape[1:]), dtype)
        before = self.listing.kinds.get(name, kind)
        if before != kind:
            raise damaged(f"{path}, {name}", f"{before} as in the files before", kind)
        first = self.listing.rows.get(name, 0)
        self.listing.add(name, kind, first + shape[0])
        self._parts.setdefault(name, []).append((path, first, first + shape[0]))

    def _read(self, name: str, first: int, stop: int) -> Tensor:
        found = [
            _rows(path, name, max(first - begin, 0), min(stop, end) - begin)
            for path, begin, end in self._parts[name]
            if begin < stop and first < end
        ]
        return found[0] if len(found) == 1 else torch.cat(found)


def write(folder: Path, columns: Columns) -> None:
    """Writes files of some 128 MiB, each with all columns of its rows."""
    # The widest dtypes first: so every tensor begins where its dtype may begin.
    names = sorted(columns.kinds, key=lambda name: -columns.kinds[name].dtype.itemsize)
    held: list[Piece] = []
    number = size = 0

    def flush() -> None:
        nonlocal held, number, size
        whole = {name: torch.cat([piece[name] for piece in held]) for name in names}
        with (folder / f"rows-{number:05d}.safetensors").open("wb") as file:
            file.writelines(safetensors_pieces(whole))
        held, number, size = [], number + 1, 0

    for piece in columns.pieces:
        held.append(piece)
        size += sum(x.nbytes for x in piece.values())
        if size >= _FILE_BYTES:
            flush()
    if held:
        flush()


def _headers(path: Path) -> list[tuple[str, list[int], torch.dtype]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
            slices = [(name, file.get_slice(name)) for name in names]
            return [
                (name, s.get_shape(), s[:0].dtype if s.get_shape() else torch.float32)
                for name, s in slices
            ]
    except (SafetensorError, OSError) as error:
        raise damaged(path, "safetensors", error) from error


def _rows(path: Path, name: str, first: int, stop: int) -> Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            rows: Tensor = file.get_slice(name)[first:stop]
            return rows
    except (SafetensorError, OSError) as error:
        raise damaged(path, "safetensors", error) from error
