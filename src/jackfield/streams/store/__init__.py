"""Store: activations on disk. Written once, read for ever, by row or as a shuffled stream.

Lives here: the reader (`store.py`), the writer (`writer.py`), and what both are made of: files
that are whole or absent (`files.py`), the layout (`layout.py`), shards (`shards.py`), codecs
(`codecs/`), labels and texts (`labels.py`, `sidecars.py`), orders (`order.py`), upkeep.
Look first: `layout.py` (what is where), then `store.py`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jackfield.streams.store.store import Store
    from jackfield.streams.store.writer import StoreWriter

_HOME = {"Store": "store", "StoreWriter": "writer"}

__all__ = ["Store", "StoreWriter"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
