"""Files of documents: .txt, .md, .jsonl, .csv (each also as .gz), .parquet; streams of records.

A record is a string or a dict with columns. Records have numbers; one that is not asked for is gone
past without being parsed. Every error names the file and the place in it.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO

from jackfield.core.errors import InputError, explain
from jackfield.streams.numbers import Numbers

_PROBE = 1 << 20  # bytes of a file's start and end that go into its fingerprint

# Gives (number, record), returns the number that the next file's first record has.
Records = Generator[tuple[int, Any], None, int]


@dataclass(frozen=True)
class Reading:
    """How files are read; fields as the arguments of `corpus`."""

    column: str | None = None
    keep: tuple[str, ...] = ()
    split: str = "file"
    errors: str = "strict"


class Reader(ABC):
    """How one kind of file is read."""

    @abstractmethod
    def records(self, path: Path, reading: Reading, numbers: Numbers, number: int) -> Records:
        """The records whose number is asked for; `number` is that of the file's first."""

    @abstractmethod
    def known(self, path: Path, reading: Reading) -> int | None:
        """How many records there are, None if that takes going through them."""

    @abstractmethod
    def count(self, path: Path, reading: Reading) -> int:
        """How many records there are, gone through if need be."""

    @abstractmethod
    def share(self, path: Path, reading: Reading, count: int) -> tuple[float, int]:
        """The share of the file that its first `count` records take up; how many those are."""


def find(source: str | Path) -> list[Path]:
    """The files that a path, a folder or a glob names, sorted.

    Raises:
        InputError: there are none, or one is of a kind that cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        paths = sorted(p for p in path.rglob("*") if _kind(p) in _readers() and p.is_file())
    elif path.is_file():
        paths = [path]
    else:
        pattern = str(path.relative_to(path.anchor))
        paths = sorted(p for p in Path(path.anchor).glob(pattern) if p.is_file())
    kinds = ", ".join(_readers())
    if not paths:
        hint = "For texts themselves pass a list: corpus([text, ...])."
        expected = f"'docs', or a file, folder or glob with {kinds} files"
        got = repr(str(source)[:80])
        raise InputError(explain(where="corpus", expected=expected, got=got, hint=hint))
    for each in paths:
        if _kind(each) not in _readers():
            expected, got = f"a file ending in {kinds}", repr(_kind(each))
            raise InputError(explain(where=str(each), expected=expected, got=got))
    return paths


def reader_of(path: Path) -> Reader:
    """The reader of a file that `find` found."""
    return _readers()[_kind(path)]


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's size, first and last megabyte."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size} ".encode())
    with path.open("rb") as file:
        digest.update(file.read(_PROBE))
        file.seek(max(size - _PROBE, 0))
        digest.update(file.read(_PROBE))
    return digest.hexdigest()


class Lines:
    """The lines of a UTF-8 file with their ends; a byte-order mark is dropped.

    Args:
        path: the file, gzipped if its name says so.
        errors: "strict" refuses bytes that are not UTF-8, "replace" puts U+FFFD for them.
    """

    def __init__(self, path: Path, errors: str) -> None:
        self.path, self._errors = path, errors
        self._file: BinaryIO | None = None

    @property
    def share(self) -> float:
        """How much of the file's bytes are behind in the pass begun last; 1 once it has ended."""
        assert self._file is not None
        return 1.0 if self._file.closed else self._file.tell() / self.path.stat().st_size

    def __iter__(self) -> Iterator[str]:
        """Reads the file from its start.

        Raises:
            InputError: bytes that are not UTF-8, or not gzip.
        """
        offset, zipped = 0, self.path.suffix.lower() == ".gz"
        try:
            with (
                self.path.open("rb") as self._file,
                gzip.open(self._file) if zipped else nullcontext(self._file) as lines,
            ):
                for raw in lines:
                    line = self._decode(raw, offset)
                    yield line.removeprefix("\ufeff") if offset == 0 else line
                    offset += len(raw)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            where = str(self.path)
            raise InputError(explain(where=where, expected="gzip", got=str(error))) from error

    def _decode(self, raw: bytes, offset: int) -> str:
        try:
            return raw.decode("utf-8", self._errors)
        except UnicodeDecodeError as error:
            got = f"byte 0x{raw[error.start]:02x} at offset {offset + error.start}"
            hint = "Convert the file first, for instance with iconv, or say errors='replace'."
            where = str(self.path)
            raise InputError(
                explain(where=where, expected="UTF-8 text", got=got, hint=hint)
            ) from error


class LineReader(Reader):
    """A file of lines: cut into pieces, and only what is asked for is parsed.

    Args:
        pieces: gives a file's records, unparsed.
        parse: makes a piece a record.
    """

    def __init__(
        self,
        pieces: Callable[[Lines, str], Iterator[Any]],
        parse: Callable[[Any, Path], Any],
    ) -> None:
        self._pieces, self._parse = pieces, parse

    def records(self, path: Path, reading: Reading, numbers: Numbers, number: int) -> Records:
        for piece in self._pieces(Lines(path, reading.errors), reading.split):
            if numbers.past(number):
                break
            if number in numbers:
                yield number, self._parse(piece, path)
            number += 1
        return number

    def known(self, path: Path, reading: Reading) -> int | None:
        return 1 if self._pieces is _texts and reading.split == "file" else None

    def count(self, path: Path, reading: Reading) -> int:
        return sum(1 for _ in self._pieces(Lines(path, reading.errors), reading.split))

    def share(self, path: Path, reading: Reading, count: int) -> tuple[float, int]:
        lines = Lines(path, reading.errors)
        pieces = self._pieces(lines, reading.split)
        found = sum(1 for _ in islice(pieces, count))
        whole = found < count or found == self.known(path, reading)
        return 1.0 if whole else lines.share, found


def _texts(lines: Lines, split: str) -> Iterator[Any]:
    if split == "file":
        yield lines
    elif split == "line":
        yield from (line.rstrip("\r\n") for line in lines if line.strip())
    else:
        for blank, group in groupby(lines, key=lambda line: not line.strip()):
            if not blank:
                yield "".join(group).rstrip("\r\n")


def _text(piece: Any, path: Path) -> str:
    return "".join(piece)


def _json_lines(lines: Lines, split: str) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _json(piece: tuple[int, str], path: Path) -> Any:
    number, line = piece
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        got = f"{error.msg} at column {error.colno}"
        where = f"{path}, line {number}"
        raise InputError(explain(where=where, expected="JSON", got=got)) from error


def _csv_rows(lines: Lines, split: str) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(lines, strict=True)
    while True:
        limit = csv.field_size_limit(sys.maxsize)  # the default ends a document at 128 KiB
        try:
            row = next(reader, None)
        except csv.Error as error:
            where = f"{lines.path}, near line {reader.line_num}"
            raise InputError(explain(where=where, expected="CSV", got=str(error))) from error
        finally:
            csv.field_size_limit(limit)
        if row is None:
            return
        yield row


def _csv(piece: dict[str, Any], path: Path) -> dict[str, Any]:
    return {name: value or "" for name, value in piece.items() if name is not None}


_TEXT, _JSONL, _CSV = (
    LineReader(_texts, _text),
    LineReader(_json_lines, _json),
    LineReader(_csv_rows, _csv),
)


def _readers() -> dict[str, Reader]:
    from jackfield.streams.parquet_files import ParquetReader

    plain: dict[str, Reader] = {".txt": _TEXT, ".md": _TEXT, ".jsonl": _JSONL, ".csv": _CSV}
    zipped = {f"{kind}.gz": reader for kind, reader in plain.items()}
    return {**plain, ".parquet": ParquetReader(), **zipped}


def _kind(path: Path) -> str:
    """The end of its name, with what is under a .gz."""
    end = path.suffix.lower()
    return f"{Path(path.stem).suffix.lower()}{end}" if end == ".gz" else end
