"""Formats: dictionaries in the files of other libraries, read and written with equal outputs.

Lives here: `load_dictionary`, which recognises the format, and `save_dictionary`. A format is one
file with a `Format`: SAELens 6, sparsify, dictionary_learning, Gemma Scope (read only). Every
setting that changes what a dictionary gives is honoured or refused; nothing is unpickled.
May use: the rest of the room. Look first: `format.py`, then `sparsify.py` for a format;
`lengths.py` says what becomes of codes, `names.py` which site a dictionary is for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jackfield.dictionaries.formats.doors import load_dictionary as load_dictionary
    from jackfield.dictionaries.formats.doors import save_dictionary as save_dictionary

__all__ = ["load_dictionary", "save_dictionary"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.doors"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
