"""Batch, Stream, Sink: the three words of this room.

A *row* is one activation of one token: `[d_model]`, `[head, d_head]`, whatever the site's axes are
once batch and position are gone. A `Batch` holds some rows of several sites, aligned, with the
token, document and position each row came from. A `Stream` is a recipe for batches, not the
batches: every pass starts anew and gives the same rows in the same order. A `Sink` is fed batches
and ends in a result; several sinks share one pass.

    site = "layers.5.resid_post"
    moments, top = stream.into(Moments(site), TopExamples(site, k=10))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final, overload

import torch
from torch import Tensor

from jackfield.core.errors import InputError, SiteError, did_you_mean, explain
from jackfield.core.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from jackfield.streams.store import Store
    from jackfield.streams.store.files import Files
    from jackfield.streams.texts import Texts

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Batch:
    """Aligned rows of one or more sites.

    Attributes:
        activations: site -> [row, ...].
        tokens: [row] int64 token ids, None where rows are not tokens.
        documents: [row] int64, which document the row came from.
        positions: [row] int64, where in its document.
        columns: name -> [row], whatever else is known of each row: a label, a split, a weight.
        texts: the texts of the documents, where they are known.
    """

    activations: dict[str, Tensor]
    tokens: Tensor | None
    documents: Tensor
    positions: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)
    texts: Texts | None = None

    def __post_init__(self) -> None:
        counts = {name: len(x) for name, x in [*self.activations.items(), *self.columns.items()]}
        counts["positions"] = len(self.positions)
        if self.tokens is not None:
            counts["tokens"] = len(self.tokens)
        wrong = {name: count for name, count in counts.items() if count != len(self)}
        if wrong:
            expected = f"{len(self)} rows everywhere, as documents has"
            raise InputError(explain(where="batch", expected=expected, got=str(wrong)))

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, site: str) -> Tensor:
        """The activations of `site`, [row, ...]."""
        check_site(site, self.activations, where="batch")
        return self.activations[site]

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in the stream's order."""
        return tuple(self.activations)

    def rows(self, index: Tensor | slice) -> Batch:
        """The rows that `index` (ids, mask or slice) chooses, of everything."""

        def of(x: Tensor) -> Tensor:
            if isinstance(index, Tensor) and index.dtype == torch.int64:
                return x.index_select(0, index.to(x.device))  # eight times as fast as x[index]
            return x[index]

        return Batch(
            {site: of(rows) for site, rows in self.activations.items()},
            None if self.tokens is None else of(self.tokens),
            of(self.documents),
            of(self.positions),
            {name: of(column) for name, column in self.columns.items()},
            self.texts,
        )

    def select(self, sites: Sequence[str]) -> Batch:
        """The same rows, of `sites` only."""
        return replace(self, activations={site: self[site] for site in sites})

    @staticmethod
    def concat(batches: Sequence[Batch]) -> Batch:
        """One batch of all the rows, in order."""
        from jackfield.streams.texts import joined

        first = batches[0]
        for batch in batches:
            _check_alike(first, batch)
        tokens = None
        if first.tokens is not None:
            tokens = torch.cat([batch.tokens for batch in batches if batch.tokens is not None])
        return Batch(
            {site: torch.cat([batch[site] for batch in batches]) for site in first.sites},
            tokens,
            torch.cat([batch.documents for batch in batches]),
            torch.cat([batch.positions for batch in batches]),
            {name: torch.cat([b.columns[name] for b in batches]) for name in first.columns},
            joined([batch.texts for batch in batches if batch.texts is not None]),
        )

    def __repr__(self) -> str:
        sites = ", ".join(f"{s} {list(x.shape)} {_dtype(x)}" for s, x in self.activations.items())
        return f"Batch({len(self):,} rows: {sites})"


class Sink(ABC, Generic[Result]):
    """Something that a stream is poured into: a statistic, an index, a disk writer."""

    @property
    @abstractmethod
    def sites(self) -> tuple[str, ...]:
        """The sites it reads; checked before a pass begins."""

    @abstractmethod
    def update(self, batch: Batch) -> None:
        """Takes in the rows of one batch."""

    @abstractmethod
    def finish(self) -> Result:
        """The result, after the last batch."""


class Stream(ABC):
    """A re-iterable recipe for batches: each pass gives the same rows in the same order.

    To write one, give `sites`, `rows`, `provenance` and `batches`; all else is here and final.
    """

    @property
    @abstractmethod
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that every batch holds."""

    @property
    @abstractmethod
    def rows(self) -> int | None:
        """Rows in a whole pass, None if only a pass can tell."""

    @property
    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What determines the rows (model, corpus, options), as JSON; equal means the same rows."""

    @abstractmethod
    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Starts a new pass at row `start`: the same rows, in the same order, from there on.

        The work for the rows before should be spared where it can be; `without_first` drops them.
        """

    @final
    def __iter__(self) -> Iterator[Batch]:
        """Starts a new pass."""
        return self.batches()

    @overload
    def into(self, sink: Sink[Result], /, *, progress: bool = False) -> Result: ...
    @overload
    def into(self, *sinks: Sink[Any], progress: bool = False) -> tuple[Any, ...]: ...

    @final
    def into(self, *sinks: Sink[Any], progress: bool = False) -> Any:
        """Feeds every sink in one pass; returns the sink's result, or a tuple of several.

        Raises:
            InputError: no sink, or the stream has no rows.
            SiteError: a sink reads a site that the stream does not have (found before the pass).
        """
        if not sinks:
            expected = "at least one sink, such as Moments(site)"
            raise InputError(explain(where="stream.into", expected=expected, got="none"))
        for sink in sinks:
            for site in sink.sites:
                check_site(site, self.sites, where=f"{type(sink).__name__} on a stream")
        taken = 0
        with Progress("streaming", total=self.rows, unit="rows", enabled=progress) as shown:
            for batch in self:
                for sink in sinks:
                    sink.update(batch)
                taken += len(batch)
                shown.update(len(batch))
        if not taken:
            raise InputError(explain(where=repr(self), expected="rows", got="an empty stream"))
        results = tuple(sink.finish() for sink in sinks)
        return results if len(results) > 1 else results[0]

    @final
    def collect(self, max_rows: int | None = None) -> Batch:
        """All rows (or the first `max_rows`) in memory, as one batch."""
        batches = list(self if max_rows is None else self.take(max_rows))
        if not batches:
            raise InputError(explain(where=repr(self), expected="rows", got="an empty stream"))
        return Batch.concat(batches)

    @final
    def select(self, *sites: str) -> Stream:
        """The same rows, of `sites` only.

        Raises:
            SiteError: the stream lacks one of them.
        """
        from jackfield.streams.views import selected

        return selected(self, sites)

    @final
    def skip(self, rows: int) -> Stream:
        """All but the first `rows` rows; the work for those is spared where it can be.

        To go on with an epoch where a training stopped: `stream.skip(rows_seen)`.
        """
        from jackfield.streams.views import skipped

        return skipped(self, rows)

    @final
    def prefetch(self, batches: int = 2) -> Stream:
        """The same batches, made ahead in a thread: at most `batches` wait to be taken."""
        from jackfield.streams.prefetch import prefetched

        return prefetched(self, batches)

    @final
    def take(self, rows: int) -> Stream:
        """The first `rows` rows."""
        from jackfield.streams.views import taken

        return taken(self, rows)

    @final
    def rebatch(self, rows: int) -> Stream:
        """The same rows in batches of exactly `rows` (the last may be smaller)."""
        from jackfield.streams.views import rebatched

        return rebatched(self, rows)

    @final
    def shuffle(self, seed: int = 0, buffer: int = 16_384) -> Stream:
        """The same rows mixed through a buffer of `buffer` rows, alike for the same seed.

        Once in the buffer a row leaves it at random, so it moves about `buffer` rows from where it
        stood; a stream that fits the buffer is permuted uniformly. Give each epoch another seed.
        """
        from jackfield.streams.views import shuffled

        return shuffled(self, seed, buffer)

    @final
    def write(
        self,
        path: str | Path | Files,
        *,
        dtype: str | torch.dtype | None = None,
        codec: Any = None,
        resume: bool = False,
        commit_rows: int | None = None,
        progress: bool = False,
    ) -> Store:
        """Writes all rows to a store on disk and opens it.

        Args:
            path: a new or empty folder, or a URL such as s3://bucket/acts; with `resume`, a store
                of this stream.
            dtype: "float32", "bfloat16" or "float16" for the sites that hold floats, "int8" or
                "fp8" with a scale a row; None keeps theirs.
            codec: how rows are encoded: "none", "byteplanes" (smaller, nothing lost), a `Codec`
                such as `TopKRows(k=32)`, or a dict from site patterns to these.
            resume: go on with a store that is there (or begin one); nothing is read again.
            commit_rows: rows a commit; by default what makes 128 MiB. A slow stream commits every
                minute too.
            progress: show a line with rows/s, MB/s and the time left.

        Raises:
            ConfigError: an unknown dtype or codec.
            ArtifactError: the folder holds something else, or another stream's rows, or (without
                resume) a store; the disk is full, or too small for the rows.
            BusyError: another writer has the folder.
            InputError: the stream has no rows, or values that the dtype cannot hold.
        """
        from jackfield.streams.store.writing import write

        return write(
            self,
            path,
            dtype=dtype,
            codec=codec,
            resume=resume,
            commit_rows=commit_rows,
            progress=progress,
        )

    @staticmethod
    def from_dataset(source: Any, **options: Any) -> Stream:
        """A stream over activations in another format: an HF dataset, Parquet, NumPy, safetensors.

        Args:
            source: a path, or an HF dataset; SAELens' cached activations are one.
            options: as `jackfield.streams.adapters.open_dataset` has them.
        """
        from jackfield.streams.adapters import open_dataset

        return open_dataset(source, **options)

    @staticmethod
    def from_tensor(
        x: Tensor | Mapping[str, Tensor],
        site: str = "x",
        *,
        batch: int = 4096,
        tokens: Tensor | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
        columns: Mapping[str, Tensor] | None = None,
    ) -> Stream:
        """A stream over arrays in memory.

        Args:
            x: [row, ...], or a dict site -> [row, ...] with the same number of rows.
            site: the name of `x` if it is one array.
            batch: rows a batch.
            tokens: [row] token ids, if rows are tokens.
            documents: [row]; by default every row is its own document.
            positions: [row]; by default 0.
            columns: name -> [row], what else is known of each row.

        >>> stream = Stream.from_tensor(torch.arange(6.0).reshape(3, 2), site="x", batch=2)
        >>> [batch["x"].tolist() for batch in stream]
        [[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0]]]
        """
        from jackfield.streams.views import FromTensor

        arrays = x if isinstance(x, Mapping) else {site: x}
        return FromTensor(arrays, batch, tokens, documents, positions, columns)

    def __repr__(self) -> str:
        rows = "rows not known before a pass" if self.rows is None else f"{self.rows:,} rows"
        shown = ", ".join(self.sites[:3]) + (", …" if len(self.sites) > 3 else "")
        plural = "site" if len(self.sites) == 1 else "sites"
        return f"Stream({rows} of {len(self.sites)} {plural}: {shown})"


def without_first(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    """Drops the first `rows` rows of a pass, for streams that cannot spare their work."""
    for batch in batches:
        if rows < len(batch):
            yield batch.rows(slice(rows, None)) if rows else batch
        rows = max(rows - len(batch), 0)


def check_site(site: str, sites: Sequence[str] | Mapping[str, Any], *, where: str) -> None:
    """Raises SiteError with the nearest names unless `site` is one of `sites`."""
    if site not in sites:
        expected = f"one of {', '.join(list(sites)[:8])}{', …' if len(sites) > 8 else ''}"
        hint = did_you_mean(str(site), sites)
        raise SiteError(explain(where=where, expected=expected, got=repr(site), hint=hint))


def _check_alike(first: Batch, other: Batch) -> None:
    """Rows can be joined only if every batch has the same sites, row shapes and sidecars."""
    for site in first.sites:
        shape, got = list(first[site].shape[1:]), list(other[site].shape[1:])
        if shape != got:
            expected = f"rows of shape {shape} in every batch"
            hint = "A site whose rows vary in length (scores, pattern) cannot be kept as rows."
            raise InputError(explain(where=site, expected=expected, got=f"{got}", hint=hint))
    if first.columns.keys() != other.columns.keys():
        expected = f"columns {sorted(first.columns)} in every batch"
        names = str(sorted(other.columns))
        raise InputError(explain(where="batch", expected=expected, got=names))
    if (first.tokens is None) != (other.tokens is None):
        expected = "tokens in every batch, or in none"
        raise InputError(explain(where="batch", expected=expected, got="tokens in some only"))


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
