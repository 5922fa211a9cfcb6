"""What a store is on disk: meta.json, manifests with a checksum, and shards read by row.

    meta.json                              format, provenance; the sites' dtypes and row shapes
    manifest/000000.json 000001.json …     one a commit: files, rows, SHA-256; only ever added
    shards/<site>/000000.safetensors       one tensor [row, ...] a site and commit
    rows/000000.safetensors                document, position and token of the same rows

Sorted ids are joined where they are neighbours and read straight into the result: plain reads in a
few threads fetch scattered rows from a cold disk many times faster than a memory map does.
"""

import functools
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import torch
from torch import Tensor

from jackfield.core.artifacts import atomic_write
from jackfield.core.errors import ArtifactError, explain

KIND = "jackfield-store"
FORMAT = 1
META = "meta.json"
MANIFEST = "manifest"
SHARDS = "shards"
LABELS = "rows"
ACTIVATIONS = "activations"  # the tensor's name in a site's shard

_THREADS = 8  # readers of scattered rows; the disk answers several at once
_GAP = 4096  # bytes between two rows that are read along rather than jumped over: a page


@dataclass(frozen=True)
class SiteInfo:
    """What a store holds of one site: the shape of a row, without the row axis, and the dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Meta:
    """What holds for every row: where they come from, the sites, and which labels they have."""

    provenance: dict[str, Any]
    sites: dict[str, SiteInfo]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Commit:
    """One manifest: the rows first..first + rows, and the files they are in.

    Attributes:
        labels: the sidecar's entry: file, bytes, sha256.
        shards: site -> entry, with the number of rows that hold NaN or Inf under "nonfinite".
    """

    first: int
    rows: int
    labels: dict[str, Any]
    shards: dict[str, dict[str, Any]]


def site_folder(site: str) -> str:
    """The name of a site's folder: the site, with what a file system may refuse escaped."""
    return quote(site, safe="")


def read_meta(path: Path) -> Meta:
    """Reads meta.json.

    Raises:
        ArtifactError: not there, not ours, or newer than this library.
    """
    try:
        data = json.loads((path / META).read_text())
        if data["format"] != KIND:
            raise ValueError(f"format {data['format']!r}")
        if data["version"] > FORMAT:
            expected, got = f"store format {FORMAT} or older", f"format {data['version']}"
            hint = "Update Jackfield."
            raise ArtifactError(explain(where=str(path), expected=expected, got=got, hint=hint))
        sites = {site: _site_info(entry) for site, entry in data["sites"].items()}
        return Meta(data["provenance"], sites, tuple(data["labels"]))
    except ArtifactError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        expected = "a folder written by stream.write"
        raise ArtifactError(explain(where=str(path), expected=expected, got=reason)) from error


def write_meta(path: Path, meta: Meta) -> None:
    """Writes meta.json, the first file of a store."""
    sites = {
        site: {"shape": list(info.shape), "dtype": str(info.dtype).removeprefix("torch.")}
        for site, info in meta.sites.items()
    }
    labels = list(meta.labels)
    data = {"format": KIND, "version": FORMAT, "sites": sites, "labels": labels}
    text = json.dumps({**data, "provenance": meta.provenance}, indent=2)
    atomic_write(path / META, text.encode())


def write_commit(path: Path, number: int, commit: Commit) -> None:
    """Writes a manifest, which makes the rows of its files count."""
    body = {"rows": commit.rows, "labels": commit.labels, "shards": commit.shards}
    data = {**body, "sha256": _seal(body)}
    atomic_write(_manifest(path, number), json.dumps(data).encode())


def read_commits(path: Path) -> list[Commit]:
    """Reads the manifests.

    Raises:
        ArtifactError: one is missing in the middle, damaged or edited.
    """
    found = sorted(entry for entry in (path / MANIFEST).glob("*.json") if entry.stem.isdigit())
    commits: list[Commit] = []
    first = 0
    for number, file in enumerate(found):
        if file != _manifest(path, number):
            missing = str(_manifest(path, number))
            raise ArtifactError(explain(where=missing, expected="a manifest", got="no file"))
        try:
            body = json.loads(file.read_text())
            sound = body.pop("sha256") == _seal(body)
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            expected, got = "a manifest as it was written", "a damaged or edited one"
            raise ArtifactError(explain(where=str(file), expected=expected, got=got))
        commits.append(Commit(first, body["rows"], body["labels"], body["shards"]))
        first += body["rows"]
    return commits


def _manifest(path: Path, number: int) -> Path:
    return path / MANIFEST / f"{number:06d}.json"


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _site_info(entry: dict[str, Any]) -> SiteInfo:
    dtype = getattr(torch, entry["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{entry['dtype']!r} is not a dtype")
    return SiteInfo(tuple(entry["shape"]), dtype)


def read_rows(path: Path, name: str, info: SiteInfo, rows: int, ids: Tensor, out: Tensor) -> None:
    """Reads the rows `ids` (sorted) of a file's tensor `name`, [rows, ...], into `out`.

    Raises:
        ArtifactError: the file is missing, truncated or not what the manifest says.
    """

    def read(some: list[_Run]) -> None:
        with path.open("rb", buffering=0) as file:
            for run in some:
                file.seek(begin + run.first * info.row_bytes)
                if run.gapless:
                    _fill(file, view[run.start * info.row_bytes : run.stop * info.row_bytes])
                else:
                    span = torch.empty(run.last - run.first + 1, *info.shape, dtype=info.dtype)
                    _fill(file, _bytes(span))
                    out[run.start : run.stop] = span[ids[run.start : run.stop] - run.first]

    try:
        begin = _data_offset(path, name, rows, info)
        view = _bytes(out)
        runs = _runs(ids, 1 + _GAP // info.row_bytes)
        if len(runs) < 4 * _THREADS:
            read(runs)
        else:
            parts = (runs[part::_THREADS] for part in range(_THREADS))
            list(_readers(os.getpid()).map(read, parts))
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"
        hint = "store.verify() lists every damaged file."
        expected = f"a sound shard of {rows:,} rows"
        raise ArtifactError(
            explain(where=str(path), expected=expected, got=got, hint=hint)
        ) from error


def problem(path: Path, entry: dict[str, Any]) -> str | None:
    """What is wrong with a file, by its size and checksum; None if nothing is."""
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{size:,} bytes, not {entry['bytes']:,}"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return None if digest == entry["sha256"] else "the checksum differs"


def _data_offset(path: Path, name: str, rows: int, info: SiteInfo) -> int:
    """Where a tensor's bytes begin in a safetensors file, once they are known to be all there."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if length > size - 8:
            raise ValueError(f"the file ends after {size} bytes")
        header = json.loads(file.read(length))
    start, stop = header[name]["data_offsets"]
    if header[name]["shape"] != [rows, *info.shape] or stop - start != rows * info.row_bytes:
        raise ValueError(f"holds {header[name]['dtype']} {header[name]['shape']}")
    if 8 + length + stop > size:
        raise ValueError(f"the file ends after {size} bytes")
    return 8 + length + int(start)


@functools.cache
def _readers(process: int) -> ThreadPoolExecutor:
    """The reading threads of this process; a forked one has none of its parent's."""
    return ThreadPoolExecutor(_THREADS, thread_name_prefix=f"jackfield-{process}")


class _Run(NamedTuple):
    """Rows read in one go: file rows first..last, which are ids[start:stop]."""

    first: int
    last: int
    start: int
    stop: int
    gapless: bool


def _runs(ids: Tensor, most: int) -> list[_Run]:
    """Cuts sorted ids where more than `most` rows lie from one to the next."""
    steps = ids.diff()
    cuts = (steps > most).nonzero().squeeze(1) + 1
    starts = torch.cat([cuts.new_zeros(1), cuts])
    stops = torch.cat([cuts, cuts.new_tensor([len(ids)])])
    uneven = torch.cat([cuts.new_zeros(1), (steps != 1).cumsum(0)])
    gapless = uneven[stops - 1] == uneven[starts]
    columns = (ids[starts], ids[stops - 1], starts, stops, gapless)
    return [_Run(*run) for run in zip(*(column.tolist() for column in columns), strict=True)]


def _bytes(x: Tensor) -> memoryview:
    return memoryview(x.reshape(-1).view(torch.uint8).numpy().data)


def _fill(file: Any, view: memoryview) -> None:
    while view:
        count = file.readinto(view)
        if not count:
            raise ValueError("the file ends early")
        view = view[count:]
