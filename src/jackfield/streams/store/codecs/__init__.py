"""Codecs of a store, by name. A package of your own adds one with `register`.

Look first: `base.py` (what a codec is), `plain.py` (the simplest).

    none         as it is                                  nothing lost
    byteplanes   bytes of equal rank together, zstd        nothing lost
    int8, fp8    a byte a number, a scale a row            a bounded error
    top-k        the k largest of a row and their places   exact where the rest is 0
"""

from typing import Any

from jackfield.core.config import from_json, to_json
from jackfield.core.errors import ConfigError, did_you_mean, explain
from jackfield.streams.store.codecs.base import BlockCodec, Codec, Kind, RowCodec
from jackfield.streams.store.codecs.byteplanes import BytePlanes
from jackfield.streams.store.codecs.fp8_rows import Fp8Rows
from jackfield.streams.store.codecs.int8_rows import Int8Rows
from jackfield.streams.store.codecs.plain import Plain
from jackfield.streams.store.codecs.top_k import TopKRows

__all__ = [
    "BlockCodec",
    "BytePlanes",
    "Codec",
    "Fp8Rows",
    "Int8Rows",
    "Kind",
    "Plain",
    "RowCodec",
    "TopKRows",
    "find",
    "read",
    "register",
    "told",
]

_CODECS: dict[str, type[Codec]] = {}


def register(codec: type[Codec]) -> type[Codec]:
    """Makes a codec known by its name, so that stores written with it can be read."""
    _CODECS[codec.name] = codec
    return codec


def find(given: str | Codec) -> Codec:
    """The codec of a name, with its default settings; a codec is given back.

    Raises:
        ConfigError: no codec has that name.
    """
    return given if isinstance(given, Codec) else _named(given)()


def told(codec: Codec) -> dict[str, Any]:
    """Name and settings as JSON."""
    return {"name": codec.name, **to_json(codec)}


def read(data: dict[str, Any]) -> Codec:
    """The codec that `told` told of."""
    settings = {name: value for name, value in data.items() if name != "name"}
    return from_json(_named(data["name"]), settings)


def _named(name: str) -> type[Codec]:
    if name not in _CODECS:
        expected, hint = f"one of {', '.join(_CODECS)}", did_you_mean(str(name), _CODECS)
        raise ConfigError(explain(where="codec", expected=expected, got=repr(name), hint=hint))
    return _CODECS[name]


for _codec in (Plain, BytePlanes, Int8Rows, Fp8Rows, TopKRows):
    register(_codec)
