"""`check_codec` fails on a codec that is broken in any one way, and says in which."""

import random
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import ConfigError
from jackfield.streams.store import codecs
from jackfield.streams.store.codecs import BlockCodec, Kind, RowCodec
from jackfield.testing import ConformanceError, check_codec

ROWS = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))


@config
class Halves(RowCodec):
    """A good one: float32 rows in float16, as shares of the row's largest number."""

    name: ClassVar[str] = "halves"

    def check(self, kind: Kind) -> None:
        if kind.dtype != torch.float32 or not kind.shape:
            raise ConfigError("halves: float32 only")

    def bound(self, rows: Tensor) -> Tensor:
        largest = rows.double().abs().flatten(1).amax(dim=1)
        return largest * 2.0**-10 + 1e-37 * (largest > 0)

    def parts(self, kind: Kind) -> dict[str, Kind]:
        return {"shares": Kind(kind.shape, torch.float16), "largest": Kind((), torch.float32)}

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        largest = self.largest(rows)
        shares = rows / largest.clamp(min=1e-38).reshape(-1, *[1] * (rows.dim() - 1))
        return {"shares": shares.half(), "largest": largest}

    def decode(self, parts: dict[str, Tensor], kind: Kind) -> Tensor:
        largest = parts["largest"].reshape(-1, *[1] * len(kind.shape))
        return parts["shares"].to(kind.dtype) * largest

    def largest(self, rows: Tensor) -> Tensor:
        return rows.abs().flatten(1).amax(dim=1)


class Unbounded(Halves):
    def bound(self, rows: Tensor) -> Tensor:
        return torch.full((len(rows),), torch.inf, dtype=torch.float64)


class BoundOfAll(Halves):
    def bound(self, rows: Tensor) -> Tensor:
        return super().bound(rows).max()


class TooSure(Halves):
    def bound(self, rows: Tensor) -> Tensor:
        return super().bound(rows) / 16


class OffInOneNumber(Halves):
    def decode(self, parts: dict[str, Tensor], kind: Kind) -> Tensor:
        back = super().decode(parts, kind)
        back[-1].view(-1)[-1] += back[-1].abs().max() / 10
        return back


class Widens(Halves):
    def decode(self, parts: dict[str, Tensor], kind: Kind) -> Tensor:
        return super().decode(parts, kind).double()


class Flattens(Halves):
    def decode(self, parts: dict[str, Tensor], kind: Kind) -> Tensor:
        return super().decode(parts, kind).flatten(1)


class OtherParts(Halves):
    def parts(self, kind: Kind) -> dict[str, Kind]:
        return {**super().parts(kind), "zero": Kind((), torch.float32)}


class OtherDtype(Halves):
    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: part.float() for name, part in super().encode(rows).items()}


class Mixes(Halves):
    def bound(self, rows: Tensor) -> Tensor:
        bound = super().bound(rows).nan_to_num(0, 0, 0)
        return bound.clamp(min=max(bound.tolist(), default=0)) * (bound > 0)

    def largest(self, rows: Tensor) -> Tensor:
        largest = super().largest(rows).nan_to_num(0, 0, 0)
        return largest.clamp(min=max(largest.tolist(), default=0))


class OverflowsInFloat16(Halves):
    def largest(self, rows: Tensor) -> Tensor:
        return torch.ones(len(rows))


class HidesNaN(Halves):
    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        return super().encode(rows.nan_to_num(0, 0, 0))


class Dithers(Halves):
    def largest(self, rows: Tensor) -> Tensor:
        return super().largest(rows) * (1 + 1e-3 * torch.rand(len(rows)))


class ChangesWhatItIsGiven(Halves):
    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        parts = super().encode(rows)
        rows += 1
        return parts


class WantsContiguous(Halves):
    def largest(self, rows: Tensor) -> Tensor:
        return rows.abs().view(len(rows), -1).amax(dim=1) + 0 * rows.view(-1)[0]


class NeverZero(Halves):
    def bound(self, rows: Tensor) -> Tensor:
        return super().bound(rows) + 1e-3

    def decode(self, parts: dict[str, Tensor], kind: Kind) -> Tensor:
        return super().decode(parts, kind) + 5e-4


class TakesAll(Halves):
    def check(self, kind: Kind) -> None:
        pass


@config
class Forgets(Halves):
    name: ClassVar[str] = "forgets"
    power: Any = setting(default=None)


@config
class Bytes(BlockCodec):
    """A good one: the bytes of the rows twice, so that damage shows."""

    name: ClassVar[str] = "bytes"
    block: int = 4

    def check(self, kind: Kind) -> None:
        if kind.dtype != torch.float32 or kind.shape != (12,):
            raise ConfigError("bytes: rows of 12 in float32 only")

    def bound(self, rows: Tensor) -> Tensor:
        return torch.zeros(len(rows), dtype=torch.float64)

    def pack(self, rows: Tensor) -> bytes:
        return 2 * rows.contiguous().numpy().tobytes()

    def unpack(self, data: bytes, out: Tensor) -> None:
        half = len(data) // 2
        if data[:half] != data[half:] or half != out.numel() * 4:
            raise ValueError("damaged")
        out.copy_(torch.frombuffer(bytearray(data[:half]), dtype=torch.float32).view(out.shape))


class RaisesSomethingElse(Bytes):
    def unpack(self, data: bytes, out: Tensor) -> None:
        flat = torch.frombuffer(bytearray(data[: len(data) // 8 * 4]), dtype=torch.float32)
        out.copy_(flat.view(out.shape))


class NoticesOneHalf(Bytes):
    def unpack(self, data: bytes, out: Tensor) -> None:
        half = len(data) // 2
        super().unpack(2 * data[:half] if len(data) == out.numel() * 8 else data, out)


class LeavesAHole(Bytes):
    def unpack(self, data: bytes, out: Tensor) -> None:
        kept = out[0, 0].clone()
        super().unpack(data, out)
        out[0, 0] = kept


class FlatOnly(Bytes):
    def unpack(self, data: bytes, out: Tensor) -> None:
        super().unpack(data, out.view(-1).view(out.shape))


class FullAndSingleOnly(Bytes):
    def pack(self, rows: Tensor) -> bytes:
        return super().pack(rows if len(rows) in (1, 4) else rows * 2)


class MutableBytes(Bytes):
    def pack(self, rows: Tensor) -> Any:
        return bytearray(super().pack(rows))


class Salted(Bytes):
    def pack(self, rows: Tensor) -> bytes:
        salt = bytes([random.randrange(256)])
        data = super().pack(rows)
        return data + salt

    def unpack(self, data: bytes, out: Tensor) -> None:
        super().unpack(data[:-1], out)


ROW_BROKEN = {
    Unbounded: "the rows: a bound is not finite",
    BoundOfAll: r"the bound is \[\] in torch.float64",
    TooSure: r"stay within the bound: the rows: row \d+ is off by",
    OffInOneNumber: "the rows: row 19 is off by",
    Widens: r"expected .*float32\), got .*float64",
    Flattens: r"expected \(\[20, 3, 4\].*got \(\[20, 12\]",
    OtherParts: r"parts are as declared: \['largest', 'shares', 'zero'\] became",
    OtherDtype: "parts are as declared: shares: expected",
    Mixes: "rows do not mix: shares of a subset",
    OverflowsInFloat16: "rows as large as can be: row",
    HidesNaN: "nonfinite rows show: rows with NaN or Inf came back finite",
    Dithers: "repeats itself: the second time",
    ChangesWhatItIsGiven: "the rows that were given: not the same",
    WantsContiguous: "layout makes no difference: RuntimeError: view size",
    NeverZero: "zeros stay zeros",
    TakesAll: "other kinds are refused or served",
}
BLOCK_BROKEN = {
    RaisesSomethingElse: "damage is noticed: RuntimeError: shape",
    NoticesOneHalf: "damage is noticed: a block flipped at byte .* without a ValueError",
    LeavesAHole: "row 0 is off by",
    FlatOnly: "blocks go anywhere: RuntimeError: view size",
    FullAndSingleOnly: "blocks may be short: a block of 2 rows: row 0 is off",
    MutableBytes: "a block is bytearray, not bytes",
    Salted: "repeats itself: the second time",
}


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    monkeypatch.setattr(codecs, "_CODECS", dict(codecs._CODECS))
    codecs.register(Halves)
    codecs.register(Bytes)


def test_good_ones_pass():
    check_codec(Halves(), ROWS)
    check_codec("halves", ROWS.view(20, 3, 4))
    check_codec(Bytes(block=7), ROWS)


@pytest.mark.parametrize("broken", [*ROW_BROKEN, *BLOCK_BROKEN], ids=lambda each: each.__name__)
def test_broken_ones_fail_in_their_way(broken):
    codecs.register(broken)
    rows = ROWS.view(20, 3, 4) if broken is Flattens else ROWS
    with pytest.raises(ConformanceError, match={**ROW_BROKEN, **BLOCK_BROKEN}[broken]):
        check_codec(broken(), rows)


def test_settings_must_survive_json_and_the_name_be_known():
    with pytest.raises(ConformanceError, match=r"settings survive json: ConfigError.*'forgets'"):
        check_codec(Forgets(), ROWS)
    codecs.register(Forgets)
    check_codec(Forgets(power="two"), ROWS)
    with pytest.raises(ConformanceError, match=r"settings survive json: .* became"):
        check_codec(Forgets(power=(1, 2)), ROWS)


def test_a_wrong_call_is_told():
    with pytest.raises(ConfigError, match="float32 only"):
        check_codec("halves", ROWS.long())
    with pytest.raises(ConfigError, match="Did you mean halves"):
        check_codec("halfs", ROWS)
    with pytest.raises(ConformanceError, match="needs rows"):
        check_codec("halves", ROWS[:0])
