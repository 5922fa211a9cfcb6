"""Committing: rows become files, and one manifest makes them count.

Every file of a commit is on the disk before its manifest is; the manifest is created under the
next free number. So whatever moment a writer dies at, the commit is there or it is not, and files
that no manifest names are rubbish that `gc` clears away.
"""

import secrets
from collections.abc import Iterable, Sequence

from torch import Tensor

from jackfield.core.errors import BusyError, explain
from jackfield.streams.protocol import Batch
from jackfield.streams.store import sidecars
from jackfield.streams.store.encoding import row_bytes
from jackfield.streams.store.files import Files
from jackfield.streams.store.filling import Filling, Numbers
from jackfield.streams.store.labels import TABLE, Labels
from jackfield.streams.store.layout import (
    DOCUMENTS,
    ROWS,
    SHARDS,
    VOCABULARY,
    Commit,
    Entry,
    Group,
    Meta,
    read_commit,
    read_commits,
    site_folder,
    write_commit,
)
from jackfield.streams.store.shards import encoded, safetensors_pieces
from jackfield.streams.units import nonfinite_rows

GROUP_BYTES = 128 << 20  # of all sites together


class Committer:
    """One writer's commits to a store.

    Args:
        files: of the store.
        meta: of the store.
        writer: the writer's name.

    Attributes:
        meta: as given.
        vocabulary: the entry of what the tokens say, once it is written.
        rows: rows that this writer has committed, in earlier runs too.
        through: documents below this id are all in, if it counts by documents.
        done: whether it has said that there is nothing more to come.
        nonfinite: rows of this run with NaN or Inf, counted a site.
    """

    def __init__(self, files: Files, meta: Meta, writer: str) -> None:
        commits = read_commits(files)
        own = [commit for commit in commits if commit.writer == writer]
        self.rows = sum(commit.rows for commit in own)
        self.done = any(commit.last for commit in own)
        self.nonfinite = 0
        self.documents = Numbers()
        self.through = max((commit.through or 0 for commit in own), default=0)
        for group in (group for commit in own for group in commit.groups):
            if "documents" in group.files:
                data = files.read(group.files["documents"]["file"])
                self.documents.add(sidecars.document_ids(data))
        self._files, self.meta, self._writer = files, meta, writer
        self._next = len(commits)
        self.vocabulary: Entry | None = None

    def keep_vocabulary(self, vocabulary: Sequence[str]) -> None:
        """Writes what the tokens say, once a store."""
        if self.vocabulary is None and len(vocabulary):
            data = sidecars.vocabulary_table(vocabulary)
            self.vocabulary = self._files.write_hashed(VOCABULARY, [data])

    def commit(self, filling: Filling | None, *, last: bool) -> None:
        """Writes the rows of `filling`, if any; `last` says that this writer has no more.

        Raises:
            OSError: the disk is full, or gone.
            BusyError: another writer has this writer's name.
        """
        groups = []
        if filling is not None and filling.rows:
            name = f"{self._writer}-{self._next:06d}"
            groups.append(write_group(self._files, self.meta, filling, name))
        self.claim(Commit(self._writer, groups, self.vocabulary, last=last))

    def claim(self, commit: Commit) -> None:
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
        self.rows += commit.rows
        self.done = commit.last
        self.through = commit.through if commit.through is not None else self.through
        for group in commit.groups:
            self.nonfinite += sum(shard["nonfinite"] for shard in group.shards.values())


def rows_a_group(meta: Meta) -> int:
    """Rows that make up a group of the usual size."""
    return max(1, GROUP_BYTES // sum(row_bytes(info) for info in meta.sites.values()))


def write_groups(files: Files, meta: Meta, batches: Iterable[Batch], name: str) -> list[Group]:
    """Writes rows as groups of the usual size, for somebody else to commit."""
    filling, documents = Filling(meta, rows_a_group(meta)), Numbers()
    groups = []
    for batch in batches:
        rest = batch
        while len(rest):
            taken = filling.take(rest)
            filling.note_texts(rest.rows(slice(taken)), documents)
            rest = rest.rows(slice(taken, None))
            if filling.full:
                groups.append(write_group(files, meta, filling, name))
                filling.empty()
    if filling.rows:
        groups.append(write_group(files, meta, filling, name))
    return groups


def write_group(files: Files, meta: Meta, filling: Filling, name: str) -> Group:
    """Writes the files of some rows; they do not count until a manifest names them."""
    # Another name at each try: what a killed writer left is never written over.
    name = f"{name}-{secrets.token_hex(4)}"
    batch = filling.batch()
    shards: dict[str, Entry] = {}
    sums: dict[str, Tensor] = {}
    for site, info in meta.sites.items():
        made = encoded(batch[site], info, nonfinite_rows)
        file = f"{SHARDS}/{site_folder(site)}/{name}.safetensors"
        entry = files.write_hashed(file, safetensors_pieces(made.tensors))
        shards[site] = {**entry, "nonfinite": made.nonfinite, "error": made.error}
        sums[site] = made.sums
    labels = Labels(meta)
    table = labels.table(batch, sums)
    pieces = safetensors_pieces({TABLE: table})
    parquet = sidecars.rows_table(labels.named(table))
    told = {
        "labels": files.write_hashed(f"{ROWS}/{name}.safetensors", pieces),
        "table": files.write_hashed(f"{ROWS}/{name}.parquet", [parquet]),
    }
    if filling.texts:
        data = sidecars.documents_table(filling.texts)
        told["documents"] = files.write_hashed(f"{DOCUMENTS}/{name}.parquet", [data])
    return Group(filling.rows, told, shards)
