"""Parquet: columns of numbers and of lists of one length, in one file or several alike.

Rows are read a few at a time, and row groups before the first wanted row are not read at all.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jackfield.streams.adapters.arrow import fixed_lists, listing_of, tensor
from jackfield.streams.adapters.table import Columns, Listing, Piece, Table, damaged
from jackfield.streams.files import fingerprint


class ParquetTable(Table):
    """Files of the same columns, one after another.

    Args:
        name: where they are.
        paths: the files, in order.

    Raises:
        InputError: a file is damaged, or has other columns than the first.
    """

    format = "parquet"

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name, self._paths = name, paths
        self._rows = []
        self.listing = Listing()
        for path in paths:
            rows, listing = _described(path)
            self._rows.append(rows)
            if not self.listing.kinds:
                self.listing = listing
            elif rows and listing.kinds != self.listing.kinds:
                raise damaged(path, f"columns {self.listing.kinds}", listing.kinds)
        self.listing.rows = dict.fromkeys(self.listing.kinds, sum(self._rows))

    def pieces(self, names: Sequence[str], start: int, most: int) -> Iterator[Piece]:
        for path, rows in zip(self._paths, self._rows, strict=True):
            if start < rows:
                yield from self._of_file(path, names, start, most)
            start = max(start - rows, 0)

    def fingerprint(self) -> dict[str, Any]:
        return {"files": {path.name: fingerprint(path) for path in self._paths}}

    def _of_file(self, path: Path, names: Sequence[str], start: int, most: int) -> Iterator[Piece]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with ExitStack() as held:
            try:
                # Buffered ahead, it would keep every row group that it has read.
                file = held.enter_context(pq.ParquetFile(path, pre_buffer=False))
                groups, left = _groups_from(file, start)
                batches = file.iter_batches(most, row_groups=groups, columns=list(names))
                for batch in batches:
                    rows = pa.Table.from_batches([batch.slice(left)])
                    left = max(left - len(batch), 0)
                    if len(rows):
                        yield {n: self._tensor(path, n, rows[n]) for n in names}
            except (pa.ArrowException, OSError) as error:
                raise damaged(path, "Parquet", error) from error

    def _tensor(self, path: Path, name: str, column: Any) -> Any:
        return tensor(column, self.listing.kinds[name], f"{path}, {name}")


def write(folder: Path, columns: Columns) -> None:
    """Writes one file, a piece a row group; rows of several axes are nested lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with ExitStack() as held:
        file: Any = None
        for piece in columns.pieces:
            table = pa.table({name: fixed_lists(piece[name]) for name in columns.kinds})
            if file is None:
                path = folder / "rows.parquet"
                # Buffered ahead, it would keep every row group that it has read.
                file = held.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
            file.write_table(table)


def _described(path: Path) -> tuple[int, Listing]:
    """How many rows a file has, and what its columns are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows = int(file.metadata.num_rows)
            first = next(file.iter_batches(1), None)
            if first is None:
                return 0, Listing()
            return rows, listing_of(pa.Table.from_batches([first]), rows)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, "Parquet", error) from error


def _groups_from(file: Any, start: int) -> tuple[list[int], int]:
    """The row groups that have rows from `start` on, and how many of their first are not wanted."""
    groups = list(range(file.num_row_groups))
    while groups and (rows := file.metadata.row_group(groups[0]).num_rows) <= start:
        start -= rows
        groups.pop(0)
    return groups, start
