"""Opening: files and datasets of other libraries as a stream.

    stream = open_dataset("cached_activations/")          # SAELens', or any dataset.save_to_disk
    stream = open_dataset("acts.npz", sites={"x": "layers.3.resid_post"})

Arrays of rows become sites; `document`, `position` and `token_id` become what they are in a batch,
other plain columns of numbers its columns. Nothing is copied to a store first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jackfield.core.errors import InputError, explain
from jackfield.streams.adapters import hf_datasets
from jackfield.streams.adapters.choosing import (
    LABELS,
    check_rows,
    chosen_columns,
    chosen_sites,
    label_column,
)
from jackfield.streams.adapters.contexts import Contexts, context_of
from jackfield.streams.adapters.description import Description, read_description
from jackfield.streams.adapters.numpy_files import NumpyTable
from jackfield.streams.adapters.parquet_files import ParquetTable
from jackfield.streams.adapters.safetensors_files import SafetensorsTable
from jackfield.streams.adapters.table import Piece, Table
from jackfield.streams.protocol import Batch, Stream
from jackfield.streams.views import check_count

_KINDS: dict[str, Callable[[str, Sequence[Path]], Table]] = {
    ".npy": NumpyTable,
    ".npz": NumpyTable,
    ".parquet": ParquetTable,
    ".safetensors": SafetensorsTable,
}


def open_dataset(
    source: Any,
    *,
    sites: Sequence[str] | Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    contexts: bool | None = None,
    batch: int = 4096,
) -> Stream:
    """A stream over activations that lie in another library's format.

    Args:
        source: a folder that `datasets` or SAELens saved, a `datasets.Dataset`, a .npy, .npz,
            .safetensors or .parquet file, or a folder of them. Several .safetensors or .parquet
            files are read one after another, in the order of their names.
        sites: which arrays become sites; a mapping gives them other names there. By default all
            whose rows have an axis.
        columns: which plain columns of numbers are kept; by default all.
        contexts: whether arrays are [context, position, ...] instead of [row, ...]; by default they
            are if there are token ids [context, position]. A context then reads as a document.
        batch: the most rows a batch.

    Raises:
        InputError: not a format that is known, a damaged file, arrays with different numbers of
            rows, or one that does not hold rows of numbers.
        SiteError: an array that is not there.
        MissingExtraError: `datasets` is not installed.

    >>> import tempfile
    >>> import numpy as np
    >>> file = tempfile.mkdtemp() + "/acts.npz"
    >>> np.savez(file, x=np.arange(6.0).reshape(3, 2), token_id=np.array([7, 8, 9]))
    >>> open_dataset(file, sites={"x": "layers.3.resid_post"})
    Stream(3 rows of 1 site: layers.3.resid_post)
    """
    check_count(batch, "open_dataset: batch")
    table, described = _opened(source)
    length = _context(table, described, contexts)
    if length is not None:
        table = Contexts(table, length)
    if sites is None and described is not None:
        sites = described.sites
    chosen = chosen_sites(table, sites)
    labels = {role: label_column(table, role) for role in LABELS}
    roles = {role: n for role, n in labels.items() if n is not None and n not in chosen}
    names = [*chosen, *roles.values()]
    kept = chosen_columns(table, columns, names)
    check_rows(table, [*names, *kept], described)
    return TableStream(table, _Reading(chosen, roles, kept), batch, described)


@dataclass(frozen=True)
class _Reading:
    """Which column of a table becomes what: column -> site, role -> column, columns."""

    sites: dict[str, str]
    roles: dict[str, str]
    columns: tuple[str, ...]


class TableStream(Stream):
    """The rows of a table, in its order."""

    def __init__(
        self, table: Table, reading: _Reading, batch: int, described: Description | None
    ) -> None:
        self._table, self._reading, self._batch = table, reading, batch
        self._described = described

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self._reading.sites.values())

    @property
    def rows(self) -> int:
        return self._table.listing.rows[next(iter(self._reading.sites))]

    @property
    def provenance(self) -> dict[str, Any]:
        """The files, what is read of them, and, of an exported store, where its rows came from."""
        told = {"source": self._table.format, **self._table.fingerprint()}
        told |= {"sites": self._reading.sites, "columns": list(self._reading.columns)}
        return told if self._described is None else {**told, "of": self._described.provenance}

    def batches(self, start: int = 0) -> Iterator[Batch]:
        reading = self._reading
        names = [*reading.sites, *reading.roles.values(), *reading.columns]
        first = start
        for piece in self._table.pieces(names, start, self._batch):
            made = self._made(piece, first)
            yield made
            first += len(made)

    def _made(self, piece: Piece, first: int) -> Batch:
        """The batch of a piece; without documents, each context or row is its own."""
        count = len(next(iter(piece.values())))
        rows = torch.arange(first, first + count)
        roles = {role: piece[name].to(torch.int64) for role, name in self._reading.roles.items()}
        documents, positions = rows, torch.zeros_like(rows)
        if isinstance(self._table, Contexts):
            documents, positions = self._table.labels(rows)
        return Batch(
            {site: piece[name] for name, site in self._reading.sites.items()},
            roles.get("tokens"),
            roles.get("documents", documents),
            roles.get("positions", positions),
            {name: piece[name] for name in self._reading.columns},
        )


def _opened(source: Any) -> tuple[Table, Description | None]:
    if hf_datasets.is_dataset(source):
        return hf_datasets.open_object(source), None
    if not isinstance(source, str | Path):
        expected = "a path, or a datasets.Dataset"
        raise InputError(
            explain(where="open_dataset", expected=expected, got=type(source).__name__)
        )
    path = Path(source).expanduser()
    if path.is_dir() and any((path / n).is_file() for n in ("state.json", "dataset_dict.json")):
        return hf_datasets.open_folder(path), read_description(path)
    if path.is_dir():
        return _of_files(path, sorted(p for p in path.iterdir() if p.suffix in _KINDS))
    return _of_files(path, [path] if path.is_file() and path.suffix in _KINDS else [])


def _of_files(path: Path, files: list[Path]) -> tuple[Table, Description | None]:
    formats = {_KINDS[file.suffix] for file in files}
    if len(formats) != 1:
        expected = f"a saved dataset, or {', '.join(_KINDS)} files of one kind"
        got = "files of several kinds" if formats else "none of these"
        store = path.is_dir() and (path / "meta.json").is_file()
        hint = f"A store opens with Store({str(path)!r})." if store else None
        raise InputError(explain(where=str(path), expected=expected, got=got, hint=hint))
    table = formats.pop()(str(path), files)
    return table, read_description(path) if path.is_dir() else None


def _context(table: Table, described: Description | None, asked: bool | None) -> int | None:
    """How long contexts are; None where the first axis is the row.

    Raises:
        InputError: it cannot be told.
    """
    kinds = table.listing.kinds
    tokens = next((name for name in LABELS["tokens"] if name in kinds), None)
    by_tokens = context_of(table, tokens)
    if asked is None and described is not None:
        asked = described.contexts
    if asked is None and by_tokens is None and tokens is None and _like_saelens(table):
        expected = "contexts=True for cells [position, d], contexts=False for rows [..., d]"
        got = "cells of two axes and no token ids, which may be either"
        raise InputError(explain(where=table.name, expected=expected, got=got))
    if asked is False or (asked is None and by_tokens is None):
        return None
    lengths = (
        [by_tokens] if by_tokens is not None else [k.shape[0] for k in kinds.values() if k.shape]
    )
    if not lengths:
        expected = "arrays [context, position, ...]"
        raise InputError(explain(where=table.name, expected=expected, got="plain columns only"))
    return lengths[0]


def _like_saelens(table: Table) -> bool:
    kinds = table.listing.kinds.values()
    return table.format == "datasets" and bool(kinds) and all(len(k.shape) == 2 for k in kinds)
