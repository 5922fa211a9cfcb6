"""StoreWriter: the sink that puts a stream on disk, a commit at a time.

Rows are put into memory made once; when it is full a thread encodes and writes it while the next
rows come in. If the disk is slower than the model, the model waits. What is committed survives a
kill; what is not is made again: a stream can begin at any row, so with `resume=True` the writing
goes on where it stopped.

Several processes can fill one store, each with its part of the corpus (`corpus.part(rank, world)`):
each has its own files and takes its turn at committing.
"""

import contextlib
import json
import queue
import shutil
import threading
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

import torch
from filelock import FileLock, Timeout

from jackfield.core.errors import ArtifactError, BusyError, InputError, explain, warn
from jackfield.core.version import VERSION
from jackfield.streams.protocol import Batch, Sink, Stream
from jackfield.streams.store.committing import Committer, rows_a_group
from jackfield.streams.store.encoding import Encoding, row_bytes
from jackfield.streams.store.files import Files, LocalFiles
from jackfield.streams.store.filling import Filling, check_range
from jackfield.streams.store.layout import META, Meta, read_meta, write_meta, writer_name
from jackfield.streams.store.places import files_at
from jackfield.streams.store.store import Store
from jackfield.streams.views import check_count

_COMMIT_SECONDS = 60.0  # a slow stream commits what it has so often, so that a kill costs no more
_LOCK = ".lock"


class StoreWriter(Sink[Store]):
    """Writes the rows it is fed to a store; use it as a context, or call `stream.write`.

    Args:
        path: a folder or URL; new, empty, or (to resume) a store of the same stream.
        stream: the stream that it will be fed from, for the sites and the provenance.
        dtype: "float32", "bfloat16" or "float16" for the sites that hold floats, "int8" or "fp8"
            with a scale a row; None keeps theirs.
        codec: how rows are encoded: a name, a `Codec`, or a dict from site patterns to these.
        resume: go on with a store that is there (or begin one).
        commit_rows: rows a commit; by default what makes 128 MiB.
        spans: documents a commit, where an engine reads the corpus in spans.

    Raises:
        ConfigError: an unknown dtype or codec.
        ArtifactError: the folder holds something else, or another stream's rows, or (without
            resume) a store.
        BusyError: another writer has the folder.
    """

    def __init__(
        self,
        path: str | Path | Files,
        stream: Stream,
        *,
        dtype: str | torch.dtype | None = None,
        codec: Any = None,
        resume: bool = False,
        commit_rows: int | None = None,
        spans: int | None = None,
    ) -> None:
        self._files = files_at(path)
        self._sites, self._rows = stream.sites, stream.rows
        self._part, provenance = _apart(json.loads(json.dumps(stream.provenance)))
        # Spans give the rows another order, so such a store is gone on with by the same engine.
        self._provenance = provenance if spans is None else {**provenance, "spans": spans}
        self._encoding = Encoding(dtype, codec, stream.sites)
        if commit_rows is not None:
            check_count(commit_rows, "write: commit_rows")
        self._commit_rows, self._resume = commit_rows, resume
        self._name = writer_name(self._part[0])
        self._lock = _lock(self._files, self._name)
        self._committer: Committer | None = None
        self._worker: _Worker | None = None
        self._entered, self._seen, self._before = False, 0, 0

    def __enter__(self) -> Self:
        _check_place(self._files, resume=self._resume or self._part[1] > 1)
        try:
            self._lock.__enter__()
        except Timeout as error:
            expected = f"a store that nobody writes as {self._name}"
            got = "another writer"
            raise BusyError(explain(where=self._url, expected=expected, got=got)) from error
        except OSError as error:
            expected = "a folder that can be written"
            raise ArtifactError(
                explain(where=self._url, expected=expected, got=str(error))
            ) from error
        try:
            self._reopen()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._worker is not None:
                self._worker.close()  # what the stream has given is good, whatever stopped it
        except Exception:
            if error is None:
                raise
        finally:
            self._worker, self._entered = None, False
            self._lock.__exit__(None, None, None)

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites of the stream."""
        return self._sites

    @property
    def committed(self) -> int:
        """Rows of this stream that are in the store."""
        return self._committer.rows if self._committer is not None else 0

    @property
    def done(self) -> bool:
        """Whether the whole stream was written, here or earlier."""
        return self._committer is not None and self._committer.done

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of all sites on disk, once the first one has come."""
        infos = self._committer.meta.sites.values() if self._committer is not None else ()
        return sum(row_bytes(info) for info in infos)

    def fed_from(self, row: int) -> None:
        """Says that the first batch to come begins at this row; 0 unless it is said."""
        self._seen = row

    def update(self, batch: Batch) -> None:
        """Takes in a batch; what is in the store already is let pass.

        Raises:
            ArtifactError: the store was begun with other sites, row shapes or dtypes; the disk is
                full.
            InputError: values that the dtype cannot hold.
        """
        if not self._entered:
            hint = "with StoreWriter(path, stream) as writer: stream.into(writer, ...)"
            expected = "to write inside its `with` block"
            where = f"StoreWriter({self._url})"
            raise InputError(explain(where=where, expected=expected, got="none", hint=hint))
        worker = self._started(batch)
        for site in self._sites:
            check_range(site, batch[site], self._encoding.kept(batch[site]), self._url)
        there = min(max(self._before - self._seen, 0), len(batch))
        self._seen += len(batch)
        if there < len(batch):
            worker.take(batch.rows(slice(there, None)) if there else batch)

    def finish(self) -> Store:
        """Commits the rest and opens the store."""
        done = self.done
        if self._seen < self._before and not done:
            expected = f"at least the {self._before:,} rows that are there"
            got = f"{self._seen:,} from the stream"
            raise ArtifactError(explain(where=self._url, expected=expected, got=got))
        if self._worker is not None:
            self._worker.close(last=not done)
            self._worker = None
        elif self._committer is not None and not done:
            self._committer.commit(None, last=True)
        if self._committer is not None and self._committer.nonfinite:
            count = self._committer.nonfinite
            warn(f"{self._url}: {count:,} rows hold NaN or Inf; print the store to see.")
        return Store(self._files)

    @property
    def _url(self) -> str:
        return self._files.url

    def _reopen(self) -> None:
        """Goes on with what is there, and clears away what a killed writer left half-written."""
        if isinstance(self._files, LocalFiles):
            for left in self._files.unfinished():
                # Another writer may just now be about to give its file a name: `gc` does the rest.
                if self._part[1] == 1 or left.name.startswith(f".{self._name}-"):
                    left.unlink(missing_ok=True)
        self._before = 0
        if META not in self._files.names(""):
            return
        meta = read_meta(self._files)
        self._agree("provenance", meta.provenance, self._provenance)
        self._agree("sites", sorted(meta.sites), sorted(self._sites))
        asked = {s: self._encoding.would_be(s, info) for s, info in meta.sites.items()}
        self._agree("sites", meta.sites, asked)
        self._agree("writers", meta.writers, self._part[1])
        self._committer = Committer(self._files, meta, self._name)
        self._before = self._committer.rows
        if self._before and not self._resume:
            expected, got = f"a store without rows of {self._name}", f"{self._before:,} rows"
            hint = "To go on with it: resume=True."
            raise ArtifactError(explain(where=self._url, expected=expected, got=got, hint=hint))

    def begin(self, batch: Batch) -> Committer:
        """Writes meta.json before the first row; a store that is there must agree with it."""
        meta = self._meta(batch)
        if not write_meta(self._files, meta):
            there = read_meta(self._files)
            self._agree("provenance", there.provenance, meta.provenance)
            self._agree("sites", there.sites, meta.sites)
            self._agree("columns", there.columns, meta.columns)
            self._agree("tokens", there.tokens, meta.tokens)
        if self._committer is None:
            self._committer = Committer(self._files, meta, self._name)
        self._check_room(sum(row_bytes(info) for info in meta.sites.values()))
        return self._committer

    def _started(self, batch: Batch) -> "_Worker":
        if self._worker is None:
            committer = self.begin(batch)
            rows = self._commit_rows or rows_a_group(committer.meta)
            self._worker = _Worker(committer, committer.meta, rows)
        return self._worker

    def _meta(self, batch: Batch) -> Meta:
        return Meta(
            self._provenance,
            {site: self._encoding.info(site, batch[site]) for site in self._sites},
            {name: column.dtype for name, column in batch.columns.items()},
            batch.tokens is not None,
            self._part[1],
            VERSION,
        )

    def _check_room(self, size: int) -> None:
        """The rows that are still to come must fit on the disk."""
        if self._rows is None or not isinstance(self._files, LocalFiles):
            return
        needed = size * (self._rows - self._before)
        free = shutil.disk_usage(self._files.root).free
        if needed > free:
            expected = f"{needed / 1e9:,.2f} GB for {self._rows:,} rows"
            hint = "Choose fewer sites or rows (max_tokens=), or a smaller dtype."
            got = f"{free / 1e9:,.2f} GB free on the disk"
            raise ArtifactError(explain(where=self._url, expected=expected, got=got, hint=hint))

    def _agree(self, what: str, there: Any, new: Any) -> None:
        if there != new:
            hint = "These rows do not belong to this store: write them to another folder."
            where, expected = f"{self._url}, {what}", f"what is there, {str(there)[:300]}"
            got = str(new)[:300]
            raise ArtifactError(explain(where=where, expected=expected, got=got, hint=hint))


class _Worker:
    """Two fillings: one takes rows while a thread commits the other."""

    def __init__(self, committer: Committer, meta: Meta, rows: int) -> None:
        self._committer = committer
        self._free: queue.SimpleQueue[Filling] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[Filling, bool] | None] = queue.SimpleQueue()
        self._free.put(Filling(meta, rows))
        self._second = (meta, rows)
        self._current: Filling | None = None
        self._error: BaseException | None = None
        self._made, self._since = 1, monotonic()
        self._thread = threading.Thread(target=self._work, name="jackfield-write", daemon=True)
        self._thread.start()

    def take(self, batch: Batch) -> None:
        """Puts the batch's rows into fillings, and hands over those that are full."""
        while len(batch):
            filling = self._filling()
            # Texts first: stopped between the two, no row is without its text.
            self._note_texts(filling, batch.rows(slice(filling.room)))
            count = filling.take(batch)
            batch = batch.rows(slice(count, None))
            if filling.full or monotonic() - self._since > _COMMIT_SECONDS:
                self._hand_over(last=False)

    def close(self, *, last: bool = False) -> None:
        """Commits what is left and ends the thread."""
        try:
            if (last or self._current is not None) and self._error is None:
                self._filling()
                self._hand_over(last=last)
        finally:
            self._full.put(None)
            self._thread.join()
        self._check()

    def _filling(self) -> Filling:
        if self._current is None:
            self._check()
            if self._free.empty() and self._made == 1:  # the second is made when it is needed
                self._made = 2
                self._free.put(Filling(*self._second))
            self._current = self._free.get()
            self._check()
        return self._current

    def _hand_over(self, *, last: bool) -> None:
        # Let go of before it is given away: stopped between the two, nothing is committed twice.
        filling, self._current, self._since = self._current, None, monotonic()
        assert filling is not None
        self._full.put((filling, last))

    def _note_texts(self, filling: Filling, batch: Batch) -> None:
        if batch.texts is not None:
            self._committer.keep_vocabulary(batch.texts.vocabulary)
            filling.note_texts(batch, self._committer.documents)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._full.get()) is not None:
            filling, last = item
            if self._error is None:
                try:
                    self._committer.commit(filling, last=last)
                except BaseException as error:
                    self._error = _told(error)
            filling.empty()
            self._free.put(filling)


def _told(error: BaseException) -> BaseException:
    """What the disk says, as an error that says what is left."""
    if not isinstance(error, OSError):
        return error
    hint = "What was committed is safe: make room, then go on with resume=True."
    expected = "a disk that takes the rows"
    where = str(error.filename or "the store")
    told = ArtifactError(explain(where=where, expected=expected, got=str(error), hint=hint))
    told.__cause__ = error
    return told


def _lock(files: Files, name: str) -> contextlib.AbstractContextManager[Any]:
    """Held while writing; on an object store two writers of one name meet at the commit."""
    if not isinstance(files, LocalFiles):
        return contextlib.nullcontext()
    path = files.root / f"{_LOCK}-{name}"
    return _FolderLock(path)


class _FolderLock(contextlib.AbstractContextManager[Any]):
    """A file lock whose folder is made when it is taken."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, FileLock(path, timeout=0)

    def __enter__(self) -> Any:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def _check_place(files: Files, *, resume: bool) -> None:
    """A new place, an empty one, or (to resume) a store."""
    if isinstance(files, LocalFiles) and files.root.exists() and not files.root.is_dir():
        raise ArtifactError(explain(where=files.url, expected="a folder", got="a file"))
    names = files.names("")
    if META in names:
        if not resume:
            hint = "To go on with it: resume=True. Otherwise choose another folder."
            expected, got = "a new folder", "one that holds a store"
            raise ArtifactError(explain(where=files.url, expected=expected, got=got, hint=hint))
    elif names:
        got = f"one that holds {', '.join(names[:3])}"
        expected = "a new or empty folder, or a store"
        raise ArtifactError(explain(where=files.url, expected=expected, got=got))


def _apart(provenance: Any) -> tuple[tuple[int, int], Any]:
    """The part of the corpus that a stream reads, (rank, world), and what all parts share."""
    part = (0, 1)

    def without(value: Any) -> Any:
        nonlocal part
        if not isinstance(value, dict):
            return value
        if "part" in value:
            rank, world = value["part"]
            part = (int(rank), int(world))
        return {name: without(each) for name, each in value.items() if name != "part"}

    common = without(provenance)
    return part, common
