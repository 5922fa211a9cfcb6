"""Store: rows on disk that nothing can half-write, read back in order, shuffled or by id.

    store = stream.write("acts/", dtype="bfloat16")      # hours of work are a visible call
    store = Store("acts/")
    store["layers.15.resid_post"][[5, 3, 900]]
    for batch in store.stream("layers.15.resid_post", shuffle=True, seed=0, epoch=3): ...

A commit writes its files first and its manifest last. A reader sees what the manifests list and
nothing else, so a writer may be killed at any moment, or still be writing. `layout.py` says what
lies where; shards are plain safetensors, labels and texts Parquet, which any program reads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jackfield.core.errors import ArtifactError, InputError, explain, warn
from jackfield.streams.protocol import Batch, Stream, check_site
from jackfield.streams.store.codecs import BlockCodec, Kind
from jackfield.streams.store.documents import Documents
from jackfield.streams.store.excerpt import Excerpt
from jackfield.streams.store.files import Files, LocalFiles
from jackfield.streams.store.labels import TABLE, Labels
from jackfield.streams.store.layout import Group, SiteInfo, read_commits, read_meta
from jackfield.streams.store.order import Share, StoreStream, block_rows
from jackfield.streams.store.places import files_at
from jackfield.streams.store.shards import Damaged, ShardReader, Wanted, row_sums
from jackfield.streams.views import check_count

if TYPE_CHECKING:
    from pyarrow import Table

    from jackfield.streams.adapters.exporting import Format


class Store:
    """A folder, or a place on an object store, of committed rows.

    Args:
        path: written by `stream.write(path)`; a folder, or a URL such as s3://bucket/acts.
        model: the model that the rows should be of; warns if they are of another.

    Attributes:
        provenance: what determined the rows (the stream's), as JSON.
        rows: rows committed when the store was opened.

    Raises:
        ArtifactError: not a store, of a newer format, or with a damaged manifest.
    """

    def __init__(self, path: str | Path | Files, model: Any = None) -> None:
        self._files = files_at(path)
        self._meta = read_meta(self._files)
        self.provenance = self._meta.provenance
        self._commits = read_commits(self._files)
        self._groups = [group for commit in self._commits for group in commit.groups]
        counts = torch.tensor([group.rows for group in self._groups], dtype=torch.int64)
        self._firsts = counts.cumsum(0) - counts
        self.rows = int(counts.sum())
        self._labels = Labels(self._meta)
        self._reader = ShardReader(self._files)
        if model is not None:
            _warn_of_other_model(self, model)

    @property
    def path(self) -> Path | str:
        """Where it is: a folder, or a URL."""
        return self._files.root if isinstance(self._files, LocalFiles) else self._files.url

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites."""
        return tuple(self._meta.sites)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the user's columns of the rows."""
        return tuple(self._meta.columns)

    @cached_property
    def documents(self) -> Documents:
        """The documents whose texts are kept, by id."""
        return Documents(self._files, self._groups)

    @property
    def finished(self) -> bool:
        """Whether every writer has said that it is done; otherwise go on with resume=True."""
        done = {commit.writer for commit in self._commits if commit.last}
        return len(done) >= self._meta.writers

    @property
    def nonfinite(self) -> dict[str, int]:
        """Site -> rows that hold NaN or Inf."""
        return {
            site: sum(int(group.shards[site]["nonfinite"]) for group in self._groups)
            for site in self.sites
        }

    @property
    def error(self) -> dict[str, float]:
        """Site -> the largest absolute error that its codec made, measured in writing."""
        return {
            site: max((float(g.shards[site]["error"]) for g in self._groups), default=0.0)
            for site in self.sites
        }

    @property
    def commits(self) -> int:
        """How many commits have rows."""
        return sum(bool(commit.groups) for commit in self._commits)

    def bytes(self, site: str | None = None) -> int:
        """Bytes on disk, of one site or of all files."""
        if site is not None:
            return sum(int(group.shards[site]["bytes"]) for group in self._groups)
        return sum(int(entry["bytes"]) for commit in self._commits for entry in commit.entries)

    def row_bytes(self, sites: Sequence[str]) -> int:
        """Bytes of one row of these sites in memory."""
        return sum(self.info(site).kind.row_bytes for site in sites)

    def info(self, site: str) -> SiteInfo:
        """Row shape, dtype and codec of a site."""
        check_site(site, self._meta.sites, where=f"store {self.path}")
        return self._meta.sites[site]

    def __getitem__(self, site: str) -> "SiteRows":
        """The rows of one site, to be indexed by id: `store[site][ids]`."""
        return SiteRows(self, site, self.info(site))

    def gather(
        self, ids: Tensor, sites: Sequence[str] | None = None, room: "Room | None" = None
    ) -> Batch:
        """The rows of these ids, in this order, repeats allowed.

        Args:
            ids: [row] int64, each in 0..rows - 1.
            sites: all if not given.
            room: memory to read rising ids into; the batch is then a view of it.

        Raises:
            InputError: an id that is not in the store.
            ArtifactError: a file is missing, truncated or changed.
        """
        ids = self._checked(ids)
        in_order = bool((ids.diff() >= 0).all())
        ordered, order = (ids, None) if in_order else ids.sort(stable=True)
        parts = self._parts(ordered)
        room = Room() if room is None else room
        try:
            table = self._read_labels(parts, room.of(TABLE, len(ids), self._labels.kind))
            rows = {site: self._read(parts, site, table, room) for site in sites or self.sites}
        except Damaged as damage:
            where, hint = f"{self.path}/{damage.file}", "store.verify() lists every damaged file."
            expected = "a sound file, as its manifest says"
            raise ArtifactError(
                explain(where=where, expected=expected, got=damage.reason, hint=hint)
            ) from damage
        found = self._labels.batch(table, rows)
        return found if order is None else found.rows(order.argsort())

    @staticmethod
    def room() -> "Room":
        """Memory for `gather` to use again and again."""
        return Room()

    def rows_of(self, site: str, ids: Tensor) -> Tensor:
        """The rows of one site, [row, ...]; as `gather` otherwise."""
        return self.gather(ids, [site])[site]

    def stream(
        self,
        *sites: str,
        batch: int = 4096,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> Stream:
        """A stream over the store, in the order written or shuffled, read ahead in a thread.

        Shuffled means: blocks of 16 or more neighbouring rows in random order, mixed in windows of
        about a thousand blocks. The order follows from (seed, epoch) alone. To go on in the
        middle of an epoch: `.skip(rows_seen)`, which reads nothing of what it skips.

        Args:
            sites: all if none is named.
            batch: rows a batch.
            shuffle: whether to shuffle.
            seed: decides the orders.
            epoch: which of the seed's orders.
            rank: this process's share of the rows, from 0 on …
            world: … of so many, which together have every row once.

        Raises:
            SiteError: a site that the store does not have.
            InputError: a rank that is not in 0..world - 1.
        """
        check_count(batch, "store.stream: batch")
        check_count(world, "store.stream: world")
        chosen = tuple(sites or self.sites)
        infos = [self.info(site) for site in chosen]
        packed = [i.codec.block for i in infos if isinstance(i.codec, BlockCodec)]
        block = block_rows([i.kind.row_bytes for i in infos], math.lcm(1, *packed))
        share = Share(self.rows, block, seed if shuffle else None, epoch, rank, world)
        return StoreStream(self, chosen, batch, share)

    def query(self, sql: str) -> "Table":
        """Asks the labels and texts with SQL (DuckDB); gives an Arrow table.

        Tables: `rows` (row, document, position, token_id, token, the user's columns) and
        `documents` (document, text, the corpus's columns).

            store.query("select row from rows where token = ' Paris' and position > 3")

        Raises:
            MissingExtraError: DuckDB is not installed.
            InputError: DuckDB cannot run the query.
        """
        from jackfield.streams.store.asking import ask

        return ask(self._files, self._commits, sql)

    def where(self, condition: str) -> Tensor:
        """The ids of the rows for which an SQL condition holds, rising, [row] int64.

        store[site][store.where("token = ' Paris'")]
        """
        found = self.query(f"select row from rows where {condition} order by row")
        return torch.from_numpy(found["row"].to_numpy().copy())

    def text(self, row: int, before: int = 20, after: int = 5) -> Excerpt:
        """The words around a row, its token marked.

        Args:
            row: id of the row.
            before: how many tokens of the document to show before it.
            after: how many after it.

        Raises:
            InputError: no such row, or the store has no texts.
        """
        labels = self._labels_of(self._checked(torch.tensor([row])))
        document, position = (
            int(self._labels.column(labels, name)) for name in ("document", "position")
        )
        return Excerpt.of(self.documents[document], document, position, before, after)

    def export(self, path: str | Path, format: "Format", **options: Any) -> Path:
        """Writes the rows in another format: datasets, saelens, safetensors, numpy, parquet.

        Args:
            path: a new file or folder.
            format: which.
            options: as `jackfield.streams.adapters.export` has them.
        """
        from jackfield.streams.adapters import export

        return export(self, path, format, **options)

    def verify(self, *, progress: bool = False) -> list[str]:
        """Reads every file and names the damaged ones with what is wrong; empty if all is sound."""
        from jackfield.streams.store.upkeep import problems

        return problems(self._files, self._commits, progress=progress)

    def gc(self) -> list[str]:
        """Removes files that no manifest names, left by killed writers; gives their names.

        Raises:
            BusyError: somebody is writing.
        """
        from jackfield.streams.store.upkeep import swept

        return swept(self._files, self._meta.writers)

    def __repr__(self) -> str:
        from jackfield.streams.store.shown import store_text

        return store_text(self, self._meta)

    def _repr_html_(self) -> str:
        from jackfield.streams.store.shown import store_html

        return store_html(self, self._meta)

    def _checked(self, ids: Tensor) -> Tensor:
        ids = torch.as_tensor(ids, dtype=torch.int64).reshape(-1)
        wrong = (ids < 0) | (ids >= self.rows)
        if wrong.any():
            expected = f"row ids from 0 to {self.rows - 1}" if self.rows else "a store with rows"
            got = str(int(ids[wrong][0]))
            raise InputError(explain(where=f"store {self.path}", expected=expected, got=got))
        return ids

    def _parts(self, ordered: Tensor) -> list[tuple[Group, Tensor]]:
        """Sorted ids by group, as row numbers within it."""
        which = torch.searchsorted(self._firsts, ordered, right=True) - 1
        numbers, counts = which.unique_consecutive(return_counts=True)
        pieces = ordered.split(counts.tolist())
        return [
            (self._groups[number], ids - self._firsts[number])
            for number, ids in zip(numbers.tolist(), pieces, strict=True)
        ]

    def _labels_of(self, ids: Tensor) -> Tensor:
        table = torch.empty(len(ids), *self._labels.kind.shape, dtype=torch.int64)
        return self._read_labels(self._parts(ids), table)

    def _read_labels(self, parts: list[tuple[Group, Tensor]], table: Tensor) -> Tensor:
        files = [group.files["labels"]["file"] for group, _ in parts]
        self._reader.read_plain(_wanted(parts, files, table), TABLE, self._labels.kind)
        _check(self._labels.wrong(table), parts, files)
        return table

    def _read(
        self, parts: list[tuple[Group, Tensor]], site: str, table: Tensor, room: "Room"
    ) -> Tensor:
        info = self.info(site)
        out = room.of(site, len(table), info.kind)
        files = [group.shards[site]["file"] for group, _ in parts]
        self._reader.read(_wanted(parts, files, out), info)
        _check(row_sums(out) != table[:, self._labels.sums[site]], parts, files)
        return out


@dataclass(frozen=True)
class SiteRows:
    """One site of a store: index it by an id, a slice, or a tensor or list of ids."""

    store: Store
    site: str
    info: SiteInfo

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, ...)."""
        return (self.store.rows, *self.info.shape)

    def __len__(self) -> int:
        return self.store.rows

    def __getitem__(self, ids: int | slice | Sequence[int] | Tensor) -> Tensor:
        """[row, ...], or one row for an int; negative ids count from the end.

        Raises:
            InputError: an id that is not in the store.
        """
        if isinstance(ids, slice):
            ids = torch.arange(*ids.indices(len(self)))
        wanted = torch.as_tensor(ids, dtype=torch.int64)
        rows = self.store.rows_of(self.site, wanted.where(wanted >= 0, wanted + len(self)))
        return rows.reshape(*wanted.shape, *self.info.shape)


class Room:
    """Memory for rows that is used again: new memory costs as much as what is read into it."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def of(self, name: str, rows: int, kind: Kind) -> Tensor:
        """[row, ...] of a kind, whatever is in it."""
        held = self._held.get(name)
        if held is None or len(held) < rows:
            held = self._held[name] = torch.empty(rows, *kind.shape, dtype=kind.dtype)
        return held[:rows]


def _wanted(parts: list[tuple[Group, Tensor]], files: list[str], out: Tensor) -> list[Wanted]:
    """What to read of which file, and into which rows of `out`."""
    outs = out.split([len(ids) for _, ids in parts])
    return [
        Wanted(file, group.rows, ids, piece)
        for file, (group, ids), piece in zip(files, parts, outs, strict=True)
    ]


def _check(wrong: Tensor, parts: list[tuple[Group, Tensor]], files: list[str]) -> None:
    """Names the file of the first row whose checksum differs."""
    if wrong.any():
        ends = torch.tensor([len(ids) for _, ids in parts]).cumsum(0)
        first = wrong.nonzero()[0]
        file = files[int(torch.searchsorted(ends, first, right=True))]
        raise Damaged(file, f"the checksums of {int(wrong.sum())} rows differ")


def _warn_of_other_model(store: Store, model: Any) -> None:
    there = _model_of(store.provenance)
    here = {"name": model.name, **model.provenance}
    differing = [key for key in here if there is not None and there.get(key) != here[key]]
    if there is not None and differing:
        key = differing[0]
        warn(
            f"{store.path} holds rows of another model: {key} is {there.get(key)!r} there, "
            f"{here[key]!r} here."
        )


def _model_of(provenance: Any) -> dict[str, Any] | None:
    """The model that a stream's provenance names, however it is wrapped."""
    if not isinstance(provenance, dict):
        return None
    if isinstance(provenance.get("model"), dict):
        found: dict[str, Any] = provenance["model"]
        return found
    inner = (_model_of(each) for each in provenance.values())
    return next((each for each in inner if each is not None), None)
