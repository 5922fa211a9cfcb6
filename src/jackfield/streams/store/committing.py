"""Committing: rows become files, and one manifest makes them count.

Every file of a commit is on the disk before its manifest is; the manifest is created under the
next free number. So whatever moment a writer dies at, the commit is there or it is not, and files
that no manifest names are rubbish that `gc` clears away.
"""

import secrets
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from jackfield.core.errors import BusyError, explain
from jackfield.streams.store import sidecars
from jackfield.streams.store.files import Files
from jackfield.streams.store.filling import Filling
from jackfield.streams.store.labels import TABLE, Labels
from jackfield.streams.store.layout import (
    DOCUMENTS,
    ROWS,
    SHARDS,
    VOCABULARY,
    Commit,
    Entry,
    Meta,
    read_commit,
    read_commits,
    site_folder,
    write_commit,
)
from jackfield.streams.store.shards import encoded, safetensors_pieces
from jackfield.streams.units import nonfinite_rows


class Committer:
    """One writer's commits to a store.

    Args:
        files: of the store.
        meta: of the store.
        writer: the writer's name.

    Attributes:
        rows: rows that this writer has committed, in earlier runs too.
        done: whether it has said that there is nothing more to come.
        nonfinite: rows of this run with NaN or Inf, counted a site.
        bytes: written in this run.
    """

    def __init__(self, files: Files, meta: Meta, writer: str) -> None:
        commits = read_commits(files)
        own = [commit for commit in commits if commit.writer == writer]
        self.rows = sum(commit.rows for commit in own)
        self.done = any(commit.last for commit in own)
        self.nonfinite = self.bytes = 0
        self.documents = _Numbers()
        for commit in own:
            if "documents" in commit.files:
                data = files.read(commit.files["documents"]["file"])
                self.documents.add(sidecars.document_ids(data))
        self._files, self._meta, self._writer = files, meta, writer
        self._labels = Labels(meta)
        self._next = len(commits)
        self._vocabulary: Entry | None = None

    def keep_vocabulary(self, vocabulary: Sequence[str]) -> None:
        """Writes what the tokens say, once a store."""
        if self._vocabulary is None and len(vocabulary):
            data = sidecars.vocabulary_table(vocabulary)
            self._vocabulary = self._files.write_hashed(VOCABULARY, [data])

    def commit(self, filling: Filling | None, *, last: bool) -> None:
        """Writes the rows of `filling`, if any; `last` says that this writer has no more.

        Raises:
            OSError: the disk is full, or gone.
            BusyError: another writer has this writer's name.
        """
        files: dict[str, Entry] = {}
        shards: dict[str, Entry] = {}
        rows = filling.rows if filling is not None else 0
        if filling is not None and rows:
            # Another name at each try: what a killed writer left is never written over.
            name = f"{self._writer}-{self._next:06d}-{secrets.token_hex(3)}"
            files, shards = self._write(filling, name)
        if self._vocabulary is not None:
            files["vocabulary"] = self._vocabulary
        commit = Commit(self._writer, rows, files, shards, last)
        self._claim(commit)
        self.rows += rows
        self.done = last
        self.bytes += sum(entry["bytes"] for entry in commit.entries)

    def _write(self, filling: Filling, name: str) -> tuple[dict[str, Entry], dict[str, Entry]]:
        batch = filling.batch()
        shards: dict[str, Entry] = {}
        sums: dict[str, Tensor] = {}
        for site, info in self._meta.sites.items():
            made = encoded(batch[site], info, nonfinite_rows)
            file = f"{SHARDS}/{site_folder(site)}/{name}.safetensors"
            entry = self._files.write_hashed(file, safetensors_pieces(made.tensors))
            shards[site] = {**entry, "nonfinite": made.nonfinite, "error": made.error}
            sums[site] = made.sums
            self.nonfinite += made.nonfinite
        table = self._labels.table(batch, sums)
        pieces = safetensors_pieces({TABLE: table})
        parquet = sidecars.rows_table(self._labels.named(table))
        files = {
            "labels": self._files.write_hashed(f"{ROWS}/{name}.safetensors", pieces),
            "table": self._files.write_hashed(f"{ROWS}/{name}.parquet", [parquet]),
        }
        if filling.texts:
            data = sidecars.documents_table(filling.texts)
            files["documents"] = self._files.write_hashed(f"{DOCUMENTS}/{name}.parquet", [data])
        return files, shards

    def _claim(self, commit: Commit) -> None:
        """Takes the next number that no other writer has taken meanwhile."""
        while not write_commit(self._files, self._next, commit):
            other = read_commit(self._files, self._next)
            if other.writer == self._writer:
                expected, got = f"one writer of the name {self._writer}", "a second one"
                hint = "Each process writes its own part: corpus.part(rank, world)."
                where = self._files.url
                raise BusyError(explain(where=where, expected=expected, got=got, hint=hint))
            self._next += 1
        self._next += 1


class _Numbers:
    """A set of whole numbers, a byte each where they lie close together, as document ids do."""

    _PAGE = 1 << 16

    def __init__(self) -> None:
        self._pages: dict[int, np.ndarray[tuple[int], np.dtype[np.bool_]]] = {}

    def add(self, numbers: Tensor) -> Tensor:
        """Puts numbers in; gives those that are new, each once."""
        fresh = [n for n in numbers.unique().tolist() if self._put(*divmod(n, self._PAGE))]
        return torch.tensor(fresh, dtype=torch.int64)

    def _put(self, page: int, place: int) -> bool:
        there = self._pages.setdefault(page, np.zeros(self._PAGE, np.bool_))
        new = not there[place]
        there[place] = True
        return new
