"""Functions: what stands between the linear maps, as parts that can be swapped in.

Lives here: the self-normalizing activation function, with its weights' initialisation and the exact
map of mean and variance through one layer.
May use: core, edits, streams, model, reports. Look first: `selu.py`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jackfield.functions.selu import SELU, lecun_normal_, moments

_HOME = {"SELU": "selu", "lecun_normal_": "selu", "moments": "selu"}

__all__ = ["SELU", "lecun_normal_", "moments"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
