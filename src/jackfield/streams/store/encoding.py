"""Encoding: from what the user asks (`dtype=`, `codec=`) to the kind and codec of each site."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from jackfield.core.errors import ConfigError, explain
from jackfield.streams.store import codecs
from jackfield.streams.store.codecs import Codec, Kind, RowCodec
from jackfield.streams.store.layout import SiteInfo

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# dtypes that are codecs: one such number a value, and a scale a row
CODED = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}


class Encoding:
    """The choice of dtype and codec for the sites of a stream.

    Raises:
        ConfigError: an unknown dtype or codec, both where one says it all, a pattern without a
            site.
    """

    def __init__(self, dtype: str | torch.dtype | None, codec: Any, sites: Sequence[str]) -> None:
        number_dtype(dtype)
        name = str(dtype).removeprefix("torch.")
        if name in CODED and codec is not None:
            expected = f"dtype='{name}', which says how rows are encoded, or a codec"
            raise ConfigError(explain(where="write: codec", expected=expected, got="both"))
        self._dtype = DTYPES.get(name)
        self._codecs = _chosen(name if name in CODED else codec, sites)
        self._floats_only = name in CODED

    def kept(self, x: Tensor) -> torch.dtype:
        """The dtype in which rows like these are kept."""
        return self._dtype if self._dtype is not None and x.is_floating_point() else x.dtype

    def info(self, site: str, x: Tensor) -> SiteInfo:
        """Kind and codec of a site whose rows are `x` [row, ...].

        Raises:
            ConfigError: the codec cannot take such rows.
        """
        kind = Kind(tuple(x.shape[1:]), self.kept(x))
        codec = self._codec(site, kind.dtype)
        try:
            codec.check(kind)
        except ConfigError as error:
            raise ConfigError(f"{site}: {error}") from error
        return SiteInfo(kind, codec)

    def would_be(self, site: str, there: SiteInfo) -> SiteInfo:
        """What a site that is in a store would be, if it were written as is now asked."""
        floats = there.dtype.is_floating_point
        dtype = self._dtype if self._dtype is not None and floats else there.dtype
        return SiteInfo(Kind(there.shape, dtype), self._codec(site, dtype))

    def _codec(self, site: str, dtype: torch.dtype) -> Codec:
        if self._floats_only and not dtype.is_floating_point:
            return codecs.Plain()
        return self._codecs.get(site, codecs.Plain())


def number_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype in which one number is kept; None keeps each site's.

    Raises:
        ConfigError: no such dtype, or one that a store does not have.
    """
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and name not in DTYPES | CODED:
        expected = f"one of {', '.join(DTYPES | CODED)}, or None to keep each site's"
        raise ConfigError(explain(where="write: dtype", expected=expected, got=repr(dtype)))
    return (DTYPES | CODED).get(name)


def row_bytes(info: SiteInfo) -> int:
    """Bytes of an encoded row; of one that is packed in blocks, before it is packed."""
    if isinstance(info.codec, RowCodec):
        return sum(kind.row_bytes for kind in info.codec.parts(info.kind).values())
    return info.kind.row_bytes


def _chosen(given: Any, sites: Sequence[str]) -> dict[str, Codec]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        codec = codecs.find(given)
        return dict.fromkeys(sites, codec)
    found: dict[str, Codec] = {}
    for pattern, each in given.items():
        matching = [site for site in sites if fnmatchcase(site, pattern)]
        if not matching:
            expected = f"patterns of the sites {', '.join(sites[:4])}"
            raise ConfigError(explain(where="write: codec", expected=expected, got=repr(pattern)))
        found |= dict.fromkeys(matching, codecs.find(each))
    return found
