"""Codecs of a store, by name. A package of your own adds one with `register`.

Look first: `base.py` (what a codec is), `plain.py` (the simplest).
"""

from typing import Any

from jackfield.core.config import from_json, to_json
from jackfield.core.errors import ConfigError, did_you_mean, explain
from jackfield.streams.store.codecs.base import BlockCodec, Codec, Kind, RowCodec
from jackfield.streams.store.codecs.plain import Plain

__all__ = ["BlockCodec", "Codec", "Kind", "Plain", "RowCodec", "find", "register", "read", "told"]

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


for _codec in (Plain,):
    register(_codec)
