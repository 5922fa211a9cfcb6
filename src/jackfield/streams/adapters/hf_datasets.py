"""HF datasets: a `datasets.Dataset`, or a folder that `save_to_disk` wrote, memory-mapped.

Written as `save_to_disk` writes: data-00000-of-00002.arrow …, dataset_info.json, state.json. A row
of one axis is a list of fixed length, one of several an Array2D … Array5D, as SAELens has it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.core.extras import need
from jackfield.streams.adapters.arrow import fixed_lists, listing_of, tensor
from jackfield.streams.adapters.table import Columns, Piece, Table, damaged
from jackfield.streams.store.codecs import Kind

_FILE_BYTES = 500 << 20  # of a file that is written, as `datasets` does
_MOST_AXES = 5  # of an array in a cell


class DatasetTable(Table):
    """A dataset's columns.

    Args:
        name: where it is.
        dataset: a `datasets.Dataset`.
    """

    format = "datasets"

    def __init__(self, name: str, dataset: Any) -> None:
        self.name = name
        # Every column: a format that somebody set may leave some out.
        self._dataset = dataset.with_format("arrow")
        self.listing = listing_of(self._dataset[:1], len(dataset))

    def pieces(self, names: Sequence[str], start: int, most: int) -> Iterator[Piece]:
        chosen = self._dataset.select_columns(list(names))
        for first in range(start, len(chosen), most):
            rows = chosen[first : first + most]
            yield {
                n: tensor(rows[n], self.listing.kinds[n], f"{self.name}, {n}, rows from {first}")
                for n in names
            }

    def fingerprint(self) -> dict[str, Any]:
        return {"fingerprint": self._dataset._fingerprint}


def is_dataset(source: object) -> bool:
    """Whether it is an object of `datasets`, without importing that."""
    return type(source).__module__.partition(".")[0] == "datasets"


def open_folder(path: Path) -> DatasetTable:
    """Opens what `save_to_disk` wrote.

    Raises:
        InputError: several splits, or damaged files.
        MissingExtraError: `datasets` is not installed.
    """
    datasets = need("datasets", extra="datasets", purpose="Reading a saved dataset")
    import pyarrow as pa

    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise damaged(path, "what dataset.save_to_disk wrote", error) from error
    return open_object(found, str(path))


def open_object(dataset: Any, name: str = "Dataset") -> DatasetTable:
    """Opens a `datasets.Dataset`.

    Raises:
        InputError: several splits, or a dataset that can only be gone through.
    """
    kind = type(dataset).__name__
    if kind == "Dataset":
        return DatasetTable(name, dataset)
    got, hint = kind, "dataset.save_to_disk(folder) makes one that has rows by number."
    if kind == "DatasetDict":
        got = f"the splits {', '.join(sorted(dataset))}"
        hint = f"Give one of them, such as dataset[{min(dataset, default='train')!r}]."
    raise InputError(explain(where=name, expected="one datasets.Dataset", got=got, hint=hint))


def write(folder: Path, columns: Columns) -> None:
    """Writes a folder for `datasets.load_from_disk`."""
    datasets = need("datasets", extra="datasets", purpose="Writing a dataset")
    features = datasets.Features({n: _feature(datasets, n, k) for n, k in columns.kinds.items()})
    digest = hashlib.sha256()  # what `datasets` takes for the content's name
    names = _write_files(folder, features.arrow_schema, columns, digest)
    datasets.DatasetInfo(features=features).write_to_directory(str(folder))
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": digest.hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2))


def _write_files(folder: Path, schema: Any, columns: Columns, digest: Any) -> list[str]:
    """Writes Arrow streams of some 500 MB; gives their names, which tell how many there are."""
    import pyarrow as pa

    made: list[Path] = []
    with ExitStack() as held:
        sink: Any = None
        for piece in columns.pieces:
            if sink is None or sink.tell() > _FILE_BYTES:
                held.close()
                made.append(folder / f"data-{len(made):05d}.arrow")
                sink = held.enter_context(pa.OSFile(str(made[-1]), "wb"))
                stream = held.enter_context(pa.ipc.new_stream(sink, schema))
            arrays = [_column(piece[field.name], field.type) for field in schema]
            for name in schema.names:
                digest.update(piece[name].contiguous().numpy().data)
            stream.write_batch(pa.record_batch(arrays, schema=schema))
    names = [f"data-{number:05d}-of-{len(made):05d}.arrow" for number in range(len(made))]
    for path, name in zip(made, names, strict=True):
        path.rename(folder / name)
    return names


def _column(rows: Tensor, kind: Any) -> Any:
    import pyarrow as pa

    if not isinstance(kind, pa.ExtensionType):
        return fixed_lists(rows).cast(kind)
    lists = fixed_lists(rows).cast(kind.storage_type)
    return pa.ExtensionArray.from_storage(kind, lists)


def _feature(datasets: Any, name: str, kind: Kind) -> Any:
    dtype, axes = str(kind.dtype).removeprefix("torch."), len(kind.shape)
    if axes > _MOST_AXES:
        raise damaged(name, f"rows of at most {_MOST_AXES} axes in a dataset", list(kind.shape))
    if axes > 1:
        return getattr(datasets, f"Array{axes}D")(shape=kind.shape, dtype=dtype)
    value = datasets.Value(dtype)
    return datasets.Sequence(value, length=kind.shape[0]) if axes else value
