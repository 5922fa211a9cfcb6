"""Tensors in safetensors files that are larger than memory: written in place, read as they lie.

    arrays = create(path, {"values": (np.float32, (entries,))})
    arrays["values"][:100] = ...
    mapped(path)["values"][5]

A safetensors file is eight bytes (the length of the header), a header in JSON that says where each
tensor lies, and the numbers. The system reads only the pages that are looked at.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jackfield.core.errors import ArtifactError, explain

Kind = tuple[Any, tuple[int, ...]]  # dtype and shape

_NAMES = {"float32": "F32", "int32": "I32", "int64": "I64", "uint8": "U8"}
_DTYPES = {name: np.dtype(dtype) for dtype, name in _NAMES.items()}


def create(path: Path, kinds: Mapping[str, Kind]) -> "dict[str, np.ndarray]":
    """Makes a file of zeros and gives its arrays, to be written into.

    Args:
        path: a new file.
        kinds: name -> dtype (float32, int32, int64 or uint8) and shape.
    """
    header, end = {}, 0
    for name, (dtype, shape) in kinds.items():
        start, end = end, end + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        kind = _NAMES[np.dtype(dtype).name]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that numbers lie at multiples of their size
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return _arrays(path, "r+")


def mapped(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; what is written into them does not reach the file.

    Raises:
        ArtifactError: there is no such file, or it is not a safetensors file of these dtypes.
    """
    try:
        return {name: torch.from_numpy(array) for name, array in _arrays(path, "c").items()}
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        reason = f"{type(error).__name__}: {error}"
        expected = "a file of a feature index"
        raise ArtifactError(explain(where=str(path), expected=expected, got=reason)) from error


def store(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors that are in memory."""
    held = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    arrays = create(path, {name: (array.dtype, array.shape) for name, array in held.items()})
    for name, array in held.items():
        arrays[name][...] = array


def _arrays(path: Path, mode: Any) -> "dict[str, np.ndarray]":
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > size - 8:
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {name: _array(path, mode, 8 + length, told) for name, told in header.items()}


def _array(path: Path, mode: Any, begin: int, told: dict[str, Any]) -> "np.ndarray":
    start, end = told["data_offsets"]
    dtype, shape = _DTYPES[told["dtype"]], tuple(told["shape"])
    if end == start:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, mode, begin + start, shape)
