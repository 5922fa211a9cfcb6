"""Store: rows on disk that nothing can half-write, read back in order, shuffled or by id.

    store = stream.write("acts/", dtype="bfloat16")      # hours of work are a visible call
    store = Store("acts/")
    store["layers.15.resid_post"][[5, 3, 900]]
    for batch in store.stream("layers.15.resid_post", shuffle=True, seed=epoch): ...

A commit writes its shards first and its manifest last, each under a temporary name, flushed and
renamed. A reader sees what the manifests list and nothing else, so a writer may be killed at any
moment, or still be writing. `store_files.py` has the layout; the files are plain safetensors, which
any framework reads.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.streams.protocol import Batch, Stream, check_site
from jackfield.streams.store_files import (
    ACTIVATIONS,
    Commit,
    SiteInfo,
    problem,
    read_commits,
    read_meta,
    read_rows,
)
from jackfield.streams.views import check_count

_BLOCK = 16  # rows read together when shuffling: 70 % of the disk's peak, ten times the mixing
_MIXED = 16_384  # rows in the mixing buffer
_LABEL = SiteInfo((), torch.int64)


class Store:
    """A folder of committed rows.

    Args:
        path: the folder, written by `stream.write(path)`.

    Attributes:
        path: the folder.
        provenance: what determined the rows (the stream's), as JSON.
        rows: rows committed when the store was opened.

    Raises:
        ArtifactError: not a store, of a newer format, or with a damaged manifest.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        meta = read_meta(self.path)
        self.provenance = meta.provenance
        self._info, self._labels = meta.sites, meta.labels
        self._commits = read_commits(self.path)
        self._firsts = torch.tensor([commit.first for commit in self._commits])
        self.rows = sum(commit.rows for commit in self._commits)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites."""
        return tuple(self._info)

    @property
    def nonfinite(self) -> dict[str, int]:
        """Site -> rows that hold NaN or Inf."""
        return {
            site: sum(commit.shards[site]["nonfinite"] for commit in self._commits)
            for site in self._info
        }

    @property
    def commits(self) -> int:
        """How many commits there are."""
        return len(self._commits)

    def info(self, site: str) -> SiteInfo:
        """Row shape and dtype of a site."""
        check_site(site, self._info, where=f"store {self.path}")
        return self._info[site]

    def __getitem__(self, site: str) -> "SiteRows":
        """The rows of one site, to be indexed by id: `store[site][ids]`."""
        return SiteRows(self, site, self.info(site))

    def gather(self, ids: Tensor, sites: Sequence[str] | None = None) -> Batch:
        """The rows of these ids, in this order, repeats allowed.

        Args:
            ids: [row] int64, each in 0..rows - 1.
            sites: all if not given.

        Raises:
            InputError: an id that is not in the store.
            ArtifactError: a file is missing, truncated or not what the manifest says.
        """
        ordered, order = self._checked(ids).sort(stable=True)
        parts = self._parts(ordered)
        labels = {name: self._read(parts, None, name, _LABEL) for name in self._labels}
        rows = {
            site: self._read(parts, site, ACTIVATIONS, self.info(site))
            for site in (self.sites if sites is None else sites)
        }
        found = Batch(rows, labels.get("tokens"), labels["documents"], labels["positions"])
        return found if _ascending(order) else found.rows(order.argsort())

    def rows_of(self, site: str, ids: Tensor) -> Tensor:
        """The rows of one site, [row, ...], without their labels; as `gather` otherwise."""
        info = self.info(site)
        ordered, order = self._checked(ids).sort(stable=True)
        found = self._read(self._parts(ordered), site, ACTIVATIONS, info)
        return found if _ascending(order) else found[order.argsort()]

    def stream(
        self, *sites: str, batch: int = 4096, shuffle: bool = False, seed: int = 0
    ) -> Stream:
        """A stream over the store, in the order written or shuffled.

        Shuffled means: blocks of 16 neighbouring rows in random order through a mixing buffer of
        16 384 rows. Give each epoch another seed.

        Args:
            sites: all if none is named.
            batch: rows a batch.
            shuffle: whether to shuffle.
            seed: decides the order.
        """
        check_count(batch, "store.stream: batch")
        for site in sites:
            self.info(site)
        chosen = sites or self.sites
        if not shuffle:
            return _StoreStream(self, chosen, batch, seed=None)
        blocks = _StoreStream(self, chosen, max(batch, _BLOCK), seed=seed)
        return blocks.shuffle(seed, _MIXED).rebatch(batch)

    def verify(self) -> list[str]:
        """Reads every file and names the damaged ones with what is wrong; empty if all is sound."""
        return [
            f"{entry['file']}: {wrong}"
            for commit in self._commits
            for entry in (commit.labels, *commit.shards.values())
            if (wrong := problem(self.path / entry["file"], entry))
        ]

    def __repr__(self) -> str:
        nonfinite = self.nonfinite
        total = sum(info.row_bytes for info in self._info.values()) * self.rows
        head = f"Store {self.path}: {self.rows:,} rows, {_size(total)}, {self.commits} commits"
        width = max(len(site) for site in self._info)
        lines = [f"{'site':{width}}  {'row':14}  {'dtype':9}  bytes"]
        for site, info in self._info.items():
            bad = f"  {nonfinite[site]:,} rows with NaN or Inf" if nonfinite[site] else ""
            size = _size(info.row_bytes * self.rows)
            kind = str(info.dtype).removeprefix("torch.")
            lines.append(f"{site:{width}}  {list(info.shape)!s:14}  {kind:9}  {size}{bad}")
        return "\n".join([head, *lines, f"from {json.dumps(self.provenance)[:300]}"])

    def _checked(self, ids: Tensor) -> Tensor:
        ids = torch.as_tensor(ids, dtype=torch.int64).reshape(-1)
        wrong = (ids < 0) | (ids >= self.rows)
        if wrong.any():
            expected = f"row ids from 0 to {self.rows - 1}"
            got = str(int(ids[wrong][0]))
            raise InputError(explain(where=f"store {self.path}", expected=expected, got=got))
        return ids

    def _parts(self, ordered: Tensor) -> list[tuple[Commit, Tensor]]:
        """Sorted ids by commit, as row numbers within it."""
        which = torch.searchsorted(self._firsts, ordered, right=True) - 1
        numbers, counts = which.unique_consecutive(return_counts=True)
        commits = [self._commits[number] for number in numbers.tolist()]
        pieces = ordered.split(counts.tolist())
        return [(commit, ids - commit.first) for commit, ids in zip(commits, pieces, strict=True)]

    def _read(
        self, parts: list[tuple[Commit, Tensor]], site: str | None, tensor: str, info: SiteInfo
    ) -> Tensor:
        """The parts' rows of a site's shards, or (for None) of the labels' files."""
        out = torch.empty(sum(len(ids) for _, ids in parts), *info.shape, dtype=info.dtype)
        start = 0
        for commit, ids in parts:
            entry = commit.labels if site is None else commit.shards[site]
            piece = out[start : start + len(ids)]
            read_rows(self.path / entry["file"], tensor, info, commit.rows, ids, piece)
            start += len(ids)
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


class _StoreStream(Stream):
    """Rows in the order written, or (with a seed) blocks of neighbours in random order."""

    def __init__(
        self, store: Store, sites: tuple[str, ...], batch: int, *, seed: int | None
    ) -> None:
        self._store, self._sites, self._batch, self._seed = store, sites, batch, seed

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites asked for."""
        return self._sites

    @property
    def rows(self) -> int:
        """Rows of the store."""
        return self._store.rows

    @property
    def provenance(self) -> dict[str, Any]:
        """The provenance of what was written, and how it is read."""
        how: dict[str, Any] = {"store": self._store.provenance, "rows": self.rows}
        how["select"] = list(self._sites)
        return how if self._seed is None else {**how, "blocks": {"seed": self._seed, "of": _BLOCK}}

    def batches(self, start: int = 0) -> Iterator[Batch]:
        if self._seed is None:
            order = torch.arange(self.rows)
        else:
            generator = torch.Generator().manual_seed(self._seed)
            blocks = torch.randperm(-(-self.rows // _BLOCK), generator=generator)
            order = (blocks[:, None] * _BLOCK + torch.arange(_BLOCK)).reshape(-1)
            order = order[order < self.rows]
        for first in range(start, self.rows, self._batch):
            yield self._store.gather(order[first : first + self._batch], self._sites)


def _ascending(order: Tensor) -> bool:
    return bool((order.diff() > 0).all())


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
