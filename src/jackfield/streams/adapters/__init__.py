"""Adapters: activations in the formats of other libraries, as streams, and stores exported to them.

Lives here: `open_dataset` (a stream over files or a dataset) and `export` (a store or stream to
files). A format is one file with a `Table`, which reads named arrays in pieces, and a `write`,
which is given them in pieces: HF datasets and Parquet (`arrow.py` for what both share),
safetensors, NumPy. SAELens' cached activations are an HF dataset whose rows are contexts:
`contexts.py`. May use: the rest of the room.
Look first: `table.py`, then `numpy_files.py` for a format; the doors are in `opening.py` and
`exporting.py`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jackfield.streams.adapters.exporting import export
    from jackfield.streams.adapters.opening import open_dataset

_HOME = {"export": "exporting", "open_dataset": "opening"}

__all__ = ["export", "open_dataset"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
