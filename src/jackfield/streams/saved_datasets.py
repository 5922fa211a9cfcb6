"""HF datasets that are on this machine: objects of `datasets`, and folders it saved to disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jackfield.core.errors import InputError, explain
from jackfield.core.extras import need
from jackfield.streams.columns import needed
from jackfield.streams.files import Reading
from jackfield.streams.numbers import Numbers
from jackfield.streams.sources import Source

_ROWS = 256  # made Python objects at once


class SavedDataset(Source):
    """A `datasets.Dataset`: rows are taken by number, and only the columns that are needed.

    Args:
        dataset: the dataset, its format left aside.
        folder: where it was loaded from, if from a folder.
        reading: which column, which are kept.
    """

    def __init__(self, dataset: Any, folder: Path | None, reading: Reading) -> None:
        self.name = "Dataset" if folder is None else str(folder)
        self._folder, self._reading = folder, reading
        self._dataset, self._told = dataset.with_format(None), dataset._fingerprint

    def records(self, numbers: Numbers) -> Iterator[tuple[int, Any]]:
        names = self._dataset.column_names
        columns = needed(names, self._reading.column, self._reading.keep, self.name)
        chosen = self._dataset.select_columns(columns)
        wanted = numbers.up_to(len(chosen))
        for start in range(0, len(wanted), _ROWS):
            some = wanted[start : start + _ROWS]
            lists = chosen[some]
            rows = zip(*(lists[name] for name in columns), strict=True)
            for number, row in zip(some, rows, strict=True):
                yield number, dict(zip(columns, row, strict=True))

    def known(self) -> int | None:
        return len(self._dataset)

    def count(self) -> int:
        return len(self._dataset)

    def share(self, count: int) -> float | None:
        return min(count / max(len(self._dataset), 1), 1.0)

    def fingerprint(self) -> dict[str, Any]:
        return {"fingerprint": self._told}

    def recipe(self) -> Any:
        if self._folder is None:
            expected = "a dataset in a folder, which another process can open too"
            hint = "Say dataset.save_to_disk(folder), then corpus(folder)."
            raise InputError(
                explain(where="corpus", expected=expected, got="a Dataset in memory", hint=hint)
            )
        return {"saved": str(self._folder)}


def is_saved(path: Path) -> bool:
    """Whether `datasets` saved this folder, as one dataset or as several splits."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


def open_saved(path: Path, reading: Reading) -> Source:
    """Opens a folder that `save_to_disk` wrote.

    Raises:
        InputError: it has several splits, or is damaged.
        MissingExtraError: `datasets` is not installed.
    """
    datasets = need("datasets", extra="datasets", purpose="Reading a saved dataset")
    if (path / "dataset_dict.json").is_file():
        splits = sorted(each.name for each in path.iterdir() if is_saved(each))
        path = path / _only(
            splits, str(path), f"corpus({str(path / splits[0])!r})" if splits else ""
        )
    try:
        dataset = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        where, got = str(path), f"{type(error).__name__}: {error}"
        raise InputError(explain(where=where, expected="a saved dataset", got=got)) from error
    return SavedDataset(dataset, path.absolute(), reading)


def unpacked(given: Any, reading: Reading) -> Any:
    """A source if `given` is a `datasets.Dataset`, its only split if it is a dict of them, else it.

    Raises:
        InputError: a dict with several splits.
    """
    kinds = {each.__name__ for each in type(given).__mro__ if _home(each) == "datasets"}
    if kinds & {"DatasetDict", "IterableDatasetDict"}:
        names = sorted(given)
        split = _only(names, type(given).__name__, f"dataset[{names[0]!r}]" if names else "")
        return unpacked(given[split], reading)
    return SavedDataset(given, None, reading) if "Dataset" in kinds else given


def _only(splits: list[str], where: str, example: str) -> str:
    if len(splits) == 1:
        return splits[0]
    got = f"the splits {', '.join(splits)}" if splits else "no split"
    hint = f"Name one: {example}." if splits else None
    raise InputError(explain(where=where, expected="one split", got=got, hint=hint))


def _home(kind: type) -> str:
    return kind.__module__.partition(".")[0]
