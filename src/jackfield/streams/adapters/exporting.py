"""Exporting: a store, or any stream, as files that other libraries read.

    export(store, "acts-npy/", "numpy")
    names = {"layers.3.resid_post": "blocks.3.hook_resid_post"}
    export(store, "acts-saelens/", "saelens", sites=names, context=128, partial="join")

Rows keep their order and their labels: columns `document`, `position`, `token_id` and the user's.
The folder appears when it is whole. `open_dataset` reads it back.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from jackfield.core.errors import ConfigError, InputError, did_you_mean, explain
from jackfield.core.progress import Progress
from jackfield.streams.adapters.contexts import Grouping, Partial
from jackfield.streams.adapters.description import Description, write_description
from jackfield.streams.adapters.table import Columns, Piece
from jackfield.streams.adapters.whole_folder import made_whole, new_folder
from jackfield.streams.protocol import Batch, Stream, check_site
from jackfield.streams.store import Store
from jackfield.streams.store.codecs import Kind
from jackfield.streams.store.filling import check_range
from jackfield.streams.views import check_count

Format = Literal["datasets", "saelens", "safetensors", "numpy", "parquet"]

_WRITERS = {
    "datasets": "hf_datasets",
    "saelens": "hf_datasets",
    "safetensors": "safetensors_files",
    "numpy": "numpy_files",
    "parquet": "parquet_files",
}
_FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_NUMPY_FLOATS = (torch.float16, torch.float32, torch.float64)
_PIECE_BYTES = 32 << 20  # of all sites, read and written at once


def export(
    source: Store | Stream,
    path: str | Path,
    format: Format,
    *,
    sites: Sequence[str] | Mapping[str, str] | None = None,
    dtype: str | None = None,
    context: int | None = None,
    partial: Partial = "refuse",
    progress: bool = False,
) -> Path:
    """Writes the rows in another library's format; gives the folder.

    Only safetensors has bfloat16 and fp8. In the other formats their rows become float32, which
    has the same values.

    Args:
        source: a store, or a stream.
        path: a new or empty folder.
        format: "datasets" (as `dataset.save_to_disk`, a row a row), "saelens" (the same with a
            context a row, as SAELens caches activations), "safetensors", "numpy" (a .npy a column)
            or "parquet".
        sites: which sites; a mapping gives them other names there. All by default.
        dtype: "float32", "float16" or (safetensors) "bfloat16" for the sites that hold floats;
            theirs by default.
        context: for "saelens": rows a context; by default the context that the rows were read with.
        partial: for "saelens": what is done with rows that do not fill a context, "refuse",
            "drop" (a warning says how many), or "join": contexts go on in the next document.
        progress: show a line with rows/s.

    Raises:
        ConfigError: an unknown format or dtype.
        SiteError: a site that is not there.
        InputError: no rows, values that the dtype cannot hold, names that clash, or rows that do
            not fit contexts.
        ArtifactError: the folder holds something, or the disk is full.
        MissingExtraError: `datasets` is not installed.
    """
    _check_choice("format", format, _WRITERS)
    if format != "saelens" and (context is not None or partial != "refuse"):
        got = f"context={context}, partial={partial!r}"
        expected = "these only with format 'saelens'"
        raise InputError(explain(where=f"export, format {format!r}", expected=expected, got=got))
    names = _names(source, sites)
    stream = _stream(source, tuple(names))
    length = _context(stream, context) if format == "saelens" else None
    plan = _Plan(names, _dtype(dtype, format), format == "safetensors", length)
    folder = new_folder(Path(path).expanduser())
    with Progress("export", total=stream.rows, unit="rows", enabled=progress) as shown:
        batches = _counted(stream, shown)
        if length is not None:
            batches = Grouping(length, partial).contexts(batches)
        with made_whole(folder) as temporary:
            rows = _write(temporary, format, plan, batches, stream)
            told = Description(list(names.values()), rows, length is not None, stream.provenance)
            write_description(temporary, told)
    return folder


@dataclass(frozen=True)
class _Plan:
    """How batches become columns.

    Attributes:
        names: site -> column.
        dtype: of the sites that hold floats; None keeps theirs.
        exotic: whether the format has bfloat16 and fp8.
        length: rows a context, if the columns are contexts.
    """

    names: dict[str, str]
    dtype: torch.dtype | None
    exotic: bool
    length: int | None

    def piece(self, batch: Batch) -> Piece:
        """The columns of a batch."""
        sites = {column: self._cast(site, batch[site]) for site, column in self.names.items()}
        if self.length is not None:
            return self._contexts(sites, batch.tokens)
        labels = {"document": batch.documents, "position": batch.positions}
        if batch.tokens is not None:
            labels["token_id"] = batch.tokens
        labels |= {name: self._held(column) for name, column in batch.columns.items()}
        clash = sorted(sites.keys() & labels.keys())
        if clash:
            hint = "Give the site another name: sites={site: name}."
            expected = f"names other than the labels' {', '.join(labels)}"
            got = ", ".join(clash)
            raise InputError(explain(where="export", expected=expected, got=got, hint=hint))
        return {name: x.contiguous() for name, x in (sites | labels).items()}

    def _contexts(self, sites: Piece, tokens: Tensor | None) -> Piece:
        assert self.length is not None
        columns = {name: x.unflatten(0, (-1, self.length)) for name, x in sites.items()}
        for name, x in columns.items():
            if x.ndim != 3:
                expected, got = "rows [d]", f"rows {list(x.shape[2:])}"
                where = f"export, format 'saelens', {name}"
                raise InputError(explain(where=where, expected=expected, got=got))
        if tokens is not None:
            columns["token_ids"] = tokens.to(torch.int32).unflatten(0, (-1, self.length))
        return columns

    def _cast(self, site: str, rows: Tensor) -> Tensor:
        rows = self._held(rows.detach().cpu())
        if self.dtype is None or not rows.is_floating_point():
            return rows
        check_range(site, rows, self.dtype, "export")
        return rows.to(self.dtype)

    def _held(self, x: Tensor) -> Tensor:
        """In a dtype that the format has: floats that NumPy lacks become float32, exactly."""
        unknown = x.is_floating_point() and x.dtype not in _NUMPY_FLOATS
        return x.float() if unknown and not self.exotic else x


def _write(folder: Path, format: str, plan: _Plan, batches: Iterator[Batch], stream: Stream) -> int:
    """Writes the columns; gives the number of rows."""
    first = next(batches, None)
    if first is None:
        raise InputError(explain(where=repr(stream), expected="rows to write", got="none"))
    kinds = {n: Kind(tuple(x.shape[1:]), x.dtype) for n, x in plan.piece(first).items()}
    rows = 0

    def pieces() -> Iterator[Piece]:
        nonlocal rows
        for batch in chain([first], batches):
            piece = plan.piece(batch)
            _check_alike(piece, kinds)
            rows += len(batch)
            yield piece

    writer = import_module(f"jackfield.streams.adapters.{_WRITERS[format]}")
    writer.write(folder, Columns(kinds, pieces()))
    return rows


def _names(
    source: Store | Stream, sites: Sequence[str] | Mapping[str, str] | None
) -> dict[str, str]:
    """Site -> column."""
    if sites is None:
        sites = source.sites
    asked = [sites] if isinstance(sites, str) else sites
    names = dict(asked) if isinstance(asked, Mapping) else {site: site for site in asked}
    for site in names:
        check_site(site, source.sites, where="export")
    if len(set(names.values())) < max(len(names), 1):
        got = ", ".join(names.values()) or "none"
        expected = "at least one site, each with its own name"
        raise InputError(explain(where="export", expected=expected, got=got))
    return names


def _stream(source: Store | Stream, sites: tuple[str, ...]) -> Stream:
    if isinstance(source, Stream):
        return source.select(*sites)
    return source.stream(*sites, batch=max(1, _PIECE_BYTES // max(source.row_bytes(sites), 1)))


def _context(stream: Stream, asked: int | None) -> int:
    """The context asked for, or that the rows were read with."""
    found = asked if asked is not None else _read_with(stream.provenance)
    if found is None:
        expected = "context=, as many rows as a context has"
        raise InputError(explain(where="export, format 'saelens'", expected=expected, got="none"))
    return check_count(found, "export: context")


def _read_with(provenance: Any) -> int | None:
    """The context in a live stream's provenance, however it is wrapped."""
    if not isinstance(provenance, dict):
        return None
    if isinstance(provenance.get("context"), int):
        return int(provenance["context"])
    inner = (_read_with(provenance.get(name)) for name in ("store", "of"))
    return next((found for found in inner if found is not None), None)


def _dtype(name: str | None, format: str) -> torch.dtype | None:
    if name is None:
        return None
    known = [n for n, d in _FLOATS.items() if d in _NUMPY_FLOATS or format == "safetensors"]
    _check_choice(f"format {format!r}, dtype", name, known)
    return _FLOATS[name]


def _check_choice(what: str, given: str, known: Collection[str]) -> None:
    if given not in known:
        expected, hint = f"one of {', '.join(known)}", did_you_mean(given, known)
        where = f"export, {what}"
        raise ConfigError(explain(where=where, expected=expected, got=repr(given), hint=hint))


def _check_alike(piece: Piece, kinds: Mapping[str, Kind]) -> None:
    for name, kind in kinds.items():
        found = Kind(tuple(piece[name].shape[1:]), piece[name].dtype)
        if found != kind:
            expected, got = f"{kind} in every batch", str(found)
            raise InputError(explain(where=f"export, {name}", expected=expected, got=got))


def _counted(stream: Stream, shown: Progress) -> Iterator[Batch]:
    for batch in stream:
        yield batch
        shown.update(len(batch))
