"""What every codec of a store does, as one check that a package of your own can run.

    check_codec(MyCodec(block=16), rows)         # rows [row, ...] like those you will store

It goes by what a codec declares: its kinds, its parts, its bound. So a codec that loses much
passes if it says so, and one that loses more than it says does not, were it in one row only.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from jackfield.core.errors import ConfigError
from jackfield.streams.store.codecs import BlockCodec, Codec, Kind, RowCodec, find, read, told
from jackfield.testing.claims import ConformanceError, as_json, chance, claim
from jackfield.testing.worlds import spread

_SHAPES = ((), (1,), (7,), (3, 2, 4))
_DTYPES = (
    *(torch.float32, torch.bfloat16, torch.float16, torch.float64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
_FLIPS = 16  # places in a block where a bit is turned


def check_codec(codec: str | Codec, rows: Tensor) -> None:
    """Tries a codec on rows like these, on harder ones made from them, and on other kinds.

    Shapes, dtypes and parts are as declared; finite rows come back within the bound, zeros as
    zeros, rows with NaN or Inf not finite; rows do not mix; layout, random numbers and what came
    before make no difference; settings survive JSON; damaged blocks are noticed; other kinds of
    rows are refused or served.

    Args:
        codec: the codec, or the name of one.
        rows: [row, ...], a dozen will do; they are repeated to fill a block.

    Raises:
        ConfigError: the codec refuses rows of this kind.
        ConformanceError: something does not hold; the message says what.
    """
    codec = find(codec)
    claim(isinstance(codec, RowCodec | BlockCodec), f"{codec!r} is no RowCodec and no BlockCodec")
    claim(rows.numel() > 0, "check_codec needs rows")
    codec.check(_kind(rows))
    rows = _enough(codec, rows)
    for check in _ROW_CHECKS if isinstance(codec, RowCodec) else _BLOCK_CHECKS:
        name = check.__name__.strip("_").replace("_", " ")
        try:
            check(codec, rows.clone())
        except Exception as error:  # whatever a codec may raise, it is the codec that fails
            kind = "" if isinstance(error, ConformanceError) else f"{type(error).__name__}: "
            raise ConformanceError(f"codec {codec.name}, {name}: {kind}{error}") from error


def _settings_survive_json(codec: Codec, rows: Tensor) -> None:
    again = read(as_json(told(codec)))
    claim(again == codec, f"{codec!r} became {again!r}")


def _parts_are_as_declared(codec: RowCodec, rows: Tensor) -> None:
    declared = codec.parts(_kind(rows))
    for count in (len(rows), 1):
        parts = codec.encode(rows[:count])
        claim(parts.keys() == declared.keys(), f"{sorted(declared)} became {sorted(parts)}")
        for name, kind in declared.items():
            _as_declared(parts[name], count, kind, name)


def _rows_stay_within_the_bound(codec: Codec, rows: Tensor) -> None:
    for what, some in _harder(rows).items():
        _within(codec, some, _back(codec, some), what)


def _zeros_stay_zeros(codec: Codec, rows: Tensor) -> None:
    back = _back(codec, torch.zeros_like(rows))
    claim(not back.double().count_nonzero(), "zeros came back as something else")


def _nonfinite_rows_show(codec: Codec, rows: Tensor) -> None:
    """A row that cannot be kept does not come back as if it had been, and spoils no other."""
    spoiled = _spoiled(rows)
    back = _back(codec, spoiled)
    hidden = ~_finite(spoiled) & _finite(back)
    claim(not hidden.any(), f"rows with NaN or Inf came back finite: {hidden.nonzero().tolist()}")
    _within(codec, spoiled, back, "beside rows with NaN and Inf")


def _rows_do_not_mix(codec: RowCodec, rows: Tensor) -> None:
    """A subset of what was encoded is what a subset is encoded to, and so for decoding."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    half = len(rows) // 2  # both halves: what is taken from the largest row shows in one of them
    for some in (rows, _spoiled(rows)):
        parts, back, bound = codec.encode(some), _back(codec, some), codec.bound(some)
        for ids in (order[:half], order[half:], order[:1], order[:0]):
            fewer = codec.encode(some[ids])
            for name, part in parts.items():
                _same_bits(part[ids], fewer[name], f"{name} of a subset")
            _same_bits(back[ids], codec.decode(fewer, _kind(rows)), "a decoded subset")
            _same_bits(bound[ids], codec.bound(some[ids]), "the bound of a subset")


def _blocks_may_be_short(codec: BlockCodec, rows: Tensor) -> None:
    for count in {1, codec.block // 2 or 1, codec.block}:
        _within(codec, rows[:count], _back(codec, rows[:count]), f"a block of {count} rows")


def _blocks_go_anywhere(codec: BlockCodec, rows: Tensor) -> None:
    """Into memory of any layout, whatever is in it, and not beyond it."""
    block = rows[: codec.block]
    data, plain = codec.pack(block), _back(codec, block)
    claim(isinstance(data, bytes), f"a block is {type(data).__name__}, not bytes")
    around = _filled(len(block) + 2, _kind(rows))
    before = around.clone()
    codec.unpack(data, around[1:-1])
    _same_bits(plain, around[1:-1], "a block in the midst of others")
    _same_bits(before[[0, -1]], around[[0, -1]], "the rows around a block")
    scattered = spread(_filled(len(block), _kind(rows)))
    codec.unpack(data, scattered)
    _same_bits(plain, scattered, "a block in memory that is not contiguous")


def _damage_is_noticed(codec: BlockCodec, rows: Tensor) -> None:
    block = rows[: codec.block]
    data = codec.pack(block)
    wrong = {"cut short": data[:-1], "halved": data[: len(data) // 2], "empty": b""}
    wrong["too long"] = data + b"\0"
    for at in {step * len(data) // _FLIPS for step in range(_FLIPS)} if data else ():
        wrong[f"flipped at byte {at}"] = data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]
    for what, bad in wrong.items():
        if bad != data:
            _refused(codec, bad, torch.empty_like(block), f"a block {what}")
    _refused(codec, data, rows[: len(block) + 1].clone(), "a block of fewer rows")


def _layout_makes_no_difference(codec: Codec, rows: Tensor) -> None:
    given = spread(rows)
    _same_bits(_back(codec, rows), _back(codec, given), "rows that are not contiguous")
    _same_bits(rows, given, "the rows that were given")


def _it_repeats_itself(codec: Codec, rows: Tensor) -> None:
    """Other random numbers, and other rows in between, make no difference."""
    given, kept = rows.clone(), rows.clone()
    with chance(1):
        first = _made(codec, given)
    _made(codec, rows.flip(0)[1:])
    with chance(2):
        claim(_made(codec, rows) == first, "the second time it encodes the same rows otherwise")
    _same_bits(kept, given, "the rows that were given")


def _other_kinds_are_refused_or_served(codec: Codec, rows: Tensor) -> None:
    draw = torch.Generator().manual_seed(0)
    for dtype in _DTYPES:
        for shape in _SHAPES:
            some = (50 * torch.randn(9, *shape, generator=draw)).abs().to(dtype)
            if _takes(codec, some):
                _within(codec, some, _back(codec, some), f"{list(shape)} in {dtype}")


_Check = Callable[..., None]
_CHECKS: tuple[_Check, ...] = (
    _settings_survive_json,
    _it_repeats_itself,
    _rows_stay_within_the_bound,
    _zeros_stay_zeros,
    _layout_makes_no_difference,
    _nonfinite_rows_show,
    _other_kinds_are_refused_or_served,
)
_ROW_CHECKS: tuple[_Check, ...] = (_parts_are_as_declared, *_CHECKS, _rows_do_not_mix)
_BLOCK_CHECKS: tuple[_Check, ...] = (
    *_CHECKS,
    _blocks_may_be_short,
    _blocks_go_anywhere,
    _damage_is_noticed,
)


def _kind(rows: Tensor) -> Kind:
    return Kind(tuple(rows.shape[1:]), rows.dtype)


def _enough(codec: Codec, rows: Tensor) -> Tensor:
    """The rows, repeated until they are more than a block."""
    count = max(len(rows), 8, codec.block + 3 if isinstance(codec, BlockCodec) else 0)
    return rows.detach()[torch.arange(count) % len(rows)]


def _takes(codec: Codec, rows: Tensor) -> bool:
    try:
        codec.check(_kind(rows))
    except ConfigError:
        return False
    return True


def _made(codec: Codec, rows: Tensor) -> list[bytes]:
    """What rows are encoded to."""
    if isinstance(codec, RowCodec):
        return [_bits(part).numpy().tobytes() for part in codec.encode(rows).values()]
    assert isinstance(codec, BlockCodec)
    return [codec.pack(block) for block in rows.split(codec.block)]


def _back(codec: Codec, rows: Tensor) -> Tensor:
    """Rows, encoded and decoded."""
    if isinstance(codec, RowCodec):
        return codec.decode(codec.encode(rows), _kind(rows))
    assert isinstance(codec, BlockCodec)
    out = _filled(len(rows), _kind(rows))
    for block, place in zip(rows.split(codec.block), out.split(codec.block), strict=True):
        codec.unpack(codec.pack(block), place)
    return out


def _filled(count: int, kind: Kind) -> Tensor:
    """[row, ...] with something in it that a codec has to write over."""
    data = torch.ones(count * kind.row_bytes, dtype=torch.uint8)
    return data.view(kind.dtype).view(count, *kind.shape)


def _harder(rows: Tensor) -> dict[str, Tensor]:
    """The rows, and others made from them that go to the ends of what their dtype holds."""
    found = {"the rows": rows, "one row": rows[:1]}
    if rows.is_floating_point():
        limits, wide = torch.finfo(rows.dtype), rows.double().nan_to_num(0, 0, 0)
        unit = wide / wide.abs().amax().clamp(min=1e-300)
        found["rows as large as can be"] = (unit * limits.max).to(rows.dtype)
        found["rows as small as can be"] = (unit * limits.tiny).to(rows.dtype)
        found["one large number a row"] = rows.clone()
        found["one large number a row"].view(len(rows), -1)[:, -1] = limits.max / 2
        found["rows of equal numbers"] = torch.full_like(rows, 1 / 3)
    elif rows.dtype != torch.bool:
        ends = torch.iinfo(rows.dtype)
        found["the ends of the dtype"] = torch.full_like(rows, ends.max)
        found["the ends of the dtype"][1::2] = ends.min
    return found


def _spoiled(rows: Tensor) -> Tensor:
    """Floats with NaN and Inf in the first four rows; what has neither, as it is."""
    spoiled = rows.clone()
    if rows.is_floating_point():
        flat = spoiled.view(len(rows), -1)
        flat[0, 0], flat[1, -1], flat[2, 0], flat[3] = torch.nan, torch.inf, -torch.inf, torch.nan
    return spoiled


def _within(codec: Codec, rows: Tensor, back: Tensor, what: str) -> None:
    """Claims that what came back is of the same kind, and each finite row within its bound."""
    _as_declared(back, len(rows), _kind(rows), what)
    bound = codec.bound(rows)
    told_well = bound.dtype == torch.float64 and bound.shape == (len(rows),)
    claim(told_well, f"the bound is {list(bound.shape)} in {bound.dtype}, not [row] in float64")
    finite, gap = _finite(rows), _apart(rows, back)
    claim(bool(bound[finite].isfinite().all()), f"{what}: a bound is not finite")
    for row in (finite & ~(gap <= bound)).nonzero().flatten().tolist():
        off, most = float(gap[row]), float(bound[row])
        claim(False, f"{what}: row {row} is off by {off:.6g}, its bound is {most:.6g}")


def _as_declared(x: Tensor, count: int, kind: Kind, what: str) -> None:
    got, expected = (list(x.shape), x.dtype), ([count, *kind.shape], kind.dtype)
    claim(got == expected, f"{what}: expected {expected}, got {got}")


def _apart(rows: Tensor, back: Tensor) -> Tensor:
    """[row] the largest error of each row; NaN where it cannot be said."""
    gap = (back.double() - rows.double()).abs()
    if not rows.is_floating_point():  # a double has too few bits to tell two long integers apart
        gap = gap.clamp(min=1).where(back != rows, 0.0)
    return gap.reshape(len(rows), -1).amax(dim=1)


def _finite(rows: Tensor) -> Tensor:
    return rows.double().isfinite().reshape(len(rows), -1).all(dim=1)


def _refused(codec: BlockCodec, data: bytes, out: Tensor, what: str) -> None:
    try:
        codec.unpack(data, out)
    except ValueError:
        return
    raise ConformanceError(f"{what} is unpacked without a ValueError")


def _same_bits(left: Tensor, right: Tensor, what: str) -> None:
    _as_declared(right, len(left), _kind(left), what)
    claim(torch.equal(_bits(left), _bits(right)), f"{what}: not the same, bit for bit")


def _bits(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8)
