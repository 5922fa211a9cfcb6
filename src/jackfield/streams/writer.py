"""StoreWriter: the sink that puts a stream on disk, a commit at a time.

Rows are collected until there are `commit_rows` of them; then one safetensors file a site, one for
the rows' labels, and last the manifest that makes them count. What is committed survives a kill;
what is not is made again: the stream gives the same rows on each pass, so with `resume=True` the
rows that are already there are let pass and the writing goes on where it stopped.
"""

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from jackfield.core.artifacts import atomic_write, sync_folder
from jackfield.core.errors import ArtifactError, BusyError, ConfigError, InputError, explain, warn
from jackfield.streams.protocol import Batch, Sink, Stream
from jackfield.streams.store import Store
from jackfield.streams.store_files import (
    ACTIVATIONS,
    LABELS,
    MANIFEST,
    META,
    SHARDS,
    Commit,
    Meta,
    SiteInfo,
    read_commits,
    read_meta,
    site_folder,
    write_commit,
    write_meta,
)
from jackfield.streams.units import nonfinite_rows
from jackfield.streams.views import check_count

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_COMMIT_BYTES = 256 << 20  # of all sites together, if the rows of a commit are not given
_LOCK = ".lock"


class StoreWriter(Sink[Store]):
    """Writes the rows it is fed to a store; use it as a context, or call `stream.write`.

    Args:
        path: the folder; new, empty, or (to resume) a store of the same stream.
        stream: the stream that it will be fed from, for the sites and the provenance.
        dtype: "float32", "bfloat16" or "float16" for the sites that hold floats; None keeps theirs.
        resume: go on with a store that is there (or begin one).
        commit_rows: rows a commit; by default what makes 256 MiB.

    Raises:
        ArtifactError: the folder holds something else, or another stream's rows, or (without
            resume) a store.
        BusyError: another writer has the folder.
    """

    def __init__(
        self,
        path: str | Path,
        stream: Stream,
        *,
        dtype: str | torch.dtype | None = None,
        resume: bool = False,
        commit_rows: int | None = None,
    ) -> None:
        self._path = Path(path)
        self._sites = stream.sites
        self._provenance = json.loads(json.dumps(stream.provenance))
        self._dtype = _dtype(dtype)
        if commit_rows is not None:
            check_count(commit_rows, "write: commit_rows")
        self._commit_rows = commit_rows
        self._resume = resume
        self._lock = FileLock(self._path / _LOCK, timeout=0)
        self._meta: Meta | None = None
        self._commits = self._committed = self._seen = self._nonfinite = 0
        self._waiting: list[Batch] = []

    def __enter__(self) -> Self:
        self._check_folder()
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            where, expected = str(self._path), "a store that nobody is writing"
            raise BusyError(
                explain(where=where, expected=expected, got="another writer")
            ) from error
        except OSError as error:
            where, expected = str(self._path), "a folder that can be written"
            raise ArtifactError(explain(where=where, expected=expected, got=str(error))) from error
        try:
            self._reopen()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting = []
        self._lock.release()

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites of the stream."""
        return self._sites

    def update(self, batch: Batch) -> None:
        """Takes in a batch; commits when there are enough rows.

        Raises:
            ArtifactError: the store was begun with other sites, row shapes or dtypes.
            InputError: values that the dtype cannot hold.
        """
        if not self._lock.is_locked:
            hint = "with StoreWriter(path, stream) as writer: stream.into(writer, ...)"
            where, expected = f"StoreWriter({self._path})", "to write inside its `with` block"
            raise InputError(explain(where=where, expected=expected, got="none", hint=hint))
        self._check_meta(batch)
        there = min(max(self._committed - self._seen, 0), len(batch))
        self._seen += len(batch)
        if there == len(batch):
            return
        self._waiting.append(self._converted(batch.rows(slice(there, None))))
        rows = self._commit_rows or self._rows_of(_COMMIT_BYTES)
        if sum(map(len, self._waiting)) >= rows:
            joined = Batch.concat(self._waiting)
            whole = len(joined) - len(joined) % rows
            for first in range(0, whole, rows):
                self._commit(joined.rows(slice(first, first + rows)))
            self._waiting = [joined.rows(slice(whole, None))] if whole < len(joined) else []

    def finish(self) -> Store:
        """Commits the rest and opens the store."""
        if self._waiting:
            self._commit(Batch.concat(self._waiting))
            self._waiting = []
        if self._seen < self._committed:
            expected = f"at least the {self._committed:,} rows that are there"
            got = f"{self._seen:,} from the stream"
            raise ArtifactError(explain(where=str(self._path), expected=expected, got=got))
        if self._nonfinite:
            warn(f"{self._path}: {self._nonfinite:,} rows hold NaN or Inf; print the store to see.")
        return Store(self._path)

    def _check_folder(self) -> None:
        where = str(self._path)
        if not self._path.exists():
            return
        if not self._path.is_dir():
            raise ArtifactError(explain(where=where, expected="a folder", got="a file"))
        if not (self._path / META).exists():
            # A writer killed before meta.json leaves its lock and a temporary file, no more.
            other = [
                e.name for e in self._path.iterdir() if not e.name.startswith((_LOCK, f".{META}"))
            ]
            if other:
                got = f"one that holds {', '.join(sorted(other)[:3])}"
                expected = "a new or empty folder, or a store"
                raise ArtifactError(explain(where=where, expected=expected, got=got))
        elif not self._resume:
            hint = "To go on with it: resume=True. Otherwise choose another folder."
            got = "one that holds a store"
            raise ArtifactError(explain(where=where, expected="a new folder", got=got, hint=hint))

    def _reopen(self) -> None:
        """Goes on with what is there, and clears away what a killed writer left half-written."""
        for left in self._path.glob(f".{META}-*"):
            left.unlink()
        if not (self._path / META).exists():
            return
        self._meta = read_meta(self._path)
        self._agree("provenance", self._meta.provenance, self._provenance)
        self._agree("sites", sorted(self._meta.sites), sorted(self._sites))
        commits = read_commits(self._path)
        self._commits, self._committed = len(commits), sum(commit.rows for commit in commits)
        for folder in (SHARDS, LABELS, MANIFEST):
            for left in (self._path / folder).rglob(".*"):
                left.unlink()

    def _check_meta(self, batch: Batch) -> None:
        """Writes meta.json before the first row; after that every batch must agree with it."""
        sites = {site: self._info(batch[site]) for site in self._sites}
        labels = ("documents", "positions", *(() if batch.tokens is None else ("tokens",)))
        if self._meta is None:
            self._meta = Meta(self._provenance, sites, labels)
            write_meta(self._path, self._meta)
            sync_folder(self._path.parent)
        self._agree("sites", self._meta.sites, sites)
        self._agree("labels", self._meta.labels, labels)

    def _agree(self, what: str, there: Any, new: Any) -> None:
        if there != new:
            hint = "These rows do not belong to this store: write them to another folder."
            where, expected = f"{self._path}, {what}", f"what is there, {str(there)[:300]}"
            got = str(new)[:300]
            raise ArtifactError(explain(where=where, expected=expected, got=got, hint=hint))

    def _info(self, x: Tensor) -> SiteInfo:
        dtype = self._dtype if self._dtype is not None and x.is_floating_point() else x.dtype
        return SiteInfo(tuple(x.shape[1:]), dtype)

    def _rows_of(self, size: int) -> int:
        assert self._meta is not None
        return max(1, size // sum(info.row_bytes for info in self._meta.sites.values()))

    def _converted(self, batch: Batch) -> Batch:
        rows = {site: self._cast(site, batch[site].detach().cpu()) for site in self._sites}
        tokens = None if batch.tokens is None else batch.tokens.cpu()
        return Batch(rows, tokens, batch.documents.cpu(), batch.positions.cpu())

    def _cast(self, site: str, x: Tensor) -> Tensor:
        cast = x.to(self._info(x).dtype)
        lost = nonfinite_rows(cast)
        if lost.any() and (lost := lost & ~nonfinite_rows(x)).any():
            expected = f"values that {str(cast.dtype).removeprefix('torch.')} can hold"
            got = f"{x[lost].abs().max().item():.4g}"
            hint = "bfloat16 takes the same room and reaches as far as float32."
            where = f"{self._path}, {site}"
            raise InputError(explain(where=where, expected=expected, got=got, hint=hint))
        return cast

    def _commit(self, batch: Batch) -> None:
        name = f"{self._commits:06d}.safetensors"
        parts = {"documents": batch.documents, "positions": batch.positions}
        if batch.tokens is not None:
            parts["tokens"] = batch.tokens
        labels = self._write(f"{LABELS}/{name}", parts)
        shards = {}
        for site in self._sites:
            file = f"{SHARDS}/{site_folder(site)}/{name}"
            bad = int(nonfinite_rows(batch[site]).sum())
            shards[site] = {**self._write(file, {ACTIVATIONS: batch[site]}), "nonfinite": bad}
            self._nonfinite += bad
        self._folder(self._path / MANIFEST)
        commit = Commit(self._committed, len(batch), labels, shards)
        write_commit(self._path, self._commits, commit)
        self._commits += 1
        self._committed += len(batch)

    def _write(self, file: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
        from safetensors.torch import save

        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        self._folder((self._path / file).parent)
        atomic_write(self._path / file, data)
        return {"file": file, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _folder(self, folder: Path) -> None:
        """Makes a folder of the store, lasting before a manifest speaks of what is in it."""
        if not folder.exists():
            self._folder(folder.parent)
            folder.mkdir()
            sync_folder(folder.parent)


def _dtype(given: str | torch.dtype | None) -> torch.dtype | None:
    name = str(given).removeprefix("torch.")
    if given is not None and name not in DTYPES:
        expected = f"one of {', '.join(DTYPES)}, or None to keep each site's"
        raise ConfigError(explain(where="write: dtype", expected=expected, got=repr(given)))
    return DTYPES.get(name)
