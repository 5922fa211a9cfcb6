"""Parquet files of documents: only the columns that are needed, and the row groups asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jackfield.core.errors import InputError, explain
from jackfield.core.extras import need
from jackfield.streams.columns import needed
from jackfield.streams.files import Reader, Reading, Records
from jackfield.streams.numbers import Numbers

_ROWS = 256  # made Python objects at once


class ParquetReader(Reader):
    """Rows as dicts; the file's own counts tell which row groups can be left out."""

    def records(self, path: Path, reading: Reading, numbers: Numbers, number: int) -> Records:
        with _opened(path) as file:
            names = file.schema_arrow.names
            columns = needed(names, reading.column, reading.keep, str(path))
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if len(_wanted(numbers, number, rows)):
                    yield from _of_group(file, group, columns, numbers, number)
                number += rows
        return number

    def known(self, path: Path, reading: Reading) -> int | None:
        return self.count(path, reading)

    def count(self, path: Path, reading: Reading) -> int:
        with _opened(path) as file:
            return int(file.metadata.num_rows)

    def share(self, path: Path, reading: Reading, count: int) -> tuple[float, int]:
        rows = self.count(path, reading)
        return min(count / max(rows, 1), 1.0), min(count, rows)


def _of_group(
    file: Any, group: int, columns: list[str], numbers: Numbers, number: int
) -> Iterator[tuple[int, Any]]:
    for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=columns):
        wanted = _wanted(numbers, number, len(batch))
        places = range(wanted.start - number, wanted.stop - number, wanted.step)
        chosen = batch if len(places) == len(batch) else batch.take(list(places))
        yield from zip(wanted, chosen.to_pylist(), strict=True)
        number += len(batch)


def _wanted(numbers: Numbers, first: int, count: int) -> range:
    return numbers.span(first, None).up_to(first + count)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open file.

    Raises:
        InputError: it is not Parquet, or its strings are not UTF-8.
    """
    arrow = need("pyarrow", extra="parquet", purpose="Reading a .parquet corpus")
    parquet = need("pyarrow.parquet", extra="parquet", purpose="Reading a .parquet corpus")
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(explain(where=str(path), expected="Parquet", got=str(error))) from error
