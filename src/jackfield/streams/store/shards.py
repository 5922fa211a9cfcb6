"""Shards: safetensors files written straight from memory, and read by row.

A shard of a `RowCodec` holds its parts, each [row, ...]; one of a `BlockCodec` holds all blocks'
bytes under "bytes" and where each ends under "ends". Reading asks for the rows of many shards at
once: sorted, neighbours joined, all pieces fetched together.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jackfield.streams.store.codecs import BlockCodec, Kind, RowCodec
from jackfield.streams.store.files import Files, Piece
from jackfield.streams.store.layout import SiteInfo

_GAP = 32 << 10  # bytes between two rows that are read along rather than jumped over
_LONGEST = 8 << 20  # bytes of a piece: longer ones are read side by side
_SLICE = 8192  # rows encoded at once

# safetensors' names of dtypes, from its format description
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Damaged(Exception):  # noqa: N818  (a signal inside the store; users get ArtifactError)
    """A file is not what its manifest says: its name and what is wrong."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file, self.reason = file, reason


def raw(x: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, not copied."""
    return memoryview(x.reshape(-1).view(torch.uint8).numpy().data)


def safetensors_pieces(tensors: dict[str, Tensor]) -> Iterator[Any]:
    """A safetensors file in pieces: the header, then every tensor's own memory."""
    header: dict[str, Any] = {}
    end = 0
    for name, x in tensors.items():
        offsets = [end, end := end + x.numel() * x.element_size()]
        told = {"dtype": _NAMES[x.dtype], "shape": list(x.shape), "data_offsets": offsets}
        header[name] = told
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for x in tensors.values():
        if x.numel():
            yield raw(x.contiguous())


def row_sums(x: Tensor) -> Tensor:
    """[row] int64: the sum of each row's bytes taken as words. One changed byte changes it."""
    if not x.numel():
        return torch.zeros(len(x), dtype=torch.int64)
    flat = x.contiguous().reshape(len(x), -1).view(torch.uint8)
    width = flat.shape[1]
    word = next(size for size in (8, 4, 2, 1) if width % size == 0)
    words = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[word]
    return flat.view(words).sum(dim=1, dtype=torch.int64)


@dataclass(frozen=True)
class Encoded:
    """Rows as they will be written: the shard's tensors, and what came of the rows."""

    tensors: dict[str, Tensor]
    sums: Tensor
    nonfinite: int
    error: float


def encoded(rows: Tensor, info: SiteInfo, nonfinite: Callable[[Tensor], Tensor]) -> Encoded:
    """Encodes rows [row, ...] slice by slice, and measures the error that it makes."""
    if isinstance(info.codec, BlockCodec):
        tensors = _packed(rows, info.codec)
        return Encoded(tensors, row_sums(rows), int(nonfinite(rows).sum()), 0.0)
    assert isinstance(info.codec, RowCodec)
    made: list[dict[str, Tensor]] = []
    sums, bad, error = [], 0, 0.0
    for piece in rows.split(_SLICE):
        parts = info.codec.encode(piece)
        back = info.codec.decode(parts, info.kind)
        made.append(parts)
        sums.append(row_sums(back))
        lost = nonfinite(piece)
        bad += int(lost.sum())
        if back is not piece and not lost.all():
            error = max(error, float((back.double() - piece.double())[~lost].abs().max()))
    joined = made[0] if len(made) == 1 else _joined(made)
    return Encoded(joined, torch.cat(sums), bad, error)


class Wanted(NamedTuple):
    """Rows to be read from one shard: sorted row numbers, and where they go."""

    file: str
    rows: int  # that the shard has
    ids: Tensor
    out: Tensor


class ShardReader:
    """Reads rows of shards; remembers the headers it has seen."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._headers: dict[str, dict[str, Any]] = {}
        self._ends: dict[str, Tensor] = {}

    def read(self, wanted: list[Wanted], info: SiteInfo) -> None:
        """Fills every `out`.

        Raises:
            Damaged: a file is missing, truncated or not what the manifest says.
        """
        codec = info.codec
        if isinstance(codec, BlockCodec):
            for each in wanted:
                self._read_blocks(each, codec)
            return
        assert isinstance(codec, RowCodec)
        parts = codec.parts(info.kind)
        if codec.name == "none":
            self._read_parts([("activations", each, info.kind) for each in wanted])
            return
        for each in wanted:
            made = {
                name: torch.empty(len(each.ids), *kind.shape, dtype=kind.dtype)
                for name, kind in parts.items()
            }
            self._read_parts(
                [(name, each._replace(out=made[name]), kind) for name, kind in parts.items()]
            )
            try:
                each.out[:] = codec.decode(made, info.kind)
            except ValueError as error:
                raise Damaged(each.file, str(error)) from error

    def read_plain(self, wanted: list[Wanted], name: str, kind: Kind) -> None:
        """Fills every `out` from a tensor that is stored as it is."""
        self._read_parts([(name, each, kind) for each in wanted])

    def _read_parts(self, wanted: list[tuple[str, Wanted, Kind]]) -> None:
        pieces: list[Piece] = []
        spread: list[_Spread] = []
        for name, each, kind in wanted:
            begin = self._offset(each.file, name, (each.rows, *kind.shape), kind)
            _plan(each, begin, kind, pieces, spread)
        self._fetch(pieces)
        for span, chosen, out in spread:
            torch.index_select(span, 0, chosen, out=out)

    def _read_blocks(self, wanted: Wanted, codec: BlockCodec) -> None:
        ends = self._block_ends(wanted, codec)
        begin = self._offset(wanted.file, "bytes", (int(ends[-1]),), _BYTES)
        block, first, counts = _blocks(wanted.ids, codec.block)
        buffers = []
        pieces = []
        for number in block:
            start = int(ends[number - 1]) if number else 0
            buffers.append(bytearray(int(ends[number]) - start))
            pieces.append(Piece(wanted.file, begin + start, memoryview(buffers[-1])))
        self._fetch(pieces)
        for number, at, count, data in zip(block, first, counts, buffers, strict=True):
            height = min(codec.block, wanted.rows - number * codec.block)
            rows = wanted.out.new_empty(height, *wanted.out.shape[1:])
            try:
                codec.unpack(bytes(data), rows)
            except ValueError as error:
                raise Damaged(wanted.file, str(error)) from error
            ids = wanted.ids[at : at + count] - number * codec.block
            wanted.out[at : at + count] = rows[ids]

    def _block_ends(self, wanted: Wanted, codec: BlockCodec) -> Tensor:
        if wanted.file not in self._ends:
            count = -(-wanted.rows // codec.block)
            ends = torch.empty(count, dtype=torch.int64)
            begin = self._offset(wanted.file, "ends", (count,), _NUMBER)
            self._fetch([Piece(wanted.file, begin, raw(ends))])
            if not bool((ends.diff(prepend=ends.new_zeros(1)) >= 0).all()):
                raise Damaged(wanted.file, "its table of blocks does not rise")
            self._ends[wanted.file] = ends
        return self._ends[wanted.file]

    def _fetch(self, pieces: list[Piece]) -> None:
        try:
            self._files.fetch(pieces)
        except EOFError as error:
            raise Damaged(error.args[0], "it ends early") from error
        except FileNotFoundError as error:
            raise Damaged(str(error.filename), "it is missing") from error

    def _offset(self, file: str, name: str, shape: tuple[int, ...], kind: Kind) -> int:
        """Where a tensor's bytes begin, once they are known to be all there."""
        header = self._header(file)
        told = header.get(name, {})
        start, stop = told.get("data_offsets", (0, 0))
        size = torch.Size(shape).numel() * kind.dtype.itemsize
        if tuple(told.get("shape", ())) != shape or stop - start != size:
            raise Damaged(file, f"holds {told.get('dtype')} {told.get('shape')}, not {list(shape)}")
        if header["begin"] + stop > header["size"]:
            raise Damaged(file, f"it ends after {header['size']:,} bytes")
        return int(header["begin"] + start)

    def _header(self, file: str) -> dict[str, Any]:
        if file not in self._headers:
            try:
                self._headers[file] = _read_header(self._files, file)
            except FileNotFoundError as error:
                raise Damaged(file, "it is missing") from error
            except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
                raise Damaged(file, f"{type(error).__name__}: {error}") from error
        return self._headers[file]


_BYTES, _NUMBER = Kind((), torch.uint8), Kind((), torch.int64)
_Spread = tuple[Tensor, Tensor, Tensor]  # rows read along, those that are wanted, where they go


@dataclass
class _Runs:
    """Rows read in one go: file rows first..last, which are ids[start:stop]."""

    first: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    stop: list[int] = field(default_factory=list)
    gapless: list[bool] = field(default_factory=list)


def _plan(
    wanted: Wanted, begin: int, kind: Kind, pieces: list[Piece], spread: list[_Spread]
) -> None:
    """Cuts the wanted rows into pieces; those with gaps are spread from a copy afterwards."""
    size, ids, out = kind.row_bytes, wanted.ids, wanted.out
    if not size or not len(ids):
        return
    view = raw(out)
    runs = _runs(ids.numpy(), 1 + _GAP // size, max(1, _LONGEST // size))
    for first, last, start, stop, gapless in zip(*vars(runs).values(), strict=True):
        if gapless:
            piece = view[start * size : stop * size]
        else:
            span = out.new_empty(last - first + 1, *kind.shape)
            spread.append((span, ids[start:stop] - first, out[start:stop]))
            piece = raw(span)
        pieces.append(Piece(wanted.file, begin + first * size, piece))


def _runs(ids: "np.ndarray[Any, Any]", most: int, longest: int) -> _Runs:
    """Cuts sorted ids where more than `most` rows lie between two, and every `longest` rows."""
    steps = np.diff(ids)
    cuts = np.flatnonzero((steps > most) | (np.diff(ids // longest) > 0)) + 1
    starts, stops = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(ids)]])
    uneven = np.concatenate([[0], np.cumsum(steps != 1)])
    gapless = uneven[stops - 1] == uneven[starts]
    columns = (ids[starts], ids[stops - 1], starts, stops, gapless)
    return _Runs(*(column.tolist() for column in columns))


def _blocks(ids: Tensor, size: int) -> tuple[list[int], list[int], list[int]]:
    """The blocks that sorted ids lie in, where each one's ids begin, and how many they are."""
    block, counts = (ids // size).unique_consecutive(return_counts=True)
    first = counts.cumsum(0) - counts
    return block.tolist(), first.tolist(), counts.tolist()


def _packed(rows: Tensor, codec: BlockCodec) -> dict[str, Tensor]:
    blocks = [codec.pack(block) for block in rows.split(codec.block)]
    ends = torch.tensor([len(block) for block in blocks], dtype=torch.int64).cumsum(0)
    data = torch.frombuffer(bytearray(b"".join(blocks)), dtype=torch.uint8)
    return {"bytes": data, "ends": ends}


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([each[name] for each in parts]) for name in parts[0]}


def _read_header(files: Files, file: str) -> dict[str, Any]:
    size = files.size(file)
    length = bytearray(8)
    files.fetch([Piece(file, 0, memoryview(length))])
    count = int.from_bytes(length, "little")
    if count > size - 8:
        raise ValueError(f"the file ends after {size:,} bytes")
    text = bytearray(count)
    files.fetch([Piece(file, 8, memoryview(text))])
    header: dict[str, Any] = json.loads(bytes(text))
    return {**header, "begin": 8 + count, "size": size}
