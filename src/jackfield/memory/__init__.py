"""Memory: keep less between the forward and the backward.

Lives here: policies for the tensors that autograd saves, and a meter of their bytes.
May use: core, edits, streams, model, reports. Look first: `low_precision.py`, then `meter.py`.

    with model.saving(SavedBytes(LowPrecision(dtype="int8"))) as meter:
        loss = model.module(**inputs).loss
    meter.bytes, meter.unpacked_bytes
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jackfield.memory.low_precision import LowPrecision
    from jackfield.memory.meter import SavedBytes

_HOME = {"LowPrecision": "low_precision", "SavedBytes": "meter"}

__all__ = ["LowPrecision", "SavedBytes"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
