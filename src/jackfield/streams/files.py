"""Files of documents: .txt, .md, .jsonl, .csv and .parquet, read as streams of records.

A record is a string or a dict with columns. Every error names the file and the place in it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from jackfield.core.errors import InputError, did_you_mean, explain
from jackfield.core.extras import need

_PROBE = 1 << 20  # bytes of a file's start and end that go into its fingerprint


def find(source: str | Path) -> list[Path]:
    """The files that a path, a folder or a glob names, sorted.

    Raises:
        InputError: there are none, or one is of a kind that cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        paths = sorted(p for p in path.rglob("*") if p.suffix.lower() in _READERS and p.is_file())
    elif path.is_file():
        paths = [path]
    else:
        pattern = str(path.relative_to(path.anchor))
        paths = sorted(p for p in Path(path.anchor).glob(pattern) if p.is_file())
    if not paths:
        kinds = ", ".join(_READERS)
        hint = "For texts themselves pass a list: corpus([text, ...])."
        expected = f"'docs', or a file, folder or glob with {kinds} files"
        got = repr(str(source)[:80])
        raise InputError(explain(where="corpus", expected=expected, got=got, hint=hint))
    for each in paths:
        if each.suffix.lower() not in _READERS:
            expected = f"a file ending in {', '.join(_READERS)}"
            raise InputError(explain(where=str(each), expected=expected, got=repr(each.suffix)))
    return paths


def records(path: Path, *, column: str | None, split: str) -> Iterator[Any]:
    """The records of one file.

    Raises:
        InputError: bytes that are not UTF-8, a broken line, an unknown column.
    """
    return _READERS[path.suffix.lower()](path, column, split)


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's size, first and last megabyte."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size} ".encode())
    with path.open("rb") as file:
        digest.update(file.read(_PROBE))
        file.seek(max(size - _PROBE, 0))
        digest.update(file.read(_PROBE))
    return digest.hexdigest()


def _text(path: Path, column: str | None, split: str) -> Iterator[str]:
    if split == "file":
        yield "".join(_lines(path))
    elif split == "line":
        yield from (line.rstrip("\r\n") for line in _lines(path) if line.strip())
    else:
        for blank, lines in groupby(_lines(path), key=lambda line: not line.strip()):
            if not blank:
                yield "".join(lines).rstrip("\r\n")


def _jsonl(path: Path, column: str | None, split: str) -> Iterator[Any]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                got = f"{error.msg} at column {error.colno}"
                where = f"{path}, line {number}"
                raise InputError(explain(where=where, expected="JSON", got=got)) from error


def _csv(path: Path, column: str | None, split: str) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(_lines(path), strict=True)
    while True:
        limit = csv.field_size_limit(sys.maxsize)  # the default ends a document at 128 KiB
        try:
            row = next(reader, None)
        except csv.Error as error:
            where = f"{path}, near line {reader.line_num}"
            raise InputError(explain(where=where, expected="CSV", got=str(error))) from error
        finally:
            csv.field_size_limit(limit)
        if row is None:
            return
        yield {name: value or "" for name, value in row.items() if name is not None}


def _parquet(path: Path, column: str | None, split: str) -> Iterator[dict[str, Any]]:
    arrow = need("pyarrow", extra="parquet", purpose="Reading a .parquet corpus")
    parquet = need("pyarrow.parquet", extra="parquet", purpose="Reading a .parquet corpus")
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if column is not None and column not in names:
                hint = did_you_mean(column, names)
                expected = f"one of the columns {', '.join(names[:12])}"
                where = str(path)
                raise InputError(explain(where=where, expected=expected, got=column, hint=hint))
            columns = None if column is None else [column]
            for batch in file.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist()
    except arrow.ArrowException as error:
        raise InputError(explain(where=str(path), expected="Parquet", got=str(error))) from error


_READERS: dict[str, Callable[[Path, str | None, str], Iterator[Any]]] = {
    ".txt": _text,
    ".md": _text,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends; a byte-order mark is dropped."""
    offset = 0
    with path.open("rb") as file:
        for raw in file:
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                got = f"byte 0x{raw[error.start]:02x} at offset {offset + error.start}"
                hint = "Convert the file first, for instance with iconv."
                raise InputError(
                    explain(where=str(path), expected="UTF-8 text", got=got, hint=hint)
                ) from error
            yield line.removeprefix("\ufeff") if offset == 0 else line
            offset += len(raw)
