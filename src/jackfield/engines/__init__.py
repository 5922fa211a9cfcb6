"""Engines: reading a corpus on many processes or machines into one store.

Lives here: the Ray engine. (One process needs none: `stream.write`. Processes started by torchrun
need none either: each writes its part, `model.stream(corpus.part(rank, world), …).write(path)`.)
May use: core, edits, streams, model. Look first: `ray.py`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jackfield.engines.ray import Ray as Ray

_HOME = {"Ray": "ray"}

__all__ = ["Ray"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
