"""What a store is on disk: meta.json, a manifest a commit, and files that manifests name.

    meta.json                                  format, provenance; sites, their kinds and codecs
    manifest/000000.json 000001.json …         one a commit: its files with SHA-256; only ever added
    shards/<site>/r0000-<name>.safetensors     the rows of one site
    rows/r0000-<name>.safetensors              labels and checksums of the same rows, read by row
    rows/r0000-<name>.parquet                  the labels again, to be asked with SQL
    documents/r0000-<name>.parquet             texts of the documents that begin in these rows
    vocabulary.parquet                         what each token id says

r0000 is the writer. Whoever creates the next manifest has committed; commits are numbered in one
series, whoever wrote them, so that a row keeps its number for ever.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

import torch

from jackfield.core.errors import ArtifactError, ConfigError, explain
from jackfield.streams.store import codecs
from jackfield.streams.store.codecs import Codec, Kind
from jackfield.streams.store.files import Files

KIND = "jackfield-store"
FORMAT = 2
META = "meta.json"
MANIFEST = "manifest"
SHARDS = "shards"
ROWS = "rows"
DOCUMENTS = "documents"
VOCABULARY = "vocabulary.parquet"

Entry = dict[str, Any]  # of a file: file, bytes, sha256; of a shard also nonfinite, error


@dataclass(frozen=True)
class SiteInfo:
    """What a store holds of one site: the kind of its rows, and how they are encoded."""

    kind: Kind
    codec: Codec

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a row, without the row axis."""
        return self.kind.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that rows are read as."""
        return self.kind.dtype


@dataclass(frozen=True)
class Meta:
    """What holds for every row.

    Attributes:
        provenance: where the rows come from.
        sites: what is kept of each site.
        columns: user columns of the rows, name -> dtype.
        tokens: whether rows have token ids.
        writers: how many writers share the store.
        library: the version that began it.
    """

    provenance: dict[str, Any]
    sites: dict[str, SiteInfo]
    columns: dict[str, torch.dtype]
    tokens: bool
    writers: int
    library: str


@dataclass(frozen=True)
class Group:
    """Rows that lie in one set of files: a shard a site, and their labels.

    Attributes:
        rows: how many, at least one.
        files: "labels", "table", and "documents" if a document begins here -> entry.
        shards: site -> entry, with the rows that hold NaN or Inf under "nonfinite" and the largest
            absolute error that the codec made under "error".
    """

    rows: int
    files: dict[str, Entry]
    shards: dict[str, Entry]

    @property
    def entries(self) -> list[Entry]:
        """All its files."""
        return [*self.files.values(), *self.shards.values()]


@dataclass(frozen=True)
class Commit:
    """One manifest: what begins to count at once.

    Attributes:
        writer: whose it is: r0000, r0001, …
        groups: the rows; none for a word without rows.
        vocabulary: the entry of vocabulary.parquet, if this commit brought it.
        through: documents below this id are all in, where the writer counts by documents.
        last: whether this writer had nothing more to write.
    """

    writer: str
    groups: list[Group]
    vocabulary: Entry | None = None
    through: int | None = None
    last: bool = False

    @property
    def rows(self) -> int:
        """How many it adds."""
        return sum(group.rows for group in self.groups)

    @property
    def entries(self) -> list[Entry]:
        """All its files."""
        own = [self.vocabulary] if self.vocabulary is not None else []
        return [*own, *(entry for group in self.groups for entry in group.entries)]


def writer_name(rank: int) -> str:
    """The name of the writer of a rank."""
    return f"r{rank:04d}"


def site_folder(site: str) -> str:
    """The name of a site's folder: the site, with what a file system may refuse escaped."""
    return quote(site, safe="")


def read_meta(files: Files) -> Meta:
    """Reads meta.json.

    Raises:
        ArtifactError: not there, not ours, or newer than this library.
    """
    try:
        data = json.loads(files.read(META))
        if data["format"] != KIND:
            raise ValueError(f"format {data['format']!r}")
        if data["version"] != FORMAT:
            raise _other_version(files, int(data["version"]))
        if data.pop("sha256") != _seal(data):
            raise ValueError("damaged or edited")
        return Meta(
            data["provenance"],
            {site: _site_info(entry) for site, entry in data["sites"].items()},
            {name: _dtype(told) for name, told in data["columns"].items()},
            bool(data["tokens"]),
            int(data["writers"]),
            str(data["library"]),
        )
    except (ArtifactError, ConfigError):
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        expected = "a folder written by stream.write"
        raise ArtifactError(explain(where=files.url, expected=expected, got=reason)) from error


def write_meta(files: Files, meta: Meta) -> bool:
    """Writes meta.json, the first file of a store; False if another writer was first."""
    sites = {
        site: {
            "shape": list(info.shape),
            "dtype": _name(info.dtype),
            "codec": codecs.told(info.codec),
        }
        for site, info in meta.sites.items()
    }
    data = {
        "format": KIND,
        "version": FORMAT,
        "library": meta.library,
        "sites": sites,
        "columns": {name: _name(dtype) for name, dtype in meta.columns.items()},
        "tokens": meta.tokens,
        "writers": meta.writers,
        "provenance": meta.provenance,
    }
    sealed = {**data, "sha256": _seal(data)}
    return files.create(META, json.dumps(sealed, indent=2).encode())


def write_commit(files: Files, number: int, commit: Commit) -> bool:
    """Creates a manifest, which makes its rows count; False if the number is taken."""
    body = asdict(commit)
    data = {**body, "sha256": _seal(body)}
    return files.create(_manifest(number), json.dumps(data).encode())


def read_commits(files: Files, first: int = 0) -> list[Commit]:
    """Reads the manifests, from number `first` on.

    Raises:
        ArtifactError: one is missing in the middle, damaged or edited.
    """
    found = [name for name in files.names(MANIFEST) if name.endswith(".json")]
    for number, name in enumerate(found):
        if name != _manifest(number):
            where = f"{files.url}/{_manifest(number)}"
            raise ArtifactError(explain(where=where, expected="a manifest", got="no file"))
    return [read_commit(files, number) for number in range(first, len(found))]


def read_commit(files: Files, number: int) -> Commit:
    """Reads one manifest, if it is as it was written."""
    name = _manifest(number)
    try:
        body = json.loads(files.read(name))
        sound = body.pop("sha256") == _seal(body)
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        expected, got = "a manifest as it was written", "a damaged or edited one"
        where = f"{files.url}/{name}"
        raise ArtifactError(explain(where=where, expected=expected, got=got))
    return Commit(**{**body, "groups": [Group(**group) for group in body["groups"]]})


def _manifest(number: int) -> str:
    return f"{MANIFEST}/{number:06d}.json"


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _other_version(files: Files, version: int) -> ArtifactError:
    newer = version > FORMAT
    expected = f"store format {FORMAT}"
    hint = "Update Jackfield." if newer else "Write it again with this version."
    return ArtifactError(
        explain(where=files.url, expected=expected, got=f"format {version}", hint=hint)
    )


def _site_info(entry: dict[str, Any]) -> SiteInfo:
    return SiteInfo(
        Kind(tuple(entry["shape"]), _dtype(entry["dtype"])), codecs.read(entry["codec"])
    )


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"{name!r} is not a dtype")
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
