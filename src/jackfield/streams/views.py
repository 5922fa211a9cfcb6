"""Streams made of arrays or of another stream: what `Stream`'s helpers return.

Each is a recipe on a recipe: it holds no rows, and its provenance says what was done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.streams.protocol import Batch, Stream, check_site, without_first


class FromTensor(Stream):
    """Arrays in memory, cut into batches."""

    def __init__(
        self,
        arrays: Mapping[str, Tensor],
        batch: int,
        tokens: Tensor | None,
        documents: Tensor | None,
        positions: Tensor | None,
        columns: Mapping[str, Tensor] | None,
    ) -> None:
        self._batch = check_count(batch, "from_tensor: batch")
        tensors = {site: torch.as_tensor(x) for site, x in arrays.items()}
        rows = {site: len(x) if x.ndim else 0 for site, x in tensors.items()}
        if not rows or 0 in rows.values():
            expected = "arrays [row, ...] with at least one row"
            got = str({site: list(x.shape) for site, x in tensors.items()})
            raise InputError(explain(where="from_tensor", expected=expected, got=got))
        count = next(iter(rows.values()))
        documents = torch.arange(count) if documents is None else documents
        positions = torch.zeros(count, dtype=torch.int64) if positions is None else positions
        self._all = Batch(tensors, tokens, documents, positions, dict(columns or {}))

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the arrays."""
        return self._all.sites

    @property
    def rows(self) -> int:
        """Rows of the arrays."""
        return len(self._all)

    @property
    def provenance(self) -> dict[str, Any]:
        """Names the arrays by their content."""
        return {"source": "tensor", "sha256": self._fingerprints}

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Cuts from `start` on."""
        for first in range(start, self.rows, self._batch):
            yield self._all.rows(slice(first, first + self._batch))

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        return {site: _fingerprint(self._all[site]) for site in self.sites}


class Derived(Stream):
    """Another stream with something done to each pass of it.

    Args:
        source: the stream underneath.
        through: takes the source and a first row, gives the batches of a new pass from there.
        note: what was done, for the provenance; None where the rows stay the same.
        sites: the sites of the new stream, if not the source's.
        limit: the most rows there can be.
        without: how many of the source's first rows are left out.
    """

    def __init__(
        self,
        source: Stream,
        through: Callable[[Stream, int], Iterator[Batch]],
        *,
        note: dict[str, Any] | None,
        sites: tuple[str, ...] | None = None,
        limit: int | None = None,
        without: int = 0,
    ) -> None:
        self._source, self._through, self._note = source, through, note
        self._sites, self._limit, self._without = sites, limit, without

    @property
    def sites(self) -> tuple[str, ...]:
        """The chosen sites, or the source's."""
        return self._source.sites if self._sites is None else self._sites

    @property
    def rows(self) -> int | None:
        """The source's rows but the first ones, up to the limit."""
        if self._source.rows is None:
            return None
        rows = max(self._source.rows - self._without, 0)
        return rows if self._limit is None else min(rows, self._limit)

    @property
    def provenance(self) -> dict[str, Any]:
        """The source's, wrapped in what was done to it."""
        source = self._source.provenance
        return source if self._note is None else {**self._note, "of": source}

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """A new pass over the source."""
        return self._through(self._source, start)


def selected(stream: Stream, sites: Sequence[str]) -> Stream:
    """Some of a stream's sites."""
    if not sites:
        raise InputError(explain(where="select", expected="at least one site", got="none"))
    for site in sites:
        check_site(site, stream.sites, where="select")

    def through(source: Stream, start: int) -> Iterator[Batch]:
        return (batch.select(sites) for batch in source.batches(start))

    return Derived(stream, through, note={"select": list(sites)}, sites=tuple(sites))


def taken(stream: Stream, rows: int) -> Stream:
    """The first rows of a stream."""
    check_count(rows, "take")

    def through(source: Stream, start: int) -> Iterator[Batch]:
        left = rows - start
        for batch in source.batches(start) if left > 0 else ():
            yield batch.rows(slice(left)) if len(batch) > left else batch
            left -= len(batch)
            if left <= 0:  # before the source is asked for a batch that nobody needs
                return

    return Derived(stream, through, note={"take": rows}, limit=rows)


def skipped(stream: Stream, rows: int) -> Stream:
    """A stream without its first rows."""
    if rows == 0:
        return stream
    check_count(rows, "skip")

    def through(source: Stream, start: int) -> Iterator[Batch]:
        return source.batches(start + rows)

    return Derived(stream, through, note={"skip": rows}, without=rows)


def rebatched(stream: Stream, rows: int) -> Stream:
    """The same rows in batches of one size."""
    check_count(rows, "rebatch")

    def through(source: Stream, start: int) -> Iterator[Batch]:
        waiting: list[Batch] = []
        count = 0
        for batch in source.batches(start):
            waiting.append(batch)
            count += len(batch)
            if count >= rows:
                joined = Batch.concat(waiting)
                whole = count - count % rows
                for start in range(0, whole, rows):
                    yield joined.rows(slice(start, start + rows))
                waiting, count = [joined.rows(slice(whole, None))], count - whole
        if count:
            yield Batch.concat(waiting)

    return Derived(stream, through, note=None)


def shuffled(stream: Stream, seed: int, buffer: int) -> Stream:
    """A stream mixed through a buffer: fill it, then swap each new row for a random one."""
    check_count(buffer, "shuffle: buffer")

    def through(source: Stream, start: int) -> Iterator[Batch]:
        return without_first(mixed(source), start)

    def mixed(source: Stream) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        pieces = _pieces(source, buffer)
        filling = _fill(pieces, buffer)
        if not filling:
            return
        pool = Batch.concat(filling)
        for piece in pieces:
            out = torch.randperm(len(pool), generator=generator)[: len(piece)]
            yield pool.rows(out)
            _put(pool, out, piece)
        order = torch.randperm(len(pool), generator=generator)
        for chosen in order.split(len(filling[0])):
            yield pool.rows(chosen)

    return Derived(stream, through, note={"shuffle": {"seed": seed, "buffer": buffer}})


def check_count(value: int, where: str) -> int:
    """Raises InputError unless `value` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(explain(where=where, expected="an int >= 1", got=repr(value)))
    return value


def _pieces(stream: Stream, most: int) -> Iterator[Batch]:
    """The stream's batches without texts, cut so that none has more than `most` rows."""
    for batch in stream:
        for start in range(0, len(batch), most):
            yield replace(batch.rows(slice(start, start + most)), texts=None)


def _fill(pieces: Iterator[Batch], rows: int) -> list[Batch]:
    """Takes pieces until there are `rows` rows or nothing is left."""
    filling: list[Batch] = []
    count = 0
    while count < rows and (piece := next(pieces, None)) is not None:
        filling.append(piece)
        count += len(piece)
    return filling


def _put(pool: Batch, at: Tensor, rows: Batch) -> None:
    """Writes `rows` over the rows `at` of the pool (which is a copy, nobody else's)."""
    for site in pool.sites:
        pool[site][at] = rows[site]
    pool.documents[at], pool.positions[at] = rows.documents, rows.positions
    for name, column in pool.columns.items():
        column[at] = rows.columns[name]
    if pool.tokens is not None and rows.tokens is not None:
        pool.tokens[at] = rows.tokens


def _fingerprint(x: Tensor) -> str:
    """SHA-256 of shape, dtype and bytes."""
    raw = x.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{list(raw.shape)} {raw.dtype}".encode())
    digest.update(raw.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
